"""Who a run is, and the names its templates make."""

from __future__ import annotations

import errno
import os
import stat
import time

from guardrun import template
from guardrun.core import redact
from guardrun.digest import sha256
from guardrun.errors import ConfigError
from guardrun.model import Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from guardrun.model import Claim, Grant, Plan
    from guardrun.ports import Waiter
    from guardrun.supervisor.stdin import Stdin


def new_job_id(now: float) -> str:
    """Draw a UUID version 7 (RFC 9562, section 5.7); ``now`` is seconds since 1970.

    By hand, because importing ``uuid`` takes longer than starting COMMAND.
    """
    milliseconds = int(now * 1000)
    number = int.from_bytes(milliseconds.to_bytes(6, "big") + os.urandom(10), "big")
    number = number & ~(0xF << 76) | 7 << 76
    number = number & ~(0x3 << 62) | 2 << 62
    digits = f"{number:032x}"
    return "-".join(
        digits[start:end] for start, end in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))
    )


def identify(
    plan: Plan,
    stdin: Stdin | None,
    environ: Mapping[str, str],
    waiter: Waiter | None,
    item: template.Item | None = None,
) -> Run:
    """Give a run its identity; resolves every template, once.

    ``item`` is what it is about, where it is one of a pool's.
    Raises ConfigError, and what ``waiter``, if there is one, raises while a file is hashed.
    """
    now = time.time()
    argv = plan.exec.argv
    host = os.uname().nodename
    lookup = template.Lookup(
        job=plan.job,
        host=host,
        user=user_name(),
        env=environ,
        argv=argv,
        now=now if plan.enqueued_at is None else plan.enqueued_at,
        file_sha256=lambda path: _file_sha256(path, waiter),
        stdin=stdin.bytes() if stdin and _reads_stdin(plan) else None,
        item=item,
    )

    def named(text: str) -> str:
        name = template.resolve(text, lookup)
        if "://" in name and redact.redact_url(name) != name:
            raise ConfigError(
                f"template {text}: it has a URL's password in it, and names are stored and logged:"
                " use a hash, such as {argv.sha256}"
            )
        return name

    job_id = new_job_id(now)
    lock = plan.lock
    return Run(
        job_id=job_id,
        job=plan.job,
        owner=f"{host}:{os.getpid()}:{job_id}",
        host=host,
        user=lookup.user,
        pid=os.getpid(),
        argv=redact.redact_argv(argv, plan.report.redact),
        fingerprint=sha256(b"\0".join(map(os.fsencode, argv))).hexdigest(),
        started_at=now,
        path=tuple(environ.get("GUARDRUN_JOB_PATH", "").split()),
        lock=(named(lock.name) if lock.name is not None else lock.file) if lock else None,
        key=None if plan.key.key is None else named(plan.key.key),
        needs=tuple(map(named, plan.key.needs)),
        enqueued_at=plan.enqueued_at,
        token=None if plan.key.key is None else os.urandom(16).hex(),
    )


def _reads_stdin(plan: Plan) -> bool:
    texts = (plan.lock and plan.lock.name, plan.key.key, *plan.key.needs)
    return any(text is not None and template.needs_stdin(text) for text in texts)


def user_name() -> str:
    """The effective user's name, or its number where it has none."""
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _file_sha256(path: str, waiter: Waiter | None) -> str:
    digest = sha256()
    # O_NONBLOCK: a FIFO that nobody writes to must not hang us.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        while data := file.read(1 << 20):
            digest.update(data)
            if waiter:
                waiter.check()
    return digest.hexdigest()


def environment(
    run: Run, attempt: int, grant: Grant | None, claim: Claim | None
) -> dict[str, str | None]:
    """Make the variables that COMMAND gets, and unset those of a guardrun around this one."""
    return {
        **_coerced_locale(),
        "GUARDRUN_JOB_ID": run.job_id,
        "GUARDRUN_JOB": run.job,
        "GUARDRUN_IDEMPOTENCY_KEY": run.key,
        "GUARDRUN_ATTEMPT": str(attempt),
        "GUARDRUN_LOCK": grant.lock if grant else None,
        "GUARDRUN_LOCK_OWNER": grant.owner or run.owner if grant else None,
        "GUARDRUN_FENCING_TOKEN": str(grant.fence) if grant and grant.fence is not None else None,
        "GUARDRUN_CLAIM_TOKEN": claim.token if claim else None,
        "GUARDRUN_JOB_PATH": " ".join((*run.path, run.job_id)),
    }


def _coerced_locale() -> dict[str, str | None]:
    """Undo what CPython did to the environment: in the C locale it sets LC_CTYPE (PEP 538)."""
    if "LC_CTYPE" not in os.environ:
        return {}
    try:
        with open("/proc/self/environ", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return {}
    before = (word.partition(b"=") for word in words)
    values = [os.fsdecode(value) for name, _, value in before if name == b"LC_CTYPE"]
    return {"LC_CTYPE": values[0] if values else None}
