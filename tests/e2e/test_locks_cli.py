"""`locks` and `unlock`: who holds what, and how a person takes it away from who is gone."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import servers
from lease_stores import STORES, Leases, due, granted, lock_name, request, url_of
from ledgers import job_id
from places import Place
from support import Host, Result, eventually, finish, kill, no_survivors, queued

from guardrun.digest import sha256
from guardrun.model import LeaseRequest

HERE = os.uname().nodename
GONE = "gone.example:4711"
KINDS = ("redis", "postgres", "advisory", "etcd", "consul")


def objects(result: Result, code: int = 0) -> list[dict[str, Any]]:
    """What a subcommand said with --json."""
    assert (result.code, result.stderr) == (code, b""), result
    return [json.loads(line) for line in result.stdout.splitlines()]


def listed(host: Host, *words: str, **options: Any) -> list[dict[str, Any]]:
    """What `locks --json` tells."""
    return objects(host.run("locks", "--json", *words, **options))


def one_line(result: Result, code: int) -> str:
    """The line on stderr of a subcommand that was refused with this code."""
    assert (result.code, result.stdout) == (code, b""), result
    (line,) = result.stderr.decode().splitlines()
    assert line.startswith("guardrun: ")
    return line


def said(result: Result) -> list[str]:
    """The lines of a subcommand that succeeded."""
    assert (result.code, result.stderr) == (0, b""), result
    return result.stdout.decode().splitlines()


def moment(text: str) -> float:
    """Seconds since 1970 of a time in an object."""
    return datetime.fromisoformat(text).timestamp()


def free(host: Host, lock: str, *words: str) -> bool:
    """Whether a run gets the lock now."""
    result = host.run("--lock", lock, *words, "--ledger-url", "none:", "--", "true")
    assert result.code in (0, 75), result
    return result.code == 0


def sidecar(host: Host, lock: str) -> Path:
    """Where a lock's sidecar is."""
    return host.locks / f"{sha256(lock.encode()).hexdigest()}.info"


def fence(host: Host, lock: str) -> int:
    """The last fencing token that a host lock's sidecar tells of."""
    lines = sidecar(host, lock).read_text().splitlines()
    return int(next(line for line in lines if line.startswith("fence ")).split()[1])


def keep(host: Host, lock: str, *words: str) -> str:
    """Have a run end whose `--min-hold` keeps the lock; its job_id."""
    given = ("--lock", lock, "--min-hold", "1h", *words, "--", host.job)
    assert host.run(*given, env={"ACT": ":"}).code == 0
    return host.executions()[-1]


# ---------------------------------------------------------------- locks: host scope


def test_nothing_is_held(host: Host) -> None:
    """Where nobody has ever held a lock there is nothing to tell, and nothing is made."""
    assert listed(host) == []
    assert said(host.run("locks")) == ["no lock is held"]
    assert list(host.root.iterdir()) == []


def test_a_lock_that_is_held(host: Host) -> None:
    """All that is known of it: owner, run, since when, for how long, fencing token; and when the
    run has ended, nothing."""
    before = time.time()
    holder = host.hold("--lock", "a")
    (found,) = listed(host)
    now = time.time()
    (own,) = host.executions()
    token = finish(holder).event("lock_acquired")["fencing_token"]
    assert before <= moment(found["since"]) <= now
    assert 0 <= found["age_ms"] <= (now - moment(found["since"])) * 1000
    del found["since"], found["age_ms"]
    assert found == {
        "lock": "a",
        "scope": "host",
        "slots": 1,
        "shared": False,
        "lock_owner": f"{HERE}:{holder.pid}:{own}",
        "job_id": own,
        "fencing_token": token,
        "expires_in_ms": None,
        "released": False,
    }
    assert listed(host) == []


def test_the_oldest_comes_first(host: Host) -> None:
    """Whatever the locks are called."""
    names = ["b", "c", "a"]
    for name in names:
        host.hold("--lock", name)
    assert [one["lock"] for one in listed(host)] == names


def test_places_of_a_semaphore(host: Host) -> None:
    """Each place that is taken is told of."""
    for _ in range(2):
        host.hold("--lock", "a", "-j", "3")
    found = listed(host)
    assert [(one["lock"], one["slots"]) for one in found] == [("a", 3)] * 2
    assert [one["job_id"] for one in found] == host.executions()
    assert "1 of 3" in said(host.run("locks"))[1]


