"""Where it is measured: a private directory, an environment, an installed guardrun."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import mark, proc
from bench.process import Process
from bench.stats import quantile
from bench.subjects import Subject

_SETTINGS = ("PYTHON", "GUARDRUN_", "PARALLEL", "PG", "ETCD", "CONSUL_")
"""how variables begin that change how something here works"""
IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_REPOSITORY = Path(__file__).resolve().parent.parent


class Unusable(Exception):
    """Nothing can be measured here; the message says why, and what to do."""


def clean(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what would change Python's start or guardrun's settings."""
    return {name: value for name, value in environ.items() if not name.startswith(_SETTINGS)}


def directory(wanted: str | None) -> tempfile.TemporaryDirectory[str]:
    """A private directory, on a real disk where there is one."""
    places = [wanted] if wanted else ["/var/tmp", str(Path.home()), str(_REPOSITORY)]
    usable = [place for place in places if os.access(place, os.W_OK)]
    if not usable:
        raise Unusable(f"cannot write to {', '.join(places)}: name a directory with --place")
    real = [place for place in usable if proc.filesystem(Path(place)) not in IN_MEMORY]
    return tempfile.TemporaryDirectory(prefix="guardrun-bench-", dir=(real or usable)[0])


def install(place: Path) -> str:
    """Build guardrun's wheel and install it into an environment of its own; the script's path.

    The environment has no pip in it, as pipx and uv make them: setuptools' start-up file would
    be read at every start of guardrun, and of bare Python.
    """
    env = clean(os.environ)
    venv = place / "venv"
    python = venv / "bin" / "python"
    _must([sys.executable, "-m", "venv", "--without-pip", str(venv)], env)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    _must([*pip, "install", "--quiet", f"{_REPOSITORY}[consul,etcd]"], env)
    return str(venv / "bin" / "guardrun")


def _must(words: Sequence[str], env: Mapping[str, str]) -> None:
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Unusable(
            f"{' '.join(words)}: {said[-1] if said else f'exit {done.returncode}'} "
            "(an installed guardrun is named with --guardrun)"
        )


def interpreter(script: str) -> str:
    """The Python that an installed ``guardrun`` names in its first line; else our own."""
    try:
        with open(script, "rb") as file:
            first = file.readline().rstrip(b"\n")
    except OSError as error:
        raise Unusable(f"{script}: {error.strerror}") from None
    path = os.fsdecode(first.removeprefix(b"#!").strip())
    return path if first.startswith(b"#!/") and os.access(path, os.X_OK) else sys.executable


def sync_time(place: Path) -> float:
    """How long a small write and fsync takes here: the median, ms."""
    samples = []
    with open(place / "sync", "wb", buffering=0) as file:
        for _ in range(20):
            begun = time.perf_counter()
            file.write(b"x" * 512)
            os.fsync(file.fileno())
            samples.append((time.perf_counter() - begun) * 1000)
    return quantile(samples, 0.5)


@dataclass(frozen=True)
class Scene:
    """What every measurement needs."""

    place: Path
    tool: mark.Tool
    guardrun: str
    python: str
    env: dict[str, str]
    null: int
    stderr: int
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @classmethod
    def lay(cls, place: Path, guardrun: str) -> Scene:
        """Make everything that is needed in ``place``."""
        home = place / "home"
        home.mkdir()
        (place / "locks").mkdir(mode=0o700)
        (place / "parallel").mkdir()
        (place / "parallel" / "will-cite").touch()  # else it asks for a citation every time
        private = {
            "HOME": home,
            "XDG_CONFIG_HOME": home,
            "TMPDIR": place,
            "PARALLEL_HOME": place / "parallel",
            "GUARDRUN_STATE_DIR": place / "state",
        }
        return cls(
            place=place,
            tool=mark.build(place),
            guardrun=guardrun,
            python=interpreter(guardrun),
            env=clean(os.environ) | {name: str(path) for name, path in private.items()},
            null=os.open(os.devnull, os.O_WRONLY),
            stderr=os.open(place / "stderr", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600),
        )

    def start(
        self,
        subject: Subject,
        command: Sequence[str],
        locks: Path | None = None,
        stdout: int | None = None,
        stdin: Path | None = None,
    ) -> Process:
        """Start COMMAND under a subject, with a directory of locks; what it reads is a file."""
        where = str(locks or self.place / "locks")
        own = {"GUARDRUN_LOCK_DIR": where, **subject.environment()}
        return Process(
            subject.line(next(self.numbers), where, command),
            self.env | own,
            self.null if stdout is None else stdout,
            self.stderr,
            self.tool.clock,
            os.devnull if stdin is None else str(stdin),
        )

    def directory(self, name: str) -> Path:
        """A new directory for locks and FIFOs."""
        path = self.place / f"{name}-{next(self.numbers)}"
        path.mkdir(mode=0o700)
        return path

    def complaint(self) -> str:
        """The last line that anything measured wrote to its stderr."""
        lines = (self.place / "stderr").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""
