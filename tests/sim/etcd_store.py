"""A simulated etcd that the real ``EtcdLeases`` speaks to, and what the checker sees of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from guardrun.locks.etcd import EtcdLeases
from guardrun.locks.etcd_keys import ALIVE, ENTRY, HOLD, Record, key, record
from guardrun.locks.etcd_words import delete
from guardrun.locks.json_http import Said
from guardrun.model import Grant, LeaseRequest, Place

from .etcd_model import EtcdError, EtcdModel, Kv, Watch
from .http import Connection
from .network import SECRET, Network, Server

if TYPE_CHECKING:
    from .checks import Checker
    from .machine import Program

_AGAIN = 0.5
"""s after which a server that could not look at its leases looks"""
_SOON = 1e-6


class _Known(NamedTuple):
    """A place that is taken, as the checker was last told."""

    wanted: LeaseRequest
    fence: int
    expires: float


class EtcdService:
    """One member behind its JSON gateway, with authentication on."""

    forgets = False
    """whether a crash may lose what it has said"""

    def __init__(self, server: Server, network: Network, checker: Checker) -> None:
        self.server = server
        self.network = network
        self.life = 0
        self._checker = checker
        self._model = EtcdModel(server.world.rng.choice((0.0, 0.3, 1.0)))
        self._logins: set[str] = set()
        self._watches: list[tuple[Watch, Connection]] = []
        self._told = 0
        """how many changes those who watch were told of"""
        self._known: dict[str, _Known] = {}
        self._looks_at = float("inf")
        server.url = f"etcd://guardrun:{SECRET}@{server.name}"
        server.on_crash, server.on_start = self._crashed, self._started
        server.world.sites[server.name] = self

    def connect(self, keeper: Program) -> EtcdLeases:  # noqa: ARG002
        """What a keeper asks it with."""
        return _Told(self.server.url, self._checker)

    # ------------------------------------------------------------ HTTP

    def answer(
        self, now: float, method: str, path: str, body: object, headers: Mapping[str, str]
    ) -> Said:
        """Carry out a request."""
        assert method == "POST" and isinstance(body, dict)
        what = path.removeprefix("/v3/")
        try:
            if what == "auth/authenticate":
                return _said(200, self._log_in(body), now)
            self._check(headers)
            self._lapse(now)
            said = self._model.ask(what, body, now)
        except EtcdError as error:
            return _refused(error, now)
        self._look_around(by_a_client=True)
        return _said(200, said, now)

    def stream(
        self,
        now: float,
        method: str,
        path: str,
        body: object,
        headers: Mapping[str, str],
        connection: Connection,
    ) -> Said:
        """Begin a watch."""
        assert (method, path) == ("POST", "/v3/watch") and isinstance(body, dict)
        try:
            self._check(headers)
        except EtcdError as error:
            return _refused(error, now)
        self._lapse(now)
        watch, missed = self._model.watch(body["create_request"])
        self._watches.append((watch, connection))
        if missed:
            self._push(connection, b"{}\n")
        return _said(200, {"result": {"created": True}}, now)

    def _log_in(self, body: Mapping[str, object]) -> dict[str, object]:
        assert (body["name"], body["password"]) == ("guardrun", SECRET)
        token = f"{self.life}.{len(self._logins)}"
        self._logins.add(token)
        return {"token": token}

    def _check(self, headers: Mapping[str, str]) -> None:
        if headers.get("Authorization") not in self._logins:
            raise EtcdError(401, "etcdserver: invalid auth token")

    def _push(self, connection: Connection, text: bytes) -> None:
        self.network.push(self.server, connection.host, lambda: connection.hear(text))

    # ------------------------------------------------------------ its own doing

    def _crashed(self) -> None:
        """Members know logins and connections only as long as they run."""
        self.life += 1
        self._logins.clear()
        for _, connection in self._watches:
            connection.hear(b"")
        self._watches.clear()

    def _started(self) -> None:
        self._model.promote(self.server.clock())
        self._look_around(by_a_client=False)

    def _lapse(self, now: float) -> None:
        self._model.lapse(now)
        self._look_around(by_a_client=False)

    def _look_around(self, by_a_client: bool) -> None:
        """Tell of what has changed: the checker, and who watches."""
        self._tell_checker(by_a_client)
        news = self._model.changes[self._told :]
        self._told += len(news)
        self._watches = [one for one in self._watches if one[1].references]
        for watch, connection in self._watches:
            if any(map(watch.wants, news)):
                self._push(connection, b"{}\n")
        self._plan(self._model.next_lapse())

    def _plan(self, clock: float) -> None:
        """Look at the leases then, unless it is done earlier."""
        if clock < self._looks_at:
            self._looks_at = clock
            self.server.world.at(self.server.when(clock) + _SOON, self._look_at_leases, clock)

    def _look_at_leases(self, planned: float) -> None:
        if planned != self._looks_at:
            return
        self._looks_at = float("inf")
        if self.server.up and not self.server.frozen:
            self._lapse(self.server.clock())
        else:
            self._plan(self.server.clock() + _AGAIN)

    # ------------------------------------------------------------ what stands in it

    def _records(self, *kinds: str) -> Iterator[Record]:
        for kv in self._model.keys.values():
            found = _read(kv)
            if found is not None and found.kind in kinds:
                yield found

    def _tell_checker(self, by_a_client: bool) -> None:
        known, self._known = self._known, {}
        for one in self._records(ENTRY):
            assert one.detail is not None
            job = self._checker.jobs[one.detail.job_id]
            job.lease_token = one.token
            if not one.granted:
                continue
            owner, job_id, slots = one.detail.owner, one.detail.job_id, one.detail.slots
            wanted = LeaseRequest(one.lock, owner, job_id, one.token, slots, job.ttl_of_lock)
            expires = self._model.leases[one.lease].expires
            self._known[one.token] = _Known(wanted, one.fence, expires)
            before = known.pop(one.token, None)
            if before is None:
                grant = Grant(one.lock, one.fence, one.detail.since or 0.0)
                self._checker.granted(wanted, grant, expires - wanted.ttl)
            elif before.fence != one.fence:
                self._checker.violate("F", f"{job} is granted once more what it has")
            elif before.expires != expires:
                self._checker.leased(wanted, expires - wanted.ttl)
        if by_a_client:
            for gone in known.values():
                self._checker.given_up(gone.wanted)

    def holders(self, lock: str, now: float) -> tuple[Place, ...]:
        """The places that are taken, the oldest first; changes nothing."""
        places: dict[str, Place] = {}
        for one in self._records(ENTRY, HOLD):
            left = self._model.ends(self._model.leases[one.lease]) - now
            if one.lock != lock or not one.granted or left <= 0 or one.detail is None:
                continue
            if one.kind == ENTRY or one.token not in places:
                places[one.token] = Place(
                    *(lock, one.detail.owner, one.detail.job_id, one.token, one.fence),
                    *(one.detail.since or 0.0, left, one.detail.slots, one.kind == HOLD),
                )
        return tuple(sorted(places.values(), key=lambda place: place.since))

    def waiters(self, lock: str, now: float) -> tuple[str, ...]:
        """Tokens of those who wait, first come first."""
        waits = [
            one
            for one in self._records(ENTRY)
            if one.lock == lock
            and not one.granted
            and self._model.ends(self._model.leases[one.lease]) > now
        ]
        return tuple(one.token for one in sorted(waits, key=lambda one: one.created))

    def take_away(self, lock: str) -> str | None:
        """An operator ends the oldest holding; the job_id of whose it was."""
        now = self.server.clock()
        for place in self.holders(lock, now):
            if not place.released:
                ends = [delete(key(lock, kind, place.token)) for kind in (ENTRY, ALIVE, HOLD)]
                body = {"compare": [], "success": ends, "failure": []}
                self._model.ask("kv/txn", body, now)
                self._look_around(by_a_client=False)
                return place.job_id
        return None


class _Told(EtcdLeases):
    """The real thing; the checker sees when a renewal says that the place is lost."""

    def __init__(self, url: str, checker: Checker) -> None:
        super().__init__(url)
        self._checker = checker

    def renew(self, wanted: LeaseRequest, due: float) -> bool:
        ours = super().renew(wanted, due)
        if not ours:
            self._checker.promptness.expect_dead(wanted.job_id, lock=True)
        return ours


@lru_cache(maxsize=256)
def _read(kv: Kv) -> Record | None:
    """What a key says to guardrun: looked at after every request, and mostly as it was before."""
    return record(kv.told())


def _said(status: int, body: object, now: float) -> Said:
    return Said(status, json.dumps(body).encode(), {}, float(int(now)))


def _refused(error: EtcdError, now: float) -> Said:
    return _said(error.status, {"error": str(error), "message": str(error)}, now)