def test_readers(host: Host) -> None:
    """Each reader of a shared lock is told of, and none that has ended."""
    first, *_ = [host.hold("-s", "--lock", "a") for _ in range(3)]
    finish(first)
    found = listed(host)
    assert [one["job_id"] for one in found] == host.executions()[1:]
    assert [(one["shared"], one["fencing_token"]) for one in found] == [(True, None)] * 2


def test_what_only_min_hold_keeps(host: Host) -> None:
    """A run that has ended is told of as such, with how long its place stays taken."""
    own = keep(host, "a")
    (found,) = listed(host)
    assert (found["job_id"], found["released"]) == (own, True)
    assert 3500_000 < found["expires_in_ms"] <= 3600_000
    assert "min-hold" in said(host.run("locks"))[1]
    holder = host.hold("--lock", "b", "--min-hold", "1h")
    assert [(one["lock"], one["released"]) for one in listed(host)] == [("a", True), ("b", False)]
    finish(holder)


def test_a_not_before_time_that_is_over(host: Host) -> None:
    """It keeps nothing any more."""
    assert host.run("--lock", "a", "--min-hold", "500ms", "--", "true").code == 0
    eventually(lambda: listed(host) == [], what="the not-before time is over")


def test_who_waited_for_it(host: Host) -> None:
    """Who waits holds nothing; who got it by waiting does."""
    first = host.hold("--lock", "a")
    second = host.start("--lock", "a", "-w", "1m", "--", host.job, env={"ACT": "exec cat"})
    eventually(lambda: queued(host.locks) == 1, what="somebody waits")
    assert [one["job_id"] for one in listed(host)] == host.executions()
    third = host.start(
        *("--lock", "a", "-w", "1m", "--", host.job),
        env={"ACT": "exec cat"},
        stdin=subprocess.PIPE,
    )
    eventually(lambda: queued(host.locks) == 2, what="two wait")
    finish(first)
    finish(second)
    eventually(lambda: len(host.executions()) == 3, what="the last one runs")
    assert [one["job_id"] for one in listed(host)] == host.executions()[2:]
    finish(third)


def test_a_holder_that_was_killed(host: Host, mark: str) -> None:
    """`kill -9` leaves nothing that would be told of."""
    holder = host.hold("--lock", "a", env={"ACT": f"exec sleep {mark}"})
    kill(holder.pid)
    no_survivors(mark)
    eventually(lambda: listed(host) == [], what="nothing is held")


def test_a_daemon_holds_nothing(host: Host, mark: str) -> None:
    """What COMMAND left running at a normal end has the descriptor, and not the lock."""
    daemon = f"sleep {mark} >/dev/null 2>&1 &"
    assert host.run("--lock", "a", "--", "sh", "-c", daemon).code == 0
    assert listed(host) == []
    assert free(host, "a")


def test_looking_disturbs_nobody(host: Host) -> None:
    """A run that asks for a lock while somebody looks finds it free, if it is."""
    assert free(host, "a")
    with sidecar(host, "a").with_suffix("").open() as file:
        for _ in range(5):
            process = host.start("locks", "--json")
            while process.poll() is None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if somebody has it
                fcntl.flock(file, fcntl.LOCK_UN)
            assert finish(process).code == 0


def test_a_new_holder_is_not_taken_for_the_last_one(host: Host) -> None:
    """Between getting the lock and being written down a run is not yet known; the run before it,
    which had it for long, is not what the lock-age alert is about."""
    assert host.run("--lock", "a", "--", "true").code == 0
    path = sidecar(host, "a")
    old = path.read_text()
    holder = host.hold("--lock", "a")
    new = path.read_text()
    path.write_text(old)
    process = host.start("locks", "--json")
    eventually(lambda: has_looked(process.pid), what="it has looked")
    path.write_text(new)
    (found,) = objects(finish(process))
    assert found["job_id"] == host.executions()[-1]
    finish(holder)


def has_looked(pid: int) -> bool:
    """Whether a process sleeps, which it does only after it has looked."""
    try:
        return "nanosleep" in Path(f"/proc/{pid}/wchan").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("text", ["", "\0" * 40, "lock b\nslots 1\n", "slots 1\nfence 3\n"])
