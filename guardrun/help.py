"""What each run option means, for people; ``--help``, the man page and completions read it.

Laid out by click, which only those who ask for help wait for.
"""

from __future__ import annotations

import click

from guardrun.cli import SUBCOMMANDS
from guardrun.commands.launch import load
from guardrun.options import FILE_ONLY, SECTIONS, USAGE, Option

HELP = {
    "job": "What the run is called in the ledger, logs and metrics. Of an interpreter (sh, bash, "
    "python3, perl, …) the script's name counts.",
    "command": "Run /bin/sh -c STRING; further words are an error.",
    "lock": "Name of the lock held while COMMAND runs. Without it there is no lock.",
    "lock-file": "Lock this very file or directory, as flock(1) does. Excludes --lock.",
    "scope": "A lock of this host, or a lease in the lease store; implied by --lease-url.",
    "lease-url": "Where leases are kept: redis, rediss, redis+sentinel, rediss+sentinel, unix, "
    "postgresql, postgresql+advisory, etcd, etcds, consul or consuls.",
    "slots": "Up to N holders at once. All users of a lock give the same N.",
    "shared": "Share the lock with other readers; host scope only.",
    "exclusive": "Hold the lock alone; the default.",
    "wait": "How long to wait for a busy lock, and then for a key another run holds.",
    "nonblock": "Do not wait: --wait 0.",
    "conflict-exit-code": "Exit code when the lock is busy.",
    "min-hold": "Keep the lock taken at least this long from its acquisition, even when COMMAND "
    "ends earlier.",
    "ttl": "Time to live of a lease, 10s to 24h; it is renewed every quarter of that.",
    "claim-ttl": "Time to live of a key's claim in Postgres, 10s to 24h; renewed like a lease.",
    "on-lease-loss": "What happens to COMMAND when the lease is no longer proved to be held.",
    "store-wait": "How long an unreachable store is tried again before it counts as down.",
    "key": "Idempotency key: at most one successful run per key.",
    "key-ttl": "How long this run's success keeps the key blocked.",
    "on-duplicate": "The key already succeeded: exit 0, exit 76, or write its stored output again.",
    "on-interrupted": "The key's last run was cut off: run again, or exit 76 until a person "
    "decides.",
    "on-mismatch": "The key was used with another COMMAND line: exit 76, or go on.",
    "needs": "Run only if this key has succeeded, else exit 76. May be repeated.",
    "retries": "Further attempts after a failed one.",
    "backoff": "Exponential backoff between attempts.",
    "jitter": "How the wait between attempts is randomised.",
    "retry-on": "What is worth another attempt, such as 75 or 1,5-9,timeout,signal.",
    "retry-budget": "At most N retries of this job in the window, over all runs of the ledger.",
    "success-codes": "Exit codes that count as success; guardrun still exits with COMMAND's own.",
    "timeout": "Limit for one attempt.",
    "deadline": "Limit for the whole run: splay, waiting, attempts and backoff.",
    "signal": "What a COMMAND that must stop is sent first.",
    "kill-after": "Then SIGKILL, to all that COMMAND started.",
    "splay": "Wait a while first, at most this long; always the same on one host for one job.",
    "stdin": "Give COMMAND our stdin, the whole of it for every attempt, or none.",
    "stdin-max": "The most that --stdin replay reads.",
    "output": "COMMAND's stdout and stderr: untouched, as JSON log lines, shown only when the run "
    "fails, or dropped.",
    "capture": "Keep the last SIZE bytes of each stream in the ledger.",
    "ledger-url": "Where outcomes are kept: sqlite:///PATH, postgresql://… or none:. No password "
    "here: ps shows it.",
    "record-wait": "How long a finished run tries to record its outcome before it goes to the "
    "spool.",
    "on-ledger-down": "The ledger cannot be reached before COMMAND starts: exit 69, or run.",
    "enqueued-at": "When the work was due, RFC 3339 or seconds since 1970: gives queue_lag_ms.",
    "keep": "How long finished runs stay in the embedded ledger.",
    "log-to": "Where the log lines go. Where COMMAND's stdout is data, send them elsewhere.",
    "log-format": "auto: JSON, unless the lines go to a terminal.",
    "log-level": "The least important lines to write.",
    "quiet": "No lines unless something went wrong.",
    "redact": "What is cut out of stored and logged COMMAND lines.",
    "metrics-textfile": "Keep the job's metrics in a file there, for node_exporter.",
    "ping-url": "Tell this monitor of start and end: healthchecks.io's protocol, Cronitor's or "
    "Sentry's.",
    "config": "Read this configuration file instead of the usual ones.",
    "dry-run": "Print what would happen as JSON, touch nothing.",
    "help": "Show this, and exit.",
    "version": "Show the version, and exit.",
    "parallel": "Run at most N items at a time.",
    "null": "Items end with a NUL byte, not with a newline.",
    "jsonl": "Items are JSON objects, one a line; {item.a.b} is a field.",
    "halt-after": "Take no new items after N failures.",
    "keep-order": "Write what items write in the order of the input.",
    "tag": "Put the item and a tab before every line that it writes.",
}

_INTRODUCTION = (
    "Run COMMAND under guard: under a lock, once per idempotency key, with retries, limits and a "
    "recorded outcome. COMMAND is executed directly, never through a shell."
)
_EXIT_CODES = (
    ("COMMAND's", "It ran to its end; when a signal ended it, guardrun ends by the same."),
    ("64, 78", "An option, or a configuration file or template, is wrong."),
    ("69, 70, 73", "A store is down; a fault in guardrun; an unsafe lock or state path."),
    ("74", "The lease or the key's claim was lost."),
    ("75, 76", "The lock or key is busy; the key or a need says no."),
    ("124", "--timeout or --deadline was hit."),
    ("126, 127", "COMMAND cannot be executed; is not found."),
)


def render() -> str:
    """Lay out the help of the run options and the list of subcommands, as wide as the terminal."""
    formatter = click.Context(click.Command("guardrun")).make_formatter()
    formatter.write_usage("guardrun", USAGE.partition(" ")[2])
    formatter.write_usage("guardrun", "SUBCOMMAND …", prefix="       ")
    formatter.write_paragraph()
    formatter.write_text(_INTRODUCTION)
    for title, options in SECTIONS:
        with formatter.section(title):
            formatter.write_dl(
                [(spelling(option), described(option)) for option in options if on_line(option)]
            )
    with formatter.section("Subcommands (SUBCOMMAND --help tells more)"):
        formatter.write_dl(
            [
                (name, load(target).get_short_help_str(limit=120))
                for name, target in SUBCOMMANDS.items()
            ]
        )
    with formatter.section("Exit codes"):
        formatter.write_dl(_EXIT_CODES)
    return formatter.getvalue()


def on_line(option: Option) -> bool:
    """Tell whether the option may stand on the command line."""
    return option.where != FILE_ONLY


def spelling(option: Option) -> str:
    """Write an option the way it is given: ``-w, --wait DURATION``."""
    short = f"-{option.short}, " if option.short else ""
    value = f" {option.kind.metavar}" if option.kind else ""
    return f"{short}--{option.name}{value}"


def described(option: Option) -> str:
    """What it means, and what holds without it."""
    default = f"  [default: {option.default}]" if option.default else ""
    environment = f"  [${option.environment}]" if option.environment else ""
    return f"{HELP[option.name]}{default}{environment}"
