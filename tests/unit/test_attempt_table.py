"""The table of one execution: every phase with every event, and what holds over any sequence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrun.core.attempt import (
    CAUSES,
    EMPTY,
    EXIT,
    GRACE_OVER,
    GUARD_LOST,
    KILL,
    KILLED,
    NOTHING,
    OVER,
    REPORT,
    RUNNING,
    STOPPING,
    TERMINATE,
    State,
    step,
)

PHASES = (RUNNING, STOPPING, KILLED, OVER)
LIMITS = tuple(cause for cause in CAUSES if cause != "sweep")
EVENTS = (EXIT, EMPTY, GRACE_OVER, GUARD_LOST, *CAUSES)

TABLE = {
    RUNNING: {
        EXIT: (OVER, REPORT),
        EMPTY: (RUNNING, NOTHING),
        GRACE_OVER: (RUNNING, NOTHING),
        GUARD_LOST: (KILLED, KILL),
        **dict.fromkeys(CAUSES, (STOPPING, TERMINATE)),
    },
    STOPPING: {
        EXIT: (STOPPING, NOTHING),
        EMPTY: (OVER, REPORT),
        GRACE_OVER: (KILLED, KILL),
        GUARD_LOST: (KILLED, KILL),
        **dict.fromkeys(CAUSES, (STOPPING, NOTHING)),
    },
    KILLED: {
        EXIT: (KILLED, KILL),
        EMPTY: (OVER, REPORT),
        GRACE_OVER: (KILLED, KILL),
        GUARD_LOST: (KILLED, KILL),
        **dict.fromkeys(CAUSES, (KILLED, NOTHING)),
    },
    OVER: {
        EXIT: (OVER, NOTHING),
        EMPTY: (OVER, NOTHING),
        GRACE_OVER: (OVER, NOTHING),
        GUARD_LOST: (KILLED, KILL),
        **dict.fromkeys(LIMITS, (OVER, NOTHING)),
        "sweep": (STOPPING, TERMINATE),
    },
}

events = st.lists(st.sampled_from(EVENTS), max_size=12)


def walk(sequence: list[str], start: State) -> list[tuple[State, str, State, str]]:
    """Every step of a sequence: state, event, next state, action."""
    steps = []
    state = start
    for event in sequence:
        after, action = step(state, event)
        steps.append((state, event, after, action))
        state = after
    return steps


def weight(state: State) -> int:
    """How weighty the reason to stop is; -1 without one."""
    return -1 if state.cause is None else CAUSES.index(state.cause)


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("phase", PHASES)
def test_table(phase: str, event: str) -> None:
    """Every phase answers every event, and exactly so."""
    after, action = step(State(phase), event)
    assert (after.phase, action) == TABLE[phase][event]


@pytest.mark.parametrize("cause", CAUSES)
def test_first_cause_is_kept(cause: str) -> None:
    """The reason for which a running COMMAND is stopped is what its end is put down to."""
    state, action = step(State(RUNNING), cause)
    assert (state, action) == (State(STOPPING, cause), TERMINATE)
    assert step(state, EXIT)[0].cause == cause
    assert step(state, EMPTY)[0] == State(OVER, cause)


@pytest.mark.parametrize("phase", [STOPPING, KILLED])
@pytest.mark.parametrize("second", CAUSES)
@pytest.mark.parametrize("first", CAUSES)
def test_weightier_cause_wins(first: str, second: str, phase: str) -> None:
    """Of two reasons to stop, the weightier one is kept, whichever came first."""
    state, action = step(State(phase, first), second)
    assert state == State(phase, max(first, second, key=CAUSES.index))
    assert action == NOTHING


@pytest.mark.parametrize("cause", LIMITS)
def test_limit_after_the_end_changes_nothing(cause: str) -> None:
    """A limit that passes when COMMAND has ended by itself does not rewrite how it ended."""
    assert step(State(OVER), cause) == (State(OVER), NOTHING)


def test_unstopped_end_has_no_cause() -> None:
    """A COMMAND that ended by itself was stopped by nobody."""
    assert step(State(RUNNING), EXIT) == (State(OVER, None), REPORT)


@given(st.sampled_from(PHASES), events)
def test_never_back_to_running(phase: str, sequence: list[str]) -> None:
    """Once it has left RUNNING, an execution never runs again."""
    for before, _, after, _ in walk(sequence, State(phase)):
        assert after.phase != RUNNING or before.phase == RUNNING


@given(events)
def test_cause_only_gets_weightier(sequence: list[str]) -> None:
    """A reason to stop is never forgotten, nor replaced by a lighter one while it is stopped."""
    for before, event, after, _ in walk(sequence, State(RUNNING)):
        if (before.phase, event) != (OVER, "sweep"):  # another thing to stop begins
            assert weight(after) >= weight(before)


@given(events)
def test_over_only_by_exit_or_empty(sequence: list[str]) -> None:
    """An execution is over when it ended by itself, or the kernel says that nothing is left."""
    for before, event, after, action in walk(sequence, State(RUNNING)):
        if after.phase == OVER and before.phase != OVER:
            assert (before.phase, event) == (RUNNING, EXIT) or event == EMPTY
            assert before.phase != RUNNING or event == EXIT
            assert action == REPORT


@given(events)
def test_one_report_per_end(sequence: list[str]) -> None:
    """The end is reported once, and only the end is."""
    for before, _, after, action in walk(sequence, State(RUNNING)):
        assert (action == REPORT) == (before.phase != OVER and after.phase == OVER)


@given(events)
def test_one_termination_per_stop(sequence: list[str]) -> None:
    """The signal that asks for the end is sent once, when the stopping begins."""
    for before, _, after, action in walk(sequence, State(RUNNING)):
        assert (action == TERMINATE) == (before.phase != STOPPING and after.phase == STOPPING)


@given(events)
def test_killed_stays_killed_until_empty(sequence: list[str]) -> None:
    """Nothing but the death of all of them ends the killing."""
    for before, event, after, _ in walk(sequence, State(RUNNING)):
        if before.phase == KILLED:
            assert after.phase == (OVER if event == EMPTY else KILLED)


@given(st.sampled_from(PHASES), events)
def test_lost_guard_kills_in_every_phase(phase: str, sequence: list[str]) -> None:
    """When the supervisor is gone, whatever is left is killed, without any grace."""
    steps = walk(sequence, State(phase))
    state = steps[-1][2] if steps else State(phase)
    after, action = step(state, GUARD_LOST)
    assert (after.phase, action) == (KILLED, KILL)
