"""What stands before COMMAND in a line, and what guardrun calls it.

Layers are taken off from the outside in, as long as guardrun does the same as they do; the first
that it cannot be equal to stays, as part of COMMAND, with all that is behind it. What is equal:
who gets the lock and who does not, what is run, when it is stopped, what is written, and the exit
code, as far as anybody reads it. The rest is said (``Adopted.notes``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from guardrun.adopt import shell
from guardrun.adopt.layers import LAYERS, NEVER, Context, Layers
from guardrun.adopt.words import Spec, Unclear, Word, options, program

_KEPT = {
    "nice": Spec("", "n#", "adjustment=n"),
    "ionice": Spec("t", "cn", "class=c classdata=n ignore=t"),
    "env": Spec("i", "uC", "ignore-environment=i unset=u chdir=C"),
    "exec": Spec(),
    "command": Spec(),
    "nohup": Spec(),
}
"""They become what they run, so it is all the same on which side of guardrun they stand."""
_BUILT_IN = frozenset({"exec", "command", "nohup"})
"""These stay where they are: a shell's own, or about the terminal."""

_OTHERS = {
    "cronlock": "its lock is in Redis, under its own keys: --lock with --lease-url is the like, "
    "once all users of the lock are adopted",
    "lckdo": "its locks are not those of flock(2) everywhere",
    "lockrun": "its exit codes differ by version",
    "solo": "its lock is a port",
    "with-lock-ex": "its locks are those of fcntl(2)",
    "run-this-one": "it ends the run before it; guardrun has nothing like it",
    "keep-one-running": "it starts its command again and again; guardrun has nothing like it",
    "run-one-constantly": "it starts its command again and again; guardrun has nothing like it",
}
_CARRIERS = frozenset(
    {"sudo", "su", "runuser", "doas", "setpriv", "setuidgid", "chpst", "systemd-cat", "ssh"}
    | {"systemd-run", "chroot", "unshare", "nsenter", "docker", "xargs", "time", "strace"}
    | {"taskset", "chrt", "numactl", "stdbuf", "sh", "bash", "dash"}
)
_OF_GUARDRUN = re.compile(r"(PYTHON\w*|LD_\w+|GUARDRUN_\w+)=")


class Adopted(NamedTuple):
    """``[start:end]`` of the line becomes ``text``."""

    start: int
    end: int
    text: str
    notes: tuple[str, ...]


def adopt(words: Sequence[Word], context: Context) -> Adopted | None:
    """The words of one command; ``None`` where there is nothing to adopt. Raises Unclear."""
    start = _skip_outer(words)
    if start is None or program(words[start]) not in LAYERS:
        _refuse_hidden(words, start)
        return None
    outside = [word.raw for word in words[:start] if _OF_GUARDRUN.match(word.raw)]
    if outside:
        raise Unclear(f"{outside[0]} would be for guardrun as well: put it behind the lock")
    layers = Layers(context, words)
    at = _take_off(layers, start)
    return Adopted(words[start].start, _end(words, at), _written(layers, at), tuple(layers.notes))


def _skip_outer(words: Sequence[Word]) -> int | None:
    """The index of the first word that is neither an assignment nor something kept."""
    at = 0
    while at < len(words) and shell.is_assignment(words[at]):
        at += 1
    while at < len(words) and program(words[at]) in _KEPT:
        try:
            at = _past_kept(words, at)
        except Unclear:
            return None
    return at if at < len(words) else None


def _past_kept(words: Sequence[Word], at: int) -> int:
    name = program(words[at])
    at = options(_KEPT[name], words, at + 1).end
    while name == "env" and at < len(words) and shell.is_assignment(words[at]):
        at += 1
    return at


