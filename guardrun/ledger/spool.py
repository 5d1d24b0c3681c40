"""Outcomes that the ledger could not take, kept as files until it can.

Each is written to a temporary file, synced, renamed, and its directory synced: after a power cut
it is there whole or not at all. Replaying is ``Ledger.finish``, a compare-and-set that changes
nothing the second time, so any number of processes may replay one spool at once, and a file goes
only after its outcome is in the ledger.
"""

from __future__ import annotations

import errno
import os
import time

from guardrun import safety
from guardrun.address import address, spool_name
from guardrun.errors import StoreOutdated, StoreUnavailable
from guardrun.model import FOREVER, Attempt, Captured, Claim, Holder, Outcome, Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from guardrun.model import LedgerSpec
    from guardrun.ports import Ledger

LIMIT = 64 << 20
"""Bytes that the files of one spool may take."""

NAME = "ledger"
"""The file in a spool that names its ledger."""

_LATE = ".late"
_DRAFT = ".tmp"
_ABANDONED = 3600.0
"""s after which nobody is writing a draft any more: its process was killed"""
_LARGE = 1 << 20
"""bytes of output that a run records for others on its way to its own claim"""
_VERSION = 1
_VALUES = {kind.__name__: kind for kind in (Outcome, Run, Attempt, Claim, Holder, Captured)}
_SCALARS = {"str": str, "int": int, "bool": bool}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def open_spool(spec: LedgerSpec, environ: Mapping[str, str]) -> Spool:
    """The spool of the ledger that ``spec`` names; nothing is made yet.

    Raises UnsafePath when it is there and others can write to it.
    """
    root = os.path.join(spec.state_dir, "spool")
    place = address(spec.url, environ)
    own = os.path.join(root, spool_name(place))
    for directory in (root, own):
        if os.path.lexists(directory):
            os.close(safety.private_directory(directory, "spool"))
    return Spool(own, place)


