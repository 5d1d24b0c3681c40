"""Telling a monitor that a run begins and how it ended: healthchecks.io, Cronitor, Sentry.

``request_for`` is pure; ``send`` is for a process of its own, because it waits for a network.
The URL is a secret: whoever has it can speak for the job. No message holds more than its host.
"""

from __future__ import annotations

from guardrun.lean import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guardrun.model import Outcome, Run

_NOT_EXECUTED = ("skipped_duplicate", "lock_busy")
"""the job is looked after by another run: neither good news nor bad"""
_MOST_OUTPUT = 10_000
"""bytes; what the smallest of healthchecks' servers keeps"""
_MOST_MESSAGE = 2000
"""characters of a query: Cronitor's limit"""
_TRIES = 2
_ONE_TRY = 2.0
"""s for each of a request's steps: connecting, sending, the answer"""


class Request(NamedTuple):
    """One request: with a body it is a POST."""

    url: str
    body: bytes | None


def request_for(url: str, run: Run, outcome: Outcome | None) -> Request | None:
    """What a monitor at ``url`` is told at the start (no outcome yet) or at the end of a run.

    ``None``: nothing. Sources: healthchecks.io/docs/http_api, cronitor.io/docs/telemetry-api,
    docs.sentry.io/product/crons/getting-started/http.
    """
    base, _, query = url.partition("?")
    parts = base.split("/")
    host = parts[2].rpartition("@")[2].partition(":")[0].lower()
    idle = outcome is not None and outcome.result in _NOT_EXECUTED
    good = outcome is not None and outcome.result == "success"
    if host.endswith(("cronitor.link", "cronitor.io")):
        state = "run" if outcome is None else "complete" if good else "fail"
        more = {"state": state, "series": run.job_id}
        if outcome is not None:
            more |= {"status_code": str(_code(outcome)), "message": _message(outcome)}
        return None if idle else Request(_with(base, query, more), None)
    if "/cron/" in base and "/api/" in base:
        state = "in_progress" if outcome is None else "ok" if good else "error"
        more = {"status": state, "check_in_id": run.job_id}
        return None if idle else Request(_with(base, query, more), None)
    more = {"rid": run.job_id}
    if outcome is None:
        return Request(_with(f"{base.rstrip('/')}/start", query, more), b"")
    step = "log" if idle else "0" if good else str(_code(outcome) or "fail")
    return Request(_with(f"{base.rstrip('/')}/{step}", query, more), _body(outcome))


def _code(outcome: Outcome) -> int:
    return 128 + outcome.die_by if outcome.die_by else outcome.exit_code


def _message(outcome: Outcome) -> str:
    reason = f": {outcome.reason}" if outcome.reason else ""
    return f"{outcome.result}{reason}"[:_MOST_MESSAGE]


def _body(outcome: Outcome) -> bytes:
    """How it ended, and the end of what COMMAND wrote, as far as that was captured."""
    head = f"{outcome.run.job}: {_message(outcome)}\n".encode("utf-8", "backslashreplace")
    captured = outcome.captured
    tail = b"" if captured is None else captured.stdout + captured.stderr
    room = max(_MOST_OUTPUT - len(head), 0)
    return head[:_MOST_OUTPUT] + tail[max(len(tail) - room, 0) :]


def _with(base: str, query: str, more: dict[str, str]) -> str:
    from urllib.parse import urlencode

    return f"{base}?{query}{'&' if query else ''}{urlencode(more)}"


def send(request: Request) -> None:
    """Make the request, at most twice. Raises ``OSError`` whose text names the host alone."""
    import os
    import time
    from http.client import HTTPException
    from urllib.error import HTTPError

    for last in (False,) * (_TRIES - 1) + (True,):
        try:
            _make(request)
            return
        except HTTPError as error:
            problem, final = f"HTTP status {error.code}", error.code < 500
        except (HTTPException, OSError, ValueError) as error:
            why = getattr(error, "reason", error)
            problem, final = getattr(why, "strerror", None) or type(why).__name__, False
        if last or final:
            raise OSError(f"{_place(request.url)}: {problem}")
        time.sleep(0.1 + os.urandom(1)[0] / 1000)


def _make(request: Request) -> None:
    from base64 import b64encode
    from urllib.parse import unquote
    from urllib.request import Request as Call
    from urllib.request import urlopen

    from guardrun.version import version

    scheme, _, rest = request.url.partition("://")
    authority, slash, path = rest.partition("/")
    login, at, host = authority.rpartition("@")
    call = Call(f"{scheme}://{host}{slash}{path}", request.body)
    call.add_header("User-Agent", f"guardrun/{version()}")
    if request.body is not None:
        call.add_header("Content-Type", "text/plain; charset=utf-8")
    if at:
        name, _, password = login.partition(":")
        pair = f"{unquote(name)}:{unquote(password)}".encode()
        call.add_header("Authorization", f"Basic {b64encode(pair).decode()}")
    with urlopen(call, timeout=_ONE_TRY) as answer:
        answer.read(1 << 16)


def _place(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0].partition('?')[0].rpartition('@')[2]}"
