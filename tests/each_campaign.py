"""Many items through ``guardrun each`` while its processes are killed, and what became of each.

``make each ITEMS=100000 SEED=7`` is the long form of ``tests/faults/test_each_faults.py``: items
come in batches, each batch is called again until all of it has succeeded, and meanwhile the pool
and the processes around its items are killed at random moments. What COMMAND did is known from the
kernel (flocks that live as long as any process of it) and from what it wrote down itself.
The exit code is 1 when something did not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import servers
from campaign import children_of
from fleet import FleetHost, fleet_host
from support import Host, alive, kill, marker, no_survivors, write_script

EVERY = 20
"""one item of so many fails at first: 5 %"""
FAILURES = 2
"""so often"""
_PATIENCE = 120.0
"""s for so many executions"""
_EARLY = 0.1
"""so many kills come after less than a second, executions or none"""
_CALLS = 60
"""of one batch at most"""

VICTIMS = (
    *(("pool",), ("pool",), ("pool", "warden"), ("pool", "backstop")),
    *(("warden",), ("backstop",), ("keeper",), ("command",), ("warden", "warden", "command")),
)

COMMAND = """\
#!/usr/bin/perl
# Perl, because it starts in a fifth of the time of Python, and there are a hundred thousand.
my ($place, $limits, $longest, $mark, $item) = @ARGV;
my ($number) = $item =~ /([0-9]+)/;
my ($exclusive, $at_once) = (2, 4);

sub complain { open my $out, '>>', "$place/wrong"; syswrite $out, "@_\\n" }

