"""The programs that guardrun can stand for: what each does, in guardrun's options.

A layer raises ``Unclear``, and has then changed nothing, where guardrun would not do the same.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from guardrun import units
from guardrun.adopt.words import Found, Spec, Unclear, Word, options

NEVER = "36500d"
"""the longest duration there is"""

_FLOCK = Spec(
    "sexnoFuhV",
    "wE",
    "shared=s exclusive=x unlock=u nonblocking=n nonblock=n nb=n timeout=w wait=w "
    "conflict-exit-code=E close=o no-fork=F verbose=V help=h version=V",
)
_TIMEOUT = Spec(
    "v",
    "ks",
    "kill-after=k signal=s verbose=v foreground=f preserve-status=p help=h version=h",
)


SETS_SHELL = re.compile(r"\bSHELL=|\benv[ \t]+-")
"""A line in which ``SHELL`` may be another, or none, by the time flock looks."""


class Context(NamedTuple):
    """What is known of the line around the words."""

    program: str
    """how guardrun is called"""
    shell: str | None
    """what ``flock -c`` runs its string by; ``None`` where that is not known"""
    names: bool = False
    """named locks, instead of locks on files"""
    code_is_read: bool = False
    """whether it matters which of several codes says that it failed"""
    is_stopped: bool = False
    """whether something other than a limit stops the line, and decides when it is killed"""


@dataclass
class Layers:
    """What has been taken off so far."""

    context: Context
    words: Sequence[Word]
    kept: list[str] = field(default_factory=list)
    lock: list[str] | None = None
    wait: str = "0"
    closed: bool = False
    """what COMMAND leaves running does not keep the lock"""
    limit: str = ""
    limit_is_first: bool = False
    """it is also for the wait for the lock"""
    more: list[str] = field(default_factory=list)
    on_failure: bool = False
    string: str | None = None
    notes: list[str] = field(default_factory=list)


def _flock(layers: Layers, at: int) -> int:
    if layers.lock is not None:
        raise Unclear("guardrun holds one lock")
    found = options(_FLOCK, layers.words, at + 1)
    given = found.letters()
    if given & set("uhV"):
        raise Unclear("it does something else with these options")
    rest = layers.words[found.end :]
    if len(rest) < 2:
        raise Unclear("it locks a descriptor of the shell's, not a file around one command")
    string = rest[1].value in ("-c", "--command")
    if string and (len(rest) != 3 or re.fullmatch(r'"?\$\{?\w+\}?"?', rest[2].raw)):
        raise Unclear("its -c takes one string, which is not a variable")
    if string and layers.context.shell is None:
        raise Unclear("its -c goes by a SHELL that is not known here")
    wait = "0" if "n" in given else found.last("w") or "forever"
    if not re.fullmatch(r"forever|\d+(\.\d+)?", wait):
        raise Unclear(f"-w {wait} is not a number of seconds")
    busy = found.last("E") or "1"
    if not re.fullmatch(r"\d{1,3}", busy) or int(busy) > 255:
        raise Unclear(f"-E {busy} is no exit code")
    if layers.context.is_stopped and layers.context.code_is_read and "F" not in given:
        raise Unclear(
            "it exits 128+N where a signal ended the command, guardrun ends by that signal, and "
            "that code is read; with -F it ends as guardrun does"
        )
    nothing = wait != "forever" and not Decimal(wait)
    _lock(layers, rest[0], "0" if nothing else wait, busy, shared=_shared(found))
    if layers.context.is_stopped and "F" not in given:
        layers.notes.append(
            "differs: where a signal ended the command, flock exits 128+N, guardrun ends by that "
            "signal, and HUP, INT, PIPE and TERM are a success to systemd, save with Type=oneshot"
        )
    layers.closed = "o" in given
    if string:
        layers.string = rest[2].value or rest[2].raw.strip('"')
    return found.end + (3 if string else 1)


def _shared(found: Found) -> bool:
    kinds = [letter for letter, _ in found.options if letter in "sex"]
    return kinds[-1:] == ["s"]


def _lock(layers: Layers, path: Word, wait: str, busy: str, *, shared: bool = False) -> None:
    """Lock the file ``path``, or a name made of it."""
    if (path.value or "/").startswith("-"):
        raise Unclear(f"{path.raw} looks like an option")
    if layers.context.names:
        named = path.value is None or re.fullmatch(r"/[^{}\x00-\x1f]*", path.value)
        if not named or path.raw.startswith("~"):
            raise Unclear(f"{path.raw} is no name by itself: only an absolute path is")
        layers.lock = [f"--lock {path.raw}"]
        usual = _usual(path.value or "/")
        if path.value and usual != path.value:
            layers.notes.append(
                f"differs: a named lock goes by its name, and {usual} is another lock than this"
            )
    else:
        layers.lock = [f"--lock-file {path.raw}"]
    layers.lock += ["-s"] if shared else []
    layers.lock += [f"--wait {wait}"] if wait != "0" else []
    layers.lock += [f"-E {busy}"] if wait != "forever" else []
    layers.wait = wait


def _usual(path: str) -> str:
    """Another way to write the path of the same file: Debian's /var/lock is a link to /run/lock."""
    path = re.sub(r"^/+", "/", os.path.normpath(path))
    return re.sub("^/var/lock/", "/run/lock/", re.sub("^/var/run/", "/run/", path))


