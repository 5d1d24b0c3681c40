"""What a simulated keeper has in place of Redis, Postgres and a disk.

The servers' decisions are those of ``lease_model`` and ``ledger_model``; here they are asked over
the network, and whoever checks the rules is told of each of them as it is taken.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from select import POLLIN
from typing import TYPE_CHECKING, Any

from guardrun.ledger.nap import Nap
from guardrun.ledger.spool import Spool
from guardrun.model import (
    FOREVER,
    Budget,
    Claim,
    Grant,
    KeySpec,
    LeaseRequest,
    Outcome,
    Place,
    Recorded,
    Refusal,
    Run,
    Waiting,
)

from .lease_model import LeaseModel
from .ledger_model import LedgerModel
from .machine import File, Host, Program
from .network import Network, Server

if TYPE_CHECKING:
    from .checks import Checker
    from .http_service import HttpService


class Bell(File):
    """Readable when the server has said that it is worth asking again."""

    def __init__(self) -> None:
        super().__init__()
        self.rung = False

    def events(self, process: Any) -> int:  # noqa: ARG002
        return POLLIN if self.rung else 0


class LeaseService:
    """A server of leases."""

    forgets = True
    """whether a crash may lose what it has said"""

    def __init__(self, server: Server, model: LeaseModel, network: Network, checker: Checker):
        self.server = server
        self.model = model
        self._network = network
        self.checker = checker
        self._listeners: dict[str, SimLeases] = {}

    def connect(self, keeper: Program) -> SimLeases:
        """What a keeper asks it with."""
        return SimLeases(self, self._network, keeper)

    def holders(self, lock: str, now: float) -> tuple[Place, ...]:
        """The places that are taken, the oldest first; changes nothing."""
        return self.model.holders(lock, now)

    def waiters(self, lock: str, now: float) -> tuple[str, ...]:
        """Tokens of those who wait, first come first."""
        return self.model.waiters(lock, now)

    def acquire(self, client: SimLeases, wanted: LeaseRequest, wait: bool, now: float) -> Any:
        self.checker.jobs[wanted.job_id].lease_token = wanted.token
        if wait:
            self._listeners[wanted.token] = client
        said = self.model.acquire(wanted, wait, now)
        if isinstance(said, Grant):
            self.checker.granted(wanted, said, now)
        self.wake()
        return said

    def renew(self, wanted: LeaseRequest, now: float) -> tuple[bool, bool]:
        ours = self.model.renew(wanted, now)
        if ours:
            self.checker.leased(wanted, now)
        return ours, self.model.awaited(wanted.lock, wanted.token, now)

    def release(self, wanted: LeaseRequest, now: float) -> bool:
        given = self.model.release(wanted, now)
        if given:
            self.checker.given_up(wanted)
        self.wake()
        return given

    def leave(self, wanted: LeaseRequest, now: float) -> None:
        self.model.leave(wanted, now)
        self.wake()

    def take_away(self, lock: str) -> str | None:
        """An operator ends the oldest holding; the job_id of whose it was."""
        now = self.server.clock()
        for place in self.model.holders(lock, now):
            if not place.released and self.model.take_away(lock, place.token, now):
                self.wake()
                return place.job_id
        return None

    def wake(self) -> None:
        """Tell those for whom there is a place."""
        for token in self.model.woken:
            client = self._listeners.get(token)
            if client is not None:
                self._network.push(self.server, client.host, client.ring)
        self.model.woken.clear()


class SimLeases:
    """The ``LeaseStore`` port over the simulated network."""

    fence_durable = True

    def __init__(self, service: LeaseService, network: Network, keeper: Program) -> None:
        self.host = keeper.host
        self.awaited = False
        self._service = service
        self._network = network
        self._waiting: set[str] = set()
        self._bell = Bell()
        self._fd = keeper.open(self._bell)

    def acquire(self, wanted: LeaseRequest, wait: bool, due: float) -> Grant | Waiting:
        def do(now: float) -> Any:
            return self._service.acquire(self, wanted, wait, now)

        said: Grant | Waiting = self._ask(f"acquire for {wanted.job_id}, wait={wait}", do, due)
        if wait and isinstance(said, Waiting):
            self._waiting.add(wanted.token)
        else:
            self._waiting.discard(wanted.token)
        return said

    def leave(self, wanted: LeaseRequest, due: float) -> None:
        self._waiting.discard(wanted.token)
        self._ask(f"leave for {wanted.job_id}", lambda now: self._service.leave(wanted, now), due)

    def renew(self, wanted: LeaseRequest, due: float) -> bool:
        ours, self.awaited = self._ask(
            f"renew lease of {wanted.job_id}", lambda now: self._service.renew(wanted, now), due
        )
        if not ours:
            self._service.checker.promptness.expect_dead(wanted.job_id, lock=True)
        return bool(ours)

    def release(self, wanted: LeaseRequest, due: float) -> bool:
        def do(now: float) -> bool:
            return self._service.release(wanted, now)

        return bool(self._ask(f"release for {wanted.job_id}", do, due))

    def wake_fd(self) -> int | None:
        return self._fd if self._waiting else None

    def loss_fd(self) -> int | None:
        return None

    def drain(self) -> None:
        self._bell.rung = False

    def ring(self) -> None:
        """The server's word has arrived."""
        self._bell.rung = True
        self._bell.notify(self.host.world)

    def holders(self, lock: str, due: float) -> tuple[Place, ...]:
        model = self._service.model
        found: tuple[Place, ...] = self._ask("holders", lambda now: model.holders(lock, now), due)
        return found

    def locks(self, due: float) -> Iterator[Place]:
        raise NotImplementedError("a run does not ask for it")

    def take_away(self, lock: str, token: str, due: float) -> bool:
        raise NotImplementedError("a run does not do it")

    def idle(self) -> None: ...

    def close(self) -> None: ...

    def _ask(self, what: str, do: Callable[[float], Any], due: float) -> Any:
        return self._network.call(self._service.server, what, do, due)


