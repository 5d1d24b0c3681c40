"""`migrate`: one command makes and upgrades the schema, whoever else does so at the same time."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from ledgers import run_key
from places import Place, new_database
from proxy import Proxy
from support import Host, finish

from guardrun import sql
from guardrun.postgres.schema import SCHEMA

NAMES = list(sql.migration_names("postgres"))


@pytest.fixture
def place(host: Host) -> Place:
    """A host whose ledger is a database without a schema."""
    return Place(host, new_database())


def execute(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Do something in the database, as its superuser."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def lines(result: Any) -> list[str]:
    """What a migration that succeeded said."""
    assert (result.code, result.stderr) == (0, b""), result
    return list(result.stdout.decode().splitlines())


def test_the_schema_is_made(place: Place) -> None:
    """The first time it says what it applies and makes the schema; after that there is nothing to
    do, and the ledger works."""
    plan, done = lines(place.run("migrate"))
    assert plan == f"migrating from nothing to schema {SCHEMA}: {', '.join(NAMES)}"
    assert done == f"done: the ledger has schema {SCHEMA}"
    assert lines(place.run("migrate")) == [f"nothing to do: the ledger has schema {SCHEMA}"]
    run_key(place.open(), "k")
    assert place.state("k") == "succeeded"
    assert lines(place.run("migrate")) == [f"nothing to do: the ledger has schema {SCHEMA}"]
    assert place.state("k") == "succeeded"
    place.close()


def test_what_programs_are_told(place: Place) -> None:
    """One object: from which version to which, and what was applied."""
    first, second = (place.objects("migrate") for _ in range(2))
    assert first == [{"from": 0, "to": SCHEMA, "applied": NAMES}]
    assert second == [{"from": SCHEMA, "to": SCHEMA, "applied": []}]


def test_many_at_once(place: Place) -> None:
    """Of several hosts that migrate at the same time all succeed, and one does the work."""
    env = {"GUARDRUN_LEDGER_URL": place.url}
    started = [place.host.start("migrate", "--json", env=env) for _ in range(5)]
    results = [finish(process) for process in started]
    assert [result.code for result in results] == [0] * 5, results
    applied = [json.loads(result.stdout)["applied"] for result in results]
    assert sorted(applied) == [[], [], [], [], NAMES]


def test_a_newer_schema_is_refused(place: Place) -> None:
    """What a later version has made is not touched: 69, and the line says to upgrade."""
    assert place.run("migrate").code == 0
    table = "guardrun.schema_version"
    execute(place.url, f"INSERT INTO {table} (version, name) VALUES (999, 'later')")
    for words in (["migrate"], ["history"], ["keys"], ["prune", "--older-than", "1d"]):
        result = place.run(*words)
        assert (result.code, result.stdout) == (69, b""), result
        (line,) = result.stderr.decode().splitlines()
        assert "999" in line
        assert "upgrade guardrun" in line
    assert execute(place.url, f"SELECT max(version) FROM {table}") == [(999,)]


def test_without_a_schema_the_line_says_what_to_do(place: Place) -> None:
    """Before the first migration whatever asks the ledger is told to migrate."""
    for words in (["history"], ["show", "01234567"], ["keys"], ["prune", "--older-than", "1d"]):
        result = place.run(*words)
        assert (result.code, result.stdout) == (69, b""), result
        (line,) = result.stderr.decode().splitlines()
        assert "guardrun migrate" in line


def test_a_role_without_the_right_is_refused(place: Place) -> None:
    """Who may not create the schema is told who may; nothing is half made."""
    role = "guest" + place.url.rpartition("/")[2][-8:].strip("_-")
    execute(place.url, f"CREATE ROLE \"{role}\" LOGIN PASSWORD 'hunter2-swordfish'")
    try:
        at = urlsplit(place.url)
        url = at._replace(netloc=f"{role}:hunter2-swordfish@{at.hostname}:{at.port}").geturl()
        result = Place(place.host, url).run("migrate")
        assert result.code == 69, result
        (line,) = result.stderr.decode().splitlines()
        assert "migrate as the role" in line
        assert b"swordfish" not in result.stdout + result.stderr
    finally:
        execute(place.url, f'DROP ROLE "{role}"')
    schemas = execute(place.url, "SELECT to_regnamespace('guardrun')::text")
    assert schemas == [(None,)]


def test_a_connection_that_is_cut_at_the_commit(place: Place) -> None:
    """A migration whose answer was lost is tried again, and finds its work done."""
    with Proxy.before(place.url) as proxy:
        proxy.cut_at("COMMIT", when="after")
        url = proxy.url_for(place.url)
        (said,) = Place(place.host, url).objects("migrate")
    assert said["to"] == SCHEMA
    assert place.objects("migrate")[0]["applied"] == []


def test_a_server_that_does_not_answer(place: Place) -> None:
    """A frozen server is waited for as long as --store-wait says, and then it is exit code 69."""
    config = place.host.root / "guardrun.toml"
    config.write_text('[defaults]\nstore_wait = "500ms"\n')
    with Proxy.before(place.url) as proxy:
        proxy.blackhole()
        for words in (["migrate"], ["history"], ["keys"], ["prune", "--older-than", "1d"]):
            there = Place(place.host, proxy.url_for(place.url))
            result = there.run(*words, "--config", str(config), timeout=60)
            assert (result.code, result.stdout) == (69, b""), result
            assert len(result.stderr.splitlines()) == 1


def test_a_file_needs_none(host: Host) -> None:
    """For an SQLite ledger it says so, succeeds, and makes nothing."""
    result = host.run("migrate")
    assert lines(result) == ["the ledger is an SQLite file, which needs no migration"]
    assert not host.state.exists()


def test_without_a_ledger(host: Host) -> None:
    """With none: there is nothing to migrate."""
    result = host.run("migrate", "--ledger-url", "none:")
    assert result.code == 78
    assert len(result.stderr.splitlines()) == 1


def test_leases_elsewhere_are_migrated_as_well(host: Host) -> None:
    """A lease store in Postgres is migrated too, once where it is the ledger's database."""
    leases = new_database()
    env = {"GUARDRUN_LEASE_URL": leases.replace("postgresql:", "postgresql+advisory:")}
    assert lines(host.run("migrate", env=env)) == [
        f"migrating from nothing to schema {SCHEMA}: {', '.join(NAMES)}",
        f"done: the lease store has schema {SCHEMA}",
    ]
    ran = host.run("--scope", "distributed", "--lock", "a", "--", "true", env=env)
    assert ran.code == 0, ran
    ledger = new_database()
    both = {"GUARDRUN_LEASE_URL": leases, "GUARDRUN_LEDGER_URL": ledger}
    assert lines(host.run("migrate", env=both)) == [
        f"migrating from nothing to schema {SCHEMA}: {', '.join(NAMES)}",
        f"done: the ledger has schema {SCHEMA}",
        f"nothing to do: the lease store has schema {SCHEMA}",
    ]
    same = {"GUARDRUN_LEASE_URL": ledger, "GUARDRUN_LEDGER_URL": ledger}
    assert lines(host.run("migrate", env=same)) == [
        f"nothing to do: the ledger has schema {SCHEMA}"
    ]
