"""One execution of COMMAND, watched to its end."""

from __future__ import annotations

import errno
import os
import select
import signal
import time

from guardrun import channel, kernel
from guardrun.lean import NamedTuple
from guardrun.model import Ended
from guardrun.report import events
from guardrun.supervisor.lease_news import LeaseNews
from guardrun.supervisor.loop import SUSPEND, suspend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guardrun.model import Claim, Grant
    from guardrun.report.log import Log
    from guardrun.supervisor.guard import Guard
    from guardrun.supervisor.loop import Loop
    from guardrun.supervisor.output import Output
    from guardrun.supervisor.voice import Written

_NEVER = float("inf")
_LATE = 1.0
"""s after the last moment at which the warden should have been done; then it is seized"""
_NUDGE = 0.1
"""s after a limit; then a warden that somebody stopped is continued"""
_OVERDUE, _STUCK = 0.2, 3.0
"""s after COMMAND should have been killed for want of a lease, what is left of which is longer;
then a warden that is stopped is seized, and one that is at work later"""

_IDLE, _LINGER = 0.5, 5.0
"""s that COMMAND's pipes are read after its end: until nothing comes, and at the most"""


class Execution(NamedTuple):
    """What came of one execution."""

    ended: Ended
    told: int | None
    """the signal that told guardrun to stop meanwhile"""
    started_at: float
    """wall clock"""
    duration: float
    """s"""


def watch(
    loop: Loop,
    guard: Guard,
    order: channel.Spawn,
    output: Output,
    log: Log,
    number: int,
    grant: Grant | None,
    claim: Claim | None,
) -> Execution:
    """See COMMAND started, pass signals on, take care of its output, until it is over.

    Limits are the warden's to enforce; here they only serve to notice a warden that does not.
    """
    limit = min(order.deadline, kernel.now() + order.timeout)
    nudge, last = limit + _NUDGE, limit + order.grace + _LATE
    reminded, mercy = _NEVER, _OVERDUE
    told: int | None = None
    started_at, begun = time.time(), kernel.now()
    running = False
    news = LeaseNews(guard, log, number, grant)
    while True:
        # COMMAND may write before the warden can say that it runs: its lines come after that one.
        interests = [(guard.fileno(), select.POLLIN), *(output.interests() if running else ())]
        term = guard.term_at()
        reminder = _NEVER if term == reminded else term + _NUDGE
        killed = guard.kill_at() + mercy
        ready, signals = loop.wait(interests, min(nudge, last, reminder, killed, news.due()))
        for taken in signals:
            heard = loop.terminal.told_all(taken)
            if taken.number in loop.terminal.stops and told is None:
                told = taken.number
                kill_due = kernel.now() + order.grace
                guard.send(channel.Stop("told_to_stop", taken.number, heard, kill_due))
                nudge, last = kernel.now() + _NUDGE, min(last, kill_due + _LATE)
            elif taken.number == signal.SIGCHLD:
                guard.bury_strangers()
            elif not heard:
                guard.send(channel.Pass(taken.number))
            if taken.number in SUSPEND:
                suspend(taken)
        word = guard.receive() if ready.pop(guard.fileno(), 0) else ()
        for fd in ready:
            output.ready(fd)
        now = kernel.now()
        news.look(now)
        if word != ():
            # While it has something to say it is alive: we may have been stopped meanwhile.
            nudge, last = max(nudge, now + _NUDGE), max(last, now + _LATE)
        match word:
            case None:
                # A warden that would start COMMAND after the term is killed by the kernel.
                cause = "lease_lost" if now >= guard.term_at() else "warden_lost"
                guard.seize()
                drain(loop, output, linger=False)
                cause = "told_to_stop" if told else cause
                return Execution(Ended(None, None, cause), told, started_at, now - begun)
            case channel.Started(at, clock):
                started_at, begun, running = at, clock, True
                log.emit(events.attempt_started(at, number, claim))
                log.open()
            case channel.NotStarted(problem):
                output.close()
                ended = _not_started(order.argv[0], problem)
                return Execution(ended, told, started_at, now - begun)
            case channel.Unkillable(pids):
                last = mercy = _NEVER  # the warden is at work; it is the kernel that can't
                log.emit(events.unkillable(time.time(), number, pids))
            case channel.Over(status, why, orphans, clock):
                # A signal that has come by now may have come to COMMAND as well (a terminal's
                # Ctrl-C, one for the whole cgroup): how it ended tells nothing about success.
                told = told or loop.stop_signal()
                if told is not None and why is None:
                    why = "told_to_stop"
                late = drain(loop, output, linger=orphans > 0)
                return Execution(
                    _ended(status, why, orphans), told or late, started_at, clock - begun
                )
        if now >= nudge:
            nudge = _NEVER
            guard.wake()
        if now >= guard.term_at() + _NUDGE and guard.term_at() != reminded:
            reminded = guard.term_at()
            guard.wake()
        lapsed = now >= guard.kill_at() + mercy
        if lapsed and mercy == _OVERDUE and not guard.is_stopped():
            lapsed, mercy = False, _STUCK
        if now >= last or lapsed:
            guard.seize()
            drain(loop, output, linger=False)
            overdue = "deadline" if order.deadline <= now else "timeout"
            cause = "lease_lost" if lapsed else "told_to_stop" if told else overdue
            return Execution(Ended(None, None, cause), told, started_at, now - begun)


