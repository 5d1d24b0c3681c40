"""Unit files of systemd: the Exec… lines of a service (systemd.service(5))."""

from __future__ import annotations

import re
from typing import NamedTuple

from guardrun.adopt import prefix
from guardrun.adopt.crontab import CHANGED, HINT, LEFT, Choice, Remark, Result
from guardrun.adopt.layers import SETS_SHELL, Context
from guardrun.adopt.words import Unclear, Word

_SETTING = re.compile(r"([A-Za-z]+)[ \t]*=[ \t]*")
_EXEC = re.compile(r"Exec(Start(Pre|Post)?|Condition|Stop(Post)?|Reload)")
_TYPES = frozenset({"simple", "exec", "oneshot", "idle"})
_SEALED = frozenset(
    {"DynamicUser", "ProtectSystem", "ProtectHome", "ReadOnlyPaths", "ReadOnlyDirectories"}
    | {"InaccessiblePaths", "TemporaryFileSystem", "RootDirectory", "RootImage", "NoExecPaths"}
)
"""They can take the state directory away, or guardrun itself."""
_OPEN = frozenset({"", "no", "false", "off", "0"})
_PIPE = (
    "differs: systemd has services ignore SIGPIPE, and the command of guardrun does not: what "
    "writes to a closed pipe or socket is ended by it, unless it sees to that itself"
)
_TWICE = (
    "differs: a stop sends SIGTERM to the command, and to guardrun, which passes it on: it comes "
    "twice; with KillMode=mixed once"
)
_DROP_IN = (
    "only this drop-in was read: with Type=notify, User=, ProtectSystem= and the like in its unit "
    "the line may have to stay; systemctl cat UNIT | guardrun adopt --format unit - reads it whole"
)
_CODES = frozenset({"SuccessExitStatus", "RestartPreventExitStatus", "RestartForceExitStatus"})
_BY_SIGNAL = frozenset({"on-abnormal", "on-abort", "on-watchdog"})


class _Line(NamedTuple):
    """A setting of the section [Service], continued lines included."""

    number: int
    """of its first line, from 1"""
    name: str
    value: str
    start: int
    """where the value begins in the file"""


def adopt(text: str, choice: Choice) -> Result:
    """Adopt a unit file, or a drop-in, whose unit is not looked at."""
    settings = list(_service(text))
    remarks: list[Remark] = []
    for line in reversed(settings):
        if _EXEC.fullmatch(line.name) and prefix.ABOUT.search(line.value):
            try:
                found = _adopt_line(line, settings, choice)
            except Unclear as why:
                remarks.insert(0, Remark(line.number, LEFT, str(why)))
                continue
            if found is None:
                continue
            start, end = line.start + found.start, line.start + found.end
            before = " ".join(text[start:end].split())
            says = (f"{before} → {found.text.strip()}", *found.notes)
            remarks = [*(Remark(line.number, CHANGED, one) for one in says), *remarks]
            text = text[:start] + found.text + text[end:]
    return Result(text, tuple(remarks))


def of_drop_in(result: Result) -> Result:
    """The same, with what nobody knows who has not read its unit, where a line was changed."""
    changed = [remark.line for remark in result.remarks if remark.kind == CHANGED]
    hints = [Remark(line, HINT, _DROP_IN) for line in changed[-1:]]
    return result._replace(remarks=(*result.remarks, *hints))


def _service(text: str) -> list[_Line]:
    """The settings of [Service], in order."""
    found: list[_Line] = []
    section, at, number = "", 0, 0
    while at < len(text):
        number += 1
        begin, first = at, number
        at = _line_end(text, at)
        line = text[begin:at].strip()
        if line.startswith("["):
            section = line
        if not line or line[0] in "#;[":
            continue
        while text[begin:at].rstrip("\n").endswith("\\") and at < len(text):
            number += 1
            at = _line_end(text, at)
        start = begin + len(text[begin:at]) - len(text[begin:at].lstrip())
        setting = _SETTING.match(text, start, at)
        if section == "[Service]" and setting:
            value = text[setting.end() : at].rstrip("\n")
            found.append(_Line(first, setting[1], value, setting.end()))
    return found


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end + 1


