"""The supervisor's hold on its keeper: start it, ask it, replace it when it is dead or stuck."""

from __future__ import annotations

import os
import select
import signal

from guardrun import channel, errors, kernel
from guardrun.errors import StoreUnavailable
from guardrun.keeper import messages
from guardrun.keeper.detach import detach
from guardrun.keeper.keeper import Keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from guardrun.keeper.stores import Stores, Terms
    from guardrun.model import LeaseRequest, Run
    from guardrun.ports import Rng, Waiter
    from guardrun.term import Term

_NEVER = float("inf")
_STUCK = "it was stuck"
_ANSWER = 12.0
"""s; a keeper that works answers sooner, if only to say that the store does not"""
_LOOK = 1.0
"""s between looks at whether a keeper that has not answered is alive; and so much later than else
it shows that: one question may take it a second when there is none left (``holding.spared``)"""
_SLOW_LINK = 64 * 1024
"""bytes a second"""
_MOST = 5
"""keepers in a row that may die young: then it is no accident, and every other one has to wait"""
_YOUNG = 60.0
"""s"""
_REST = 10.0
"""s until the next one then: what kills them (want of memory, a driver and its server) may pass
before COMMAND has ended and its outcome wants to be recorded"""
_PARTING = 0.1
"""s that a keeper with nothing left to do has to end: what looks after its run next, an outer
guardrun say, should not find it still there"""


