"""The one place where the supervisor waits: signals, descriptors and the nearest deadline.

So a signal is answered within milliseconds in every phase of a run: splay, lock wait, claim,
attempt, backoff, recording.
"""

from __future__ import annotations

import os
import select
import signal
from abc import ABC, abstractmethod

from guardrun import kernel
from guardrun.errors import DeadlineReached, ToldToStop
from guardrun.lean import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from guardrun.ports import Tended
    from guardrun.report.log import Log

    Woken = tuple[dict[int, int], list[kernel.Signal]]
    """the descriptors that are ready, with what for; the signals that came"""

NEVER = float("inf")
_LONG = 0.05
"""s"""

STOP = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})
"""told to stop; with a terminal SIGHUP as well"""
PASSED = frozenset(
    {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGALRM, signal.SIGCONT}
)
SUSPEND = frozenset({signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})


class Terminal(NamedTuple):
    """The controlling terminal's consequence for signals: COMMAND shares our process group."""

    group: int | None
    """``None``: no terminal, COMMAND gets a group of its own"""
    leader: bool = False
    """guardrun leads the session"""

    @property
    def stops(self) -> frozenset[int]:
        """Signals that tell guardrun to stop."""
        return STOP if self.group is None else STOP | {signal.SIGHUP}

    def told_all(self, taken: kernel.Signal) -> bool:
        """Whether COMMAND got this signal as well.

        What a terminal sends, it sends to the whole foreground group, COMMAND in it; but when it
        goes away the kernel tells the session's leader alone: tty_signal_session_leader().
        """
        if self.group is None or not taken.by_kernel:
            return False
        return not (self.leader and taken.number == signal.SIGHUP)


def find_terminal() -> Terminal:
    """Look whether this process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError:
        return Terminal(None)
    return Terminal(os.getpgrp(), os.getsid(0) == os.getpid())


def take_signals() -> tuple[frozenset[int], frozenset[int]]:
    """Block the signals that the loop reads; return them and the mask that was.

    What was ignored when we started stays ignored, in us and in COMMAND (nohup).
    """
    # SIGCHLD ignored would make wait(2) lose COMMAND's exit status.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ours = frozenset(
        signum
        for signum in (*STOP, *PASSED, *SUSPEND, signal.SIGCHLD)
        if signal.getsignal(signum) is not signal.SIG_IGN
    )
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ours)
    return ours, frozenset(before)


class Loop(ABC):
    """Waits, for one run; the only object that does.

    How it sleeps is up to the subclass: the whole process, or (``pool/hub.py``) one item of many.
    """

    def __init__(self, terminal: Terminal, log: Log) -> None:
        self.terminal = terminal
        self.deadline = NEVER
        """CLOCK_BOOTTIME; ``pause`` raises DeadlineReached from then on"""
        self.keeper: Tended | None = None
        """looked after while we wait, whatever we wait for"""
        self._log = log

    def wait(self, interests: Iterable[tuple[int, int]], due: float) -> Woken:
        """Wait for descriptors (fd, poll events), a signal, or ``due``; return what came.

        Lines that the log could not write yet are written meanwhile, and the keeper is tended;
        returns with nothing when it said that what it holds has changed.
        """
        wanted = list(interests)
        while True:
            ready, signals, over = self._round(wanted, due)
            if ready or signals or over:
                return ready, signals

    def _round(
        self, wanted: Sequence[tuple[int, int]], due: float
    ) -> tuple[dict[int, int], list[kernel.Signal], bool]:
        """Sleep once; also whether it is time to return with nothing."""
        keeper = self._tended(wanted)
        changed = False
        log = self._log.interests()
        interests = [*wanted, *log]
        if keeper is not None:
            if keeper.fileno() >= 0:
                interests.append((keeper.fileno(), select.POLLIN))
            due = min(due, keeper.overdue_at())
        ready, signals = self._poll(interests, due)
        if keeper is not None:
            changed = bool(ready.pop(keeper.fileno(), 0)) and keeper.ready()
            keeper.check()
        written = [fd for fd, _ in log if ready.pop(fd, 0)]
        for fd in written:
            self._log.ready(fd)
        return ready, signals, changed or kernel.now() >= due

    @abstractmethod
    def _poll(self, interests: Sequence[tuple[int, int]], due: float) -> Woken:
        """Sleep until one of the descriptors is ready, a signal has come, or ``due``."""

    def _tended(self, wanted: Sequence[tuple[int, int]]) -> Tended | None:
        """The keeper, unless it is what the caller waits for."""
        keeper = self.keeper
        if keeper is None:
            return None
        return None if any(fd == keeper.fileno() for fd, _ in wanted) else keeper

    def pause(self, fds: Sequence[int], due: float) -> Collection[int]:
        """Wait until one of ``fds`` is readable or ``due`` has come, while no COMMAND runs.

        Returns the readable ones. Raises ToldToStop and DeadlineReached.
        """
        limit = min(due, self.deadline)
        if limit - kernel.now() > _LONG:
            self._log.open()  # what it imports costs nobody anything while we wait
        interests = [(fd, select.POLLIN) for fd in fds]
        while True:
            ready, signals = self.wait(interests, limit)
            for taken in signals:
                if taken.number in self.terminal.stops:
                    raise ToldToStop(taken.number)
                if taken.number in SUSPEND:
                    suspend(taken)
            if ready:
                return ready.keys()
            now = kernel.now()
            if now >= self.deadline:
                raise DeadlineReached("--deadline has passed")
            if now >= due:
                return ()

    @abstractmethod
    def stop_signal(self) -> int | None:
        """A signal that told guardrun to stop and has not been read yet; don't wait."""

    def check(self) -> None:
        """Raise ToldToStop or DeadlineReached if it is time to; don't wait."""
        self.pause((), kernel.now())


class ProcessLoop(Loop):
    """The loop of a process that does one thing: while that waits, the process sleeps."""

    def __init__(self, signals: frozenset[int], terminal: Terminal, log: Log) -> None:
        super().__init__(terminal, log)
        self._signals = kernel.SignalFd(signals)
        self._timer = kernel.Timer()

    def _poll(self, interests: Sequence[tuple[int, int]], due: float) -> Woken:
        poll = select.poll()
        poll.register(self._signals.fd, select.POLLIN)
        poll.register(self._timer.fd, select.POLLIN)
        for fd, events in interests:
            poll.register(fd, events)
        self._timer.set(due)
        ready = dict(poll.poll())
        ready.pop(self._timer.fd, None)
        return ready, self._signals.read() if ready.pop(self._signals.fd, 0) else []

    def stop_signal(self) -> int | None:
        numbers = [taken.number for taken in self._signals.read()]
        return next((number for number in numbers if number in self.terminal.stops), None)


def suspend(taken: kernel.Signal) -> None:
    """Stop this process as the signal would have; returns when it is continued.

    In an orphaned process group (under cron) its default action does nothing. There a terminal's
    Ctrl-Z is ignored, since nobody could continue us; whoever sent the signal himself can.
    """
    os.kill(os.getpid(), taken.number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {taken.number})
    signal.pthread_sigmask(signal.SIG_BLOCK, {taken.number})
    if not taken.by_kernel and signal.SIGCONT not in signal.sigpending():
        os.kill(os.getpid(), signal.SIGSTOP)
