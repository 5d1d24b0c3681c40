"""One job's metrics as a file for node_exporter's textfile collector.

Counters go on from what is in the file, and what a run says nothing of stays as it is: a failure
keeps the time of the last success. No timestamps, and the same HELP in every file: both are what
node_exporter wants. A job is ``job_name``: ``job`` is Prometheus' own label. Who writes has the
directory's flock(2), so that no run's count is lost.
"""

from __future__ import annotations

import fcntl
import os

from guardrun.digest import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guardrun.model import Outcome

FAMILIES = {
    "guardrun_runs_total": ("counter", "Runs of the job, by result."),
    "guardrun_retries_total": ("counter", "Attempts of the job beyond a run's first."),
    "guardrun_last_run_timestamp_seconds": ("gauge", "When the last run ended."),
    "guardrun_last_success_timestamp_seconds": ("gauge", "When the last success ended."),
    "guardrun_last_run_duration_seconds": ("gauge", "How long the last executed run took."),
    "guardrun_last_run_exit_code": ("gauge", "What guardrun exited with after it."),
    "guardrun_last_run_attempts": ("gauge", "How many attempts it took."),
    "guardrun_last_run_lock_wait_seconds": ("gauge", "How long it waited for its lock."),
    "guardrun_last_run_queue_lag_seconds": ("gauge", "How late it began (--enqueued-at)."),
}
"""name: (type, HELP)"""

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
_LARGEST = 1 << 16
_MODE = 0o644
"""whoever node_exporter runs as"""


def write(directory: str, outcome: Outcome) -> None:
    """Bring the file of the run's job up to date, by rename. Raises ``OSError``."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        name = file_name(outcome.run.job)
        text = render(merge(parse(_read(fd, name)), outcome))
        replace(fd, name, text.encode())
    finally:
        os.close(fd)


def file_name(job: str) -> str:
    """The name of a job's file: its own where that is a plain word, else one with a hash."""
    plain = "".join(char if char in _PLAIN else "_" for char in job)
    if plain != job:
        plain += f"-{sha256(job.encode()).hexdigest()[:8]}"
    return f"guardrun_{plain}.prom"


def merge(before: dict[str, float], outcome: Outcome) -> dict[str, float]:
    """The samples after a run; ``before`` are those in the file, by name with labels."""
    job = outcome.run.job
    samples = dict(before)
    counted = sample("guardrun_runs_total", job, outcome.result)
    samples[counted] = samples.get(counted, 0.0) + 1
    retries = sample("guardrun_retries_total", job)
    samples[retries] = samples.get(retries, 0.0) + max(len(outcome.attempts) - 1, 0)
    said: dict[str, float | None] = {"lock_wait_seconds": outcome.lock_wait}
    if outcome.run.enqueued_at is not None:
        said["queue_lag_seconds"] = outcome.run.started_at - outcome.run.enqueued_at
    said["timestamp_seconds"] = outcome.finished_at
    if outcome.attempts:
        said["duration_seconds"] = outcome.duration
        said["exit_code"] = 128 + outcome.die_by if outcome.die_by else outcome.exit_code
        said["attempts"] = len(outcome.attempts)
    for name, value in said.items():
        if value is not None:
            samples[sample(f"guardrun_last_run_{name}", job)] = value
    if outcome.result == "success":
        samples[sample("guardrun_last_success_timestamp_seconds", job)] = outcome.finished_at
    return samples


def sample(name: str, job: str, result: str | None = None) -> str:
    """A sample's name with its labels."""
    escaped = job.replace("\\", "\\\\").replace('"', '\\"')
    more = "" if result is None else f',result="{result}"'
    return f'{name}{{job_name="{escaped}"{more}}}'


def render(samples: dict[str, float]) -> str:
    """The text format (version 0.0.4); what is no family of ours is left out."""
    lines = []
    for family, (kind, help) in FAMILIES.items():
        found = sorted(name for name in samples if name.partition("{")[0] == family)
        if found:
            lines += [f"# HELP {family} {help}", f"# TYPE {family} {kind}"]
            lines += [f"{name} {samples[name]:.17g}" for name in found]
    return "".join(f"{line}\n" for line in lines)


def parse(text: str) -> dict[str, float]:
    """Read what ``render`` has written; what is damaged is left out."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        try:
            number = float(value)
        except ValueError:
            continue
        if name and not name.startswith("#") and number == number:
            found[name] = number
    return found


def _read(directory: int, name: str) -> str:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return ""
    try:
        return os.read(fd, _LARGEST).decode("utf-8", "replace")
    finally:
        os.close(fd)


def replace(directory: int, name: str, data: bytes) -> None:
    """Put a whole file, readable for all, in the place of ``name``. Raises ``OSError``."""
    draft = f".{name}.{os.getpid()}"  # not .prom: half a file must not be read
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(draft, flags, _MODE, dir_fd=directory)
    try:
        os.fchmod(fd, _MODE)  # whatever the umask
        while data:
            data = data[os.write(fd, data) :]
        os.replace(draft, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        os.unlink(draft, dir_fd=directory)
        raise
    finally:
        os.close(fd)
