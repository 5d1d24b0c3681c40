"""What a run tells others beside its log: a metrics file, and a monitor that is pinged.

Each in a process of its own, for a bounded time. What fails is said in the log or on stderr, and
changes nothing.
"""

from __future__ import annotations

from guardrun.errors import ToldToStop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from guardrun.errand import Errand
    from guardrun.model import Outcome, ReportSpec, Run
    from guardrun.supervisor.loop import Loop

_FILE = 1.0
"""s for the metrics file: the lock is still held"""
_PING = 5.0
"""s for one word to the monitor"""


class Reports:
    """The reports of one run. ``spare`` are those of our children that are not COMMAND's."""

    def __init__(self, spec: ReportSpec, loop: Loop, spare: set[int]) -> None:
        self._spec = spec
        self._loop = loop
        self._spare = spare
        self._begun: Errand | None = None

    def begin(self, run: Run) -> None:
        """Tell the monitor that COMMAND is being executed; does not wait for it."""
        if self._spec.ping_url is not None:
            try:
                self._begun = self._ping(self._spec.ping_url, run, None)
            except OSError:
                pass  # no process is left: the end will tell

    def write_metrics(self, outcome: Outcome) -> str | None:
        """Bring the job's metrics file up to date; why that failed. Raises ``ToldToStop``."""
        directory = self._spec.metrics_textfile
        if directory is None:
            return None

        def write() -> None:
            from guardrun.report import textfile

            textfile.write(directory, outcome)

        problem = self._wait(lambda: self._send(write, _FILE))
        return problem and f"the metrics file in {directory}: {problem}"

    def end(self, outcome: Outcome) -> str | None:
        """Tell the monitor how it ended, after it has been told of the start; why that failed.

        Raises ``ToldToStop``.
        """
        url = self._spec.ping_url
        if url is None:
            return None
        begun, self._begun = self._begun, None
        if begun is not None:
            self._wait(lambda: begun)
        problem = self._wait(lambda: self._ping(url, outcome.run, outcome))
        return problem and f"the monitor was not told: {problem}"

    def _ping(self, url: str, run: Run, outcome: Outcome | None) -> Errand:
        def ping() -> None:
            from guardrun.report.ping import request_for, send

            request = request_for(url, run, outcome)
            if request is not None:
                send(request)

        return self._send(ping, _PING)

    def _send(self, task: Callable[[], None], limit: float) -> Errand:
        from guardrun.errand import Errand  # when COMMAND is on its way

        return Errand(task, limit, self._spare)

    def _wait(self, errand: Callable[[], Errand]) -> str | None:
        self._loop.deadline = float("inf")  # COMMAND is over, and the outcome stands
        try:
            return errand().wait(self._loop)
        except ToldToStop:
            raise
        except OSError as error:
            return error.strerror or str(error)