def test_a_sidecar_that_is_damaged(host: Host, text: str) -> None:
    """The lock is held all the same: that is told, without a name that might be wrong."""
    holder = host.hold("--lock", "a")
    sidecar(host, "a").write_text(text)
    (found,) = listed(host)
    assert (found["lock"], found["lock_owner"], found["since"]) == (None, None, None)
    assert "(its name is not known)" in said(host.run("locks"))[1]
    assert listed(host, "--older-than", "0") == []
    finish(holder)


def test_lock_files_are_not_listed(host: Host) -> None:
    """A lock file may be anywhere, and belongs to everybody."""
    holder = host.hold("--lock-file", "f")
    assert listed(host) == []
    finish(holder)


def test_a_lock_directory_that_is_not_safe(host: Host) -> None:
    """It is refused, as by a run."""
    host.locks.mkdir()
    host.locks.chmod(0o777)
    assert "others can write to it" in one_line(host.run("locks"), 73)


def test_the_table_fits(host: Host) -> None:
    """80 columns, and nothing in it that a terminal obeys; wide ones show more."""
    keep(host, "ü" + "long " * 40)
    host.hold("--lock", "a", "-j", "100")
    lines = said(host.run("locks"))
    titles = ["AGE", "SCOPE", "SLOTS", "HOLDER", "RUN", "EXPIRES", "NOTE", "LOCK"]
    assert lines[0].split() == titles
    assert len(lines) == 3
    assert all(len(line) <= 80 for line in lines)
    assert f"{HERE}:{host.started[-2].pid}" in lines[2]
    wide = said(host.run("locks", env={"COLUMNS": "200"}))
    assert wide[0].split()[:2] == ["AGE", "SINCE"]
    assert "TOKEN" in wide[0].split()
    assert "long long" in wide[1]


# ---------------------------------------------------------------- locks: the alert


def test_the_alert(host: Host) -> None:
    """`--older-than` tells of what has been held for longer, and exits 1 when there is any."""
    assert said(host.run("locks", "--older-than", "0")) == ["no lock has been held for so long"]
    host.hold("--lock", "a")
    eventually(lambda: listed(host)[0]["age_ms"] > 1000, what="a second")
    assert objects(host.run("locks", "--json", "--older-than", "1h")) == []
    (found,) = objects(host.run("locks", "--json", "--older-than", "1s"), 1)
    assert found["lock"] == "a"
    result = host.run("locks", "--older-than", "1s")
    assert (result.code, len(result.stdout.splitlines())) == (1, 2)
    host.hold("--lock", "b")
    assert {one["lock"] for one in listed(host)} == {"a", "b"}
    assert all(
        one["age_ms"] > 1000 for one in objects(host.run("locks", "--json", "--older-than=1s"), 1)
    )


@pytest.mark.parametrize("words", [("--older-than", "soon"), ("--scope", "odd"), ("x",)])
def test_what_locks_does_not_take(host: Host, words: tuple[str, ...]) -> None:
    """A wrong option is one line and exit code 64."""
    one_line(host.run("locks", *words), 64)


# ---------------------------------------------------------------- unlock: host scope


def test_a_lock_whose_run_is_alive(host: Host) -> None:
    """It is not taken away, with `--force` neither: 75, and the line says who holds it."""
    holder = host.hold("--lock", "a", "--min-hold", "1h")
    token = fence(host, "a")
    (own,) = host.executions()
    for words in ((), ("--force",)):
        line = one_line(host.run("unlock", "a", *words), 75)
        assert f"{HERE}:{holder.pid}:{own}" in line
    assert not free(host, "a")
    finish(holder)
    assert fence(host, "a") == token
    assert not free(host, "a")


def test_what_min_hold_keeps_is_taken_away(host: Host) -> None:
    """The next run gets the lock at once, and the fencing token is raised before that."""
    own = keep(host, "a")
    before = fence(host, "a")
    assert not free(host, "a")
    taken, now = said(host.run("unlock", "a", "--force"))
    assert taken.startswith("taken away: the lock 'a' was kept by the --min-hold of ")
    assert own in taken
    assert now == "the lock 'a' is free"
    raised = fence(host, "a")
    assert raised > before
    result = host.run("--lock", "a", "--", "true")
    assert result.event("lock_acquired")["fencing_token"] > raised