# Held by all that this COMMAND starts: the kernel knows when two are alive together.
open my $own, '+>>', "$place/effects/$number" or die;
flock $own, $exclusive | $at_once or complain "overlap of $item";
my @slots;
for (split /,/, $limits) {
    my ($among, $most) = split /:/;
    for my $free (1 .. $most + 1) {
        complain "more than $most at once in $among" if $free > $most;
        open my $slot, '>>', "$place/$among/$free" or die;
        push @slots, $slot and last if flock $slot, $exclusive | $at_once;
    }
}
open my $count, '>>', "$place/executed" or die;
syswrite $count, '.';
seek $own, 0, 0;
my $failed = grep /^start/, <$own>;
syswrite $own, "start $ENV{GUARDRUN_JOB_ID}\\n";
my $hidden = 0;
if ($number % 50 == 7 and not $hidden = fork) {
    $SIG{TERM} = $SIG{HUP} = 'IGNORE';
    setpgrp;
    sleep 1000;
    exit;
}
select undef, undef, undef, rand $longest;
my $code = $number % EVERY == 0 && $failed < FAILURES;
syswrite $own, "success $ENV{GUARDRUN_JOB_ID}\\n" unless $code;
kill 9, $hidden and waitpid $hidden, 0 if $hidden;
exit $code;
""".replace("EVERY", str(EVERY)).replace("FAILURES", str(FAILURES))


def lay_command(root: Path, among: Iterable[str]) -> Path:
    """Write the COMMAND, and make what it needs to count who is alive ``among`` whom."""
    for name in ("effects", *among):
        (root / name).mkdir()
    (root / "executed").touch()
    return write_script(root / "command", COMMAND)


@dataclass(frozen=True)
class Terms:
    """How the items are worked off."""

    parallel: int
    budget: int
    """retries over all pools"""
    longest: float
    """s that COMMAND works at most"""
    pause: int
    """executions from one kill to the next at most"""


@dataclass
class Tally:
    """What was done, and what did not hold."""

    items: int = 0
    calls: int = 0
    executed: int = 0
    retried: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    overlaps: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    @property
    def failures(self) -> list[str]:
        """Everything that did not hold."""
        return [*self.overlaps, *self.lost, *self.other]


@dataclass(frozen=True)
class Arena:
    """One ledger, the hosts that share it, and a place where COMMAND writes down what it does."""

    root: Path
    hosts: Sequence[Host]
    terms: Terms
    rng: random.Random
    marks: Sequence[str]
    """of each host's processes"""
    tally: Tally = field(default_factory=Tally)

    @classmethod
    def lay(cls, root: Path, hosts: Sequence[Host], terms: Terms, rng: random.Random) -> Arena:
        """With the COMMAND written there."""
        lay_command(root, map(str, range(len(hosts))))
        return cls(root, hosts, terms, rng, [marker() for _ in hosts])

    def words(self, number: int) -> list[str]:
        """A pool's command line on one host.

        Where there is one only, it is called again at once, and the lock keeps the next pool from
        the items that the last one has left behind. Else the words differ, because they say whose
        processes are alive.
        """
        terms, host = self.terms, self.hosts[number]
        alone = len(self.hosts) == 1
        apart = ["--lock", "campaign"] if alone else ["--on-mismatch", "ignore"]
        claim = ["--claim-ttl", "10s"] if isinstance(host, FleetHost) else []
        return [
            *("each", "-P", str(terms.parallel), *apart, *claim, "--wait", "2m"),
            *("--key", "{item}", "--log-to", str(host.root / "log"), "--log-level", "warning"),
            *("--retries", str(FAILURES), "--backoff", "1ms..5ms"),
            *("--retry-budget", f"{terms.budget}/7d", "--kill-after", "50ms"),
            *("--", str(self.root / "command"), str(self.root), f"{number}:{terms.parallel}"),
            *(str(terms.longest), self.marks[number]),
        ]

    def work_off(self, first: int, count: int) -> None:
        """Call for these items on every host, again and again, until all have succeeded."""
        self.tally.items += count
        batch = self.root / "items"
        batch.write_bytes(b"".join(b"item %d\n" % (first + one) for one in range(count)))
        with contextlib.ExitStack() as stack:
            pools: dict[int, Pool] = {}
            left = set(range(len(self.hosts)))
            calls = 0
            while left:
                for number in left - pools.keys():
                    calls += 1
                    assert calls <= _CALLS * len(self.hosts), "the items do not come to an end"
                    pools[number] = self.start(number, batch)
                    stack.callback(pools[number].end)
                self._strike(list(pools.values()))
                for number, pool in list(pools.items()):
                    code = pool.process.poll()
                    if code is None:
                        continue
                    del pools[number]
                    if code == 0:
                        left.discard(number)
                    elif code not in (1, -signal.SIGKILL):
                        self.tally.other.append(
                            f"a pool ended with {code}: {pool.said.read_text()}"
                        )
                    if len(self.hosts) > 1 or code == 0:
                        no_survivors(self.marks[number], 30)
            self.tally.calls += calls

    def start(self, number: int, batch: Path) -> Pool:
        """Start a pool on one host."""
        host, said = self.hosts[number], self.root / f"errors-{number}"
        with batch.open("rb") as items, said.open("wb") as errors:
            process = host.start(
                *self.words(number), stdin=items, stdout=subprocess.DEVNULL, stderr=errors
            )
        return Pool(process, self.marks[number], said)

    def _strike(self, pools: Sequence[Pool]) -> None:
        """Kill something of a pool after so many executions, or early: while it reads or skips."""
        chosen = self.rng.choice(pools)
        members = self.rng.choice(VICTIMS)
        begun, before = time.monotonic(), self._executed()
        early = self.rng.random() < _EARLY
        seconds = self.rng.uniform(0, 1) if early else _PATIENCE
        executions = self.rng.randint(0, self.terms.pause)
        while time.monotonic() < begun + seconds and self._executed() < before + executions:
            time.sleep(0.005)
            if any(pool.process.poll() is not None for pool in pools):
                return
        assert early or time.monotonic() < begun + seconds, "the pools do not go on"
        self.tally.kills.update(chosen.strike(members, self.rng))

    def _executed(self) -> int:
        """How often COMMAND was executed so far."""
        return (self.root / "executed").stat().st_size

    def judge(self) -> Tally:
        """Compare what COMMAND wrote down with the ledger, when all is done."""
        tally = self.tally
        if (wrong := self.root / "wrong").exists():
            tally.overlaps += wrong.read_text().splitlines()
        rows = _Rows.read(self.hosts[0])
        tally.retried = rows.retried
        if rows.retried > self.terms.budget:
            tally.other.append(f"{rows.retried} retries, and {self.terms.budget} were allowed")
        if rows.running:
            tally.other.append(f"{rows.running} rows say that they are running")
        for number in range(1, tally.items + 1):
            self._judge(f"item {number}", self.root / "effects" / str(number), rows)
        return tally

    def _judge(self, item: str, effect: Path, rows: _Rows) -> None:
        told = [line.split() for line in effect.read_text().splitlines()] if effect.exists() else []
        started = [job_id for what, job_id in told if what == "start"]
        recorded = rows.successes.get(item, [])
        self.tally.executed += len(started)
        if len(recorded) != 1 or rows.states.get(item) != "succeeded":
            self.tally.lost.append(f"{item}: {recorded}, {rows.states.get(item)}, {told}")
        elif ["success", recorded[0]] not in told:
            self.tally.lost.append(f"{item}: its success is recorded, and it had none: {told}")
        elif told[-1] != ["success", recorded[0]]:
            self.tally.other.append(f"{item}: executed after its success was recorded: {told}")
        if not set(started) <= rows.job_ids:
            self.tally.other.append(f"{item}: executed before it was claimed: {told}")


