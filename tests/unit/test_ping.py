"""What a monitor is told: one URL for each moment of a run, in the monitor's own words."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest
from ledgers import make_run

from guardrun.model import Captured, Outcome
from guardrun.report.ping import Request, request_for

RUN = make_run(job="nightly")
CHECK = "https://hc-ping.com/6a4d"
CRONITOR = "https://cronitor.link/p/key/nightly?env=production"
SENTRY = "https://o1.ingest.sentry.io/api/42/cron/nightly/key/"


def ended(result: str, code: int = 0, **fields: object) -> Outcome:
    """How the run ended."""
    return Outcome(RUN, result, code, 0.0, 1.0)._replace(**fields)  # type: ignore[arg-type]


def told(url: str, outcome: Outcome | None) -> tuple[str, dict[str, str]]:
    """(path, query) of what the monitor is told."""
    request = request_for(url, RUN, outcome)
    assert request is not None
    parts = urlsplit(request.url)
    return parts.path, {name: values[0] for name, values in parse_qs(parts.query).items()}


@pytest.mark.parametrize(
    ("outcome", "path"),
    [
        (None, "/6a4d/start"),
        (ended("success"), "/6a4d/0"),
        (ended("success", 3), "/6a4d/0"),
        (ended("failed", 3), "/6a4d/3"),
        (ended("timeout", 124), "/6a4d/124"),
        (ended("failed", 0, die_by=11), "/6a4d/139"),
        (ended("interrupted", 143, die_by=15), "/6a4d/143"),
        (ended("lease_lost", 0), "/6a4d/fail"),
        (ended("store_unavailable", 69), "/6a4d/69"),
        (ended("lock_busy", 75), "/6a4d/log"),
        (ended("skipped_duplicate"), "/6a4d/log"),
    ],
)
def test_healthchecks(outcome: Outcome | None, path: str) -> None:
    """A step or an exit code after the check's own path, and the run's id."""
    assert told(CHECK, outcome) == (path, {"rid": RUN.job_id})
    assert told(CHECK + "/", outcome)[0] == path


def test_cronitor() -> None:
    """State, series, status code and message; the URL's own parameters stay."""
    path, query = told(CRONITOR, None)
    assert path == "/p/key/nightly"
    assert query == {"env": "production", "state": "run", "series": RUN.job_id}
    _, query = told(CRONITOR, ended("failed", 3, reason="exit code 3"))
    assert (query["state"], query["status_code"]) == ("fail", "3")
    assert query["message"] == "failed: exit code 3"
    assert told(CRONITOR, ended("success"))[1]["state"] == "complete"


def test_sentry() -> None:
    """Status, and one id for the check-in of a run."""
    assert told(SENTRY, None)[1] == {"status": "in_progress", "check_in_id": RUN.job_id}
    assert told(SENTRY, ended("success"))[1]["status"] == "ok"
    assert told(SENTRY, ended("timeout", 124))[1]["status"] == "error"


@pytest.mark.parametrize("url", [CRONITOR, SENTRY])
def test_who_has_no_word_for_it_is_not_told(url: str) -> None:
    """A run that another one made needless is neither good nor bad news."""
    assert request_for(url, RUN, ended("lock_busy", 75)) is None
    assert request_for(url, RUN, ended("skipped_duplicate")) is None


def body(**fields: object) -> bytes:
    """What healthchecks gets with the end of a run that failed."""
    request = request_for(CHECK, RUN, ended("failed", 3, **fields))
    assert isinstance(request, Request)
    assert request.body is not None
    return request.body


def test_the_end_of_the_output() -> None:
    """The body says how it ended, and has the last of what was captured, bounded."""
    assert body(reason="exit code 3") == b"nightly: failed: exit code 3\n"
    assert body(captured=Captured(b"out\n", b"err\n")) == b"nightly: failed\nout\nerr\n"
    long = body(captured=Captured(b"x" * 20000, b"the end"))
    assert len(long) == 10_000
    assert long.startswith(b"nightly: failed\n")
    assert long.endswith(b"the end")
