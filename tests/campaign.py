"""A fleet at work on a few keys, and whether all that guardrun promises held in the end.

What its COMMAND did is known from the kernel (a flock that lives as long as any process of it) and
from what COMMAND wrote down itself, not from guardrun.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from fleet import FleetHost, ask, fleet_host
from proxy import Proxy
from servers import Postgres
from support import GUARDRUN, alive, eventually, log_lines, status, write_script

GENTLY = ("nice", "-n", "5", *GUARDRUN)
CROWD = 5
"""guardruns at a time"""
_KEYS = 4
"""keys that are worked on at a time"""
_ENOUGH = 2
"""skipped duplicates after which a key has nothing more to tell"""
_PATIENCE = 90.0
"""s that a guardrun may take to end when nothing is broken any more"""

COMMAND = """\
import fcntl, os, signal, sys, time
place, mark = sys.argv[1:]
job_id = os.environ["GUARDRUN_JOB_ID"]
key = os.environ.get("GUARDRUN_IDEMPOTENCY_KEY") or "-"
out = os.open(f"{place}/journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

def say(what):
    os.write(out, f"{what} {key} {job_id} {time.time()}\\n".encode())

if key != "-":
    # Held by all that this COMMAND starts: the kernel knows when two are alive together.
    tree = os.open(f"{place}/{key}.held", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(tree, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("overlap")
    os.set_inheritable(tree, True)
say("start")
grandchild = 0
if os.environ["STUBBORN"] == "1":
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    words = ["/usr/bin/env", "-i", "setsid", "sleep", mark]
    grandchild = os.posix_spawn(words[0], words, os.environ)
time.sleep(float(os.environ["WORK"]))
code = int(os.environ["CODE"])
if code == 0:
    say("success")
if grandchild:
    os.kill(grandchild, signal.SIGKILL)
    os.waitpid(grandchild, 0)
sys.exit(code)
"""


class Said(NamedTuple):
    """One line that COMMAND wrote down."""

    what: str
    """``start``, ``success`` or ``overlap``"""
    key: str
    job_id: str
    at: float
    """s since 1970"""


@dataclass
class Contender:
    """One guardrun, and what was done to it."""

    process: subprocess.Popen[bytes]
    host: FleetHost
    key: str | None
    log: Path
    killed: set[str] = field(default_factory=set)
    stopped: set[str] = field(default_factory=set)
    spared: bool = False
    """it has a part in a fault that takes long, and shall live to see its end"""

    @property
    def touched(self) -> bool:
        """Whether it has had its accident: no run is promised to survive two."""
        return bool(self.killed or self.stopped or self.spared)

    def pids(self) -> dict[str, int]:
        """The processes it has at the moment; those that are not there yet are left out."""
        found = {"supervisor": self.process.pid}
        for child in children_of(self.process.pid):
            try:
                keeper = os.getsid(child) == child
            except ProcessLookupError:
                continue
            below = children_of(child)
            if keeper and status(child).get("State", "Z")[0] not in "ZX":
                found["keeper"] = child
            elif below and not keeper:
                found |= {"backstop": child, "warden": below[0]}
                for command in children_of(below[0])[:1]:
                    found["command"] = command
        return found

    @contextlib.contextmanager
    def grasp(self, members: tuple[str, ...], mark: str) -> Iterator[dict[str, int]]:
        """Pidfds of these members, by name; none when one of them is not there."""
        with contextlib.ExitStack() as stack:
            handles: dict[str, int] = {}
            pids = self.pids()
            if self.process.poll() is None and set(members) <= pids.keys():
                for member in members:
                    with contextlib.suppress(ProcessLookupError):
                        handles[member] = os.pidfd_open(pids[member])
                        stack.callback(os.close, handles[member])
                # Whose pid it was when it was opened: its own still, or somebody else's by then.
                now, ours = self.pids(), set(alive(mark))
                if any(now.get(member) != pids[member] for member in members) or (
                    not {pids[member] for member in members} <= ours
                ):
                    handles = {}
            yield handles if set(members) == handles.keys() else {}

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its log."""
        whole = self.log.read_bytes().rpartition(b"\n")[0]
        return log_lines(whole)

    @property
    def errors(self) -> str:
        """What it said on stderr."""
        return self.log.with_suffix(".err").read_text(errors="replace")


@dataclass
class Station:
    """One host, and the proxy between it and the server, if any."""

    host: FleetHost
    proxy: Proxy | None


@dataclass
class Campaign:
    """Runs that come and go, and what is broken at the moment."""

    root: Path
    mark: str
    server: Postgres
    stations: list[Station]
    rng: random.Random
    """of the runs; the faults have others"""
    longest: float = 4.0
    """s that COMMAND works at most; more than a claim's ttl needs a campaign of many rounds"""
    running: list[Contender] = field(default_factory=list)
    ended: list[Contender] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    story: list[str] = field(default_factory=list)
    broken: set[object] = field(default_factory=set)
    """what has a fault already: ``"server"``, a proxy's port"""
    keys: list[str] = field(default_factory=list)
    _repairs: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _serial: Iterator[int] = field(default_factory=itertools.count)
    _dull: Counter[str] = field(default_factory=Counter)
    _next_start: float = 0.0

    @classmethod
    @contextlib.contextmanager
    def start(cls, root: Path, mark: str, rng: random.Random, longest: float) -> Iterator[Campaign]:
        """A server, three hosts, two of them behind proxies, and no run yet."""
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(Postgres.start(max_connections=60))
            campaign = cls(root, mark, server, [], rng, longest)
            write_script(root / "command", f"#!{sys.executable} -IS\n{COMMAND}")
            for name in ("direct", "one", "two"):
                url, proxy = server.url, None
                if name != "direct":
                    proxy = stack.enter_context(Proxy.before(server.url))
                    url = proxy.url_for(url)
                host = fleet_host(root / name, url)
                campaign.stations.append(Station(host, proxy))
                stack.callback(host.close)
            stack.callback(campaign.repair_all)
            yield campaign

    def tell(self, what: str) -> None:
        """Add to the story, for whoever looks for the reason of a failure."""
        self.story.append(f"{datetime.now().isoformat(timespec='milliseconds')} {what}")

    # ------------------------------------------------------------ time

    def live(self, seconds: float) -> None:
        """Let runs come and go for so long, and repair what is due."""
        until = time.monotonic() + seconds
        while True:
            self._tick()
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.02))  # moments, not conditions

    def live_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Let runs come and go until something is so; whether it came to that in time."""
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() >= until:
                return False
            self.live(0.02)
        return True

    def later(self, seconds: float, repair: Callable[[], None]) -> None:
        """Repair something in so many seconds."""
        heapq.heappush(self._repairs, (time.monotonic() + seconds, next(self._serial), repair))

    def repair_all(self) -> None:
        """Repair now whatever is broken."""
        while self._repairs:
            heapq.heappop(self._repairs)[2]()

    def _tick(self) -> None:
        while self._repairs and self._repairs[0][0] <= time.monotonic():
            heapq.heappop(self._repairs)[2]()
        self.reap()
        if len(self.running) < CROWD and time.monotonic() >= self._next_start:
            self.begin(self.rng.choice(self.stations))
            self._next_start = time.monotonic() + self.rng.uniform(0, 0.3)

    def reap(self) -> None:
        """Note which runs have ended."""
        for contender in [one for one in self.running if one.process.poll() is not None]:
            self.running.remove(contender)
            self.ended.append(contender)
            key = contender.key
            if key in self.keys and any(
                line.get("result") == "skipped_duplicate" for line in contender.lines
            ):
                self._dull[key] += 1
                if self._dull[key] >= _ENOUGH:
                    self.keys.remove(key)

    # ------------------------------------------------------------ runs

    def begin(
        self, station: Station, work: float | None = None, key: str | None = None, wait: str = ""
    ) -> Contender:
        """Start a run on this host, of a kind that may be told: for how long to work (s), …"""
        while len(self.keys) < _KEYS:
            self.keys.append(self.fresh_key())
        rng = self.rng
        longest = rng.choice((*(0.0, 0.2, 0.5, 1.0) * 2, 2.0, *(self.longest,) * 2))
        env = {
            "WORK": str(rng.uniform(longest / 2, longest) if work is None else work),
            "CODE": rng.choice("0001"),
            "STUBBORN": rng.choice("01"),
        }
        waits = rng.choice(((), ("--wait", "2s"), ("--wait", "15s")))
        options = [
            *("--claim-ttl", "10s", "--kill-after", rng.choice(("100ms", "2s"))),
            *("--record-wait", rng.choice(("1s", "3s", "6s"))),
            *("--store-wait", rng.choice(("2s", "6s", "12s"))),
            *rng.choice(((), ("--retries", "1", "--backoff", "10ms..200ms"))),
            *(("--wait", wait) if wait else waits),
        ]
        contender = self.launch(station.host, key or rng.choice([*self.keys, None]), options, env)
        self.running.append(contender)
        return contender

    def fresh_key(self) -> str:
        """A key that nobody has used."""
        return f"key-{next(self._serial)}"

    def launch(
        self, host: FleetHost, key: str | None, options: list[str], env: Mapping[str, str]
    ) -> Contender:
        """Start a run whose log is kept."""
        words = [*options, *(() if key is None else ("--key", key))]
        command = (str(self.root / "command"), str(self.root), self.mark)
        log = self.root / f"log-{next(self._serial)}"
        with open(log, "wb") as out, open(log.with_suffix(".err"), "wb") as err:
            process = host.start(
                *words, "--", *command, env=env, program=GENTLY, stdout=out, stderr=err
            )
        name = host.root.name
        self.tell(f"{log.name} = {process.pid} on {name}: {' '.join(words)} {dict(env)}")
        return Contender(process, host, key, log)

    # ------------------------------------------------------------ the end

    def settle(self) -> None:
        """Repair everything, and wait until all runs have ended and every claim has lapsed."""
        self.tell("the end: everything is repaired")
        self.repair_all()
        until = time.monotonic() + _PATIENCE
        while self.running and time.monotonic() < until:
            self.reap()
            time.sleep(0.02)
        assert not self.running, f"they do not end: {[one.log.name for one in self.running]}"
        eventually(lambda: not self.survivors(), 75, f"survivors: {self.survivors}")
        for station in self.stations:
            flushed = station.host.run("flush")
            assert flushed.code == 0, flushed
            left = list((station.host.state / "spool").glob("*/*.[!j]*"))
            assert not station.host.spooled(), "flush has left something"
            assert not left, f"drafts, or damaged outcomes: {left}"
        eventually(lambda: not self.held(), 20, "every claim to lapse")

    def survivors(self) -> list[int]:
        """Processes of guardrun or COMMAND that are alive."""
        found = set(alive(self.mark))
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                environ = Path(f"/proc/{name}/environ").read_bytes()
                if f"GUARDRUN_STATE_DIR={self.root}/".encode() in environ:
                    found.add(int(name))
        return sorted(found - {os.getpid()})

    def held(self) -> list[dict[str, Any]]:
        """Keys that some run still holds, in the server's eyes."""
        return self.ask("SELECT * FROM guardrun.key_states WHERE state = 'running'")

    def ask(self, query: str, *values: object) -> list[dict[str, Any]]:
        """Rows of the ledger, past every proxy."""
        return ask(self.server.url, query, *values)

    def journal(self) -> list[Said]:
        """What COMMAND has written down, in order."""
        path = self.root / "journal"
        words = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [Said(what, key, job_id, float(at)) for what, key, job_id, at in words]


@dataclass
class Findings:
    """What was promised and did not hold, and how much was tried."""

    overlaps: list[str] = field(default_factory=list)
    doubles: list[str] = field(default_factory=list)
    """keys that succeeded twice, or that were executed after their success was told"""
    lost: list[str] = field(default_factory=list)
    """outcomes that are not in the ledger as they were"""
    disagreements: list[str] = field(default_factory=list)
    """keys and runs that say different things"""
    oddities: list[str] = field(default_factory=list)
    tried: Counter[str] = field(default_factory=Counter)

    @property
    def wrong(self) -> dict[str, list[str]]:
        """Everything that must not be."""
        every = {
            "overlaps": self.overlaps,
            "double successes": self.doubles,
            "lost outcomes": self.lost,
            "disagreements": self.disagreements,
            "oddities": self.oddities,
        }
        return {name: found for name, found in every.items() if found}


_ROWS = """
SELECT job_id::text, key, finished_at, exit_code, stale, lease_lost, attempts,
       CASE WHEN result = 'running' AND alive_until <= clock_timestamp() THEN 'interrupted'
            ELSE result END AS result
  FROM guardrun.runs
"""
_LEFT_BY = {
    "succeeded": {"success"},
    "failed": {"failed", "lock_busy", "store_unavailable", "lease_lost", "interrupted"},
    "interrupted": {"interrupted", "lease_lost", "timeout"},
}
"""The results of a run that may have left its key in that state"""


def inspect(campaign: Campaign) -> Findings:
    """Compare what COMMAND did, what guardrun told, and what the ledger says."""
    found = Findings()
    journal = campaign.journal()
    rows = {row["job_id"]: row for row in campaign.ask(_ROWS)}
    keys = campaign.ask("SELECT key, state, job_id::text FROM guardrun.key_states")
    found.overlaps = [str(said) for said in journal if said.what == "overlap"]
    told = _compare_told(campaign, rows, found)
    _compare_journal(journal, rows, told, found)
    _compare_keys(keys, rows, found)
    found.tried.update(
        runs=len(campaign.ended),
        executions=sum(said.what == "start" for said in journal),
        keys=len(keys),
        spooled=sum(
            any(line["event"] == "outcome_spooled" for line in one.lines) for one in campaign.ended
        ),
        stale=sum(row["stale"] for row in rows.values()),
    )
    for row in rows.values():
        found.tried[f"result {row['result']}"] += 1
    return found


class _Told(NamedTuple):
    """How a run ended, as it told itself."""

    contender: Contender
    finished: dict[str, Any] | None
    spooled: bool


def _compare_told(
    campaign: Campaign, rows: Mapping[str, dict[str, Any]], found: Findings
) -> dict[str, _Told]:
    told = {}
    for contender in campaign.ended:
        lines, code = contender.lines, contender.process.returncode
        name = f"{contender.log.name} ({code}, {sorted(contender.killed | contender.stopped)})"
        events = {line["event"]: line for line in lines}
        finished = events.get("run_finished")
        if "Traceback" in contender.errors or len(contender.errors.splitlines()) > 1:
            found.oddities.append(f"{name}: {contender.errors}")
        if code == 70 and not contender.killed & {"warden", "backstop"}:
            found.oddities.append(f"{name}: a fault of its own: {finished}")
        if "outcome_unsaved" in events:
            found.lost.append(f"{name}: {events['outcome_unsaved']}")
        if not lines and "supervisor" not in contender.killed:
            found.oddities.append(f"{name}: it has not said a word")
        if lines:
            spooled = "outcome_spooled" in events
            told[lines[0]["job_id"]] = _Told(contender, finished, spooled)
        if finished is None:
            if "supervisor" not in contender.killed:
                found.lost.append(f"{name}: it told no end")
            continue
        row = rows.get(finished["job_id"])
        if row is None or row["finished_at"] is None or row["result"] != finished["result"]:
            found.lost.append(f"{name}: it told {finished}; the ledger: {row}")
        elif code >= 0 and row["exit_code"] != code and not (row["stale"] and code == 74):
            found.disagreements.append(f"{name}: exit code {code}, and in the ledger: {row}")
        elif row["stale"] and not (finished.get("lease_lost") or "outcome_spooled" in events):
            found.disagreements.append(f"{name}: stale, but it was not told: {finished}")
    return told


def _compare_journal(
    journal: list[Said],
    rows: Mapping[str, dict[str, Any]],
    told: Mapping[str, _Told],
    found: Findings,
) -> None:
    done_at: dict[str, float] = {}
    for job_id, one in told.items():
        finished, row = one.finished, rows.get(job_id)
        if finished is None or finished["result"] != "success" or one.spooled:
            continue
        if row and row["key"] and not row["stale"]:
            at = datetime.fromisoformat(finished["timestamp"]).timestamp()
            done_at[row["key"]] = min(at, done_at.get(row["key"], at))
    cut_short = _cut_short(journal, told)
    for said in journal:
        if said.what != "start":
            continue
        row = rows.get(said.job_id)
        if row is None:
            # Without a key nobody waits for the row, nor can a supervisor that is killed.
            if said.key != "-" or said.job_id not in cut_short:
                found.lost.append(f"{said}: executed, and not in the ledger")
        elif row["result"] == "running":
            found.lost.append(f"{said}: still running in the ledger")
        if said.at > done_at.get(said.key, said.at):
            found.doubles.append(f"{said}: after its key had succeeded at {done_at[said.key]}")
    successes = {said.job_id for said in journal if said.what == "success"}
    for row in rows.values():
        if row["result"] == "success" and row["job_id"] not in successes:
            found.disagreements.append(f"no COMMAND has said that it succeeded: {row}")


def _cut_short(journal: list[Said], told: Mapping[str, _Told]) -> set[str]:
    """The runs whose supervisor was killed; what had not said a word yet is one of them."""
    silent = {said.job_id for said in journal} - told.keys()
    return silent | {job_id for job_id, one in told.items() if "supervisor" in one.contender.killed}


def _compare_keys(
    keys: list[dict[str, Any]], rows: Mapping[str, dict[str, Any]], found: Findings
) -> None:
    good: dict[str, list[str]] = {}
    for row in rows.values():
        if row["key"] and row["result"] == "success" and not row["stale"]:
            good.setdefault(row["key"], []).append(row["job_id"])
    found.doubles += [f"{key}: {jobs}" for key, jobs in good.items() if len(jobs) > 1]
    for key in keys:
        run = rows.get(key["job_id"])
        if run is None or run["result"] not in _LEFT_BY.get(key["state"], set()):
            found.disagreements.append(f"{key}: its run is {run}")
        if (key["state"] == "succeeded") != (key["key"] in good):
            found.disagreements.append(f"{key}: successes are {good.get(key['key'])}")


def work_off(campaign: Campaign) -> list[str]:
    """Run every key once more; what is wrong with how that went."""
    wrong = []
    states = {row["key"]: row["state"] for row in campaign.ask("TABLE guardrun.key_states")}
    host = campaign.stations[0].host
    env = {"WORK": "0", "CODE": "0", "STUBBORN": "0"}
    left = list(states)
    while left:
        batch, left = left[:CROWD], left[CROWD:]
        last = [campaign.launch(host, key, [], env) for key in batch]
        for contender in last:
            contender.process.wait(60)
            campaign.ended.append(contender)
            result = contender.lines[-1].get("result")
            was = states[str(contender.key)]
            if result != ("skipped_duplicate" if was == "succeeded" else "success"):
                wrong.append(f"{contender.key} was {was}: {contender.lines[-1]}")
    return wrong


def children_of(pid: int) -> list[int]:
    """The children of a process; none when it is gone."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(word) for word in listed.split()]
