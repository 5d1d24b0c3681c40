"""``each``: many runs of one COMMAND, for the items that stdin names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from guardrun import config, options
from guardrun.errors import UsageError
from guardrun.pool import words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from guardrun.model import Plan
    from guardrun.options import Given


def each(line: Sequence[str]) -> int:
    """Do what the words after ``guardrun each`` say; the exit code."""
    given = options.parse(line, options.EACH)
    if given.question:
        from guardrun import cli
        from guardrun.commands.each_help import render

        return cli.write(render() if given.question == "help" else cli.version())
    settled, spec = config.settle_each(given, os.environ)
    plan = _with_places(settled.plan, given, spec.items == "jsonl")
    if settled.dry_run:
        from guardrun.pool.dryrun import show

        return show(plan, spec, settled.config_file)
    from guardrun.pool import limits
    from guardrun.pool.perform import perform

    limits.check(plan, spec)
    return perform(plan, spec)


def _with_places(plan: Plan, given: Given, objects: bool) -> Plan:
    argv = plan.exec.argv
    if any(option.name == "command" for option, _ in given.options):
        if words.has_place(argv[-1]):
            # A shell would execute whatever an item says.
            raise UsageError(
                "--command: {item} cannot stand in a shell's STRING; "
                'the item is its first argument: write "$1"'
            )
        argv = (*argv, "sh")  # $0
    names = (plan.lock and plan.lock.name, plan.key.key, *plan.key.needs)
    words.check((*argv, *(name for name in names if name)), objects)
    return plan._replace(exec=plan.exec._replace(argv=argv))
