"""The simulated Consul and a real one, asked the same: what is shown for one holds for both."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from lease_stores import PrivateConsul, due, lock_name
from sim.consul_model import ConsulError, ConsulModel, Query
from support import eventually

from guardrun import kernel
from guardrun.locks.consul_connection import Http
from guardrun.locks.consul_keys import PLACE, WAIT, key, prefix
from guardrun.locks.consul_session import absent, delete, held, lock, unlock
from guardrun.locks.gateway import Refused

Word = dict[str, Any]

LONG = 600_000
"""ms that the sessions of a history last: none lapses meanwhile"""
_NOBODY = "00000000-0000-0000-0000-000000000000"
_INDEXES = ("CreateIndex", "ModifyIndex")
_INDEX = re.compile(r"index \d+ != \d+")
"""in an error"""
_KINDS = ("lock", "unlock", "delete", "held", "unchanged", "absent", "tree")
"""what is done in a transaction"""


class History:
    """One random history, asked of both.

    Of indexes, of which a real server spends some on itself, the order has to be the same.
    """

    def __init__(self, http: Http, rng: random.Random, url: str = "") -> None:
        self.http = http
        self.url = url
        self._rng = rng
        self.lock = lock_name()
        self.model = ConsulModel(least=0.01)
        self.now = 0.0
        """by the model's clock"""
        self.sessions: list[tuple[str, str]] = []
        """(the real one, the model's)"""
        self._indexes: dict[int, int] = {}
        """the model's: the real one"""
        self.told: list[str] = []
        """what came of each request, in a word"""

    def ask(self, method: str, path: str, body: Any = None, **given: str) -> Any:
        """Ask both, each by its own names of sessions and indexes; compare what they say.

        ``body``, path and parameters are the model's; what was said is, as well.
        """
        theirs = self._swap(body, real=True), self._swap(path, real=True)
        asked = {name: str(self._swap(value, real=True)) for name, value in given.items()}
        try:
            answer = self.http.ask(due(), method, theirs[1], theirs[0], **asked)
        except Refused as refused:
            with pytest.raises(ConsulError) as error:
                self.model.ask(method, path, given, body, self.now)
            assert str(error.value) == self._swap(str(refused))
            self.told.append(str(refused))
            return None
        try:
            told = self.model.ask(method, path, given, body, self.now)
        except ConsulError as error:
            assert (answer.status, answer.body, error.status) == (404, None, 404)
            self.told.append(str(error))
            return None
        if path == "session/create":
            self.sessions.append((answer.body["ID"], told.body["ID"]))
        assert answer.status == told.status
        if told.changed:
            self._same_index(told.changed, answer.changed)
        self._compare(told.body, answer.body)
        errors = told.body["Errors"] or () if path == "txn" else ()
        self.told += [error["What"] for error in errors] or [path]
        return told.body

    def _compare(self, model: Any, real: Any) -> None:
        """What the model says is what the real one says, which may say more than is asked for."""
        if isinstance(model, Mapping):
            for name, value in model.items():
                if name in _INDEXES:
                    self._same_index(value, real[name])
                else:
                    self._compare(value, real[name])
            assert ("Session" in model) == bool(real.get("Session"))
        elif isinstance(model, list):
            assert len(model) == len(real)
            for one, other in zip(model, real, strict=True):
                self._compare(one, other)
        elif isinstance(model, str):
            assert _INDEX.sub("index", model) == _INDEX.sub("index", self._swap(real))
        else:
            assert model == real

    def _same_index(self, model: int, real: int) -> None:
        known = self._indexes.setdefault(model, real)
        assert known == real
        in_order = [self._indexes[one] for one in sorted(self._indexes)]
        assert in_order == sorted(set(in_order))

    def _swap(self, word: Any, real: bool = False) -> Any:
        """The same in the real one's names and indexes, or in the model's names."""
        if isinstance(word, list):
            return [self._swap(one, real) for one in word]
        if isinstance(word, Mapping):
            given = {"Index": self._indexes.get(word["Index"], 0)} if "Index" in word else {}
            return {name: self._swap(one, real) for name, one in word.items()} | given
        if isinstance(word, str):
            for theirs, ours in self.sessions:
                word = word.replace(ours, theirs) if real else word.replace(theirs, ours)
        return word

    # ------------------------------------------------------------ what is asked

    def step(self) -> None:
        """Ask something at random."""
        rng = self._rng
        drawn = rng.random()
        if drawn < 0.1 or not self.sessions:
            self.create(rng.choice((LONG, LONG, LONG, 5)), rng.choice(("0ms", "60000ms")))
        elif drawn < 0.15:
            self.ask("PUT", f"session/renew/{self._session(0.2)}")
        elif drawn < 0.2:
            self.ask("PUT", f"session/destroy/{self._session(0.2)}")
        elif drawn < 0.25:
            self.ask("GET", f"kv/{key(self.lock, rng.choice((PLACE, WAIT)))}", recurse="")
        elif drawn < 0.3:
            self.ask("GET", f"kv/{self._name()}")
        elif drawn < 0.35:
            self.ask("PUT", f"kv/{self._name()}", acquire=_NOBODY)
        elif drawn < 0.45:
            words = [_tree(prefix(self.lock)), _tree(key(self.lock, PLACE))]
            self.ask("PUT", "txn", words, consistent="")
        else:
            kinds = rng.choices(_KINDS, (6, 2, 2, 1, 1, 1, 1), k=rng.randrange(1, 5))
            self.ask("PUT", "txn", [self._word(kind) for kind in kinds])

    def create(self, ttl: int = LONG, delay: str = "0ms", deletes: bool | None = None) -> str:
        """A new session; its name."""
        deletes = self._rng.random() < 0.3 if deletes is None else deletes
        body = {"TTL": f"{ttl}ms", "LockDelay": delay, "NodeChecks": [], "Checks": []}
        behavior = {"Behavior": "delete" if deletes else "release"}
        made = self.ask("PUT", "session/create", body | behavior)
        return str(made["ID"]) if made else ""

    def _session(self, gone: float = 0.05) -> str:
        """The model's name of one; with that probability it may be gone."""
        alive = [ours for _, ours in self.sessions if ours in self.model.sessions]
        every = [ours for _, ours in self.sessions]
        return self._rng.choice(alive if alive and self._rng.random() > gone else every)

    def _name(self) -> str:
        return key(self.lock, self._rng.choice((PLACE, PLACE, WAIT)), self._rng.choice("012"))

    def _word(self, kind: str) -> Word:
        name = self._name()
        there = self.model.keys.get(name)
        session = self._session()
        if there is not None and there.session and self._rng.random() < 0.7:
            session = there.session
        match kind:
            case "lock":
                return lock(name, session, self._rng.choice(("", "eA==", "eXk=")))
            case "unlock":
                return unlock(name, session)
            case "delete":
                return delete(name)
            case "held":
                return held(name, session)
            case "unchanged":
                right = there and there.modified in self._indexes and self._rng.random() < 0.6
                known = sorted(self._indexes) or [0]
                at = there.modified if there and right else self._rng.choice(known)
                return {"KV": {"Verb": "check-index", "Key": name, "Index": at}}
            case "absent":
                return absent(name)
        return _tree(key(self.lock, PLACE))

    # ------------------------------------------------------------ what is waited for

    def hears(self, query: Query, then: list[Word]) -> bool:
        """Whether a query after the last index is answered by a change; both have to agree."""
        given = {"recurse": ""} if query.below else {}
        self.ask("GET", f"kv/{query.name}", **given)
        before = self.model.read(query).changed
        index = str(self._indexes[before])
        waits = {"index": index, "wait": "60s", **given}
        with contextlib.closing(Http(self.url)) as http:
            wire = http.listen(due(), f"kv/{query.name}", **waits)
            told = len(self.model.changes)
            self.ask("PUT", "txn", then)
            news = any(map(query.wants, self.model.changes[told:]))
            answered = news and self.model.read(query).changed > before
            with contextlib.closing(wire):
                if answered:
                    eventually(wire.take, 10, "the answer")
                else:
                    self.ask("GET", f"kv/{query.name}", **given)
                    assert wire.take() == b""
        return answered


