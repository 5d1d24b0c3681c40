"""The warden: COMMAND's parent. It spawns, reaps and kills, and knows nothing else.

No network, no ledger, no policy: ``core/attempt.py`` says what follows from what it sees. It
acts on its own in three cases, all needed when the supervisor can't act: a limit it was given
has passed (the supervisor may be stopped), the term of what the keeper holds has ended or is
known to be lost, or the supervisor is gone.

It is a subreaper, so whatever COMMAND starts ends up as its child; it sits in a process group
of its own, so a signal for the user's job never hits it; it has every signal blocked.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import time

from guardrun import channel, kernel
from guardrun.core import attempt
from guardrun.warden import tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from guardrun.term import Bond

_NEVER = float("inf")
_REKILL = 0.05
"""s; SIGKILL again while anything is left: an orphan may have come meanwhile"""
_PATIENCE = 2.0
"""s after SIGKILL, then what is left is reported as unkillable"""
_INHERITED_FD = 64
"""COMMAND finds the locks' descriptors from here up, out of the way of its own"""


class Warden:
    """One warden's state: the execution it looks after, if any."""

    def __init__(
        self,
        supervisor: channel.Channel,
        supervisor_pidfd: int,
        group: int | None,
        mask: frozenset[int],
        bond: Bond | None = None,
    ) -> None:
        self._bond = bond
        self._fuse = None if bond is None else kernel.Fuse()
        self._channel = supervisor
        self._supervisor = supervisor_pidfd
        self._shared_group = group
        self._mask = mask
        self._state = attempt.State(attempt.OVER)
        self._main: int | None = None
        self._held: list[int] = []
        self._status = 0
        self._group: int | None = None
        self._limits: tuple[tuple[float, str], ...] = ()
        self._signum = int(signal.SIGTERM)
        self._heard: int | None = None
        self._grace = 0.0
        self._kill_due = _NEVER
        self._report_due = _NEVER

    def serve(self) -> None:
        """Work until dismissed, or until the supervisor is gone and nothing is left alive."""
        deaths = kernel.SignalFd({signal.SIGCHLD})
        timer = kernel.Timer()
        poll = select.poll()
        for fd in (self._channel.fileno(), self._supervisor, deaths.fd, timer.fd):
            poll.register(fd, select.POLLIN)
        tethers = [] if self._bond is None else [end.fileno() for end in self._bond.tethers]
        for fd in tethers:
            poll.register(fd, select.POLLIN)
        self._channel.send(channel.Ready(os.getpid()))
        while True:
            timer.set(self._next_due())
            ready = {fd for fd, _ in poll.poll()}
            if self._supervisor in ready:
                if self._was_dismissed():
                    return
                self._end_all()
                return
            for fd in ready.intersection(tethers):
                poll.unregister(fd)  # it says one thing: look at the term
                tethers.remove(fd)
            if deaths.fd in ready:
                deaths.read()
                self._look()
            self._check_clock()
            if self._channel.fileno() in ready and not self._obey():
                return

    def _was_dismissed(self) -> bool:
        """Whether the supervisor, which is gone, had let us go: that may still have to be read."""
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLIN)
        while poll.poll(0) and (received := self._channel.receive()) is not None:
            message, fds = received
            if isinstance(message, channel.Dismiss):
                self._tell_keeper()
                return True
            for fd in fds:
                os.close(fd)
        return False

    def _end_all(self) -> None:
        """Kill whatever is alive, because nobody is left who could want it; tell the keeper."""
        self._see(attempt.GUARD_LOST)
        tree.kill_all()
        self._tell_keeper()

    def _tell_keeper(self) -> None:
        # It never blocks: a pool's keeper reads this only when the pool is gone, and a word that
        # finds no room after hundreds of others costs no more than the time to live.
        if self._bond is not None:
            for tether in self._bond.tethers:
                tether.hint(channel.TreeDead(self._bond.number))

    def _next_due(self) -> float:
        if self._state.phase == attempt.RUNNING:
            return min((due for due, _ in self._all_limits()), default=_NEVER)
        if self._state.phase == attempt.STOPPING:
            return min(self._kill_due, self._bond.term.kill_at if self._bond else _NEVER)
        if self._state.phase == attempt.KILLED:
            return kernel.now() + _REKILL
        return _NEVER

    def _all_limits(self) -> tuple[tuple[float, str], ...]:
        if self._bond is None:
            return self._limits
        return (*self._limits, (self._bond.term.term_at, "lease_lost"))

    def _check_clock(self) -> None:
        now = kernel.now()
        for due, cause in sorted(self._all_limits()):
            if due <= now and self._state.phase == attempt.RUNNING:
                self._kill_due = due + self._grace
                self._see(cause)
        # What is taken here is kept: a renewal that succeeds from now on changes nothing.
        if self._bond is not None and self._state.phase == attempt.STOPPING:
            self._kill_due = min(self._kill_due, self._bond.term.kill_at)
        if self._state.phase in (attempt.STOPPING, attempt.KILLED) and self._kill_due <= now:
            self._see(attempt.GRACE_OVER)
        if self._state.phase == attempt.KILLED and self._report_due <= now:
            self._report_due = _NEVER
            self._channel.send(channel.Unkillable(tuple(tree.living())))

    def _obey(self) -> bool:
        """Carry out one message; False when this was the last one."""
        received = self._channel.receive()
        if received is None:
            self._end_all()
            return False
        message, fds = received
        match message:
            case channel.Spawn():
                self._spawn(message, fds)
            case channel.Stop(cause, signum, heard, kill_due):
                self._signum = signum
                self._heard = self._shared_group if heard else None
                self._kill_due = min(self._kill_due, kill_due)
                self._see(cause)
            case channel.Sweep(signum, grace):
                self._signum, self._heard = signum, None
                self._kill_due = kernel.now() + grace
                self._see("sweep")
                self._look()
            case channel.Pass(signum):
                self._pass(signum)
            case channel.Dismiss():
                self._tell_keeper()  # the supervisor may be killed before it gives the lock back
                return False
        return True

    def _spawn(self, order: channel.Spawn, fds: tuple[int, ...]) -> None:
        now, start_by = kernel.now(), self._bond.term.start_by if self._bond else _NEVER
        if now >= start_by:
            for fd in fds:
                os.close(fd)
            self._channel.send(channel.Over(0, "lease_lost", 0, now))
            return
        replaced = len(order.stdio)
        stdio, held = fds[:replaced], _move_up(fds[replaced:])
        group = self._shared_group
        actions = [(os.POSIX_SPAWN_DUP2, fd, to) for fd, to in zip(stdio, order.stdio, strict=True)]
        # Stopped between that look and the start, it would start COMMAND whenever it is continued,
        # with nobody left to prevent it when the others have been killed.
        self._burn(start_by)
        try:
            pid = _execute(
                order.argv,
                _environment(order.env),
                actions,
                0 if group is None else group,
                self._mask,
            )
        except OSError as error:
            self._channel.send(channel.NotStarted(error.errno or errno.EINVAL))
            return
        finally:
            self._burn(_NEVER)
            for fd in (*stdio, *self._held):
                os.close(fd)
            self._held = held
        self._main, self._group = pid, pid if group is None else None
        self._state = attempt.State(attempt.RUNNING)
        started = kernel.now()
        self._limits = ((started + order.timeout, "timeout"), (order.deadline, "deadline"))
        self._signum, self._grace = order.signum, order.grace
        self._kill_due = self._report_due = _NEVER
        self._heard = None
        self._channel.send(channel.Started(time.time(), started))

    def _burn(self, due: float) -> None:
        if self._fuse is not None:
            self._fuse.set(due)

    def _pass(self, signum: int) -> None:
        if self._main is None or self._state.phase == attempt.OVER:
            return
        if signum in _JOB_CONTROL:  # they concern the job, not a process
            tree.signal_tree(signum, self._group)
        else:
            os.kill(self._main, signum)  # our child, and not reaped yet

    def _look(self) -> None:
        """Find out who has died."""
        main = self._main
        if main is not None:
            ended = os.waitid(os.P_PID, main, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None and self._state.phase == attempt.RUNNING:
                if ended.si_code == os.CLD_EXITED:
                    self._see(attempt.EXIT)
                    return
                self._kill_due = kernel.now() + self._grace
                self._see(attempt.CRASH)
            # While its tree is being stopped COMMAND stays a zombie until the others are gone:
            # that keeps its process group's number from being recycled under our signals.
            others = tree.reap(frozenset({main}))
            if others and self._state.phase == attempt.KILLED:
                self._see(attempt.GRACE_OVER)  # what came to us by a death has yet to be killed
            if ended is None or others:
                return
            _, self._status = os.waitpid(main, 0)
            self._main = self._group = None
        else:
            tree.reap()
        if tree.is_empty():
            self._see(attempt.EMPTY)

    def _see(self, event: str) -> None:
        self._state, action = attempt.step(self._state, event)
        if action == attempt.TERMINATE:
            tree.signal_tree(self._signum, self._group, heard=self._heard)
            tree.signal_tree(signal.SIGCONT, self._group)  # a stopped process can't hear TERM
        elif action == attempt.KILL:
            if self._report_due == _NEVER and event == attempt.GRACE_OVER:
                self._report_due = kernel.now() + _PATIENCE
            tree.signal_tree(signal.SIGKILL, self._group)
            self._kill_due = kernel.now() + _REKILL
        elif action == attempt.REPORT:
            self._report()

    def _report(self) -> None:
        orphans = 0
        if self._main is not None:
            _, self._status = os.waitpid(self._main, 0)
            self._main = self._group = None
            orphans = len(tree.living())
        self._limits = ()
        if self._state.cause in _LIMITS:
            # Ctrl-Z or SIGTTIN may have stopped the supervisor together with COMMAND.
            try:
                signal.pidfd_send_signal(self._supervisor, signal.SIGCONT)
            except ProcessLookupError:
                pass  # it was killed just now; its pidfd says so
        self._channel.send(channel.Over(self._status, self._state.cause, orphans, kernel.now()))


_LIMITS = frozenset({"timeout", "deadline", "lease_lost"})
_JOB_CONTROL = frozenset({signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT})


def _environment(changes: dict[str, str | None]) -> dict[str, str]:
    merged = {**os.environ, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def _move_up(fds: Sequence[int]) -> list[int]:
    """Give descriptors numbers that COMMAND does not use itself, and let it inherit them."""
    moved = []
    for fd in fds:
        try:
            moved.append(fcntl.fcntl(fd, fcntl.F_DUPFD, _INHERITED_FD))
        except OSError:  # ulimit -n is below
            moved.append(os.dup(fd))
            os.set_inheritable(moved[-1], True)
        os.close(fd)
    return moved


def _execute(
    argv: tuple[str, ...],
    env: dict[str, str],
    actions: Sequence[tuple[int, int, int]],
    group: int,
    mask: frozenset[int],
) -> int:
    """Start ``argv`` by way of vfork(2), looked up in PATH; a script without ``#!`` by sh."""
    # CPython ignores these two; what is started shall find the default.
    defaults = {signal.SIGPIPE, signal.SIGXFSZ}

    def spawn(words: tuple[str, ...]) -> int:
        return os.posix_spawnp(
            words[0],
            words,
            env,
            file_actions=actions,
            setpgroup=group,
            setsigmask=mask,
            setsigdef=defaults,
        )

    try:
        return spawn(argv)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        return spawn(("/bin/sh", _found(argv[0]), *argv[1:]))


def _found(program: str) -> str:
    if "/" in program:
        return program
    for directory in os.get_exec_path():
        path = os.path.join(directory, program)
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    return program
