"""``completion``: the completion for a shell, and the names that it offers.

The files themselves start nothing for options and subcommands. For names of jobs, keys, locks and
runs they call ``completion --names``, while somebody waits at a prompt: so what is there is asked
once, for a moment, and nothing is made.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice

import click

from guardrun import config
from guardrun.cli import write
from guardrun.commands.launch import Unsettled
from guardrun.errors import GuardrunError, UsageError
from guardrun.ledger.records import Filter, Records, open_records

FILES = {
    "bash": "share/bash-completion/completions/guardrun",
    "zsh": "share/zsh/site-functions/_guardrun",
    "fish": "share/fish/vendor_completions.d/guardrun.fish",
}
"""Where an installation has them, below its prefix."""
KINDS = ("jobs", "keys", "locks", "runs")
_PATIENCE = 2.0
"""s that a store may take; who presses Tab does not wait for the store to come back"""
_KEYS, _RUNS = 1000, 50
"""The latest so many: a longer list helps nobody."""


class NotInstalled(GuardrunError):
    """guardrun runs from its sources, or was installed without its data files."""

    exit_code = 1


@click.command(cls=Unsettled)
@click.argument("shell", type=click.Choice(tuple(FILES)), required=False, metavar="[SHELL]")
@click.option(
    "--names",
    type=click.Choice(KINDS),
    metavar="KIND",
    help="Print instead the names that it offers, one a line, with what is to be said of each.",
)
@click.option("--lease-url", metavar="URL", help="Ask this lease store for names.")
@click.pass_obj
def completion(given: dict[str, str | None], shell: str | None, names: str | None) -> None:
    """Print the completion for a shell, as it was installed.

    It is loaded by the shell itself where it is installed in the right place.
    """
    if (shell is None) == (names is None):
        raise UsageError(f"name a shell: {', '.join(FILES)}")
    if shell is not None:
        write(_installed(FILES[shell]))
    elif names is not None:
        # One by one: what is known is offered, also when the next store is down.
        for name, what in _names(names, given):
            if name.isprintable():  # a shell takes them apart by lines and tabs
                write(f"{name}\t{what}\n")


def _installed(name: str) -> str:
    """The text of a data file of this installation, wherever its prefix is."""
    from importlib import metadata

    try:
        files = metadata.files("guardrun") or ()
    except metadata.PackageNotFoundError:
        files = ()
    for file in files:
        if str(file).endswith(name):
            try:
                return file.read_text(encoding="utf-8")
            except OSError as error:
                raise NotInstalled(f"cannot read {file.locate()}: {error.strerror}") from None
    raise NotInstalled(
        f"{name} was not installed with guardrun; completions/ in its sources has it"
    )


def _names(kind: str, given: dict[str, str | None]) -> Iterator[tuple[str, str]]:
    if kind == "locks":
        yield from _locks(given)
        return
    spec = config.ledger_spec(given["ledger-url"], given["config"], os.environ)
    records = open_records(spec._replace(store_wait=min(spec.store_wait, _PATIENCE)))
    if records is None:
        return
    try:
        yield from _recorded(kind, records)
    finally:
        records.close()


def _recorded(kind: str, records: Records) -> Iterator[tuple[str, str]]:
    if kind == "jobs":
        for job in records.jobs(0.0):
            yield job.job, ""
    elif kind == "keys":
        for key in records.keys(None, _KEYS):
            yield key.key, key.state
    else:
        from guardrun.commands.history import SHORT

        for run in islice(records.runs(Filter()), _RUNS):
            yield run.job_id[-SHORT:], f"{run.job}, {run.result}"


def _locks(given: dict[str, str | None]) -> Iterator[tuple[str, str]]:
    from guardrun.commands import holdings, stores

    where = stores.lock_stores(given["lease-url"], given["ledger-url"], given["config"], os.environ)
    where = where._replace(store_wait=min(where.store_wait, _PATIENCE))
    told = set()
    for read in (holdings.read_host, holdings.read_leases):
        for one in read(where):
            if one.lock is not None and one.lock not in told:
                told.add(one.lock)
                yield one.lock, one.owner or ""
