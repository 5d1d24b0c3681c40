"""`doctor`: what is wrong with a set-up is found, said with its remedy, and told by exit code."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import servers
from places import make_place
from support import Host, write_script

SECRET = "hunter2-swordfish"


def look(
    host: Host, *words: str, env: Mapping[str, str] | None = None, code: int = 0
) -> list[dict[str, Any]]:
    """All findings, as objects."""
    result = host.run("doctor", "--json", *words, env=env)
    assert (result.code, result.stderr) == (code, b""), result
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert all(one["remedy"] for one in found if one["level"] != "ok"), found
    return found


def of(found: list[dict[str, Any]], subject: str, level: str) -> list[str]:
    """The messages about one subject at one level."""
    return [one["message"] for one in found if (one["subject"], one["level"]) == (subject, level)]


def facts(found: list[dict[str, Any]], subject: str) -> dict[str, Any]:
    """What was measured of a store."""
    first: dict[str, Any] = next(one["facts"] for one in found if one["subject"] == subject)
    return first


# ---------------------------------------------------------------- this host


def test_a_fresh_host_is_well_and_stays_untouched(host: Host) -> None:
    """Before the first run nothing is broken, and looking makes nothing."""
    found = look(host)
    assert {one["subject"] for one in found} == {
        *("config", "state", "locks", "ledger", "spool", "cron")
    }
    assert not host.state.exists()
    assert not host.locks.exists()


def test_a_host_at_work(host: Host) -> None:
    """With a ledger there, its version, schema and latency are told."""
    assert host.run("--key", "a", "--lock", "a", "--", "true").code == 0
    found = look(host)
    assert facts(found, "ledger")["schema"] >= 1
    assert facts(found, "ledger")["latency_ms"] > 0
    assert facts(found, "locks")["mode"] == "0700"


def test_tables_for_people(host: Host) -> None:
    """A person reads level, subject, what is, what to do, and a sum, in 80 columns."""
    result = host.run("doctor", env={"COLUMNS": "80"})
    lines = result.stdout.decode().splitlines()
    assert result.code == 0
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].split()[:2] == ["ok", "config"]
    assert lines[-1] == "all is well" or lines[-1].startswith("broken: 0, notes: ")


def test_directories_that_are_not_safe(host: Host) -> None:
    """What makes runs end with 73 is broken: here, a lock directory others can write to."""
    host.locks.mkdir(mode=0o700)
    host.locks.chmod(0o777)
    (says,) = of(look(host, code=1), "locks", "broken")
    assert "others can write to it" in says


def test_outcomes_that_wait(host: Host) -> None:
    """What is in the spool is told, with how to get it out, and what cannot be read as well."""
    assert host.run("--", "true").code == 0
    ledger, aside = host.state / "ledger.sqlite3", host.root / "aside"
    aside.mkdir()
    for part in list(host.state.glob("ledger.sqlite3*")):
        shutil.move(part, aside)
    ledger.write_text("this is no database, nor was it ever meant to be one")
    broken = of(look(host, code=1), "ledger", "broken")
    assert host.run("--record-wait", "0", "--", "true").code == 0
    shutil.copytree(aside, host.state, dirs_exist_ok=True)
    assert any("not an SQLite database" in says for says in broken)
    found = look(host)
    (says,) = of(found, "spool", "note")
    assert says.startswith("1 outcome waits")
    assert host.run("flush").code == 0
    assert of(look(host), "spool", "ok") == ["empty"]


def test_a_crontab_of_ours(host: Host) -> None:
    """What `crontab -l` prints is looked at."""
    tools = host.root / "tools"
    tools.mkdir()
    write_script(tools / "crontab", "#!/bin/sh\necho '0 2 * * * guardrun -q -- true'\n")
    env = {"PATH": f"{tools}:{os.environ['PATH']}"}
    assert any(
        "crontab -l, line 1" in one for one in of(look(host, env=env, code=1), "cron", "broken")
    )


# ---------------------------------------------------------------- configuration


def write_config(host: Host, text: str) -> None:
    """Make this the host's configuration file."""
    path = host.root / "config" / "guardrun" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)