def test_unlock_for_programs(host: Host) -> None:
    """One object: what was taken away, and who has the lock now."""
    own = keep(host, "a")
    (found,) = objects(host.run("unlock", "a", "--force", "--json"))
    assert (found["lock"], found["held"]) == ("a", [])
    assert [one["job_id"] for one in found["taken_away"]] == [own]
    (found,) = objects(host.run("unlock", "a", "--force", "--json"))
    assert found == {"lock": "a", "taken_away": [], "held": []}


@pytest.mark.parametrize("used", [False, True])
def test_a_lock_that_is_free(host: Host, used: bool) -> None:
    """Nobody is asked, nothing is changed, and that is no error."""
    if used:
        assert free(host, "a")
        before = sidecar(host, "a").read_text()
    keep(host, "b")
    assert said(host.run("unlock", "a")) == ["the lock 'a' is free"]
    assert not free(host, "b")
    assert not used or sidecar(host, "a").read_text() == before


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1)])
def test_a_person_is_asked(host: Host, answer: str, code: int) -> None:
    """At a terminal it says who holds the lock, asks, and does nothing without a yes."""
    own = keep(host, "a")
    place = Place(host, f"sqlite://{host.state}/ledger.sqlite3")
    ended, shown = place.typed(f"{answer}\n".encode(), "unlock", "a")
    assert ended == code, shown
    words = " ".join(shown.split())
    assert "The lock 'a' is kept by the --min-hold of" in words
    assert own in words
    assert free(host, "a") == (answer == "y")


def test_without_a_terminal_nobody_is_asked(host: Host) -> None:
    """A script says `--force`; without it there is one line that says so."""
    keep(host, "a")
    assert "--force" in one_line(host.run("unlock", "a"), 64)
    assert not free(host, "a")


def kept_twice(host: Host) -> list[str]:
    """Two of three places kept by runs that have ended; their job_ids."""
    return [keep(host, "a", "-j", "3") for _ in range(2)]


def test_all_places_are_taken_away(host: Host) -> None:
    """Of a semaphore every holding goes."""
    kept_twice(host)
    assert len(said(host.run("unlock", "a", "--force"))) == 3
    assert listed(host) == []


@pytest.mark.parametrize("name", ["owner", "place", "job_id", "end"])
def test_one_of_several(host: Host, name: str) -> None:
    """`--owner` takes away from one alone, however he is named."""
    one, other = kept_twice(host)
    (found,) = [told for told in listed(host) if told["job_id"] == one]
    owner = found["lock_owner"]
    words = {"owner": owner, "place": owner.rpartition(":")[0], "job_id": one, "end": one[-8:]}
    lines = said(host.run("unlock", "a", "--force", "--owner", words[name]))
    assert len(lines) == 2
    assert one in lines[0]
    assert other in lines[1]
    assert [told["job_id"] for told in listed(host)] == [other]


def test_nobody_of_that_name(host: Host) -> None:
    """Who holds nothing loses nothing; who does is told of."""
    own = keep(host, "a")
    (line,) = said(host.run("unlock", "a", "--owner", "somebody"))
    assert own in line
    assert not free(host, "a")


def test_one_that_is_alive_among_several(host: Host) -> None:
    """Nothing is taken away from anybody, unless it is said from whom."""
    kept = keep(host, "a", "-j", "3")
    holder = host.hold("--lock", "a", "-j", "3")
    one_line(host.run("unlock", "a", "--force"), 75)
    assert len(listed(host)) == 2
    assert len(said(host.run("unlock", "a", "--force", "--owner", kept))) == 2
    assert [one["job_id"] for one in listed(host)] == host.executions()[1:]
    finish(holder)


def test_what_a_reader_keeps(host: Host) -> None:
    """The not-before time of a shared lock keeps writers out, until it is taken away."""
    own = keep(host, "a", "-s")
    (found,) = listed(host)
    assert (found["job_id"], found["shared"], found["released"]) == (own, True, True)
    assert free(host, "a", "-s")
    assert not free(host, "a")
    assert len(said(host.run("unlock", "a", "--force"))) == 2
    assert free(host, "a")