class Link:
    """One keeper at a time, from ``start`` to ``release``.

    ``spare`` is the set of children that are not COMMAND's; keepers join it. ``session_bound``: a
    lock is lost together with the keeper that has it.
    """

    def __init__(
        self,
        tether: channel.Channel,
        term: Term,
        open_stores: Callable[[], Stores],
        terms: Terms,
        session_bound: bool,
        rng: Rng,
        spare: set[int],
    ) -> None:
        self.term = term
        self.held: Run | None = None
        self.place: LeaseRequest | None = None
        """what the next keeper would have to hold"""
        self.owes = False
        """an outcome was handed over, and is not stored yet"""
        self._tether = tether
        self._open_stores = open_stores
        self._terms = terms
        self._session_bound = session_bound
        self._rng = rng
        self._spare = spare
        self._end: channel.Channel | None = None
        self._pidfd = -1
        self._deaths = 0
        self._rests_until = float("-inf")
        """there is to be no keeper before that"""
        self._refusal = ""
        self._started_at = 0.0
        self._serial = 0
        self._working = False
        self._fault = "it was killed"

    def start(self) -> None:
        """Fork a keeper; raises StoreUnavailable when there have been too many lately."""
        if kernel.now() < self._rests_until:
            raise StoreUnavailable(self._refusal)
        # Whatever happens to this one: the term that the last one wrote down stands, and the warden
        # acts on it.
        self.term.begin_anew(kernel.now(), _ANSWER)
        held, place = self.held, self.place
        ends: tuple[channel.Channel, ...] = ()
        try:
            ends = ours, theirs = channel.pair(messages.KINDS)
            pid = kernel.fork(lambda: self._become_keeper(theirs, held, place))
        except OSError as error:
            for end in ends:
                end.close()
            raise StoreUnavailable(f"the keeper cannot be started: {error.strerror}") from error
        theirs.close()
        self._started_at = kernel.now()
        self._spare.add(pid)
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError as error:
            os.kill(pid, signal.SIGKILL)  # our own child, and not reaped yet
            ours.close()
            raise StoreUnavailable(f"the keeper cannot be watched: {error.strerror}") from error
        self._end = ours
        self._working = False

    def _become_keeper(
        self, end: channel.Channel, held: Run | None, place: LeaseRequest | None
    ) -> None:
        try:
            detach(frozenset({end.fileno(), self._tether.fileno()}))
            stores = self._open_stores()
            keeper = Keeper(end, self._tether, self.term, stores, self._terms, self._rng)
            keeper.serve(held, place)
        except Exception as error:
            from guardrun.core.redact import redact_text

            end.send(messages.Broken(redact_text(f"{type(error).__name__}: {error}", ())))

    # ------------------------------------------------------------ questions

    def ask(
        self,
        waiter: Waiter,
        store: str,
        asked: tuple[object, ...],
        due: float,
        size: int = 0,
    ) -> object:
        """Ask one question and wait for its answer, until ``due`` at the latest.

        ``store`` is what it is about, for people; ``size`` is how many bytes are sent with it,
        which takes its time. Raises StoreUnavailable, and what the keeper said instead of an
        answer.
        """
        self._serial += 1
        serial = self._serial
        limit = min(due, kernel.now() + _ANSWER + size / _SLOW_LINK)
        end = self._living()
        end.send(messages.Question(serial, asked, limit))  # type: ignore[arg-type]
        while True:
            # It may be stopped, having got or renewed something meanwhile, and must be replaced
            # before that lapses: nothing but a look at the term tells.
            look_at = min(limit, self.overdue_at() + _LOOK, kernel.now() + _LOOK)
            if end.fileno() not in waiter.pause((end.fileno(),), look_at):
                now = kernel.now()
                if now < min(limit, self.overdue_at() + _LOOK):
                    continue
                if now < due:
                    self._replace(_STUCK)
                raise StoreUnavailable(f"the {store} has not answered in time")
            match self._receive():
                case messages.Answer(number, value) if number == serial:
                    return value
                case messages.Failed(number, kind, message) if number == serial:
                    raise getattr(errors, kind)(message)
                case None:
                    self._replace(self._fault)
                    raise StoreUnavailable(f"the keeper is gone: {self._fault}")

    def tell(self, message: tuple[object, ...]) -> None:
        """Say something that has no answer."""
        self._living().send(message)

    def drop(self, asked: tuple[object, ...]) -> None:
        """Have something done, if there is a keeper; nobody waits for the answer."""
        if self._end is not None:
            self._end.send(messages.Question(0, asked, kernel.now() + _ANSWER))  # type: ignore[arg-type]

    def await_wake(self, waiter: Waiter, due: float) -> None:
        """Wait until it is worth asking for the lock again, or ``due``."""
        while True:
            end = self._living()
            if end.fileno() not in waiter.pause((end.fileno(),), due):
                return
            match self._receive():
                case messages.Wake():
                    return
                case None:
                    self._replace(self._fault)
                    return

    def await_work(self, waiter: Waiter, due: float) -> None:
        """Wait until the keeper has loaded its drivers, or ``due``."""
        while not self._working:
            end = self._living()
            if end.fileno() not in waiter.pause((end.fileno(),), due):
                return
            if self._receive() is None:
                self._replace(self._fault)

    def assure(self, waiter: Waiter) -> bool:
        """Whether what is held is good for half its time; it is renewed first if not."""
        if kernel.now() < self.term.half_at:
            return True
        try:
            self.ask(waiter, "store", messages.Renew(), self.term.term_at)
        except StoreUnavailable:
            return False
        return kernel.now() < self.term.half_at

    def release(self) -> None:
        """Tell the keeper that the run is over; do not wait for what it still has to tell."""
        end, self._end = self._end, None
        self._rest("the run is over", _NEVER)
        if end is None:
            return
        end.send(messages.Release())
        end.close()
        nothing_left = self.held is None and self.place is None and not self.owes
        if nothing_left and self._pidfd >= 0:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            poll.poll(_PARTING * 1000)

    # ------------------------------------------------------------ while the supervisor waits

    def fileno(self) -> int:
        """Readable when the keeper has said something, or is gone; -1 when there is none."""
        return -1 if self._end is None else self._end.fileno()

    def ready(self) -> bool:
        """Read what came unasked: the keeper's end, a hint, or an answer nobody waits for.

        Returns whether the term has changed.
        """
        word = self._receive()
        if word is None:
            self._replace(self._fault)
        return word is None or isinstance(word, messages.Look)

    def overdue_at(self) -> float:
        """When ``check`` has something to do."""
        if self._end is not None:
            return self.term.overdue_at
        return self._rests_until if self._is_needed() else _NEVER

    def check(self) -> None:
        """Replace a keeper that is stopped or stuck; the new one renews what the old one held."""
        if kernel.now() < self.overdue_at():
            return
        if self._end is not None:
            self._replace(_STUCK)
        else:
            self._restart()

    def _is_needed(self) -> bool:
        return self.held is not None or self.place is not None

    def _restart(self) -> None:
        """Have a keeper for what is held; when there can be none, who asks next is told."""
        try:
            self.start()
        except StoreUnavailable as error:
            self._rest(str(error), max(self._rests_until, kernel.now() + _LOOK))

    def _rest(self, refusal: str, until: float) -> None:
        self._refusal, self._rests_until = refusal, until

    def _living(self) -> channel.Channel:
        if self._end is None:
            self.start()
        assert self._end is not None
        return self._end

    def _receive(self) -> tuple[object, ...] | None:
        """The keeper's next word; ``None`` when it is gone."""
        assert self._end is not None
        received = self._end.receive()
        if received is None:
            return None
        word, _ = received
        match word:
            case messages.Working():
                self._working = True
            case messages.Broken(message):
                self._fault = message
        return word

    def _replace(self, fault: str) -> None:
        self._fault = fault
        if fault != _STUCK:
            young = kernel.now() < self._started_at + _YOUNG
            self._deaths = self._deaths + 1 if young else 1
            if self._deaths >= _MOST:
                often = f"the keeper ended {self._deaths} times: {fault}"
                self._rest(often, kernel.now() + _REST)
        if self._end is not None:
            self._end.close()
            self._end = None
        if self.place is not None and self._session_bound:
            self.place = None
            self.term.lock.lose(kernel.now())
            self._tether.send(channel.Lost())
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.close(self._pidfd)
        self._pidfd = -1
        if self._is_needed():
            self._restart()