@dataclass(frozen=True)
class _Rows:
    """What the ledger says."""

    successes: Mapping[str, list[str]]
    """job_ids of the runs that have succeeded, by key"""
    states: Mapping[str, str]
    job_ids: frozenset[str]
    """of all runs that were claimed"""
    running: int
    retried: int

    @classmethod
    def read(cls, host: Host) -> _Rows:
        """Read all of it."""
        schema = "guardrun." if isinstance(host, FleetHost) else ""

        def ask(query: str) -> list[dict[str, Any]]:
            return host.rows(query.replace("FROM ", f"FROM {schema}"))

        runs = ask("SELECT key, job_id, result FROM runs WHERE result <> 'skipped_duplicate'")
        successes: dict[str, list[str]] = {}
        for row in runs:
            if row["result"] == "success":
                successes.setdefault(row["key"], []).append(str(row["job_id"]))
        (retried,) = ask("SELECT count(*) AS n FROM attempts WHERE number > 1")
        return cls(
            successes,
            {row["key"]: row["state"] for row in ask("SELECT key, state FROM keys")},
            frozenset(str(row["job_id"]) for row in runs),
            sum(row["result"] == "running" for row in runs),
            retried["n"],
        )


@dataclass(frozen=True)
class Pool:
    """One ``guardrun each``."""

    process: subprocess.Popen[bytes]
    mark: str
    said: Path
    """on stderr"""

    def members(self) -> dict[str, list[int]]:
        """The processes it has at the moment, by what they are."""
        found: dict[str, list[int]] = {"pool": [self.process.pid]}
        for child in children_of(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                wardens = children_of(child)
                if os.getsid(child) == child:
                    found.setdefault("keeper", []).append(child)
                elif wardens:
                    found.setdefault("backstop", []).append(child)
                    found.setdefault("warden", []).extend(wardens)
                    for warden in wardens:
                        found.setdefault("command", []).extend(children_of(warden))
        return found

    def strike(self, members: Sequence[str], rng: random.Random) -> list[str]:
        """Kill some of them, as close to at once as can be; what was killed."""
        before = self.members()
        wanted = [(name, rng.choice(before[name])) for name in members if before.get(name)]
        with contextlib.ExitStack() as stack:
            handles = []
            for name, pid in wanted:
                with contextlib.suppress(ProcessLookupError):
                    handles.append((name, pid, os.pidfd_open(pid)))
                    stack.callback(os.close, handles[-1][2])
            # Whose pid it was when it was opened: its own still, or somebody else's by then.
            now = self.members() if self.process.poll() is None else {}
            killed = []
            for name, pid, handle in handles:
                with contextlib.suppress(ProcessLookupError):
                    if pid in now.get(name, ()):
                        signal.pidfd_send_signal(handle, signal.SIGKILL)
                        killed.append(name)
        return killed

    def end(self) -> None:
        """End what a failure has left of it."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in alive(self.mark):
            kill(pid)


def table(tally: Tally, took: float) -> str:
    """What was tried, and what came of it, for people."""
    lines: list[tuple[str, object]] = [
        ("items", tally.items),
        ("pools", tally.calls),
        ("executions", tally.executed),
        ("retries", tally.retried),
        *sorted((f"kill -9: {name}", count) for name, count in tally.kills.items()),
        ("overlaps, or too many at once", len(tally.overlaps)),
        ("lost items", len(tally.lost)),
        ("other promises broken", len(tally.other)),
        ("seconds", round(took)),
    ]
    return "\n".join(f"{name:30} {value:>10}" for name, value in lines)


@contextlib.contextmanager
def _hosts(root: Path, ledger: str, count: int) -> Iterator[list[Host]]:
    if ledger == "sqlite":
        (root / "host").mkdir()
        yield [Host(root / "host")]
        return
    with servers.Postgres.start(max_connections=100) as server:
        url = server.database()
        yield [fleet_host(root / f"host-{number}", url) for number in range(count)]


def main() -> int:
    """Carry out the long form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=2500)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no batch after that")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--parallel", type=int, default=20)
    parser.add_argument("--ledger", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--pools", type=int, default=1, help="at a time, over one Postgres")
    given = parser.parse_args()
    terms = Terms(given.parallel, given.items // EVERY, longest=0.02, pause=300)
    begun = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="guardrun-each-") as name,
        _hosts(Path(name), given.ledger, given.pools) as hosts,
    ):
        arena = Arena.lay(Path(name), hosts, terms, random.Random(given.seed))
        for first in range(1, given.items + 1, given.batch):
            if time.monotonic() > begun + given.seconds:
                break
            arena.work_off(first, min(given.batch, given.items + 1 - first))
            print(f"{arena.tally.items} items, {time.monotonic() - begun:.0f} s", file=sys.stderr)
        tally = arena.judge()
    print(*tally.failures, table(tally, time.monotonic() - begun), sep="\n")
    print(f"{'seed':30} {given.seed:>10}")
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
