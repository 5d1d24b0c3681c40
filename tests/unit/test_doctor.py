"""What `doctor` makes of crontabs, mounts and versions, without a host to look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from guardrun.doctor import consul, etcd, postgres, redis
from guardrun.doctor.cron import Tab, examine_tab
from guardrun.doctor.etcd import is_repaired
from guardrun.doctor.finding import BROKEN, NOTE, Finding, told
from guardrun.doctor.places import mount_of
from guardrun.doctor.stores import Answer, apart
from guardrun.errors import StoreUnavailable


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Something that cron finds under the name guardrun."""
    path = tmp_path / "guardrun"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def levels(text: str, *, system: bool = False) -> list[str]:
    """What is found in a crontab, by level."""
    return [one.level for one in examine_tab(Tab("tab", text, system))]


def test_a_good_line_is_passed_over(program: Path) -> None:
    """A whole path, no %, and no line on stdout: there is nothing to say."""
    assert levels(f"5 2 * * * {program} -q --lock a -- true\n") == []
    assert levels(f"5 2 * * * root {program} --log-to /var/log/a -- true\n", system=True) == []
    assert levels(f'MAILTO=""\n@daily {program} -- true\n') == []
    assert levels(f"@daily {program} -- true >>/var/log/a 2>&1\n") == []
    assert levels(f"@daily {program} flush\n") == []


def test_other_lines_are_not_ours() -> None:
    """Comments, variables and other programs are none of our business."""
    assert levels("# 5 2 * * * guardrun -- date +%F\nA=b\n5 2 * * * date +%F\n\n") == []
    assert levels("5 2 * * * echo /etc/guardrun/config.toml\n") == []
    assert levels("5 2 * * * cd /etc/guardrun && date +%F\n") == []


def test_the_path_of_cron(program: Path) -> None:
    """Cron looks in its own PATH, which is short unless the crontab says otherwise."""
    line = "5 2 * * * guardrun -q -- true\n"
    (found,) = examine_tab(Tab("tab", line, system=False))
    assert (found.level, found.facts) == (BROKEN, {"where": "tab, line 1"})
    assert "PATH=/usr/bin:/bin" in found.says
    assert levels(f"PATH={program.parent}:/bin\n{line}") == []
    assert levels(f"5 2 * * * {program}-gone/guardrun -q -- true\n") == [BROKEN]
    assert levels("5 2 * * * cd /srv; A=1 nice -n 10 guardrun -q -- true\n") == [BROKEN]


def test_a_percent_sign_ends_the_command(program: Path) -> None:
    """What follows an unescaped % is COMMAND's stdin to cron."""
    line = f"5 2 * * * cd /srv && {program} -q --key 'a-{{date:%F}}' -- true\n"
    assert levels(line) == [BROKEN]
    assert levels(line.replace("%", "\\%")) == []


def test_mail_at_every_run(program: Path) -> None:
    """Log lines on stdout become mail."""
    assert levels(f"5 2 * * * {program} --lock a -- true -q\n") == [NOTE]


MOUNTS = (
    "22 1 254:0 / / rw - ext4 /dev/vda rw",
    "30 22 0:25 / /run rw - tmpfs tmpfs rw",
    "40 22 254:0 /tmp/systemd-private-0a-job.service-x/tmp /tmp rw - ext4 /dev/vda rw",
    "41 22 0:30 / /srv/my\\040jobs rw,shared:1 master:2 - xfs /dev/vdb rw",
)


@pytest.mark.parametrize(
    ("path", "kind", "point"),
    [
        ("/var/lib/guardrun", "ext4", "/"),
        ("/run", "tmpfs", "/run"),
        ("/run/lock/guardrun", "tmpfs", "/run"),
        ("/running", "ext4", "/"),
        ("/srv/my jobs/a", "xfs", "/srv/my jobs"),
    ],
)
def test_the_mount_of_a_path(path: str, kind: str, point: str) -> None:
    """The longest mount point that a path is in is its mount."""
    found = mount_of(path, MOUNTS)
    assert (found.kind, found.point) == (kind, point)


def test_a_unit_with_a_tmp_of_its_own() -> None:
    """Which directory is mounted on /tmp shows PrivateTmp=."""
    assert "systemd-private" in mount_of("/tmp/locks", MOUNTS).root


@pytest.mark.parametrize(
    ("version", "expected"),
    [("3.4.23", False), ("3.4.31", True), ("3.5.9", False), ("3.5.13", True), ("3.6.0", True)],
)
def test_versions_of_etcd(version: str, expected: bool) -> None:
    """Leaders that ended renewed leases are told by their version."""
    assert is_repaired(version) is expected


def test_the_last_clause_is_the_remedy() -> None:
    """An error's own words become what is wrong and what to do."""
    error = StoreUnavailable("the lease store redis://a: refused; check that the server runs there")
    assert told("leases", error) == Finding(
        "leases", BROKEN, "the lease store redis://a: refused", "check that the server runs there"
    )
    assert told("ledger", StoreUnavailable("has no schema: run guardrun migrate")).remedy == (
        "run guardrun migrate"
    )


