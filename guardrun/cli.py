"""From the words of the command line to an exit code: argv → Plan → run → Outcome → exit code.

Every error becomes one line on stderr and the exit code of its class, here and nowhere else.
"""

from __future__ import annotations

import os
import sys

from guardrun import config, options
from guardrun.errors import GuardrunError, ToldToStop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_LONGEST_LINE = 2000
_INTERNAL_ERROR = 70
_SIGINT, _SIGPIPE = 2, 13

# The first word of the command line, and only that; what it names is loaded when it is called.
SUBCOMMANDS = {
    "history": "guardrun.commands.history:history",
    "show": "guardrun.commands.history:show",
    "why": "guardrun.commands.why:why",
    "locks": "guardrun.commands.locks:locks",
    "unlock": "guardrun.commands.unlock:unlock",
    "keys": "guardrun.commands.keys:keys",
    "stats": "guardrun.commands.stats:stats",
    "metrics": "guardrun.commands.metrics:metrics",
    "dead": "guardrun.commands.dead:dead",
    "rerun": "guardrun.commands.rerun:rerun",
    "each": "guardrun.commands.each_help:each",
    "flush": "guardrun.commands.flush:flush",
    "prune": "guardrun.commands.prune:prune",
    "migrate": "guardrun.commands.migrate:migrate",
    "doctor": "guardrun.commands.doctor:doctor",
    "completion": "guardrun.commands.completion:completion",
    "adopt": "guardrun.commands.adopt:adopt",
}


def main() -> int:
    """Do what the command line says; the exit code, unless the process ends by a signal."""
    _occupy_standard_descriptors()
    try:
        return _dispatch(sys.argv[1:])
    except ToldToStop as stop:
        return die_by(stop.signum)
    except GuardrunError as error:
        say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return die_by(_SIGINT)
    except BrokenPipeError:  # whoever read our output has seen enough
        return die_by(_SIGPIPE)
    except Exception as error:
        from guardrun.core.redact import redact_text

        what = redact_text(f"{type(error).__name__}: {error}", ())
        say(f"internal error, please report it: {what} (at {_place(error)})")
        return _INTERNAL_ERROR


def _dispatch(words: Sequence[str]) -> int:
    if words and words[0] == "each":  # its options are those of a run, and some more
        from guardrun.commands.each import each

        return each(words[1:])
    if words and words[0] in SUBCOMMANDS:
        return _subcommand(words[0], words[1:])
    given = options.parse(words[1:] if words and words[0] == "run" else words)
    if given.question == "version":
        return write(version())
    if given.question == "help":
        from guardrun import help

        return write(help.render())
    settled = config.settle(given, os.environ)
    if settled.dry_run:
        from guardrun import dryrun

        return write(dryrun.render(settled.plan, settled.config_file, os.environ))
    from guardrun.world import perform

    return perform(settled.plan)


def _subcommand(name: str, words: Sequence[str]) -> int:
    from guardrun.commands.launch import launch

    return launch(name, SUBCOMMANDS[name], words)


# ---------------------------------------------------------------- what people see


def version() -> str:
    """What ``--version`` prints."""
    from guardrun.version import version as number

    return f"guardrun {number()}\n"


def write(text: str) -> int:
    """Write to stdout, all of it; the exit code of success."""
    data = text.encode(errors="backslashreplace")
    try:
        while data:
            data = data[os.write(1, data) :]
    except BrokenPipeError:
        raise
    except OSError as error:
        raise GuardrunError(f"cannot write to stdout: {error.strerror}") from None
    return 0


def say(message: str) -> None:
    """Write one line to stderr; a stderr that is closed or full is nobody's fault."""
    from guardrun.core.redact import redact_text

    try:
        os.write(2, f"guardrun: {one_line(redact_text(message, ()))}\n".encode())
    except OSError:
        pass


def one_line(text: str) -> str:
    """Show text on one line of a terminal: what is not printable, or not UTF-8, as escapes."""
    shown = "".join(
        char if char.isprintable() else ascii(char)[1:-1].replace("\\udc", "\\x") for char in text
    )
    return shown if len(shown) <= _LONGEST_LINE else shown[:_LONGEST_LINE] + "…"


def _place(error: BaseException) -> str:
    """Where in our own code an error came up: the innermost line that is ours."""
    here = os.path.dirname(__file__)
    place, at = "unknown place", error.__traceback__
    while at:
        path = at.tb_frame.f_code.co_filename
        if path.startswith(here + os.sep):
            place = f"guardrun{path[len(here) :]}:{at.tb_lineno}"
        at = at.tb_next
    return place


# ---------------------------------------------------------------- the process


def die_by(signum: int) -> int:
    """End by a signal, so that a shell sees it; as PID 1, which no signal ends, its 128 + N."""
    import signal

    from guardrun.kernel import leave_no_core

    leave_no_core()
    if signum != signal.SIGKILL:  # whose disposition nobody may touch
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signum])
    os.kill(os.getpid(), signum)
    return 128 + signum


def _occupy_standard_descriptors() -> None:
    """Open what is closed of 0, 1 and 2: else the next file we open, a ledger, would be stderr.

    Closed again by exec, so COMMAND finds them as we did.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