def test_a_file_that_cannot_be_read(host: Host) -> None:
    """A mistake that would stop every job is one finding, not an error of doctor's."""
    write_config(host, "[defaults]\nretires = 3\n")
    (says,) = of(look(host, code=1), "config", "broken")
    assert "retires" in says


def test_every_job_is_tried(host: Host) -> None:
    """A table that contradicts itself, or the defaults, is found before that job is due."""
    write_config(host, '[jobs.good]\nlock = "a"\n[jobs.bad]\nlock_file = "/x"\nmin_hold = "5s"\n')
    found = look(host, code=1)
    assert len(of(found, "config", "broken")) == 1
    assert any("2 jobs" in says for says in of(found, "config", "ok"))


def test_a_file_that_others_can_change(host: Host) -> None:
    """Who can write the file decides what jobs run under; a password in it is for nobody else."""
    write_config(host, f'[defaults]\nledger_url = "postgresql://a:{SECRET}@127.0.0.1:1/b"\n')
    path = host.root / "config" / "guardrun" / "config.toml"
    path.chmod(0o646)
    result = host.run("doctor", "--json", "--ledger-url", "none:")
    assert result.code == 1
    assert SECRET.encode() not in result.stdout + result.stderr
    says = [json.loads(line)["message"] for line in result.stdout.splitlines()]
    assert any("others can change it" in one for one in says)
    assert any("others can read it" in one for one in says)


# ---------------------------------------------------------------- stores


def test_a_store_that_is_down(host: Host) -> None:
    """It is broken, within seconds, and no password is told."""
    env = {"GUARDRUN_LEASE_URL": f"redis://:{SECRET}@127.0.0.1:{servers.free_port()}"}
    found = look(host, env=env, code=1)
    (says,) = of(found, "leases", "broken")
    assert "refused" in says
    assert SECRET not in json.dumps(found)


def test_a_redis(host: Host) -> None:
    """Version, latency, clock and durability are told; eviction of what is held is broken."""
    with servers.Redis.start(maxmemory="64mb", maxmemory_policy="allkeys-lru") as server:
        found = look(host, env={"GUARDRUN_LEASE_URL": server.url}, code=1)
        assert any("evicted" in says for says in of(found, "leases", "broken"))
        known = facts(found, "leases")
        assert known["version"][0].isdigit()
        assert 0 < known["latency_ms"] < 5000
        assert abs(known["clock_offset_ms"]) < 1000
        assert known["maxmemory_policy"] == "allkeys-lru"
    with servers.Redis.start(appendonly="yes", appendfsync="always") as server:
        found = look(host, env={"GUARDRUN_LEASE_URL": server.url})
        assert of(found, "leases", "broken") == of(found, "leases", "note") == []
        assert facts(found, "leases")["appendfsync"] == "always"


def test_a_postgres(host: Host) -> None:
    """A ledger without a schema is broken, and migrate is the remedy; after that it is told."""
    with servers.Postgres.start(fsync="on", full_page_writes="on") as server:
        url = server.database()
        env = {"GUARDRUN_LEDGER_URL": url}
        found = look(host, env=env, code=1)
        remedies = [one["remedy"] for one in found if one["level"] == "broken"]
        assert "run guardrun migrate" in remedies
        assert host.run("migrate", env=env).code == 0
        found = look(host, env=env)
        assert of(found, "ledger", "broken") == []
        known = facts(found, "ledger")
        assert known["version"][0].isdigit()
        assert (known["fsync"], known["pool_mode"]) == (True, None)


def test_a_postgres_that_forgets(host: Host) -> None:
    """Without fsync, power loss forgets a key that has succeeded: that breaks a promise."""
    with servers.Postgres.start(fsync="off") as server:
        env = {"GUARDRUN_LEDGER_URL": server.database()}
        assert host.run("migrate", env=env).code == 0
        found = look(host, env=env, code=1)
        assert any("fsync is off" in says for says in of(found, "ledger", "broken"))


