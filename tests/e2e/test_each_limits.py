"""What ``guardrun each`` does where there is little: descriptors, disk, and open streams."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from pathlib import Path

import pytest
from pools import children, counted, fed, lines, wardens
from support import GUARDRUN, Host, busy_ledger, eventually, finish, waits

WAYS = (
    ("--lock", "{item}"),
    ("--lock", "api", "-j", "2", "--wait", "forever"),
    ("--lock", "of the pool"),
    ("--key", "{item}", "--needs", "first"),
    ("--capture", "1K", "--keep-order", "--tag"),
    ("--output", "on-failure", "--retries", "1", "--backoff", "1ms..1ms"),
)


WAIT = "until test -e go; do sleep 0.02; done"


def descriptors(pid: int) -> int:
    """How many descriptors a process has."""
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.parametrize("words", WAYS, ids=[" ".join(way[:2]) for way in WAYS])
def test_an_item_leaves_no_descriptor_open(host: Host, words: tuple[str, ...]) -> None:
    """A pool has as many after forty items as after four, whatever became of them."""
    assert host.run("--key", "first", "--", "true").code == 0
    string = "echo out; test $(($1 % 3)) != 0"
    pool = host.start("each", "-P", "2", "--log-to", "none", *words, "-c", string, stdin=-1)

    def rest(done: int) -> int:
        over = "SELECT * FROM runs WHERE result != 'running'"
        eventually(lambda: len(host.rows(over)) == done + 1, 30, "all are done")
        eventually(lambda: waits(pool.pid), what="the pool at rest")
        return descriptors(pool.pid)

    fed(pool, lines(*range(1, 5)))
    few = rest(4)
    fed(pool, lines(*range(5, 41)))
    assert rest(40) <= few + 4
    assert finish(pool).code == 1


def limited(limit: int) -> tuple[str, ...]:
    """A guardrun that may have so many descriptors."""
    return ("sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", *GUARDRUN)


def test_too_few_descriptors_for_so_many_at_a_time(host: Host) -> None:
    """It is said before the first item, with the number that is needed; with that it works."""
    words = ("each", "-P", "6", "--lock", "{item}", "--key", "{item}", "--capture", "1K")
    few = host.run(*words, "--", "echo", data=lines(1), program=limited(60))
    assert (few.code, few.stdout, host.rows()) == (64, b"", []), few
    needed = int(few.stderr.split(b" file descriptors")[0].split()[-1])
    enough = host.run(*words, "--", "echo", data=lines(*range(30)), program=limited(needed))
    assert (enough.code, *counted(enough, "succeeded")) == (0, 30), enough


def test_no_descriptors_for_a_keeper(host: Host) -> None:
    """An item that needs one while there are none fails, says why, and the pool goes on."""
    words = ("--on-ledger-down", "run", "--store-wait", "0", "--record-wait", "0")
    far = {"GUARDRUN_LEDGER_URL": "postgresql://127.0.0.1:1/nowhere"}
    pool = host.start("each", *words, "--log-level", "warning", "--", "true", stdin=-1, env=far)
    assert pool.stdout is not None
    fed(pool, b"a\0b\n")
    assert b"item_refused" in pool.stdout.readline()  # what writes lines is loaded with the first
    eventually(lambda: waits(pool.pid), what="the pool at rest")
    limits = resource.prlimit(pool.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pool.pid, resource.RLIMIT_NOFILE, (descriptors(pool.pid), limits[1]))
    fed(pool, lines(1))
    refused = json.loads(pool.stdout.readline())
    resource.prlimit(pool.pid, resource.RLIMIT_NOFILE, limits)
    fed(pool, lines(2))
    result = finish(pool)
    assert (refused["event"], refused["item"]) == ("item_refused", "1"), refused
    assert (result.code, *counted(result, "succeeded", "failed")) == (1, 1, 2), result


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed(host: Host, closed: str) -> None:
    """What opens next is not taken for them: no items without stdin, and a ledger that is whole."""
    program = ("sh", "-c", f'exec "$@" {closed}', "sh", *GUARDRUN)
    result = host.run("each", "-P", "2", "--", "echo", data=lines(1, 2), program=program)
    assert result.code == 0, result
    assert len(host.rows()) == (0 if "<" in closed else 2)
    assert host.run("history", "--json").code == 0


def test_stdout_that_is_full(host: Host) -> None:
    """What items write is lost, and that is no success: no new ones, exit 1, and it is said."""
    with Path("/dev/full").open("wb") as full:
        words = ("each", "--log-to", "stderr", "--", "echo")
        result = host.run(*words, data=lines(*range(200)), stdout=full)
    assert result.code == 1, result
    assert b"nobody reads" in result.stderr
    assert len(host.rows()) < 200


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_is_full(host: Host) -> None:
    """Outcomes that the ledger does not take are spooled, the items' results are what they are."""
    script = (
        'mount --make-rprivate /; mkdir "$0"; mount -t tmpfs -o size=1m t "$0"; export SMALL="$0";'
        'export GUARDRUN_STATE_DIR="$0/state"; "$@" --log-to none -- true;'
        'exec "$@" each -P 2 --store-wait 0 --record-wait 0'
        ' -c "dd if=/dev/zero of=\\$SMALL/fill bs=4k 2>/dev/null; exit 0"'
    )
    program = ("unshare", "-m", "sh", "-c", script, str(host.root / "small"), *GUARDRUN)
    result = finish(host.start(program=program, stdin=subprocess.PIPE), data=lines(1, 2, 3))
    assert result.code == 0, result
    assert counted(result, "succeeded") == (3,)
    told = {"outcome_spooled", "outcome_unsaved"} & set(result.events)
    assert told, result


def test_a_ledger_that_somebody_keeps(host: Host) -> None:
    """With --record-wait over, the outcomes of all items go to the spool, and the next run's in."""
    words = ("each", "-P", "3", "--record-wait", "0", "--store-wait", "0", "-c", WAIT)
    assert host.run("--log-to", "none", "--", "true").code == 0
    pool = host.start(*words, stdin=subprocess.PIPE)
    fed(pool, lines(1, 2, 3))
    # Not their rows: with --store-wait 0 nobody waits for those.
    eventually(lambda: len(list(filter(children, wardens(pool)))) == 3, what="they run")
    with busy_ledger(host):
        (host.root / "go").touch()
        result = finish(pool)
    assert (result.code, result.events.count("outcome_spooled")) == (0, 3), result
    assert host.run("--", "true").code == 0
    assert [row["result"] for row in host.rows()] == ["success"] * 5
