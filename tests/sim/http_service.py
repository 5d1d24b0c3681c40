"""What simulated stores have in common that guardrun's own protocols speak to, over HTTP.

Its subclasses are the servers; here is what they do by themselves, and what the checker sees.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from guardrun.locks.json_http import Said
from guardrun.model import Grant, LeaseRequest, Place

from .http import Connection, Site
from .network import Network, Server

if TYPE_CHECKING:
    from guardrun.ports import LeaseStore

    from .checks import Checker
    from .machine import Program

_AGAIN = 0.5
"""s after which a server that could not look at its leases looks"""
_SOON = 1e-6


class Model(Protocol):
    """What a server decides by."""

    @property
    def changes(self) -> Sequence[Any]:
        """What has happened to its keys, the oldest first."""

    def lapse(self, now: float) -> None:
        """End what is over."""

    def next_lapse(self) -> float:
        """When the next is over."""


class Watch(Protocol):
    """What somebody waits for."""

    def wants(self, change: Any) -> bool:
        """Whether that concerns it."""


class Holding(NamedTuple):
    """A place that is taken, and its lease has not ended."""

    wanted: LeaseRequest
    fence: int
    since: float
    renewed: float
    """since when its ttl runs, by the server's clock"""


AnyModel = TypeVar("AnyModel", bound=Model)
AnyWatch = TypeVar("AnyWatch", bound=Watch)


class HttpService(Site, ABC, Generic[AnyModel, AnyWatch]):
    """One server."""

    forgets = False
    """whether a crash may lose what it has said"""

    def __init__(self, model: AnyModel, server: Server, network: Network, checker: Checker) -> None:
        self.server = server
        self.network = network
        self.life = 0
        self._model = model
        self._checker = checker
        self._watches: list[tuple[AnyWatch, Connection]] = []
        self._told = 0
        """how many changes those who watch were told of"""
        self._known: dict[str, Holding] = {}
        """as the checker was last told, by token"""
        self._looks_at = float("inf")
        server.on_crash, server.on_start = self._crashed, self._started
        server.world.sites[server.name] = self

    @abstractmethod
    def connect(self, keeper: Program) -> LeaseStore:
        """What a keeper asks it with."""

    @abstractmethod
    def holders(self, lock: str, now: float) -> tuple[Place, ...]:
        """The places that are taken, the oldest first; changes nothing."""

    @abstractmethod
    def waiters(self, lock: str, now: float) -> tuple[str, ...]:
        """Tokens of those who wait, first come first."""

    @abstractmethod
    def take_away(self, lock: str) -> str | None:
        """An operator ends the oldest holding; the job_id of whose it was."""

    # ------------------------------------------------------------ its own doing

    @abstractmethod
    def _notify(self, watch: AnyWatch, connection: Connection) -> None:
        """Tell who watches that something has happened."""

    @abstractmethod
    def _holdings(self) -> Iterator[Holding]:
        """What stands in it."""

    @abstractmethod
    def _promote(self, now: float) -> None:
        """Begin anew."""

    def _crashed(self) -> None:
        """Connections are known only as long as it runs."""
        self.life += 1
        for _, connection in self._watches:
            connection.hear(b"")
        self._watches.clear()

    def _started(self) -> None:
        self._promote(self.server.clock())
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
        for watch, connection in tuple(self._watches):
            if any(map(watch.wants, news)):
                self._notify(watch, connection)
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

    def _tell_checker(self, by_a_client: bool) -> None:
        known, self._known = self._known, {}
        for one in self._holdings():
            wanted = one.wanted
            self._known[wanted.token] = one
            before = known.pop(wanted.token, None)
            if before is None:
                self._checker.granted(wanted, Grant(wanted.lock, one.fence, one.since), one.renewed)
            elif before.fence != one.fence:
                self._checker.violate("F", f"{wanted.job_id} is granted once more what it has")
            elif before.renewed != one.renewed:
                self._checker.leased(wanted, one.renewed)
        if by_a_client:
            for gone in known.values():
                self._checker.given_up(gone.wanted)


class Telling:
    """Before a store's own class: the checker sees when a renewal says that the place is lost."""

    checker: Checker

    def renew(self, wanted: LeaseRequest, due: float) -> bool:
        ours: bool = super().renew(wanted, due)  # type: ignore[misc]
        if not ours:
            self.checker.promptness.expect_dead(wanted.job_id, lock=True)
        return ours


def said(status: int, text: bytes, now: float, headers: Mapping[str, str] | None = None) -> Said:
    """An answer; its clock tells whole seconds."""
    return Said(status, text, headers or {}, float(int(now)))


def told(status: int, body: object, now: float, headers: Mapping[str, str] | None = None) -> Said:
    """The same, in JSON."""
    return said(status, json.dumps(body).encode(), now, headers)
