"""A simulated etcd that the real ``EtcdLeases`` speaks to, and what the checker sees of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from guardrun.locks.etcd import EtcdLeases
from guardrun.locks.etcd_keys import ALIVE, ENTRY, HOLD, Record, key, record
from guardrun.locks.etcd_words import delete
from guardrun.model import LeaseRequest, Place

from .etcd_model import EtcdError, EtcdModel, Kv, Watch
from .http_service import Holding, HttpService, Telling, told
from .network import SECRET, Network, Server

if TYPE_CHECKING:
    from guardrun.locks.json_http import Said

    from .checks import Checker
    from .http import Connection
    from .machine import Program


class EtcdService(HttpService[EtcdModel, Watch]):
    """One member behind its JSON gateway, with authentication on."""

    def __init__(self, server: Server, network: Network, checker: Checker) -> None:
        model = EtcdModel(server.world.rng.choice((0.0, 0.3, 1.0)))
        super().__init__(model, server, network, checker)
        self._logins: set[str] = set()
        server.url = f"etcd://guardrun:{SECRET}@{server.name}"

    def connect(self, keeper: Program) -> EtcdLeases:  # noqa: ARG002
        """What a keeper asks it with."""
        leases = _Told(self.server.url)
        leases.checker = self._checker
        return leases

    # ------------------------------------------------------------ HTTP

    def answer(
        self, now: float, method: str, path: str, body: object, headers: Mapping[str, str]
    ) -> Said:
        """Carry out a request."""
        assert method == "POST" and isinstance(body, dict)
        what = path.removeprefix("/v3/")
        try:
            if what == "auth/authenticate":
                return told(200, self._log_in(body), now)
            self._check(headers)
            self._lapse(now)
            said = self._model.ask(what, body, now)
        except EtcdError as error:
            return _refused(error, now)
        self._look_around(by_a_client=True)
        return told(200, said, now)

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
            self._notify(watch, connection)
        return told(200, {"result": {"header": self._model.header(), "created": True}}, now)

    def _log_in(self, body: Mapping[str, object]) -> dict[str, object]:
        assert (body["name"], body["password"]) == ("guardrun", SECRET)
        token = f"{self.life}.{len(self._logins)}"
        self._logins.add(token)
        return {"header": self._model.header(), "token": token}

    def _check(self, headers: Mapping[str, str]) -> None:
        if headers.get("Authorization") not in self._logins:
            raise EtcdError(401, "etcdserver: invalid auth token")

    def _notify(self, watch: Watch, connection: Connection) -> None:  # noqa: ARG002
        self.network.push(self.server, connection.host, lambda: connection.hear(b"{}\n"))

    # ------------------------------------------------------------ its own doing

    def _crashed(self) -> None:
        """Members know logins only as long as they run."""
        self._logins.clear()
        super()._crashed()

    def _promote(self, now: float) -> None:
        self._model.promote(now)

    # ------------------------------------------------------------ what stands in it

    def _records(self, *kinds: str) -> Iterator[Record]:
        for kv in self._model.keys.values():
            found = _read(kv)
            if found is not None and found.kind in kinds:
                yield found

    def _holdings(self) -> Iterator[Holding]:
        for one in self._records(ENTRY):
            assert one.detail is not None
            job = self._checker.jobs[one.detail.job_id]
            job.lease_token = one.token
            if one.granted:
                detail, ttl = one.detail, job.ttl_of_lock
                mine = (one.lock, detail.owner, detail.job_id, one.token, detail.slots, ttl)
                renewed = self._model.leases[one.lease].expires - ttl
                yield Holding(LeaseRequest(*mine), one.fence, detail.since or 0.0, renewed)

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


class _Told(Telling, EtcdLeases):
    """The real thing."""


@lru_cache(maxsize=256)
def _read(kv: Kv) -> Record | None:
    """What a key says to guardrun: looked at after every request, and mostly as it was before."""
    return record(kv.told())


def _refused(error: EtcdError, now: float) -> Said:
    return told(error.status, {"error": str(error), "message": str(error)}, now)