# ---------------------------------------------------------------- stores


@pytest.mark.parametrize(
    ("offset", "expected"), [(0.5, []), (-0.9, []), (1.5, [NOTE]), (-3600.0, [NOTE])]
)
def test_clocks_that_disagree(offset: float, expected: list[str]) -> None:
    """More than a second is worth a word, and no more than that: no promise hangs on it."""
    found = apart("leases", "redis://:hunter2@a:1/0", Answer(0.001, offset))
    assert [one.level for one in found] == expected
    assert "hunter2" not in str(found)


REDIS = {
    "appendonly": "yes",
    "appendfsync": "always",
    "maxmemory": "0",
    "maxmemory_policy": "noeviction",
    "replicas": 0,
    "min_replicas_to_write": "0",
}


@pytest.mark.parametrize(
    ("facts", "info", "expected"),
    [
        ({}, {}, []),
        ({"maxmemory_policy": "allkeys-lru"}, {}, [NOTE]),
        ({"maxmemory_policy": "allkeys-lru", "maxmemory": "1000"}, {}, [BROKEN]),
        ({"maxmemory_policy": "volatile-ttl", "maxmemory": "1000"}, {}, [NOTE]),
        ({"appendonly": "no"}, {}, [NOTE]),
        ({"appendfsync": "everysec"}, {}, [NOTE]),
        ({"appendonly": None, "appendfsync": None, "maxmemory": None}, {}, [NOTE]),
        ({"replicas": 2}, {}, [NOTE]),
        ({"replicas": 2, "min_replicas_to_write": "1"}, {}, []),
        ({}, {"role": "slave"}, [BROKEN]),
        ({}, {"redis_mode": "cluster"}, [BROKEN]),
    ],
)
def test_settings_of_redis(
    facts: dict[str, object], info: dict[str, str], expected: list[str]
) -> None:
    """What evicts a held lock is broken; what forgets it after a crash or failover is a note."""
    assert [level for level, *_ in redis.wrong({**REDIS, **facts}, info)] == expected


POSTGRES = {
    "pool_mode": None,
    "standby": False,
    "fsync": True,
    "full_page_writes": True,
    "synchronous_commit": "on",
    "synchronous_standby_names": "",
    "standbys": 0,
}


@pytest.mark.parametrize(
    ("facts", "lacking", "session_bound", "expected"),
    [
        ({}, [], False, []),
        ({"fsync": False}, [], False, [BROKEN]),
        ({"full_page_writes": False}, [], False, [BROKEN]),
        ({"standby": True}, [], False, [BROKEN]),
        ({"standbys": 1}, [], False, [NOTE]),
        ({"standbys": 1, "synchronous_standby_names": "*"}, [], False, []),
        ({"synchronous_commit": "off"}, [], False, [NOTE]),
        ({"synchronous_commit": "remote_apply"}, [], False, []),
        ({"pool_mode": "transaction"}, [], False, [NOTE]),
        ({"pool_mode": "session"}, [], True, [BROKEN]),
        ({"pool_mode": "statement"}, [], False, [BROKEN]),
        ({}, ["runs: INSERT"], False, [BROKEN]),
    ],
)
def test_settings_of_postgres(
    facts: dict[str, object], lacking: list[str], session_bound: bool, expected: list[str]
) -> None:
    """What power loss would forget, and what keeps runs from writing, is broken."""
    found = postgres.wrong({**POSTGRES, **facts}, lacking, session_bound)
    assert [level for level, *_ in found] == expected


WELL = {"url": "etcd://a:2379", "problem": None}


@pytest.mark.parametrize(
    ("members", "told", "alarms", "expected"),
    [
        (3, [WELL], [], []),
        (3, [WELL], None, []),
        (3, [WELL, {**WELL, "problem": "refused"}], [], [NOTE]),
        (3, [WELL], ["NOSPACE"], [BROKEN]),
        (1, [WELL], [], [NOTE]),
        (4, [WELL], [], [NOTE]),
    ],
)
def test_members_of_etcd(
    members: int, told: list[dict[str, object]], alarms: list[str] | None, expected: list[str]
) -> None:
    """What stops writes is broken; what the next loss of a member would stop is a note."""
    assert [level for level, *_ in etcd.wrong(members, told, ["3.5.13"], alarms)] == expected


@pytest.mark.parametrize(
    ("servers", "version", "expected"),
    [(3, "1.20.1", []), (3, None, []), (3, "1.7.14", [NOTE]), (1, "1.8.7", [NOTE])],
)
def test_servers_of_consul(servers: int, version: str | None, expected: list[str]) -> None:
    """A version that nobody has tried, and too few servers, are notes."""
    assert [level for level, *_ in consul.wrong(servers, version)] == expected