def test_a_pooler(host: Host) -> None:
    """A pooler is noticed; under an advisory lock it is broken."""
    place = make_place("postgres", host)
    url = servers.pgbouncer_url(place.url)
    found = look(host, "--ledger-url", "none:", env={"GUARDRUN_LEASE_URL": url}, code=1)
    assert any("pooler" in says for says in of(found, "leases", "note"))
    advisory = url.replace("postgresql:", "postgresql+advisory:")
    found = look(host, env={"GUARDRUN_LEASE_URL": advisory}, code=1)
    assert any("advisory locks need sessions" in says for says in of(found, "leases", "broken"))


@pytest.mark.parametrize("mode", ["session", "transaction", "statement"])
def test_modes_of_a_pooler(host: Host, mode: str) -> None:
    """Who shares a server's process with whom is told; without transactions it is broken."""
    place = make_place("postgres", host)
    with servers.PgBouncer.start(place.url, mode) as pooler:
        env = {"GUARDRUN_LEDGER_URL": pooler.url_for(place.url)}
        found = look(host, env=env, code=1)  # the server of the tests does without fsync
        assert facts(found, "ledger")["pool_mode"] == mode
        pooled = [says for says in of(found, "ledger", "broken") if "pooler" in says]
        assert bool(pooled) is (mode == "statement")


def test_an_etcd(host: Host) -> None:
    """Members, versions and alarms are told; one member alone is a note."""
    found = look(host, env={"GUARDRUN_LEASE_URL": servers.etcd_url()})
    assert any("run three members" in one["remedy"] for one in found if one["level"] == "note")
    known = facts(found, "leases")
    assert known["members"] == 1
    assert known["endpoints"][0]["problem"] is None


def test_a_consul(host: Host) -> None:
    """Servers and version are told, also of one that asks who we are; one server is a note."""
    found = look(host, env={"GUARDRUN_LEASE_URL": servers.consul_url()})
    assert any("run three servers" in one["remedy"] for one in found if one["level"] == "note")
    known = facts(found, "leases")
    assert known["servers"] == 1
    assert known["version"]


def test_a_cluster_that_has_lost_a_member(host: Host) -> None:
    """Whoever is down is named, and the others are still asked."""
    with servers.EtcdCluster.start() as cluster:
        env = {"GUARDRUN_LEASE_URL": cluster.url}
        assert of(look(host, env=env), "leases", "broken") == []
        for lose in (cluster.members[1].pause, cluster.members[1].kill):
            lose()
            known = facts(look(host, env=env), "leases")
            assert known["members"] == 3
            assert [one["problem"] is None for one in known["endpoints"]] == [True, False, True]


def test_a_role_that_may_not(host: Host, database_url: str) -> None:
    """A role without the rights of a run is told which it lacks."""
    owner = {"GUARDRUN_LEDGER_URL": database_url}
    assert host.run("migrate", env=owner).code == 0
    role = "reader" + database_url.rpartition("/")[2][-8:].strip("_-")
    with psycopg.connect(database_url, autocommit=True) as connection:
        for statement in (
            f"CREATE ROLE \"{role}\" LOGIN PASSWORD '{SECRET}'",
            f'GRANT USAGE ON SCHEMA guardrun TO "{role}"',
            f'GRANT SELECT ON guardrun.schema_version TO "{role}"',
        ):
            connection.execute(statement.encode())
        at = urlsplit(database_url)
        url = at._replace(netloc=f"{role}:{SECRET}@{at.hostname}:{at.port}").geturl()
        found = look(host, env={"GUARDRUN_LEDGER_URL": url}, code=1)
        (says,) = [one for one in of(found, "ledger", "broken") if "our role may not" in one]
        assert "runs: INSERT" in says
        assert SECRET not in json.dumps(found)
        connection.execute(f'DROP OWNED BY "{role}"'.encode())
        connection.execute(f'DROP ROLE "{role}"'.encode())