def test_a_lock_that_others_ask_for_all_the_time(host: Host) -> None:
    """Who asks for a lock that is kept has it for an instant: that is no holder."""
    keep(host, "a")
    ours, theirs = pty.openpty()
    process = host.start("unlock", "a", stdin=theirs, env={"TERM": "dumb"})
    assert process.stderr is not None
    shown = b""
    while b"Take it away?" not in shown:
        part = os.read(process.stderr.fileno(), 4096)
        assert part, shown
        shown += part
    with sidecar(host, "a").with_suffix("").open() as file:
        os.write(ours, b"y\n")
        while process.poll() is None:
            fcntl.flock(file, fcntl.LOCK_EX)
            time.sleep(0.001)
            fcntl.flock(file, fcntl.LOCK_UN)
            time.sleep(0.0002)
    result = finish(process)
    os.close(ours)
    os.close(theirs)
    assert (result.code, result.stdout[:10]) == (0, b"taken away"), result


# ---------------------------------------------------------------- leases


@pytest.fixture(params=KINDS)
def leases(request: pytest.FixtureRequest) -> Iterator[Leases]:
    """Each kind of lease store."""
    made: Leases = STORES[request.param].shared()
    yield made
    made.close()


@pytest.fixture
def fleet(host: Host, leases: Leases) -> Host:
    """A host that knows the lease store."""
    host.env["GUARDRUN_LEASE_URL"] = url_of(leases)
    return host


def ask(lock: str, owner: str = GONE, **fields: Any) -> LeaseRequest:
    """What a run of that host and process asks for."""
    wanted = request(lock, **fields)
    return wanted._replace(owner=f"{owner}:{wanted.job_id}")


def of(found: list[dict[str, Any]], lock: str) -> list[dict[str, Any]]:
    """Those of one lock: others share the server."""
    return [one for one in found if one["lock"] == lock]


def test_a_lease_that_is_held(fleet: Host, leases: Leases) -> None:
    """All that is known of it, and among them what host locks there are, the oldest first."""
    lock = lock_name()
    fleet.hold("--lock", f"{lock}-before", "--scope", "host")
    wanted = ask(lock, slots=3)
    grant = granted(leases.open().acquire(wanted, False, due()))
    fleet.hold("--lock", f"{lock}-after", "--scope", "host")
    found = [one for one in listed(fleet) if one["lock"].startswith(lock)]
    assert [one["lock"] for one in found] == [f"{lock}-before", lock, f"{lock}-after"]
    lease = found[1]
    assert abs(moment(lease["since"]) - grant.since) < 0.001
    assert 0 <= lease["age_ms"] < 60_000
    if leases.lapses:
        assert 0 < lease["expires_in_ms"] <= 30_000
    else:
        assert lease["expires_in_ms"] is None
    del lease["since"], lease["age_ms"], lease["expires_in_ms"]
    assert lease == {
        "lock": lock,
        "scope": "distributed",
        "slots": 3,
        "shared": False,
        "lock_owner": wanted.owner,
        "job_id": wanted.job_id,
        "fencing_token": grant.fence,
        "released": False,
    }
    assert of(listed(fleet, "--scope", "host"), lock) == []
    assert {one["scope"] for one in listed(fleet, "--scope", "distributed")} == {"distributed"}


def test_the_alert_of_a_lease(fleet: Host, leases: Leases) -> None:
    """Its age is what counts, whenever it was renewed last."""
    store, wanted = leases.open(), ask(lock_name())
    granted(store.acquire(wanted, False, due()))

    def old() -> bool:
        assert store.renew(wanted, due())
        (found,) = of(listed(fleet), wanted.lock)
        return bool(found["age_ms"] > 1000)

    eventually(old, what="a second")
    found = objects(fleet.run("locks", "--json", "--older-than", "1s"), 1)
    assert len(of(found, wanted.lock)) == 1
    assert of(listed(fleet, "--older-than", "1h"), wanted.lock) == []


