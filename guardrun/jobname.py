"""What a run is called where nobody said: after COMMAND, or the script an interpreter is to run."""

from __future__ import annotations

from guardrun.lean import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_LONGEST = 128


class _Interpreter(NamedTuple):
    """How an interpreter's own options are read, as far as it takes to find its script."""

    valued: str = ""
    """letters that take a value, attached or as the next word"""
    attached: str = ""
    """letters whose value, if any, is the rest of the word"""
    module: str = ""
    script: str = ""
    """letter whose value is the script itself"""
    code: str = ""
    """letters whose value is code: it has no name"""
    string: str = ""
    """letter after which the first word is a shell command"""
    long_valued: tuple[str, ...] = ()
    long_code: tuple[str, ...] = ()


_SHELL = _Interpreter(valued="oO", code="s", string="c", long_valued=("--rcfile", "--init-file"))
_PYTHON = _Interpreter(valued="WX", module="m", code="c", long_valued=("--check-hash-based-pycs",))
_NODE = _Interpreter(
    valued="rC",
    code="ep",
    long_valued=("--require", "--import", "--loader", "--conditions", "--env-file"),
    long_code=("--eval", "--print"),
)
_INTERPRETERS = {
    "sh": _SHELL,
    "ash": _SHELL,
    "bash": _SHELL,
    "dash": _SHELL,
    "ksh": _SHELL,
    "mksh": _SHELL,
    "zsh": _SHELL,
    "python": _PYTHON,
    "pypy": _PYTHON,
    "perl": _Interpreter(valued="I", attached="0CDFMVdilmx", code="eE"),
    "ruby": _Interpreter(valued="CEIr", attached="0FKTWx", code="e"),
    "node": _NODE,
    "nodejs": _NODE,
    "php": _Interpreter(valued="cdz", script="f", code="rRBE"),
}


def job_name(argv: Sequence[str]) -> str:
    """Name a run after its COMMAND: printable, not empty, at most 128 characters."""
    name = _safe(_name(argv)) or _safe(_base(argv[0])) or "command"
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def shell_job_name(string: str) -> str:
    """Name a run after the first word of the string ``/bin/sh -c`` runs."""
    return job_name(("sh", "-c", string))


def _name(argv: Sequence[str]) -> str:
    program = _base(argv[0])
    if program == "env":
        rest = _after_env(argv)
        return _name(rest) if rest else program
    interpreter = _INTERPRETERS.get(program.rstrip("0123456789.-"))
    return (interpreter and _script(interpreter, argv)) or program


def _script(interpreter: _Interpreter, argv: Sequence[str]) -> str:
    """Find what the interpreter runs; empty when that has no name."""
    string = False
    words = iter(argv[1:])
    for word in words:
        if word == "--":
            word = next(words, "")
        elif word == "-":
            return ""
        elif word.startswith("--"):
            option, equals, _ = word.partition("=")
            if option in interpreter.long_code:
                return ""
            if option in interpreter.long_valued and not equals:
                next(words, "")
            continue
        elif word.startswith("-") or (interpreter.string and word.startswith("+")):
            for at, letter in enumerate(word[1:], start=2):
                if letter in interpreter.code:
                    return ""
                if letter in interpreter.module:
                    return word[at:] or next(words, "")
                if letter in interpreter.script:
                    return _base(word[at:] or next(words, ""))
                if letter in interpreter.attached:
                    break
                if letter in interpreter.valued:
                    if not word[at:]:
                        next(words, "")
                    elif interpreter.string:  # bash -oe pipefail: a shell's value is never attached
                        next(words, "")
                        string = string or interpreter.string in word[at:]
                    break
                string = string or letter in interpreter.string
            continue
        return _first_word(word) if string else _base(word)
    return ""


def _after_env(argv: Sequence[str]) -> Sequence[str]:
    at = 1
    while at < len(argv):
        word = argv[at]
        if word in ("-u", "-C", "--unset", "--chdir"):
            at += 1
        elif not word.startswith("-") and "=" not in word:
            break
        at += 1
    return argv[at:]


def _first_word(string: str) -> str:
    """Find the command of a shell string, past assignments such as ``TZ=UTC``; empty if unclear."""
    for word in string.split():
        word = word.strip("\"'();&|{}`")
        name, equals, _ = word.partition("=")
        if word and not (equals and name.isidentifier()):
            return _base(word)
    return ""


def _base(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _safe(name: str) -> str:
    """Show what cannot be printed, or is not UTF-8, as escapes."""
    return "".join(
        char if char.isprintable() else ascii(char)[1:-1].replace("\\udc", "\\x") for char in name
    )
