"""Calls a subcommand the way a run is called: one line for an error, the contract's exit codes."""

from __future__ import annotations

import copy
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from guardrun import config
from guardrun.errors import GuardrunError, ToldToStop, UsageError

if TYPE_CHECKING:
    from guardrun.commands.stores import LockStores
    from guardrun.model import LedgerSpec


class Unsettled(click.Command):
    """A command that finds out itself whether what stores are named makes sense.

    As its object it gets the options about them as they were given, by name.
    """


def launch(name: str, target: str, words: Sequence[str]) -> int:
    """Load ``target`` (``module:attribute``, a click command) and call it; its exit code.

    The command finds the ledger's ``LedgerSpec`` as ``ctx.obj``; one with ``--lease-url`` finds the
    ``LockStores`` there. What ``--config`` says is in ``ctx.meta``.
    Raises ``UsageError`` for what click does not take, ``ToldToStop`` for Ctrl-C at a prompt.
    """
    name, command, words = find(name, target, words)
    try:
        return _call(command, f"guardrun {name}", words)
    except click.Abort:
        raise ToldToStop(signal.SIGINT) from None
    except click.UsageError as error:
        raise UsageError(_sentence(error)) from None
    except click.ClickException as error:
        raise GuardrunError(_sentence(error)) from None
    except BrokenPipeError:
        raise
    except OSError as error:
        # The interpreter flushes stdout once more at its end, and must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise GuardrunError(
            f"cannot write {error.filename or 'to stdout'}: {error.strerror}"
        ) from None


def _call(command: click.Command, name: str, words: Sequence[str]) -> int:
    result: object
    try:
        with command.make_context(name, list(words)) as context:
            context.meta["config"] = context.params["config"]
            unsettled = isinstance(command, Unsettled)
            context.obj = _given(context.params) if unsettled else _stores(context.params)
            result = command.invoke(context)
    except click.exceptions.Exit as ending:
        result = ending.exit_code
    if sys.stdout is not None:  # None: closed when we started
        sys.stdout.flush()
    return result if isinstance(result, int) else 0


def _stores(params: dict[str, Any]) -> LedgerSpec | LockStores:
    """What the options about stores mean, which are taken out of ``params``."""
    ledger_url, file = params.pop("ledger_url"), params.pop("config")
    if "lease_url" not in params:
        return config.ledger_spec(ledger_url, file, os.environ)
    from guardrun.commands.stores import lock_stores

    return lock_stores(params.pop("lease_url"), ledger_url, file, os.environ)


def _given(params: dict[str, Any]) -> dict[str, str | None]:
    """The options about stores as they were given, which are taken out of ``params``."""
    return {name: params.pop(name.replace("-", "_"), None) for name in _ABOUT_STORES}


_ABOUT_STORES = ("ledger-url", "lease-url", "config")


def find(name: str, target: str, words: Sequence[str]) -> tuple[str, click.Command, Sequence[str]]:
    """The command that is called, with the options that all have; its whole name, and its words.

    What is below another command, such as ``keys show``, is recognised as the very next word.
    """
    command = load(target)
    if isinstance(command, click.Group) and words and words[0] in command.commands:
        name, command, words = f"{name} {words[0]}", command.commands[words[0]], words[1:]
    command = copy.copy(command)
    command.params = [*command.params, *_common()]
    return name, command, words


def load(target: str) -> click.Command:
    """Import a subcommand."""
    module, _, attribute = target.partition(":")
    command: click.Command = getattr(importlib.import_module(module), attribute)
    return command


def _common() -> list[click.Option]:
    return [
        click.Option(["--ledger-url"], metavar="URL", help="Use this ledger."),
        click.Option(["--config"], metavar="FILE", help="Use this configuration file."),
    ]


def _sentence(error: click.ClickException) -> str:
    """What click says, on one line, in our way: no capital, no full stop."""
    message = " ".join(error.format_message().split()).rstrip(".")
    return message[:1].lower() + message[1:]