def test_a_holder_that_has_gone(fleet: Host, leases: Leases) -> None:
    """After nobody has renewed the lease for a while it is taken away, and the fence is raised;
    who holds the lock in the other scope keeps it."""
    store, wanted = leases.open(), ask(lock_name(), ttl=20 if leases.lapses else 30)
    before = granted(store.acquire(wanted, False, due()))
    holder = fleet.hold("--lock", wanted.lock, "--scope", "host")
    words = ("unlock", wanted.lock, "--force", "--scope", "distributed")
    taken, now = said(fleet.run(*words))
    assert wanted.owner in taken
    assert now == f"the lock {wanted.lock!r} is free"
    assert not store.renew(wanted, due())
    next_one = granted(leases.open().acquire(ask(wanted.lock), False, due()))
    assert next_one.fence is not None
    assert before.fence is not None
    assert next_one.fence > before.fence
    finish(holder)


def test_a_holder_that_renews(fleet: Host, leases: Leases) -> None:
    """It is alive wherever it is, and keeps the lease, also where a long `--min-hold` hides when
    the lease itself would lapse."""
    store = leases.open()
    wanted = ask(lock_name(), min_hold=3600 if leases.lapses else 0)
    granted(store.acquire(wanted, False, due()))
    process = fleet.start("unlock", wanted.lock, "--force")

    def refused() -> bool:
        assert store.renew(wanted, due())
        return process.poll() is not None

    eventually(refused, 60, "refused")
    line = one_line(finish(process), 75)
    assert wanted.owner in line
    assert "its holder has just shown that it is alive" in line
    assert store.renew(wanted, due())


def test_a_holder_on_this_host(fleet: Host, leases: Leases) -> None:
    """Its guardrun is alive: nothing is asked, nothing is waited for, the lease is kept."""
    run = fleet.hold("--job", "j")
    (own,) = fleet.executions()
    store, wanted = leases.open(), request(lock_name(), ttl=3600)
    wanted = wanted._replace(owner=f"{HERE}:{run.pid}:{own}", job_id=own)
    granted(store.acquire(wanted, False, due()))
    line = one_line(fleet.run("unlock", wanted.lock), 75)
    assert wanted.owner in line
    assert f"alive on this host (process {run.pid})" in line
    finish(run)
    assert store.renew(wanted, due())


def test_a_run_that_holds_a_lease(fleet: Host, leases: Leases) -> None:
    """It is told of, cannot be robbed, and has gone when it has ended."""
    lock = lock_name()
    run = fleet.hold("--lock", lock, "--scope", "distributed")
    (found,) = of(listed(fleet), lock)
    (own,) = fleet.executions()
    assert found["lock_owner"] == f"{HERE}:{run.pid}:{own}"
    assert own in one_line(fleet.run("unlock", lock, "--force"), 75)
    ended = finish(run)
    assert ended.code == 0, ended
    assert found["fencing_token"] == ended.event("lock_acquired")["fencing_token"]
    assert of(listed(fleet), lock) == []
    assert leases.open().holders(lock, due()) == ()


def test_a_pid_that_is_another_runs_by_now(fleet: Host, leases: Leases) -> None:
    """A guardrun that was started after the holder's run had begun proves nothing: here it is the
    lease itself that ends."""
    if not leases.lapses:
        pytest.skip("it has no ttl")
    run = fleet.hold("--job", "j")
    own = job_id(time.time() - 3600)
    wanted = request(lock_name(), ttl=3 / leases.lasts)._replace(
        owner=f"{HERE}:{run.pid}:{own}", job_id=own
    )
    granted(leases.open().acquire(wanted, False, due()))
    *_, last = said(fleet.run("unlock", wanted.lock, "--force"))
    free = f"the lock {wanted.lock!r} is free"
    # Consul gives a lease that has ended to nobody for a while.
    assert last == free or (leases.kind == "consul" and "kept by the lock-delay of" in last)
    finish(run)


def test_a_lease_that_only_min_hold_keeps(fleet: Host, leases: Leases) -> None:
    """Its run has ended, which needs no proof; of several places one can be named."""
    if not leases.lapses:
        pytest.skip("it has no min-hold")
    store, lock = leases.open(), lock_name()
    kept = [ask(lock, slots=3, min_hold=3600) for _ in range(2)]
    for wanted in kept:
        granted(store.acquire(wanted, False, due()))
        assert store.release(wanted, due())
    found = of(listed(fleet), lock)
    assert [one["released"] for one in found] == [True, True]
    start = time.monotonic()
    lines = said(fleet.run("unlock", lock, "--force", "--owner", kept[0].job_id))
    assert time.monotonic() - start < 4
    assert "kept by the --min-hold of" in lines[0]
    assert [kept[0].owner in lines[0], kept[1].owner in lines[1]] == [True, True]
    assert [one["job_id"] for one in of(listed(fleet), lock)] == [kept[1].job_id]


