"""What `doctor` makes of crontabs, mounts and versions, without a host to look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from guardrun.doctor.cron import Tab, examine_tab
from guardrun.doctor.etcd import is_repaired
from guardrun.doctor.finding import BROKEN, NOTE, Finding, told
from guardrun.doctor.places import mount_of
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


def test_the_path_of_cron(program: Path) -> None:
    """Cron looks in its own PATH, which is short unless the crontab says otherwise."""
    line = "5 2 * * * guardrun -q -- true\n"
    (found,) = examine_tab(Tab("tab", line, system=False))
    assert (found.level, found.facts) == (BROKEN, {"where": "tab, line 1"})
    assert "PATH=/usr/bin:/bin" in found.says
    assert levels(f"PATH={program.parent}:/bin\n{line}") == []
    assert levels(f"5 2 * * * {program}-gone/guardrun -q -- true\n") == [BROKEN]


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
