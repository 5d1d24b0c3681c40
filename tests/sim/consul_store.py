"""A simulated Consul that the real ``ConsulLeases`` speaks to, and what the checker sees of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from guardrun.locks.consul import ConsulLeases
from guardrun.locks.consul_keys import PLACE, WAIT, Record, key, record
from guardrun.locks.consul_session import delete
from guardrun.locks.consul_state import place
from guardrun.model import LeaseRequest, Place

from .consul_model import ConsulError, ConsulModel, Kv, Query, Told
from .http_service import Holding, HttpService, Telling, said, told
from .network import SECRET, Network, Server

if TYPE_CHECKING:
    from guardrun.locks.json_http import Said

    from .checks import Checker
    from .http import Connection
    from .job import Job
    from .machine import Program

_JITTER = 1 / 16
"""of the longest time that a query waits, by which it may be longer"""
_HANDED_ON = "rpc error making call: "
_SETTLED = 13.0
"""s after troubles: an answer that is lost is waited for so long"""


class ConsulService(HttpService[ConsulModel, Query]):
    """Servers, by the agent that is asked, with access control on."""

    def __init__(self, server: Server, network: Network, checker: Checker) -> None:
        rng = server.world.rng
        model = ConsulModel(rng.choice((10.0, 1.0)), rng.choice((0.0, 0.3)))
        super().__init__(model, server, network, checker)
        self._handed_on = rng.choice(("", _HANDED_ON))
        """what an agent that is no server puts before an error"""
        self._invalidated: dict[str, tuple[Job, float]] = {}
        """by place: whose session was ended by hand, and when; true time"""
        server.url = f"consul://{SECRET}@{server.name}"

    def connect(self, keeper: Program) -> ConsulLeases:  # noqa: ARG002
        """What a keeper asks it with."""
        leases = _Told(self.server.url)
        leases.checker = self._checker
        return leases

    # ------------------------------------------------------------ HTTP

    def answer(
        self, now: float, method: str, path: str, body: object, headers: Mapping[str, str]
    ) -> Said:
        """Carry out a request."""
        where, given = _parts(path)
        try:
            _check(headers)
            self._lapse(now)
            answer = self._model.ask(method, where, given, body, now)
        except ConsulError as error:
            return self._refused(error, now)
        self._look_around(by_a_client=True)
        return _told(answer, now)

    def stream(
        self,
        now: float,
        method: str,
        path: str,
        body: object,  # noqa: ARG002
        headers: Mapping[str, str],
        connection: Connection,
    ) -> Said | None:
        """Answer when there is something new, or after a while."""
        where, given = _parts(path)
        assert method == "GET"
        try:
            _check(headers)
        except ConsulError as error:
            return self._refused(error, now)
        self._lapse(now)
        query = Query(where.removeprefix("kv/"), "recurse" in given, int(given["index"]))
        answer = self._model.read(query)
        if answer.changed > query.after:
            return _told(answer, now)
        self._watches.append((query, connection))
        seconds = int(given["wait"].removesuffix("s"))
        longest = seconds * (1 + self.server.world.rng.random() * _JITTER)
        self.server.world.after(longest, self._overdue, query, connection)
        return None

    def _refused(self, error: ConsulError, now: float) -> Said:
        handed_on = self._handed_on if error.status >= 500 else ""
        return said(error.status, f"{handed_on}{error}".encode(), now)

    def _notify(self, watch: Query, connection: Connection) -> None:
        if self._model.read(watch).changed > watch.after:
            self._answer(watch, connection)

    def _answer(self, query: Query, connection: Connection) -> None:
        self._watches.remove((query, connection))
        self.server.world.tell(self.server.name, f"to {connection.host.name}: news of {query.name}")
        text = json.dumps(self._model.read(query).body).encode()
        self.network.carry(self.server, connection.host, lambda: connection.hear(text))

    def _overdue(self, query: Query, connection: Connection) -> None:
        if (query, connection) in self._watches:
            if self.server.frozen:
                self.server.world.after(1.0, self._overdue, query, connection)
            else:
                self._answer(query, connection)

    # ------------------------------------------------------------ its own doing

    def _promote(self, now: float) -> None:
        self._model.promote(now, self.server.world.rng.choice(("kept", "anew", "gone")))

    # ------------------------------------------------------------ what stands in it

    def _records(self, kind: str) -> Iterator[Record]:
        for kv in self._model.keys.values():
            found = _read(kv)
            if found is not None and found.kind == kind:
                yield found

    def _holdings(self) -> Iterator[Holding]:
        for one in self._records(WAIT):
            assert one.detail is not None
            self._checker.jobs[one.detail.job_id].lease_token = one.token
        for one in self._records(PLACE):
            assert one.detail is not None
            detail, job = one.detail, self._checker.jobs[one.detail.job_id]
            if not one.session or detail.released:
                continue
            job.lease_token = one.token
            self._check_delay(one.key, job)
            mine = (one.lock, detail.owner, detail.job_id, one.token, detail.slots)
            wanted = LeaseRequest(*mine, job.ttl_of_lock)
            renewed = self._model.sessions[one.session].renewed
            yield Holding(wanted, one.fence, detail.since, renewed)

    def holders(self, lock: str, now: float) -> tuple[Place, ...]:
        """The places that are taken, the oldest first; changes nothing."""
        taken = []
        for one in self._records(PLACE):
            ends = self._model.sessions[one.session].expires if one.session else now
            if one.lock == lock and (ends > now or self._model.is_delayed(one.key, now)):
                taken.append(place(one, now))
        for number in range(self._checker.scene.slots):
            name = key(lock, PLACE, number)
            if name not in self._model.keys and self._model.is_delayed(name, now):
                taken.append(Place(lock, "?", "", name, 0, now, 0.0, 1, True, True))
        return tuple(sorted(taken, key=lambda place: place.since))

    def waiters(self, lock: str, now: float) -> tuple[str, ...]:
        """Tokens of those who wait, first come first."""
        waits = [
            one
            for one in self._records(WAIT)
            if one.lock == lock and one.session and self._model.sessions[one.session].expires > now
        ]
        return tuple(one.token for one in sorted(waits, key=lambda one: one.created))

    def take_away(self, lock: str) -> str | None:
        """An operator ends the oldest holding, or nothing but its session: Consul's own way."""
        now = self.server.clock()
        found = [one for one in self._records(PLACE) if one.lock == lock and one.session]
        for one in sorted(found, key=lambda one: one.detail.since if one.detail else 0.0):
            if one.detail is None or one.detail.released:
                continue
            job = self._checker.jobs[one.detail.job_id]
            if self.server.world.rng.random() < 0.5:
                self._model.ask("PUT", "txn", {}, [delete(one.key)], now)
            else:
                self.server.world.counts["session invalidated"] += 1
                self._invalidated[one.key] = job, self.server.world.now
            self._model.ask("PUT", f"session/destroy/{one.session}", {}, None, now)
            self._look_around(by_a_client=False)
            return job.me.job_id
        return None

    def _check_delay(self, name: str, other: Job) -> None:
        """M, for whose session was ended by hand: lock-delay is long enough for it to find out."""
        job, since = self._invalidated.get(name, (other, 0.0))
        if job is other:
            return
        del self._invalidated[name]
        scene, host = self._checker.scene, job.host
        calm = scene.troubles == 0 and scene.quiet_since <= since - _SETTLED
        well = not job.faulted and not job.excused and not job.warns and not host.suspended
        if calm and well and job.alive:
            self._checker.violate("M", f"{other} has the lock while {job} may not know of its loss")


class _Told(Telling, ConsulLeases):
    """The real thing."""


@lru_cache(maxsize=256)
def _read(kv: Kv) -> Record | None:
    """What a key says to guardrun: looked at after every request, and mostly as it was before."""
    return record(kv.told())


def _parts(path: str) -> tuple[str, dict[str, str]]:
    """What is asked for, and with which parameters."""
    parts = urlsplit(path)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    return unquote(parts.path).removeprefix("/v1/"), given


def _check(headers: Mapping[str, str]) -> None:
    if headers.get("X-Consul-Token") != SECRET:
        raise ConsulError(403, "ACL not found")


def _told(answer: Told, now: float) -> Said:
    headers = {"X-Consul-Index": str(answer.changed)} if answer.changed else {}
    return told(answer.status, answer.body, now, headers)
