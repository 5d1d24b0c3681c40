"""``rerun``: run the recorded COMMAND of a run once more, as a run of its own.

The ledger has a run's job, COMMAND, and the names of its lock, key and needs. Its other options are
not recorded: they come from the configuration of the job and from what stands after RUN.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import click

from guardrun import config, options, settings, units
from guardrun.commands import history
from guardrun.digest import sha256
from guardrun.errors import UsageError
from guardrun.ledger.records import RunRecord, open_records
from guardrun.model import LedgerSpec, Plan


class NotRerunnable(history.NoSuchRun):
    """What is recorded of the run is not enough to run it again, or it has not ended."""


@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("run")
@click.argument("more", nargs=-1, type=click.UNPROCESSED, metavar="[RUN-OPTION]...")
@click.pass_context
def rerun(context: click.Context, run: str, more: tuple[str, ...]) -> None:
    """Run the recorded COMMAND of RUN again, under its job, lock, key and needs.

    Every other option is that of the job's configuration, or stands after RUN; directory and
    environment are those of this call. The key decides as ever: what has succeeded is skipped. A
    COMMAND line that secrets were taken out of cannot be run again.
    """
    spec: LedgerSpec = context.obj
    records = open_records(spec)
    if records is None:
        raise history.NoSuchRun(f"there is no run {units.shown(run)}: nothing has been recorded")
    try:
        record = history.find_run(records, run)
    finally:
        records.close()
    _check(record)
    # The ledger that the run was found in, below the options of the line as it would be anyway.
    environ = {**os.environ, "GUARDRUN_LEDGER_URL": spec.url}
    plan = plan_of(record, more, context.meta["config"], environ)
    # Only now: whoever asks for help needs none of it.
    from guardrun.world import perform

    perform(plan)


def _check(record: RunRecord) -> None:
    if record.result == "running":
        raise NotRerunnable(f"the run {record.job_id} has not ended: guardrun show {record.job_id}")
    words = b"\0".join(map(os.fsencode, record.argv))
    if sha256(words).hexdigest() != record.fingerprint:
        raise NotRerunnable(
            f"the run {record.job_id} cannot be run again: its recorded command line is not the "
            "one that ran, because secrets are not recorded; run it by hand, with its key"
        )


def plan_of(
    record: RunRecord, more: Sequence[str], file: str | None, environ: Mapping[str, str]
) -> Plan:
    """What to do to run it again; ``more`` are run options, which come before what is recorded.

    Raises ``UsageError`` and ``ConfigError``.
    """
    extra = options.parse([*more, "--"])
    if extra.command or extra.question:
        raise UsageError("rerun takes nothing but run options after RUN; COMMAND is recorded")
    words = [*(["--config", file] if file else []), "--job", record.job]
    merged, _, _ = settings.merge(options.parse([*words, *more, "--"]), environ)
    on_line = {option.name for option, _ in extra.options}
    if record.lock is not None and not {"lock", "lock-file"} & merged.keys():
        # A lock of another kind would exclude nobody.
        if "scope" not in merged and "lease-url" not in on_line:
            raise UsageError(
                f"the run had the lock {units.shown(record.lock)}, of which kind is not recorded: "
                "say --scope host, --scope distributed or --lock-file after RUN"
            )
        words += ["--lock", _literal(record.lock)]
    if record.key is not None:
        words += ["--key", _literal(record.key)]
    if "needs" not in on_line:
        words += [word for key in record.needs for word in ("--needs", _literal(key))]
    given = options.parse([*words, *more, "--"])
    return config.settle(given._replace(command=record.argv), environ).plan


def _literal(name: str) -> str:
    """A template that is resolved to ``name``."""
    return name.replace("{", "{{").replace("}", "}}")
