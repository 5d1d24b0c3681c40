"""The keeper: owns everything remote, so that the supervisor never waits for a network.

It answers the supervisor's questions one after the other, and renews what it holds whether it is
asked or not. It is in a session of its own and ignores what ends a job (systemd signals a whole
cgroup, Ctrl-Z a whole group), because a lease must outlive COMMAND:

- the supervisor says ``Release``: the run is over. What the ledger has not been told by then,
  because it did not answer in time, the keeper goes on telling it for a while;
- the supervisor is gone without it: what is held stays held until warden or backstop say that
  nothing of COMMAND is alive. Then the run is recorded as interrupted, and the lock is given back.
  If they are gone without that word as well, nobody knows, and only the ttl may end it.

It blocks in the drivers, never longer than it was told, nor so long that something else could not
be renewed. Should it hang all the same (a resolver, SIGSTOP), supervisor and warden go by the term
it last wrote down.
"""

from __future__ import annotations

import select

from guardrun import channel, errors, kernel
from guardrun.errors import GuardrunError, StoreUnavailable
from guardrun.keeper import messages
from guardrun.keeper.holding import Holding, spared
from guardrun.keeper.insist import UNASKED, insist
from guardrun.keeper.turn import Turn
from guardrun.model import Claim, Grant, Recorded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from guardrun.keeper.stores import Stores, Terms
    from guardrun.model import LeaseRequest, Outcome, Refusal, Run, Waiting
    from guardrun.ports import LeaseStore, RemoteLedger, Rng
    from guardrun.term import Term

_NEVER = float("inf")
_IDLE = 0.25
"""s that a connection is kept after its last use: a fleet's jobs must not sit on connections"""
_FIRST_WORD = 1.0
"""s that the ledger has the keeper's ear before the lock is given back"""
_LAST_WORD = 60.0
"""s to record what the supervisor could not wait for, or its own death kept it from"""


