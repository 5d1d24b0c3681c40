"""The simulated etcd and a real one, asked the same: what is shown for one holds for the other."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from lease_stores import PrivateEtcd, due, lock_name
from sim.etcd_model import EtcdError, EtcdModel
from support import eventually

from guardrun.locks.etcd_connection import Gateway, Refused
from guardrun.locks.etcd_keys import ENTRY, HOLD, beyond, coded, key
from guardrun.locks.etcd_url import read
from guardrun.locks.etcd_watch import Target
from guardrun.locks.etcd_words import all_of, compare, delete, get, put

Word = dict[str, Any]

LONG = 600
"""s that the leases of a history last: none lapses meanwhile"""
_COMPARED = (
    *(("CREATE", "EQUAL"), ("MOD", "LESS"), ("MOD", "EQUAL")),
    *(("LEASE", "GREATER"), ("LEASE", "EQUAL")),
)
"""of a key what, and how"""
_KINDS = ("put", "sign", "delete", "get", "all", "page")
"""what is done in a transaction"""
REVISIONS = ("revision", "create_revision", "mod_revision")


class History:
    """One random history, asked of both; revisions of the two differ by an offset."""

    def __init__(self, gateway: Gateway, rng: random.Random) -> None:
        self._gateway = gateway
        self._rng = rng
        self.lock = lock_name()
        self.model = EtcdModel()
        self.leases: list[tuple[int, int]] = []
        """(the real id, the model's)"""
        now = gateway.ask(due(), "kv/range", {"key": coded(b"guardrun/")})
        self.offset = int(now["header"]["revision"]) - self.model.revision
        self.told: list[str] = []
        """what came of each request, in a word"""

    def ask(self, path: str, ours: Word, theirs: Word) -> None:
        """Ask the real one ``ours``, the model ``theirs``: the same, but for numbers; compare."""
        try:
            said = self._plain(self._gateway.ask(due(), path, ours), self.offset)
        except Refused as refused:
            with pytest.raises(EtcdError, match=f"^{refused}$"):
                self.model.ask(path, theirs, 0.0)
            self.told.append(str(refused))
            return
        answer = self.model.ask(path, theirs, 0.0)
        answer = answer.get("result", answer)
        if path == "lease/grant":
            self.leases.append((int(said.pop("ID")), int(answer.pop("ID"))))
        assert said == self._plain(answer, 0), (path, theirs)
        self.told.append("succeeded" if said.get("succeeded") else path)

    def _plain(self, said: Any, offset: int) -> Any:
        """Without what differs between any two servers."""
        if isinstance(said, list):
            return [self._plain(one, offset) for one in said]
        if not isinstance(said, Mapping):
            return said
        plain = {name: self._plain(value, offset) for name, value in said.items()}
        for name in ("cluster_id", "member_id", "raft_term"):
            plain.pop(name, None)
        for name in REVISIONS:
            if name in plain:
                plain[name] = int(plain[name]) - offset
        for name in ("lease", "ID"):
            if name in plain:
                plain[name] = self._same_lease(int(plain[name]))
        return plain

    def _same_lease(self, number: int) -> int:
        return next((at for at, both in enumerate(self.leases) if number in both), number)

    # ------------------------------------------------------------ what is asked

    def step(self) -> None:
        """Ask something at random."""
        rng = self._rng
        drawn = rng.random()
        if drawn < 0.08 or not self.leases:
            ttl = rng.choice((1, 2, LONG, LONG, LONG))
            self.ask("lease/grant", {"TTL": ttl}, {"TTL": ttl})
            if ttl != LONG:  # only to see how long it is
                self._on_lease("lease/revoke", self.leases.pop())
        elif drawn < 0.12:
            self._on_lease("lease/revoke", rng.choice(self.leases))
        elif drawn < 0.2:
            self._on_lease("lease/keepalive", rng.choice(self.leases))
        else:
            self._transact()

    def _on_lease(self, path: str, lease: tuple[int, int]) -> None:
        self.ask(path, {"ID": lease[0]}, {"ID": lease[1]})

    def _name(self) -> bytes:
        return key(self.lock, self._rng.choice((ENTRY, ENTRY, HOLD)), self._rng.choice("abc"))

    def _transact(self) -> None:
        rng = self._rng
        names = [self._name() for _ in range(3)]
        alive = [one for one in self.leases if one[1] in self.model.leases]
        known = self.leases if rng.random() < 0.1 else [*alive, (0, 0)]
        leases = [rng.choice(known) for _ in names]
        value = coded(rng.randbytes(rng.choice((0, 3))))
        compared = [self._compare(rng.choice(names)) for _ in range(rng.choice((0, 1, 1, 2)))]
        kinds = rng.choices(_KINDS, (4, 1, 2, 1, 1, 3), k=rng.randrange(5))
        bodies = []
        for side in (0, 1):
            offset = 0 if side else self.offset
            words: list[Word] = []
            written: set[bytes] = set()
            for kind, name, lease in zip(kinds, (*names, *names), (*leases, *leases), strict=False):
                if kind in ("put", "sign", "delete") and name in written:
                    continue  # etcd refuses to write a key twice in a transaction; nobody does
                if kind in ("put", "sign", "delete"):
                    written.add(name)
                words.append(self._word(kind, name, lease[side], value, offset))
            only_if = compared if side else [self._moved(word) for word in compared]
            reads = [all_of(key(self.lock, ENTRY)), get(names[0])]
            bodies.append({"compare": only_if, "success": [*words, *reads], "failure": reads})
        self.ask("kv/txn", *bodies)

    def _word(self, kind: str, name: bytes, lease: int, value: str, offset: int) -> Word:
        if kind == "put":
            return put(name, lease, value)
        if kind == "sign":
            return {"request_put": {"key": coded(name), "ignore_lease": True}}
        if kind == "delete":
            return delete(name)
        if kind == "get":
            return get(name)
        word = all_of(key(self.lock, ENTRY))
        if kind == "page":
            word["request_range"] |= {
                "sort_target": "CREATE",
                "sort_order": "DESCEND" if value else "ASCEND",
                "limit": 2,
                "max_create_revision": self.model.revision - 1 + offset,
            }
        return word

    def _compare(self, name: bytes) -> Word:
        rng = self._rng
        target, result = rng.choice(_COMPARED)
        there = self.model.keys.get(name)
        number = 0 if there is None or result == "GREATER" else there.number(target)
        if target == "LEASE":
            return compare(name, target, result, number)
        if target == "MOD" and result == "LESS":
            number = self.model.revision + rng.choice((0, 1))
            every = key(self.lock, ENTRY)
            return compare(every, target, result, number) | {"range_end": coded(beyond(every))}
        return compare(name, target, result, number + rng.choice((0, 0, 0, 1)))

    def _moved(self, word: Word) -> Word:
        """A comparison as the real one numbers revisions and leases; 0 is none of them."""
        moved = dict(word)
        for name in REVISIONS:
            if int(moved.get(name, 0)):
                moved[name] = str(int(moved[name]) + self.offset)
        if int(moved.get("lease", 0)):
            moved["lease"] = str(
                {theirs: ours for ours, theirs in self.leases}[int(moved["lease"])]
            )
        return moved

    # ------------------------------------------------------------ what is watched

    def watched(self, url: str, target: Target, since: int) -> list[tuple[int, bytes, bool]]:
        """What the real one tells of it since that revision, up to a deletion made for that."""
        end = self.model.revision + 2
        for word in (put(target.first, 0), delete(target.first)):
            body: Word = {"compare": [], "success": [word], "failure": []}
            self.ask("kv/txn", body, body)
        cluster = read(url)
        assert cluster.login is not None
        (member,) = cluster.members
        told: list[tuple[int, bytes, bool]] = []
        connection = http.client.HTTPConnection(member.host, member.port, timeout=5)
        with contextlib.closing(connection) as line:
            line.request("POST", "/v3/auth/authenticate", json.dumps(cluster.login._asdict()))
            login = {"Authorization": json.load(line.getresponse())["token"]}
            body = {"create_request": target.request(since + self.offset)}
            line.request("POST", "/v3/watch", json.dumps(body), login)
            answer = line.getresponse()
            while not told or told[-1][0] < end:
                for event in json.loads(answer.readline())["result"].get("events", ()):
                    kv = event["kv"]
                    revision = int(kv["mod_revision"]) - self.offset
                    told.append((revision, b64decode(kv["key"]), event.get("type") == "DELETE"))
        return told


@pytest.fixture(scope="module")
def server() -> Iterator[PrivateEtcd]:
    """One that nobody else writes to: every revision counts."""
    with PrivateEtcd.start() as started:
        yield started


@pytest.fixture
def gateway(server: PrivateEtcd) -> Iterator[Gateway]:
    """The way to it."""
    with contextlib.closing(Gateway(server.url)) as made:
        yield made


@pytest.mark.parametrize("seed", range(6))
def test_both_answer_the_same(gateway: Gateway, seed: int) -> None:
    """Transactions, leases and what is refused of them: word for word, over random histories."""
    history = History(gateway, random.Random(seed))
    for _ in range(120):
        history.step()
    assert {"succeeded", "kv/txn"} <= set(history.told)
    assert history.model.revision > 20
    assert any("not found" in one for one in history.told)


@pytest.mark.parametrize("puts", [True, False])
def test_both_tell_a_watch_the_same(server: PrivateEtcd, gateway: Gateway, puts: bool) -> None:
    """A key, and all of them: what happened since a revision, and what happens then."""
    history = History(gateway, random.Random(puts))
    for _ in range(120):
        history.step()
    entries = key(history.lock, ENTRY)
    for first, end in ((key(history.lock, ENTRY, "a"), b""), (entries, beyond(entries))):
        target = Target(history.lock, first, end, puts)
        for since in (1, history.model.revision // 2, history.model.revision + 1):
            told = history.watched(server.url, target, since)
            _, changes = history.model.watch(target.request(since))
            assert told == [tuple(change) for change in changes]
            assert len(told) > 2 or since > 1


def test_both_let_leases_lapse(gateway: Gateway) -> None:
    """A lease that was not extended ends with its keys; that is no error, but one without a TTL."""
    history = History(gateway, random.Random(0))
    history.ask("lease/grant", {"TTL": 2}, {"TTL": 2})
    ((ours, theirs),) = history.leases
    name = key(history.lock, ENTRY, "a")
    bodies = [{"compare": [], "success": [put(name, one)], "failure": []} for one in (ours, theirs)]
    history.ask("kv/txn", *bodies)
    gone = {"compare": [compare(name, "CREATE", "EQUAL", 0)], "success": [], "failure": []}
    eventually(lambda: gateway.ask(due(), "kv/txn", gone).get("succeeded"), within=10)
    history.model.lapse(2.0)
    history.ask("kv/txn", gone, gone)
    for path in ("lease/keepalive", "lease/timetolive", "lease/revoke"):
        history.ask(path, {"ID": ours}, {"ID": theirs})
    read = {"key": coded(name)}
    history.ask("kv/range", read, read)
