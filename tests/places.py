"""A host and its ledger, of each kind: what subcommands are tried on, from outside."""

from __future__ import annotations

import json
import os
import pty
import time
from dataclasses import dataclass, field
from typing import Any

from ledgers import make_run
from servers import database, postgres_url
from support import Host, Result, eventually

from guardrun.ledger.records import KeyRecord, open_records
from guardrun.ledger.sqlite import SqliteLedger
from guardrun.model import KeySpec, LedgerSpec, Run
from guardrun.ports import Ledger

KINDS = ("sqlite", "postgres")
LONG, SHORT = 900.0, 0.05
"""s; how long a claim in Postgres is good for"""


@dataclass
class Place:
    """One host, and what is in its ledger; runs begun here are alive as far as that says so."""

    host: Host
    url: str
    opened: list[Any] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """One of ``KINDS``."""
        return "postgres" if self.url.startswith("postgresql") else "sqlite"

    def open(self, claim_ttl: float = LONG) -> Any:
        """A ledger of its own."""
        ledger: Any
        if self.kind == "sqlite":
            path = self.url.removeprefix("sqlite://")
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            ledger = SqliteLedger(path, time.time)
        else:
            from guardrun.ledger.postgres import PostgresLedger

            ledger = PostgresLedger(self.url, time.time, claim_ttl)
        self.opened.append(ledger)
        return ledger

    def begin(self, key: str, **fields: Any) -> tuple[Run, Ledger]:
        """A run that holds a key, and the ledger through which it does."""
        run = make_run(key, **({"started_at": time.time()} | fields))
        ledger = self.open()
        ledger.begin(run, KeySpec(key))
        return run, ledger

    def cut_off(self, key: str, **fields: Any) -> Run:
        """A run that held a key, and is gone without a word."""
        run = make_run(key, **({"started_at": time.time()} | fields))
        ledger = self.open(SHORT)
        ledger.begin(run, KeySpec(key))
        ledger.close()
        eventually(lambda: self.state(key) == "interrupted", what="the claim has lapsed")
        return run

    @property
    def spec(self) -> LedgerSpec:
        return LedgerSpec(self.url, str(self.host.state))

    def key(self, key: str) -> KeyRecord | None:
        """What the ledger says of a key."""
        records = open_records(self.spec)
        if records is None:
            return None
        try:
            return records.key(key)
        finally:
            records.close()

    def state(self, key: str) -> str | None:
        """What the ledger says a key is."""
        found = self.key(key)
        return None if found is None else found.state

    def run(self, *words: str | bytes, **options: Any) -> Result:
        """Call guardrun, with this ledger."""
        return self.host.run(*words, env={"GUARDRUN_LEDGER_URL": self.url}, **options)

    def objects(self, *words: str) -> list[dict[str, Any]]:
        """What a subcommand says with --json."""
        result = self.run(*words, "--json")
        assert result.code == 0, result
        return [json.loads(line) for line in result.stdout.splitlines()]

    def typed(self, answer: bytes, *words: str) -> tuple[int, str]:
        """Call guardrun at a terminal where a person types ``answer``: exit code, and all shown."""
        ours, theirs = pty.openpty()
        env = {"GUARDRUN_LEDGER_URL": self.url, "TERM": "dumb"}
        process = self.host.start(*words, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        os.write(ours, answer)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:  # how Linux says that the other side of a terminal is closed
            pass
        os.close(ours)
        return process.wait(60), shown.decode()

    def close(self) -> None:
        """Close what was opened here."""
        for ledger in self.opened:
            ledger.close()


def make_place(kind: str, host: Host) -> Place:
    """An empty ledger, ready to be used."""
    if kind == "sqlite":
        return Place(host, f"sqlite://{host.state}/ledger.sqlite3")
    place = Place(host, new_database())
    result = place.run("migrate")
    assert result.code == 0, result
    return place


def new_database() -> str:
    """The URL of a database without a schema."""
    return database(postgres_url())