class Keeper:
    """One keeper's state: what it holds, or may hold without knowing."""

    def __init__(
        self,
        supervisor: channel.Channel,
        tether: channel.Channel,
        term: Term,
        stores: Stores,
        terms: Terms,
        rng: Rng,
    ) -> None:
        self._supervisor = supervisor
        self._tether = tether
        self._term = term
        self._stores = stores
        self._terms = terms
        self._rng = rng
        self._timer = kernel.Timer()
        self._run: Run | None = None
        """whose row or claim is held"""
        self._asked: Run | None = None
        """whose claim may have been committed without our hearing of it"""
        self._untold: Outcome | None = None
        """what the ledger did not take so far"""
        self._claim: Holding | None = None
        self._wanted: LeaseRequest | None = None
        """the place that is held, or waited for, or may be ours without our hearing of it"""
        self._place: Holding | None = None
        self._idle_at = _NEVER
        self._turn = Turn(stores.ledger)

    def serve(self, run: Run | None, place: LeaseRequest | None) -> None:
        """Work until released, or until the supervisor is gone and all is told.

        ``run`` and ``place`` are what an earlier keeper held: they are renewed first.
        """
        if run is not None:
            self._run, self._claim = run, self._new_claim(run)
        if place is not None:
            self._wanted, self._place = place, self._new_place(place)
        self._supervisor.send(messages.Working())
        while True:
            ready = self._wait_for(self._supervisor.fileno())
            if self._supervisor.fileno() not in ready:
                continue
            received = self._supervisor.receive()
            if received is None:
                self._outlive()
                return
            if not self._obey(received[0]):
                return

    def _wait_for(self, other: int) -> set[int]:
        """Wait until ``other`` is readable or something needs to be looked after; do that."""
        leases = self._stores.leases
        woken = None if leases is None else leases.wake_fd()
        lost = None if leases is None else leases.loss_fd()
        poll = select.poll()
        for fd in {other, self._timer.fd, woken, lost}:
            if fd is not None:
                poll.register(fd, select.POLLIN)
        self._timer.set(min(self._claim_at, self._place_at, self._idle_at))
        held = [holding for holding in (self._claim, self._place) if holding is not None]
        for holding in held:
            holding.sleep()
        ready = {fd for fd, _ in poll.poll()}
        for holding in held:
            holding.work()
        if leases is not None and ready & {woken, lost}:
            leases.drain()
            if woken in ready and self._place is None:
                self._supervisor.hint(messages.Wake())
        if kernel.now() >= self._place_at or (lost in ready and self._place is not None):
            self._renew_place()
        if kernel.now() >= self._claim_at:
            self._renew_claim()
        if kernel.now() >= self._idle_at:
            self._idle()
        return ready

    def _idle(self) -> None:
        self._idle_at = _NEVER
        if self._turn.is_near():
            self._idle_at = self._turn.ready_until
        elif self._stores.ledger is not None and not self._stores.together:
            self._stores.ledger.idle()
        leases = self._stores.leases
        if leases is not None:
            waits = self._wanted is not None and self._place is None
            # Who waits for the place shall not wait for a connection to be made for its release.
            awaited = self._place is not None and leases.awaited
            if not waits and not awaited:
                leases.idle()

    # ------------------------------------------------------------ what the supervisor wants

    def _obey(self, message: tuple[object, ...]) -> bool:
        """Carry out one message; False when this was the last one."""
        match message:
            case messages.Question(serial, asked, due):
                self._supervisor.send(self._answer(serial, asked, due))
                self._turn.get_ready()
            case messages.Note(run, key):
                try:
                    self._begin(messages.Begin(run, key), kernel.now() + UNASKED)
                except GuardrunError:
                    # The outcome is stored as a whole; the row is for who looks meanwhile.
                    self._run, self._claim = run, self._new_claim(run)
            case messages.Release():
                self._tell_the_rest()
                return False
        self._idle_at = kernel.now() + _IDLE
        return True

    def _answer(self, serial: int, asked: object, due: float) -> messages.Answer | messages.Failed:
        if isinstance(asked, messages.Finish):
            self._untold = asked.outcome
        try:
            if kernel.now() >= due:
                raise StoreUnavailable("the store's answer would come too late")
            return messages.Answer(serial, self._do(asked, due))
        except GuardrunError as error:
            return messages.Failed(serial, _public(error), str(error))
        except (ValueError, OverflowError) as error:  # what no ledger has room for
            return messages.Failed(serial, StoreUnavailable.__name__, str(error))

    def _do(
        self, asked: object, due: float
    ) -> Grant | Waiting | Claim | Refusal | Recorded | bool | tuple[bytes, bytes] | None:
        match asked:
            case messages.Acquire(wanted, wait, claims):
                said = self._acquire(wanted, wait, due)
                if wait and claims:
                    self._turn.look(said)
                return said
            case messages.Give():
                return self._give(due)
            case messages.Begin():
                return self._begin(asked, due)
            case messages.SpendRetry(run, budget):
                return self._ledger.spend_retry(run, budget, self._spared(due))
            case messages.Finish(outcome):
                return self._finish(outcome, due)
            case messages.StoredOutput(key):
                return self._ledger.stored_output(key, self._spared(due))
            case messages.Renew():
                return self._renew_all()
        raise AssertionError(asked)

    @property
    def _ledger(self) -> RemoteLedger:
        assert self._stores.ledger is not None
        return self._stores.ledger

    @property
    def _leases(self) -> LeaseStore:
        assert self._stores.leases is not None
        return self._stores.leases

    def _spared(self, due: float) -> float:
        """Until when the ledger may keep us busy: what is held must be renewed meanwhile."""
        held = (holding for holding in (self._place, self._claim) if holding is not None)
        return min([due, *(spared(holding.needed_at) for holding in held)])

    # ------------------------------------------------------------ the lock

    def _acquire(self, wanted: LeaseRequest, wait: bool, due: float) -> Grant | Waiting:
        self._wanted = wanted
        sent_at = kernel.now()
        said = self._leases.acquire(wanted, wait, due)
        if isinstance(said, Grant):
            place = self._new_place(wanted)
            place.take(sent_at)
            self._place = place
            return said._replace(fence_durable=self._leases.fence_durable)
        return said

    def _new_place(self, wanted: LeaseRequest) -> Holding:
        leases = self._leases
        # Where COMMAND is not stopped, nothing is lost before it is time to be dead.
        grace = 0.0 if self._terms.on_lease_loss == "warn" else self._terms.grace
        return Holding(
            lambda due: leases.renew(wanted, due), self._term.lock, wanted.ttl, grace, self._rng
        )

    @property
    def _place_at(self) -> float:
        return _NEVER if self._place is None else self._place.renew_at

    def _renew_place(self) -> bool:
        """Renew the lease, and whatever comes of it plan the next time; whether it is ours."""
        if self._place is None:
            return False
        ours = self._place.renew(_NEVER if self._claim is None else self._claim.needed_at)
        self._idle_at = kernel.now() + _IDLE
        if ours is False:
            self._wanted = self._place = None
            self._term.lock.lose(kernel.now())
            self._tether.send(channel.Lost())
        if ours is not None:
            self._supervisor.hint(messages.Look())
        return ours is True

    def _give(self, due: float) -> bool:
        """Give the place back, or leave the queue: whatever it is that we may have."""
        wanted = self._wanted
        if wanted is None:
            return False
        given = self._leases.release(wanted, due)
        if self._place is None:
            self._leases.leave(wanted, due)
        self._forget_place()
        return given

    def _forget_place(self) -> None:
        self._turn.end()
        self._wanted = self._place = None
        self._term.lock.clear()

    # ------------------------------------------------------------ the run in the ledger

    def _begin(self, asked: messages.Begin, due: float) -> Claim | Refusal:
        self._turn.end()
        if self._stores.spool is not None:
            self._stores.spool.flush(self._ledger, self._spared(due))
        sent_at = kernel.now()
        self._asked = asked.run
        said = self._ledger.begin(asked.run, asked.key, self._spared(due))
        if isinstance(said, Claim):
            claim = self._new_claim(asked.run)
            claim.take(sent_at)
            self._run, self._claim = asked.run, claim
        self._asked = None
        return said

    def _new_claim(self, run: Run) -> Holding:
        ledger = self._ledger
        row = None if run.key is None else self._term.claim
        return Holding(
            lambda due: ledger.renew(run, due),
            row,
            self._terms.claim_ttl,
            self._terms.grace,
            self._rng,
        )

    @property
    def _claim_at(self) -> float:
        return _NEVER if self._claim is None else self._claim.renew_at

    def _renew_claim(self) -> bool:
        """Renew the claim, and whatever comes of it plan the next time; whether it is ours."""
        if self._claim is None:
            return False
        ours = self._claim.renew(_NEVER if self._place is None else self._place.needed_at)
        self._idle_at = kernel.now() + _IDLE
        if ours is False:
            claimed = self._run is not None and self._run.key is not None
            self._run = self._claim = None
            if claimed:
                self._term.claim.lose(kernel.now())
                self._tether.send(channel.Lost())
        return ours is True

    def _renew_all(self) -> bool:
        ours = self._place is None or self._renew_place()
        keyed = self._run is not None and self._run.key is not None
        return ours and (not keyed or self._renew_claim())

    def _finish(self, outcome: Outcome, due: float) -> Recorded:
        """Store the outcome; where the lock is in the same database, give it back with that."""
        # What is past its term by now was held as long as COMMAND ran, or has been told of.
        proved = self._place is not None and kernel.now() < self._term.lock.term_at
        wanted = self._wanted if proved and self._stores.together else None
        if wanted is None:
            recorded = Recorded(self._ledger.finish(outcome, self._spared(due)))
        else:
            recorded = self._ledger.finish_and_release(outcome, wanted, due)
            self._forget_place()
        self._run = self._claim = self._asked = self._untold = None
        self._term.claim.clear()
        return recorded

    # ------------------------------------------------------------ when nobody waits any more

    def _outlive(self) -> None:
        """The supervisor is gone: keep what is held while anything of COMMAND may be alive."""
        dead: set[int] = set()
        while len(dead) < self._term.executed and (
            self._run is not None or self._asked is not None or self._place is not None
        ):
            if self._tether.fileno() not in self._wait_for(self._tether.fileno()):
                continue
            received = self._tether.receive()
            if received is None:
                return
            if isinstance(received[0], channel.TreeDead):
                dead.add(received[0].warden)
        self._tell_the_rest()

    def _tell_the_rest(self) -> None:
        """Have recorded what was not, so that the key need not lapse; give the lock back."""
        tell = self._last_word()
        told = tell is None or insist(tell, _FIRST_WORD, self._rng)
        if self._wanted is not None and kernel.now() < self._term.warn_at:
            proved = kernel.now() < self._term.lock.term_at
            seconds = min(_LAST_WORD, self._wanted.ttl) if proved else _FIRST_WORD
            insist(self._give, seconds, self._rng)
        if tell is not None and not told:
            insist(tell, _LAST_WORD, self._rng)
        spool = self._stores.spool
        if spool is not None and spool.late():
            insist(
                lambda _: spool.complete(self._ledger, kernel.now() + _LAST_WORD),
                _LAST_WORD,
                self._rng,
            )

    def _last_word(self) -> Callable[[float], object] | None:
        """What the ledger has not been told of the run."""
        outcome, run = self._untold, self._run or self._asked
        executed = self._term.executed
        if outcome is None and run is None:
            return None

        def tell(due: float) -> None:
            if outcome is not None:
                self._ledger.finish(outcome, due)
            elif run is not None and executed:
                self._ledger.interrupt(run, due)
            if run is not None and not executed:
                self._ledger.give_back(run, due)

        return tell


def _public(error: GuardrunError) -> str:
    """The name of an error's class that the supervisor knows as well."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in vars(errors))
