"""``each --dry-run``: the plan, then what would be run for each item, as JSON, one object a line.

The items are read, nothing else is touched.
"""

from __future__ import annotations

import json
import os
import select
from typing import TYPE_CHECKING

from guardrun import cli, dryrun
from guardrun.errors import GuardrunError
from guardrun.pool.items import Items
from guardrun.pool.work import run_of

if TYPE_CHECKING:
    from guardrun.model import EachSpec, Plan
    from guardrun.pool.items import Taken


def show(plan: Plan, spec: EachSpec, config_file: str | None) -> int:
    """Describe the pool and its items; the exit code: 1 when one of them could not be run."""
    cli.write(_line({**dryrun.describe_pool(plan, config_file, os.environ), "each": _each(spec)}))
    items = Items(0, spec.items, plan.exec.stdin_max)
    code = 0
    while not items.over:
        taken = items.take()
        if taken is not None:
            described = _item(plan, taken)
            code = 1 if "refused" in described else code
            cli.write(_line(described))
        elif not items.over:
            poll = select.poll()
            for fd, asked in items.interests():
                poll.register(fd, asked)
            poll.poll()
            items.read()
    return code


def _each(spec: EachSpec) -> dict[str, object]:
    return {
        "parallel": spec.parallel,
        "items": spec.items,
        "halt_after": dryrun.seconds(spec.halt_after),
        "keep_order": spec.keep_order,
        "tag": spec.tag,
        "lock_by": "item" if spec.lock_by_item else "pool",
    }


def _item(plan: Plan, taken: Taken) -> dict[str, object]:
    said: dict[str, object] = {"item": taken.item.text}
    try:
        _, run = run_of(plan, taken, None)
    except GuardrunError as error:
        return {**said, "refused": str(error)}
    return {**said, "command": run.argv, "lock": run.lock, "key": run.key, "needs": run.needs}


def _line(described: dict[str, object]) -> str:
    return json.dumps(dryrun.printable(described), ensure_ascii=False) + "\n"