def _refuse_hidden(words: Sequence[Word], start: int | None) -> None:
    """Say why a lock or limit that is there, but not in front, is left. Raises Unclear."""
    names = [program(word) for word in words]
    if start is not None and names[start] in _OTHERS:
        raise Unclear(f"{names[start]}: {_OTHERS[names[start]]}")
    first = "" if start is None else names[start]
    if start is not None and first not in _CARRIERS:
        return
    wanted = [name for name in names[start or 0 :] if name in LAYERS]
    strings = [word.value or "" for word in words[start or 0 :] if " " in (word.value or "")]
    wanted += [text.split()[0] for text in strings if text.split()[0] in LAYERS]
    if wanted:
        raise Unclear(f"{wanted[0]} stands behind {first or words[0].raw}")


def _take_off(layers: Layers, start: int) -> int:
    """Take layers off, and return where COMMAND goes on. Raises Unclear when none came off."""
    words, at, done = layers.words, start, start
    while at < len(words) and layers.string is None:
        name = program(words[at])
        try:
            if name in _KEPT and name not in _BUILT_IN:
                begin, at = at, _past_kept(words, at)
                _refuse_elsewhere(words[begin:at])
                continue
            if name not in LAYERS:
                break
            following = LAYERS[name](layers, at)
        except Unclear as why:
            if done == start:
                raise Unclear(f"{name}: {why}") from None
            layers.notes.append(f"{name} stays: {why}")
            break
        layers.kept += [word.raw for word in words[done:at]]
        at = done = following
    if done >= len(words) and layers.string is None:
        raise Unclear("it names no command")
    _refuse_daemons(layers, words[done:])
    if layers.context.is_stopped and not layers.limit:
        layers.notes.append(f"-k {NEVER}: systemd decides when it is killed, as before")
    return done


def _refuse_elsewhere(kept: Sequence[Word]) -> None:
    """Raise Unclear for env that changes the directory: a lock file behind it may begin there."""
    if program(kept[0]) == "env" and "C" in options(_KEPT["env"], kept, 1).letters():
        raise Unclear("what stands behind it is done in another directory")


def _refuse_daemons(layers: Layers, command: Sequence[Word]) -> None:
    """Raise Unclear where the prefix could be meant for what COMMAND leaves running."""
    strings = [word.value for word in command if word.value is not None]
    for name in (text.rpartition("/")[2] for text in strings):
        if name in shell.DETACHING:
            # Without a terminal COMMAND leads a process group, and setsid(1) forks where it does.
            raise Unclear(f"{name} leaves the command running, and guardrun does not wait for it")
    inside = [layers.string] if layers.string is not None else []
    inside += [text for flag, text in pairwise(strings) if flag == "-c"]
    kept_open = (layers.lock is not None and not layers.closed) or layers.on_failure
    if kept_open and any(shell.leaves_something(text) for text in inside):
        raise Unclear(
            "it may leave something running in the background, which keeps the lock of flock, or "
            "makes chronic wait; guardrun is done when the command has ended"
        )


def _end(words: Sequence[Word], at: int) -> int:
    return words[at].start if at < len(words) else words[-1].end


def _written(layers: Layers, at: int) -> str:
    """The words of guardrun, up to COMMAND's first that stays in the line."""
    made = [layers.context.program, "--log-to none", *(layers.lock or [])]
    if layers.limit:
        whole = layers.limit_is_first and layers.lock is not None and layers.wait != "0"
        made += [f"--deadline {layers.limit}" if whole else f"-t {layers.limit}"]
    made += layers.more
    if layers.context.is_stopped and not layers.limit:
        made.append(f"-k {NEVER}")
    if layers.on_failure:
        made.append("--output on-failure")
    if layers.string is None:
        return " ".join([*made, "--", *layers.kept]) + " "
    by = layers.context.shell
    if by == "/bin/sh" and not layers.kept:
        return " ".join([*made, "-c", layers.words[at - 1].raw])
    return " ".join([*made, "--", *layers.kept, f"{by} -c", layers.words[at - 1].raw])


ABOUT = re.compile(
    rf"(?<![\w.-])(?:{'|'.join(re.escape(name) for name in (*LAYERS, *_OTHERS))})(?![\w.=-])"
)
"""What a line has to mention to be looked at."""