class LedgerService:
    """A server of runs and keys."""

    def __init__(
        self,
        server: Server,
        model: LedgerModel,
        leases: LeaseService | HttpService[Any, Any] | None,
        checker: Checker,
    ) -> None:
        self.server = server
        self.model = model
        self._leases = leases
        self.checker = checker

    def begin(self, run: Run, key: KeySpec, now: float) -> Claim | Refusal:
        said = self.model.begin(run, key, now)
        if isinstance(said, Claim) and said.interrupted is not None:
            self.checker.world.counts["key taken over" if run.key else "last run found dead"] += 1
        self.checker.written(run.job_id)
        return said

    def renew(self, run: Run, now: float) -> bool:
        ours = self.model.renew(run, now)
        self.checker.written(run.job_id)
        return ours

    def finish(
        self, outcome: Outcome, wanted: LeaseRequest | None, ago: float, now: float
    ) -> Recorded:
        if wanted is None:
            recorded = self.model.finish(outcome, ago, now)
        else:
            assert isinstance(self._leases, LeaseService)
            recorded = self.model.finish_and_release(outcome, wanted, ago, now)
            self.checker.given_up(wanted)
            self._leases.wake()
        self.checker.recorded(outcome)
        self.checker.written(outcome.run.job_id)
        return recorded

    def interrupt(self, run: Run) -> None:
        self.model.interrupt(run)
        self.checker.disowned(run)
        self.checker.written(run.job_id)

    def give_back(self, run: Run, now: float) -> None:
        self.model.give_back(run, now)
        self.checker.disowned(run)
        self.checker.written(run.job_id)


class SimLedger:
    """The ``RemoteLedger`` port over the simulated network."""

    def __init__(self, service: LedgerService, network: Network, host: Host) -> None:
        self._service = service
        self._network = network
        self._host = host

    def prepare(self, due: float) -> None: ...

    def begin(self, run: Run, key: KeySpec, due: float = FOREVER) -> Claim | Refusal:
        said: Claim | Refusal = self._ask(
            f"begin {run.job_id}", lambda now: self._service.begin(run, key, now), due
        )
        return said

    def renew(self, run: Run, due: float) -> bool:
        what = f"renew claim of {run.job_id}"
        ours = bool(self._ask(what, lambda now: self._service.renew(run, now), due))
        if not ours and run.key is not None:
            self._service.checker.promptness.expect_dead(run.job_id, lock=False)
        return ours

    def spend_retry(self, run: Run, budget: Budget, due: float = FOREVER) -> bool:
        model = self._service.model
        return bool(
            self._ask(
                f"retry for {run.job_id}", lambda now: model.spend_retry(run, budget, now), due
            )
        )

    def finish(self, outcome: Outcome, due: float = FOREVER) -> bool:
        return self._finish(outcome, None, due).claim

    def finish_and_release(self, outcome: Outcome, wanted: LeaseRequest, due: float) -> Recorded:
        return self._finish(outcome, wanted, due)

    def _finish(self, outcome: Outcome, wanted: LeaseRequest | None, due: float) -> Recorded:
        ago = max(0.0, self._host.wall() - outcome.finished_at)
        recorded: Recorded = self._ask(
            f"finish {outcome.run.job_id}: {outcome.result}",
            lambda now: self._service.finish(outcome, wanted, ago, now),
            due,
        )
        return recorded

    def interrupt(self, run: Run, due: float) -> None:
        self._ask(f"interrupt {run.job_id}", lambda _: self._service.interrupt(run), due)

    def give_back(self, run: Run, due: float) -> None:
        self._ask(f"give back {run.job_id}", lambda now: self._service.give_back(run, now), due)

    def watch(self, job_id: str) -> Nap:
        raise NotImplementedError("a keeper does not wait for keys")

    def stored_output(self, key: str, due: float = FOREVER) -> tuple[bytes, bytes] | None:  # noqa: ARG002
        found: tuple[bytes, bytes] | None = self._ask("stored output", lambda _: None, due)
        return found

    def idle(self) -> None: ...

    def close(self) -> None: ...

    def _ask(self, what: str, do: Callable[[float], Any], due: float) -> Any:
        return self._network.call(self._service.server, what, do, due)


class SimSpool(Spool):
    """The real spool over a host's simulated disk, which a crash leaves as it was."""

    def __init__(self, host: Host) -> None:
        super().__init__("/spool")
        self._host = host

    def _make(self) -> None: ...

    def _write(self, outcome: Outcome) -> None:
        world = self._host.world
        assert world.current is not None
        world.current.step()
        if self._host.disk_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._host.spool[f"/spool/{outcome.run.job_id}.json"] = outcome
        world.current.step()

    def _paths(self, suffix: str) -> tuple[str, ...]:
        return tuple(sorted(path for path in self._host.spool if path.endswith(suffix)))

    def load(self, path: str) -> Outcome:
        found: Outcome | None = self._host.spool.get(path)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return found

    def remove(self, path: str) -> None:
        self._host.spool.pop(path, None)
