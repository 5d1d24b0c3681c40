"""COMMAND, as a run sees it: execute it, clear up after it, let it go."""

from __future__ import annotations

import os

from guardrun import channel, identity
from guardrun.supervisor import execute as watching
from guardrun.supervisor.replay import STDERR, STDOUT, Held
from guardrun.supervisor.voice import Voice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from guardrun.model import Captured, Claim, ExecSpec, Grant, Run
    from guardrun.report.log import Log
    from guardrun.reports import Reports
    from guardrun.supervisor.execute import Execution
    from guardrun.supervisor.guard import Guard
    from guardrun.supervisor.loop import Loop
    from guardrun.supervisor.stdin import Stdin

_STDIN = 0


class Command:
    """COMMAND of one run; its warden is there from ``prepare`` to ``dismiss``.

    ``hire`` finds the processes that will watch it, and raises GuardrunError when it can't.
    """

    def __init__(
        self,
        spec: ExecSpec,
        run: Run,
        loop: Loop,
        log: Log,
        hire: Callable[[], Guard],
        stdin: Stdin | None,
        reports: Reports | None = None,
        voice: Voice | None = None,
    ) -> None:
        self._spec = spec
        self._run = run
        self._loop = loop
        self._log = log
        self._hire = hire
        self._stdin = stdin
        self._reports = reports
        self._voice = voice or Voice()
        self._held = Held()
        self._captured: Captured | None = None
        self._guard: Guard | None = None
        self._at_large = False
        """COMMAND has been started, and its end not been seen"""
        self._leftovers = False
        """what the last execution left running is still there"""

    def prepare(self) -> None:
        """Start the processes that will watch COMMAND, unless they are there; GuardrunError."""
        if self._guard is None:
            self._guard = self._hire()

    def execute(self, number: int, grant: Grant | None, claim: Claim | None) -> Execution:
        """Execute COMMAND once, to its end. Raises GuardrunError when it can't be watched."""
        spec = self._spec
        self.prepare()
        assert self._guard is not None
        output = self._voice.output(spec, self._log.bind(attempt=number).emit, self._held)
        stdio = dict(output.stdio)
        if spec.stdin == "replay" and self._stdin is not None:
            stdio[_STDIN] = self._stdin.open()
        elif spec.stdin == "null":
            stdio[_STDIN] = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        order = channel.Spawn(
            spec.argv,
            tuple(stdio),
            identity.environment(self._run, number, grant, claim),
            spec.timeout,
            self._loop.deadline,
            spec.stop_signal,
            spec.kill_after,
        )
        held = (*(grant.fds if grant else ()), *(claim.fds if claim else ()))
        self._at_large = True
        self._guard.spawn(order, tuple(stdio.values()), held)
        output.sent()
        if number == 1 and self._reports is not None:
            self._reports.begin(self._run)  # COMMAND is on its way: it pays nothing for that
        if _STDIN in stdio:
            os.close(stdio[_STDIN])
        execution = watching.watch(
            self._loop, self._guard, order, output, self._log, number, grant, claim
        )
        self._at_large = False
        self._leftovers = execution.ended.orphans > 0
        self._captured = output.captured()
        return execution

    def sweep(self) -> int | None:
        """Stop what the last execution left running, which may have ended by itself.

        Returns the signal that told guardrun to stop meanwhile.
        """
        if not self._leftovers or self._guard is None:
            return None
        self._leftovers = False
        spec = self._spec
        return watching.sweep(self._loop, self._guard, spec.stop_signal, spec.kill_after)

    def captured(self) -> Captured | None:
        """The last bytes of what the last attempt wrote."""
        return self._captured

    def show_held(self) -> int | None:
        """Write what ``--output on-failure`` held back; returns a signal to stop, if one came."""
        return watching.pass_on(self._loop, self._voice.replay(self._held.chunks()))

    def replay(self, stdout: bytes, stderr: bytes) -> int | None:
        """Write another run's output once more; returns a signal to stop, if one came."""
        stored = ((STDOUT, stdout), (STDERR, stderr))
        return watching.pass_on(self._loop, self._voice.replay(stored))

    def abandon(self) -> bool:
        """End COMMAND if a fault of ours kept its end from being seen; whether that was so."""
        if not self._at_large or self._guard is None:
            return False
        self._at_large = False
        self._guard.seize()
        return True

    def dismiss(self) -> None:
        """Leave alone what is left running, and tell the processes that watched it to end.

        When a fault of ours kept COMMAND's end from being seen, nothing of it is left running.
        """
        self.abandon()
        if self._guard is not None:
            self._guard.dismiss()

    def bury(self) -> None:
        """Wait until the processes that watched COMMAND are gone."""
        if self._guard is not None:
            self._guard.bury()