def _setlock(layers: Layers, at: int) -> int:
    if layers.lock is not None:
        raise Unclear("guardrun holds one lock")
    found = options(Spec("nNxX"), layers.words, at + 1)
    if len(layers.words) - found.end < 2:
        raise Unclear("it names no command")
    waits = [letter for letter, _ in found.options if letter in "nN"][-1:] != ["n"]
    silent = [letter for letter, _ in found.options if letter in "xX"][-1:] == ["x"]
    wait = "forever" if waits else "0"
    _lock(layers, layers.words[found.end], wait, "0" if silent else "111")
    if not waits and not silent:
        layers.notes.append(
            "differs: setlock writes a line to stderr when the lock is busy, guardrun writes none"
        )
    if silent:
        layers.notes.append(
            "differs: setlock -x exits 0 also where the lock file cannot be opened, guardrun 73"
        )
    return found.end + 1


def _run_one(layers: Layers, at: int) -> int:
    if layers.lock is not None:
        raise Unclear("guardrun holds one lock")
    if not layers.context.names:
        raise Unclear(
            "its lock file is in a directory that it makes itself; with --names a lock by the "
            "command's words takes its place"
        )
    if at + 1 >= len(layers.words):
        raise Unclear("it names no command")
    layers.lock = ["--lock 'run-one-{argv.sha256}'", "-E 1"]
    return at + 1


def _timeout(layers: Layers, at: int) -> int:
    if layers.limit:
        raise Unclear("guardrun has taken the limit before it")
    found = options(_TIMEOUT, layers.words, at + 1)
    given = found.letters()
    if "p" in given:
        raise Unclear("guardrun has no --preserve-status: it exits 124 when the time is up")
    if "f" in given:
        raise Unclear("with --foreground only one process is stopped, guardrun stops them all")
    if given & set("vh"):
        raise Unclear("it says what it does")
    rest = layers.words[found.end :]
    if len(rest) < 2:
        raise Unclear("it names no command")
    limit, kill_after = _duration(rest[0].value), _duration(found.last("k") or "0")
    number = _signal(found.last("s"))
    kills = bool(kill_after) or number == signal.SIGKILL
    if limit and kills and layers.context.code_is_read:
        raise Unclear("after SIGKILL it ends by 137, guardrun by 124, and that code is read")
    if not limit:
        layers.notes.append(f"timeout {rest[0].raw} sets no limit: left out")
        return found.end + 1
    layers.limit, layers.limit_is_first = limit, layers.lock is None
    if number not in (None, signal.SIGTERM):
        layers.more.append(f"--signal {signal.Signals(number or 0).name.removeprefix('SIG')}")
    layers.more.append(f"-k {kill_after or NEVER}")
    if kills:
        layers.notes.append("differs: after SIGKILL timeout ends by 137, guardrun by 124")
    else:
        layers.notes.append(
            f"-k {NEVER}: timeout waits for a command that ignores {_name(number)}, however long; "
            "a shorter one, such as -k 1m, ends it"
        )
    return found.end + 1


def _duration(text: str | None) -> str:
    """A duration of timeout(1) as one of ours; nothing where it is 0, which means none."""
    if text is None:
        raise Unclear("its duration is known only when it is executed")
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)([smhd]?)", text)
    if found is None:
        raise Unclear(f"{text} is not a duration that guardrun knows")
    seconds = Decimal(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]
    if not seconds:
        return ""
    if seconds > units.LONGEST or seconds % Decimal("0.001"):
        raise Unclear(f"{text} is longer, or finer, than guardrun takes")
    try:
        return text if units.duration(text) else ""
    except ValueError:
        return units.format_duration(float(seconds))


def _signal(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(text) if text.isdigit() and int(text) else units.signal_number(text)
    except ValueError:
        raise Unclear(f"{text} is not a signal that guardrun knows") from None


def _name(number: int | None) -> str:
    return signal.Signals(number or signal.SIGTERM).name


def _chronic(layers: Layers, at: int) -> int:
    if layers.on_failure:
        raise Unclear("once is enough")
    found = options(Spec("ev"), layers.words, at + 1)
    if found.options:
        raise Unclear("guardrun has nothing like these options")
    if found.end >= len(layers.words):
        raise Unclear("it names no command")
    if layers.context.code_is_read:
        raise Unclear(
            "a command that a signal ends makes it exit 1, guardrun 128+N, and that code is read"
        )
    layers.on_failure = True
    layers.notes.append(
        "differs: where a signal ended the command, chronic exits 1, guardrun ends by that signal"
    )
    if layers.limit:
        layers.notes.append(
            "differs: when the time is up, what was written so far is shown; chronic loses it"
        )
    return found.end


LAYERS: dict[str, Callable[[Layers, int], int]] = {
    "flock": _flock,
    "setlock": _setlock,
    "run-one": _run_one,
    "timeout": _timeout,
    "chronic": _chronic,
}
