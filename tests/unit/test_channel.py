"""Messages between guardrun's own processes."""

from __future__ import annotations

import os
import resource

import pytest

from guardrun import channel
from guardrun.keeper import messages
from guardrun.model import Attempt, Captured, Claim, Outcome, Run


def outcome(printed: bytes) -> Outcome:
    """An outcome with values in values."""
    run = Run("id", "j", "o", "h", "u", 1, ("a", "b"), "f", 1.5, key="k", token="t")
    tried = (Attempt(1, 1.0, 2.0, "failed", 1), Attempt(2, 3.0, 4.0, "success", 0))
    return Outcome(
        run, "success", 0, 9.0, 3.0, attempts=tried, claim=Claim("t"), captured=Captured(printed)
    )


@pytest.mark.parametrize("size", [0, 100, 300_000])
def test_values_in_values_arrive_as_they_were_sent(size: int) -> None:
    """Whatever the size: what does not fit a packet travels as a file."""
    one, other = channel.pair(messages.KINDS)
    sent = messages.Question(7, messages.Finish(outcome(b"\xff" * size)), float("inf"))
    assert one.send(sent)
    received = other.receive()
    assert received is not None
    assert received[0] == sent
    assert isinstance(received[0], messages.Question)
    assert isinstance(received[0].asked, messages.Finish)
    one.close()
    other.close()


def test_the_last_word_is_heard_though_ours_was_not() -> None:
    """An end that is closed with a message unread is no reason to miss what it said before."""
    one, other = channel.pair()
    other.send(channel.Ready(1))
    one.send(channel.Dismiss())
    one.close()
    received = other.receive()
    assert received is not None
    assert received[0] == channel.Dismiss()
    assert other.receive() is None
    other.close()


def test_a_message_that_cannot_be_written_is_an_error() -> None:
    """ulimit -f cuts writes short: half a message is never sent."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            import signal

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
            one, _ = channel.pair(messages.KINDS)
            try:
                one.send(messages.Question(7, messages.Finish(outcome(b"x" * 300_000)), 1.0))
            except OSError:
                status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