def drain(loop: Loop, output: Output, linger: bool) -> int | None:
    """Read what is left in COMMAND's pipes, and pass it on; return a signal to stop, if any.

    ``linger``: something still has them open. What it writes is waited for as long as it goes on
    writing, but not for long: a daemon has them open for ever.
    """
    idle = cap = kernel.now()
    # Also where the deadline is what ended COMMAND: its last words are in the pipe already.
    limit = max(loop.deadline, cap + 2 * _IDLE)
    if linger:
        idle, cap = idle + _IDLE, cap + _LINGER
    while output.interests():
        now = kernel.now()
        if now >= limit:
            break
        if now >= min(idle, cap):
            idle = cap = _NEVER
            output.finish()
            continue
        ready, signals = loop.wait(output.interests(), min(idle, cap, limit))
        for taken in signals:
            if taken.number in loop.terminal.stops:
                output.close()
                return taken.number
            if taken.number in SUSPEND:
                suspend(taken)
        for fd in ready:
            output.ready(fd)
        if ready and idle != _NEVER:
            idle = kernel.now() + _IDLE
    output.close()
    return None


def pass_on(loop: Loop, replay: Written) -> int | None:
    """Write stored output at the pace of whoever reads it; return a signal to stop, if any."""
    while replay.interests():
        ready, signals = loop.wait(replay.interests(), loop.deadline)
        for taken in signals:
            if taken.number in loop.terminal.stops:
                replay.close()
                return taken.number
            if taken.number in SUSPEND:
                suspend(taken)
        if kernel.now() >= loop.deadline:
            break
        for fd in ready:
            replay.ready(fd)
    replay.close()
    return None


def sweep(loop: Loop, guard: Guard, signum: int, grace: float) -> int | None:
    """Stop what the last attempt left running; return the signal that told us to stop, if any."""
    guard.send(channel.Sweep(signum, grace))
    told: int | None = None
    last = kernel.now() + grace + _LATE
    while True:
        ready, signals = loop.wait([(guard.fileno(), select.POLLIN)], last)
        for taken in signals:
            if taken.number in loop.terminal.stops:
                told = told or taken.number
            elif taken.number in SUSPEND:
                suspend(taken)
        if ready:
            word = guard.receive()
            if isinstance(word, channel.Over):
                return told
            if isinstance(word, channel.Unkillable):
                last = _NEVER
            if word is None:
                last = 0.0
        if kernel.now() >= last:
            guard.seize()
            return told


def _not_started(program: str, problem: int) -> Ended:
    if problem != errno.ENOENT:
        return Ended(126, None, "not_started", why=os.strerror(problem))
    # The kernel says the same of a script whose interpreter is missing, or ends with a CR.
    there = "/" in program and os.path.exists(program)
    why = "the file is there, its interpreter (#!) is not" if there else None
    return Ended(127, None, "not_started", why=why)


def _ended(status: int, cause: str | None, orphans: int) -> Ended:
    code = os.waitstatus_to_exitcode(status)
    return Ended(code if code >= 0 else None, -code if code < 0 else None, cause, orphans)
