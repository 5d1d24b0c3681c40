"""One execution of COMMAND as a table: phase and event → next phase and what to do.

Everything that decides when COMMAND is told to stop, when it is killed and when it is over
stands in this file; the warden feeds it what it sees and does what it says. No clock, no I/O.

    running   COMMAND's own process is alive and nobody wants it to stop
    stopping  it was told to stop; the grace period runs
    killed    SIGKILL goes to whatever is left, again and again
    over      nothing is left, or it ended by itself

An execution that ended by itself is over at once, whatever it left running: a daemon is its
own business. One that was stopped is over only when the kernel says that no child is left.
"""

from __future__ import annotations

from guardrun.lean import NamedTuple

RUNNING, STOPPING, KILLED, OVER = "running", "stopping", "killed", "over"

EXIT = "exit"
"""COMMAND's own process has ended by itself"""
CRASH = "crash"
"""COMMAND's own process was ended by a signal: what it left running was not left on purpose"""
EMPTY = "empty"
"""no process of COMMAND's is left: wait(2) says ECHILD"""
GRACE_OVER = "grace over"
"""the time to tidy up is over"""
GUARD_LOST = "guard lost"
"""the supervisor is gone: nobody is left who could want a grace period"""

CAUSES = ("sweep", "timeout", "deadline", "told_to_stop", "lease_lost")
"""Why an execution is stopped, the weightier later. ``sweep``: an attempt is over, and what it
left running must end before the next."""

NOTHING, TERMINATE, KILL, REPORT = "nothing", "terminate", "kill", "report"


class State(NamedTuple):
    """Where an execution stands, and why it was told to stop, if it was."""

    phase: str
    cause: str | None = None


_TABLE = {
    (RUNNING, EXIT): (OVER, REPORT),
    (RUNNING, CRASH): (STOPPING, TERMINATE),
    (RUNNING, EMPTY): (RUNNING, NOTHING),
    (RUNNING, GRACE_OVER): (RUNNING, NOTHING),
    (RUNNING, GUARD_LOST): (KILLED, KILL),
    (STOPPING, EXIT): (STOPPING, NOTHING),
    (STOPPING, CRASH): (STOPPING, NOTHING),
    (STOPPING, EMPTY): (OVER, REPORT),
    (STOPPING, GRACE_OVER): (KILLED, KILL),
    (STOPPING, GUARD_LOST): (KILLED, KILL),
    (KILLED, EXIT): (KILLED, KILL),
    (KILLED, CRASH): (KILLED, KILL),
    (KILLED, EMPTY): (OVER, REPORT),
    (KILLED, GRACE_OVER): (KILLED, KILL),
    (KILLED, GUARD_LOST): (KILLED, KILL),
    (OVER, EXIT): (OVER, NOTHING),
    (OVER, CRASH): (OVER, NOTHING),
    (OVER, EMPTY): (OVER, NOTHING),
    (OVER, GRACE_OVER): (OVER, NOTHING),
    (OVER, GUARD_LOST): (KILLED, KILL),
}

_STOP = {
    RUNNING: (STOPPING, TERMINATE),
    STOPPING: (STOPPING, NOTHING),
    KILLED: (KILLED, NOTHING),
    OVER: (OVER, NOTHING),
}


def step(state: State, event: str) -> tuple[State, str]:
    """Say what follows from ``event`` or one of ``CAUSES``: the next state, and the action.

    A second reason to stop sends no second signal; the weightier of the two is kept.
    """
    if event not in CAUSES:
        phase, action = _TABLE[state.phase, event]
        return State(phase, state.cause), action
    if event == "sweep" and state.phase == OVER:
        return State(STOPPING, event), TERMINATE
    phase, action = _STOP[state.phase]
    if state.phase == OVER:
        return state, action
    cause = event if state.cause is None else max(state.cause, event, key=CAUSES.index)
    return State(phase, cause), action