def _tree(begin: str) -> Word:
    return {"KV": {"Verb": "get-tree", "Key": begin}}


@pytest.fixture(scope="module")
def server() -> Iterator[PrivateConsul]:
    """One that nobody else writes to: every change of a key counts."""
    with PrivateConsul.start() as started:
        yield started


@pytest.fixture
def http(server: PrivateConsul) -> Iterator[Http]:
    """The way to it."""
    with contextlib.closing(Http(server.url)) as made:
        yield made


@pytest.mark.parametrize("seed", range(6))
def test_both_answer_the_same(http: Http, seed: int) -> None:
    """Transactions, sessions and what is refused of them: word for word, over random histories."""
    history = History(http, random.Random(seed))
    for _ in range(400):
        history.step()
    told = "\n".join(history.told)
    for refused in ("exists", "invalid session", "lock delay", "already held", "Invalid Session"):
        assert refused in told
    for refused in ("failed index check", "failed session check", "failed to unlock", "not found"):
        assert refused in told
    assert history.told.count("txn") > 20


def test_both_answer_a_query_the_same(server: PrivateConsul, http: Http) -> None:
    """A key, one that is not there, and all below: by what is answered who waits for news of it."""
    history = History(http, random.Random(0), server.url)
    session = history.create(deletes=False)
    one, other, third = (key(history.lock, PLACE, number) for number in range(3))
    history.ask("PUT", "txn", [lock(name, session, "eA==") for name in (one, other)])
    itself, below = Query(one, below=False), Query(key(history.lock, PLACE), below=True)
    assert not history.hears(itself, [lock(other, session, "eXk=")])
    assert history.hears(itself, [lock(one, session, "eXk=")])
    assert not history.hears(itself, [lock(one, session, "eXk=")]), "nothing has changed"
    assert history.hears(below, [lock(other, session, "eA==")])
    assert not history.hears(below, [lock(key(history.lock, WAIT, "a"), session, "eA==")])
    assert history.hears(Query(third, below=False), [lock(third, session, "eA==")])
    assert history.hears(itself, [delete(one)])
    assert history.hears(below, [delete(other)])
    assert history.hears(itself, [lock(one, session, "eA==")])