class Spool:
    """The spool of one ledger in ``directory``, made (0700) when the first outcome is kept.

    ``ledger`` is the ledger's address; it is written down beside the outcomes, for people.
    """

    def __init__(self, directory: str, ledger: str = "", limit: int = LIMIT) -> None:
        self._directory = directory
        self._ledger = ledger
        self._limit = limit

    def keep(self, outcome: Outcome) -> None:
        """Write one outcome, durably; without what COMMAND printed where that takes too much room.

        Raises ``OSError``, or ``StoreUnavailable`` when the spool is full.
        """
        self._make()
        if outcome.claim is not None:
            outcome = outcome._replace(claim=outcome.claim._replace(fds=()))
        small = outcome._replace(captured=None)
        try:
            self._write(outcome)
        except (OSError, StoreUnavailable) as error:
            full = isinstance(error, StoreUnavailable) or error.errno in _NO_ROOM
            if not full or outcome == small:
                raise
            self._write(small)

    def entries(self) -> tuple[str, ...]:
        """The paths of the outcomes that wait, oldest run first: UUIDv7 sorts by time."""
        return self._paths(".json")

    def damaged(self) -> tuple[str, ...]:
        """The paths of files that no outcome could be read from; they stay until a person looks."""
        return self._paths(".bad")

    def load(self, path: str) -> Outcome:
        """Read an outcome; raises ``ValueError`` when it is damaged, ``OSError``, and
        ``StoreOutdated`` when a newer version wrote it."""
        with open(path, encoding="utf-8") as file:
            return from_json(file.read())

    def remove(self, path: str) -> None:
        """Forget an outcome that is in the ledger; another process may have been faster."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass

    def late(self) -> tuple[str, ...]:
        """The paths of outcomes that are recorded but for their output, which takes its time."""
        return self._paths(_LATE)

    def complete(self, ledger: Ledger, due: float = FOREVER) -> None:
        """Have the output of such outcomes recorded as well. Raises ``StoreUnavailable``."""
        for path in self.late():
            try:
                outcome = self.load(path)
            except StoreOutdated:
                continue  # a newer version's
            except (OSError, ValueError):
                _set_aside(path)
                continue
            try:
                ledger.finish(outcome, due)
            except (ValueError, OverflowError):
                _set_aside(path)
            else:
                self.remove(path)

    def flush(self, ledger: Ledger, due: float = FOREVER) -> tuple[int, int]:
        """Replay what waits, oldest first: (done, left); left is what only a newer version reads.

        Of an outcome with much output only what decides is recorded: that must not keep others
        from their claims. ``complete`` does the rest.

        A damaged file is renamed to ``….bad``. Raises ``StoreUnavailable`` when the ledger takes
        no more, or the spool cannot be read: whoever is about to claim a key must not go on then,
        its success may be among what is left.
        """
        self._sweep()
        entries = self.entries()
        done = newer = 0
        for path in entries:
            try:
                outcome = self.load(path)
            except FileNotFoundError:
                continue  # another process was faster
            except StoreOutdated:
                newer += 1
                continue
            except (ValueError, IsADirectoryError):
                _set_aside(path)
                continue
            except OSError as error:
                raise self._unreadable(error) from error
            large = sum(map(len, outcome.captured or ())) > _LARGE
            try:
                ledger.finish(outcome._replace(captured=None) if large else outcome, due)
            except (ValueError, OverflowError):  # numbers that no run can have
                _set_aside(path)
                continue
            if large:
                _rename(path, path.removesuffix(".json") + _LATE)
            else:
                self.remove(path)
            done += 1
        return done, newer

    def _sweep(self) -> None:
        """Forget what a crash left half written: nothing else would ever make its room free."""
        newest = time.time() - _ABANDONED
        for path in self._paths(_DRAFT):
            try:
                if os.lstat(path).st_mtime < newest:
                    self.remove(path)
            except OSError:
                pass  # it is in nobody's way

    def _paths(self, suffix: str) -> tuple[str, ...]:
        try:
            with os.scandir(self._directory) as found:
                return tuple(sorted(entry.path for entry in found if entry.name.endswith(suffix)))
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: OSError) -> StoreUnavailable:
        return StoreUnavailable(
            f"the spool {self._directory} cannot be read: {error.strerror}; "
            "check its owner and mode"
        )

    def _make(self) -> None:
        for directory in (os.path.dirname(self._directory), self._directory):
            try:
                os.mkdir(directory, 0o700)
            except FileExistsError:
                continue
            os.chmod(directory, 0o700)  # whatever the umask
            _sync(os.path.dirname(directory))
        if self._ledger and not os.path.exists(name := os.path.join(self._directory, NAME)):
            self._store(name, f"{self._ledger}\n".encode("utf-8", "surrogateescape"))

    def _write(self, outcome: Outcome) -> None:
        data = to_json(outcome).encode("ascii")
        if len(data) + self._size() > self._limit:
            raise StoreUnavailable(
                f"the spool {self._directory} is full ({self._limit >> 20} MiB): "
                "make the ledger reachable, then any run records what waits"
            )
        self._store(os.path.join(self._directory, f"{outcome.run.job_id}.json"), data)

    def _store(self, path: str, data: bytes) -> None:
        draft = f"{path}.{os.getpid()}{_DRAFT}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(draft, flags, 0o600)
        try:
            try:
                os.fchmod(fd, 0o600)
                while data:
                    data = data[os.write(fd, data) :]
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(draft, path)
        except BaseException:
            self.remove(draft)
            raise
        _sync(self._directory)

    def _size(self) -> int:
        with os.scandir(self._directory) as found:
            return sum(_entry_size(entry) for entry in found)


def to_json(outcome: Outcome) -> str:
    """An outcome as JSON, in ASCII; bytes in base64, undecodable text as lone surrogates."""
    import json

    return json.dumps({"version": _VERSION, "outcome": _encode(outcome)}, allow_nan=False)


def from_json(text: str) -> Outcome:
    """The outcome that ``to_json`` wrote; ``ValueError`` when it is not one.

    Raises ``StoreOutdated`` for what a newer version wrote.
    """
    import json

    whole = json.loads(text)
    if not isinstance(whole, dict) or type(whole.get("version")) is not int:
        raise ValueError("not an outcome")
    if whole["version"] > _VERSION:
        raise StoreOutdated("the outcome was written by a newer guardrun: upgrade this one")
    outcome = _decode("Outcome", whole.get("outcome"))
    assert isinstance(outcome, Outcome)
    return outcome


def _encode(value: object) -> object:
    if hasattr(value, "_asdict"):
        return {name: _encode(field) for name, field in value._asdict().items()}
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    if isinstance(value, bytes):
        import base64

        return base64.b64encode(value).decode("ascii")
    if value == float("inf"):  # which JSON does not have
        return "inf"
    return value


def _decode(annotation: str, value: Any) -> object:
    """Read one value back as what ``model.py`` says it is, and nothing else."""
    kind = annotation.removesuffix(" | None")
    if value is None and kind != annotation:
        return None
    if kind in _VALUES and isinstance(value, dict):
        return _build(_VALUES[kind], value)
    if kind.startswith("tuple[") and isinstance(value, list):
        inner = kind[len("tuple[") : -len(", ...]")]
        return tuple(_decode(inner, item) for item in value)
    if kind == "float" and (type(value) in (int, float) or value == "inf"):
        return float(value)
    if kind == "bytes" and isinstance(value, str):
        import base64

        return base64.b64decode(value, validate=True)
    if kind in _SCALARS and type(value) is _SCALARS[kind]:
        return value
    raise ValueError(f"{str(value)[:40]!r} is not of type {annotation}")


def _build(kind: Any, record: dict[str, Any]) -> object:
    annotations = kind.__annotations__
    unknown = record.keys() - annotations.keys()
    if unknown:
        raise ValueError(f"{kind.__name__} has no {min(unknown)}")
    try:
        return kind(**{name: _decode(annotations[name], record[name]) for name in record})
    except TypeError as error:
        raise ValueError(str(error)) from error


def _entry_size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:  # replayed meanwhile
        return 0


def _set_aside(path: str) -> None:
    _rename(path, os.path.splitext(path)[0] + ".bad")


def _rename(path: str, to: str) -> None:
    try:
        os.rename(path, to)
    except FileNotFoundError:  # another process was faster
        pass


def _sync(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