def _adopt_line(line: _Line, settings: list[_Line], choice: Choice) -> prefix.Adopted | None:
    context = _context(settings, choice)
    if SETS_SHELL.search(line.value):
        context = context._replace(shell=None)
    if re.search(r"\\\n[ \t]*[#;]", line.value):
        raise Unclear("a comment stands between its lines")
    begin = len(line.value) - len(line.value.lstrip("-:+!"))
    if line.value.startswith("@", begin):
        raise Unclear("it gives its program another name (@)")
    found = prefix.adopt(_words(line.value, begin), context)
    if found is None:
        return None
    last = {setting.name: setting.value.strip().lower() for setting in settings}
    notes = [_PIPE] if last.get("IgnoreSIGPIPE", "yes") not in _OPEN - {""} else []
    # timeout(1) passes it on as well.
    if last.get("KillMode") != "mixed" and not re.search(r" (-t|--deadline) ", found.text):
        notes.append(_TWICE)
    return found._replace(notes=(*found.notes, *notes))


def _context(settings: list[_Line], choice: Choice) -> Context:
    """What the other settings say; raises Unclear where they rule guardrun out."""
    last = {line.name: line.value.strip() for line in settings}
    kind = last.get("Type", "simple")
    if kind not in _TYPES:
        raise Unclear(f"Type={kind} is about the process that systemd started: which is guardrun")
    environment = " ".join(line.value for line in settings if line.name == "Environment")
    sealed = [name for name in last if name in _SEALED and last[name].lower() not in _OPEN]
    user = last.get("User") or "root"
    if problem := choice.unreachable(user):
        raise Unclear(problem)
    if "GUARDRUN_STATE_DIR=" not in environment:
        mend = "StateDirectory=guardrun with Environment=GUARDRUN_STATE_DIR=/var/lib/guardrun"
        if sealed:
            raise Unclear(f"{sealed[0]}= may take guardrun's state directory away: add {mend}")
        if problem := choice.stateless(user):
            raise Unclear(f"{problem}: add {mend}")
    if re.search(r"(^|[\s\"'])(PYTHON\w*|LD_\w+)=", environment):
        raise Unclear("a variable of Environment= would be for guardrun as well: use env behind it")
    if last.get("KillMode") in ("process", "none"):
        raise Unclear("its KillMode lets the command outlive a stop; guardrun stops it")
    read = bool(_CODES & last.keys()) or last.get("Restart") in _BY_SIGNAL or "ExecStopPost" in last
    shell = None if last.get("User") or "SHELL=" in environment else "/bin/sh"
    return Context(choice.program, shell, choice.names, read, is_stopped=True)


def _words(value: str, at: int) -> list[Word]:
    """Words as systemd divides them; raises Unclear."""
    words: list[Word] = []
    while True:
        blank = re.compile(r"(?:\s|\\\n)*").match(value, at)
        start = at = blank.end() if blank else at
        if at >= len(value):
            return words
        text = ""
        while at < len(value) and not value[at].isspace() and not value.startswith("\\\n", at):
            char = value[at]
            if char in "'\"":
                end = value.find(char, at + 1)
                inside = value[at + 1 : end]
                if end < 0 or "\\" in inside:
                    raise Unclear("its quotes are not understood here")
                text += inside
                at = end + 1
            elif char == "\\":
                raise Unclear("its backslashes are not understood here")
            else:
                text += char
                at += 1
        raw = value[start:at]
        if raw == ";":
            raise Unclear("it is several commands (;)")
        # What $ and % stand for is known when the unit is started.
        words.append(Word(raw, None if re.search(r"[$%]", text) else text, start, at))