def test_a_lease_that_lapses_meanwhile(fleet: Host, leases: Leases) -> None:
    """Then there is nothing to take away any more; who has the lock by then keeps it."""
    if not leases.lapses:
        pytest.skip("it has no ttl")
    store, wanted = leases.open(), ask(lock_name(), ttl=4 / leases.lasts)
    granted(store.acquire(wanted, False, due()))
    process = fleet.start("unlock", wanted.lock, "--force")
    heir = ask(wanted.lock)
    eventually(lambda: hasattr(store.acquire(heir, False, due()), "fence"), what="a lapse")
    lines = said(finish(process))
    assert lines[0] == f"not taken away: it was not {wanted.owner}'s any more"
    # Consul gives a lease that has ended to nobody for a while.
    assert heir.owner in lines[1] or (
        leases.kind == "consul" and f"kept by the lock-delay of {wanted.owner}" in lines[1]
    )
    assert store.renew(heir, due())


# ---------------------------------------------------------------- stores


def nowhere() -> dict[str, str]:
    """An environment that names a lease store which is not there."""
    return {"GUARDRUN_LEASE_URL": f"redis://:hunter2@127.0.0.1:{servers.free_port()}/0"}


@pytest.fixture
def impatient(host: Host) -> Host:
    """A host whose runs do not wait long for a store."""
    place = host.root / "config" / "guardrun" / "config.toml"
    place.parent.mkdir(parents=True)
    place.write_text('[defaults]\nstore_wait = "1s"\n')
    return host


def test_a_store_that_cannot_be_reached(impatient: Host) -> None:
    """What this host knows is told first; then one line without a password, and 69."""
    holder = impatient.hold("--lock", "a")
    for words in ((), ("--older-than", "0")):
        result = impatient.run("locks", "--json", *words, env=nowhere())
        assert result.code == 69, result
        assert [one["lock"] for one in map(json.loads, result.stdout.splitlines())] == ["a"]
        (line,) = result.stderr.decode().splitlines()
        assert "lease store" in line
        assert "hunter2" not in line
    assert "lease store" in one_line(impatient.run("unlock", "b", env=nowhere()), 69)
    assert len(listed(impatient, "--scope", "host", env=nowhere())) == 1
    finish(holder)


def test_a_database_that_is_the_lease_store_by_default(host: Host, database_url: str) -> None:
    """Without a schema it has no leases, and nobody asked for any; who names it is told."""
    env = {"GUARDRUN_LEDGER_URL": database_url}
    assert listed(host, env=env) == []
    assert said(host.run("unlock", "a", env=env)) == ["the lock 'a' is free"]
    named = env | {
        "GUARDRUN_LEASE_URL": database_url.replace("postgresql:", "postgresql+advisory:")
    }
    assert "guardrun migrate" in host.run("locks", env=named).stderr.decode()
    assert "guardrun migrate" in one_line(
        host.run("locks", "--scope", "distributed", "--json", env=env), 69
    )


@pytest.mark.parametrize("words", [("locks",), ("unlock", "a")])
@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("--lease-url", "redis://:hunter2@db/0"), "a password in an option"),
        (("--lease-url", "consul://hunter2@db"), "a password in an option"),
        (("--lease-url", "mysql://db"), "a lease store cannot be at"),
        (("--scope", "distributed"), "give --lease-url"),
    ],
)
def test_stores_that_are_none(
    host: Host, words: tuple[str, ...], option: tuple[str, str], says: str
) -> None:
    """A wrong URL, or none where one is needed, is a usage error."""
    line = one_line(host.run(*words, *option), 64)
    assert says in line
    assert "hunter2" not in line


def test_help(host: Host) -> None:
    """Both say what they do, and when they refuse."""
    assert "--older-than" in "\n".join(said(host.run("locks", "--help")))
    assert "Refused (75)" in "\n".join(said(host.run("unlock", "--help")))
