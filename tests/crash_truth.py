"""What there is to know of a key whose run was cut off, and what must hold of it.

Each rule is given what was found and yields what is wrong with that, in words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from support import Result


class Facts(NamedTuple):
    """What there is to know of one key."""

    executed: list[str]
    """job_ids, as COMMAND wrote them down when it began"""
    ended: list[str]
    """and when it had done"""
    runs: dict[str, dict[str, Any]]
    attempts: list[dict[str, Any]]
    key: dict[str, Any] | None
    spooled: list[str]
    """job_ids of outcomes that wait"""

    @property
    def succeeded(self) -> bool:
        """Whether a success is on record, or will be as soon as the spool is read."""
        return bool(self.spooled) or (self.key or {}).get("state") == "succeeded"

    @property
    def stage(self) -> str:
        """How far it got, as one of ``STAGES``."""
        if self.spooled:
            return "spooled"
        if self.succeeded:
            return "recorded"
        if self.executed:
            return "executed"
        return "claimed" if self.runs else "nothing"


STAGES = ("nothing", "claimed", "executed", "spooled", "recorded")


def ended_as_expected(role: str, told: dict[str, Any], before: Facts) -> Iterator[str]:
    """Only a death of its own ends the supervisor; that of another is survived, or told of."""
    code = told["code"]
    if told["struck"] is None or role == "keeper":
        if code != 0:
            yield f"exit code {code}, and nothing of importance was killed"
    elif role in ("supervisor", "host"):
        if code != -9:
            yield f"exit code {code}: it was not killed"
    elif code not in (0, 70):  # a backstop that dies at its birth leaves no warden
        yield f"exit code {code} after the death of the {role}"
    if code == 0 and not before.succeeded:
        yield "exit code 0, and no success is on record"


def is_true(before: Facts) -> Iterator[str]:
    """D: nothing is executed without a claim on record, and no success is one that was none."""
    for job_id in before.executed:
        if before.runs.get(job_id, {}).get("token") is None:
            yield f"{job_id} was executed without a claim on record"
    successes = {job_id for job_id, row in before.runs.items() if row["result"] == "success"}
    for job_id in successes | set(before.spooled):
        if job_id not in before.ended:
            yield f"{job_id} is a success that COMMAND does not know of"
    if len(successes | set(before.spooled)) > 1:
        yield "more than one success"


def goes_on(before: Facts, again: Result, after: Facts) -> Iterator[str]:
    """T, O: what has ended stays as it is, and a recorded success is not executed again."""
    if again.code != 0:
        yield f"the next run: exit code {again.code}"
        return
    finished = again.finished
    if before.succeeded:
        if finished["result"] != "skipped_duplicate" or after.executed != before.executed:
            yield "what had succeeded was run again"
        if not before.spooled and after.key != before.key:
            yield "the key of a recorded success was changed"
    elif finished["result"] != "success":
        yield f"the next run: {finished['result']}"
    elif after.executed != [*before.executed, finished["job_id"]]:
        yield "the next run has succeeded, and not executed once"
    yield from keeps(before, after)
    for job_id, row in before.runs.items():
        cut_off = row["finished_at"] is None and job_id not in before.spooled
        if cut_off and after.runs[job_id]["result"] != "interrupted":
            yield f"{job_id} was cut off, and is {after.runs[job_id]['result']}"


def keeps(earlier: Facts, later: Facts) -> Iterator[str]:
    """T: what has ended is not changed any more; what waits is not lost on its way."""
    for job_id, row in earlier.runs.items():
        if row["finished_at"] is None:
            continue
        if later.runs.get(job_id) != row:
            yield f"the terminal row of {job_id} was changed"
        if _tried(later, job_id) != _tried(earlier, job_id):
            yield f"the attempts of {job_id}, which had ended, were changed"
    for job_id in earlier.spooled:
        recorded = later.runs.get(job_id, {}).get("result") == "success"
        if not recorded and job_id not in later.spooled:
            yield f"the outcome of {job_id}, which was in the spool, is gone"


def is_complete(after: Facts) -> Iterator[str]:
    """Nothing waits, nothing runs, nothing that was executed is missing, one run has succeeded."""
    if after.spooled:
        yield f"{after.spooled} wait in the spool"
    results = Counter(row["result"] for row in after.runs.values())
    if results["running"]:
        yield "a run that is dead counts as running"
    if results["success"] != 1:
        yield f"{results['success']} successes"
    for job_id in after.executed:
        if job_id not in after.runs:
            yield f"{job_id} was executed, and is not on record"
    if after.key is None or after.key["state"] != "succeeded":
        yield f"the key is {after.key}"
    elif after.runs.get(after.key["job_id"], {}).get("result") != "success":
        yield "the key has succeeded by a run that has not"
    for job_id, row in after.runs.items():
        if row["attempts"] is not None and len(_tried(after, job_id)) != row["attempts"]:
            yield f"{job_id} has {len(_tried(after, job_id))} attempts of {row['attempts']}"


def _tried(facts: Facts, job_id: str) -> list[dict[str, Any]]:
    return [row for row in facts.attempts if row["job_id"] == job_id]