@pytest.mark.parametrize("deletes", (False, True))
def test_both_let_a_session_lapse(http: Http, deletes: bool) -> None:
    """Who is not renewed for twice its TTL loses what it has locked, or it goes; then the delay."""
    # One at a time: of two that lapse together, a server ends either first.
    history = History(http, random.Random(0))
    began = kernel.now()
    session = history.create(1000, "5000ms", deletes)
    after = history.create()
    names = [key(history.lock, PLACE, number) for number in range(2)]
    history.ask("PUT", "txn", [lock(name, session, "eA==") for name in names])
    eventually(lambda: _free(http, names), 10, "a session that has lapsed")
    assert kernel.now() - began > 2.0
    history.now = 2.001
    for name in names:
        history.ask("GET", f"kv/{name}")
    history.ask("PUT", f"session/renew/{session}")
    await_delay(history, names, after)


def test_both_begin_anew(server: PrivateConsul, http: Http) -> None:
    """Servers that are started again renew every session, and every lock-delay that there was."""
    history = History(http, random.Random(0))
    kept, lost, after = (
        history.create(deletes=False),
        history.create(delay="4000ms"),
        history.create(),
    )
    names = [key(history.lock, PLACE, number) for number in range(2)]
    history.ask("PUT", "txn", [lock(names[0], kept, ""), lock(names[1], lost, "")])
    history.ask("PUT", f"session/destroy/{lost}")
    await_delay(history, names[1:], after)
    history.ask("PUT", "txn", [delete(names[1])])
    http.close()
    server.restart()
    # It leads before it has carried out its log again, and knows of no token till then.
    eventually(lambda: _answers(http, names[0]), 20, "an answer")
    history.model.promote(history.now, "anew")
    history.ask("GET", f"kv/{names[0]}")
    history.ask("PUT", f"session/renew/{kept}")
    await_delay(history, names[1:], after)


def await_delay(history: History, names: list[str], session: str) -> None:
    """Find a lock-delay on keys; in the end there is none any more."""
    for name in names:
        history.ask("PUT", f"kv/{name}", acquire=_NOBODY)
        history.ask("PUT", "txn", [lock(name, session, "eA==")])
        assert "lock delay" in history.told[-1]
    eventually(lambda: not _delayed(history.http, names), 20, "the end of the lock-delays")
    history.now += 5.0
    history.ask("PUT", "txn", [lock(name, session, "eA==") for name in names])
    assert history.told[-1] == "txn"


def _free(http: Http, names: list[str]) -> bool:
    """Whether no session has locked any of them."""
    told = [http.ask(due(), "GET", f"kv/{name}").body for name in names]
    return not any(kv.get("Session") for kvs in told for kv in kvs or ())


def _answers(http: Http, name: str) -> bool:
    """Whether it reads a key."""
    with contextlib.suppress(Refused):
        return http.ask(due(), "GET", f"kv/{name}").body is not None
    return False


def _delayed(http: Http, names: list[str]) -> bool:
    """Whether a lock-delay is on any of them."""
    for name in names:
        with contextlib.suppress(Refused):
            if http.ask(due(), "PUT", f"kv/{name}", acquire=_NOBODY).body is False:
                return True
    return False
