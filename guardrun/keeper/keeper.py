"""The keeper: owns everything remote, so that the supervisor never waits for a network.

It answers the supervisor's questions one after the other, and renews what it holds whether it is
asked or not. It is in a session of its own and ignores what ends a job (systemd signals a whole
cgroup, Ctrl-Z a whole group), because a lease must outlive COMMAND:

- the supervisor says ``Release``: the run is over. What the ledger has not been told by then,
  because it did not answer in time, the keeper goes on telling it for a while;
- the supervisor is gone without it: what is held stays held until warden or backstop say that
  nothing of COMMAND is alive. Then the run is recorded as interrupted. If they are gone without
  that word as well, nobody knows, and only the ttl may end the claim.

It blocks in the driver, never longer than it was told. Should it hang all the same (a resolver,
SIGSTOP), supervisor and warden go by the term it last wrote down.
"""

from __future__ import annotations

import os
import select
import signal

from guardrun import channel, errors, kernel
from guardrun.core import lease
from guardrun.errors import GuardrunError, StoreUnavailable
from guardrun.keeper import messages
from guardrun.model import Claim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from guardrun.ledger.spool import Spool
    from guardrun.model import Outcome, Refusal, Run
    from guardrun.ports import RemoteLedger, Rng
    from guardrun.term import Term

_NEVER = float("inf")
_IDLE = 0.25
"""s that a connection is kept after its last use: a fleet's jobs must not sit on connections"""
_UNASKED = 5.0
"""s that one request may take that nobody waits for"""
_LAST_WORD = 60.0
"""s to record what the supervisor could not wait for, or its own death kept it from"""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
"""s"""


class Keeper:
    """One keeper's state: the run it holds a row or a claim for, if any."""

    def __init__(
        self,
        supervisor: channel.Channel,
        tether: channel.Channel,
        term: Term,
        ledger: RemoteLedger,
        spool: Spool,
        rng: Rng,
        ttl: float,
        grace: float,
    ) -> None:
        self._supervisor = supervisor
        self._tether = tether
        self._term = term
        self._ledger = ledger
        self._spool = spool
        self._rng = rng
        self._ttl = ttl
        self._grace = grace
        self._timer = kernel.Timer()
        self._run: Run | None = None
        self._asked: Run | None = None
        """whose claim may have been committed without our hearing of it"""
        self._untold: Outcome | None = None
        """what the ledger did not take so far"""
        self._lease: lease.Lease | None = None
        self._renew_at = _NEVER
        self._idle_at = _NEVER

    def serve(self, held: Run | None) -> None:
        """Work until released, or until the supervisor is gone and all is told.

        ``held`` is what an earlier keeper of this supervisor held: it is renewed first.
        """
        if held is not None:
            self._run, self._renew_at = held, 0.0
        self._supervisor.send(messages.Working())
        poll = select.poll()
        poll.register(self._supervisor.fileno(), select.POLLIN)
        poll.register(self._timer.fd, select.POLLIN)
        while True:
            self._timer.set(min(self._renew_at, self._idle_at))
            ready = {fd for fd, _ in poll.poll()}
            self._look_after()
            if self._supervisor.fileno() not in ready:
                continue
            received = self._supervisor.receive()
            if received is None:
                self._outlive()
                return
            if not self._obey(received[0]):
                return

    def _look_after(self) -> None:
        if kernel.now() >= self._renew_at:
            self._renew()
        if kernel.now() >= self._idle_at:
            self._ledger.idle()
            self._idle_at = _NEVER

    # ------------------------------------------------------------ what the supervisor wants

    def _obey(self, message: tuple[object, ...]) -> bool:
        """Carry out one message; False when this was the last one."""
        match message:
            case messages.Question(serial, asked, due):
                self._supervisor.send(self._answer(serial, asked, due))
            case messages.Note(run, key):
                try:
                    self._begin(messages.Begin(run, key), kernel.now() + _UNASKED)
                except GuardrunError:
                    self._run = run  # the outcome is stored as a whole; the row is for who looks
            case messages.Release(executed):
                self._tell_the_rest(executed)
                return False
        self._idle_at = kernel.now() + _IDLE
        return True

    def _answer(self, serial: int, asked: object, due: float) -> messages.Answer | messages.Failed:
        if isinstance(asked, messages.Finish):
            self._untold = asked.outcome
        try:
            if kernel.now() >= due:
                raise StoreUnavailable("the ledger's answer would come too late")
            match asked:
                case messages.Begin():
                    return messages.Answer(serial, self._begin(asked, due))
                case messages.SpendRetry(run, budget):
                    return messages.Answer(serial, self._ledger.spend_retry(run, budget, due))
                case messages.Finish(outcome):
                    ours = self._ledger.finish(outcome, due)
                    self._let_go()
                    return messages.Answer(serial, ours)
                case messages.StoredOutput(key):
                    return messages.Answer(serial, self._ledger.stored_output(key, due))
                case messages.Renew():
                    return messages.Answer(serial, self._renew())
        except GuardrunError as error:
            return messages.Failed(serial, _public(error), str(error))
        except (ValueError, OverflowError) as error:  # what no ledger has room for
            return messages.Failed(serial, StoreUnavailable.__name__, str(error))
        raise AssertionError(asked)

    def _begin(self, asked: messages.Begin, due: float) -> Claim | Refusal:
        self._spool.flush(self._ledger, due)
        sent_at = kernel.now()
        self._asked = asked.run
        said = self._ledger.begin(asked.run, asked.key, due)
        if isinstance(said, Claim):
            self._run = asked.run
            self._hold(sent_at)
        self._asked = None
        return said

    # ------------------------------------------------------------ what is held

    def _hold(self, sent_at: float) -> None:
        """Write down what a claim or renewal that was sent then allows."""
        assert self._run is not None
        granted = lease.Lease(self._ttl, sent_at, self._grace)
        self._renew_at = lease.next_renewal(granted, self._rng)
        if self._run.key is None:
            return
        self._lease = granted
        overdue_at = lease.overdue_at(granted, self._renew_at)
        if kernel.now() < self._term.term_at:
            self._term.extend(granted, overdue_at)
        else:  # COMMAND is being stopped already, and that is not taken back
            self._term.show_life(overdue_at)

    def _let_go(self) -> None:
        self._run = self._lease = self._asked = self._untold = None
        self._renew_at = _NEVER
        self._term.clear()

    def _renew(self) -> bool:
        """Renew, and whatever comes of it plan the next time; whether it worked."""
        if self._run is None:
            return False
        self._idle_at = kernel.now() + _IDLE
        for _ in range(2):
            sent_at = kernel.now()
            try:
                ours = self._ledger.renew(self._run, sent_at + lease.patience(self._ttl))
            except StoreUnavailable:
                continue
            if ours:
                self._hold(sent_at)
            else:
                self._lose()
            return ours
        tried = lease.Lease(self._ttl, kernel.now(), self._grace)
        self._renew_at = lease.next_try(tried, tried.sent_at, self._rng)
        if self._lease is not None:
            self._term.show_life(lease.overdue_at(tried, self._renew_at))
        return False

    def _lose(self) -> None:
        """The claim is another's, without doubt: COMMAND must not live a moment longer."""
        claimed = self._run is not None and self._run.key is not None
        self._run = self._lease = None
        self._renew_at = _NEVER
        if claimed:
            self._term.lose(kernel.now())
            self._tether.send(channel.Lost())

    def _tell_the_rest(self, executed: bool) -> None:
        """Nobody waits any more: have recorded what was not, so that the key need not lapse."""
        outcome, run = self._untold, self._run or self._asked
        if outcome is not None:
            self._insist(lambda due: self._ledger.finish(outcome, due))
        elif run is not None and executed:
            self._insist(lambda due: self._ledger.interrupt(run, due))
        if run is not None and run.key is not None and not executed:
            self._insist(lambda due: self._ledger.give_back(run, due))
        if self._spool.late():
            self._insist(lambda _: self._spool.complete(self._ledger, kernel.now() + _LAST_WORD))

    # ------------------------------------------------------------ after the supervisor's death

    def _outlive(self) -> None:
        """Keep what is held while anything of COMMAND may be alive; then record the end."""
        if self._run is None:
            self._tell_the_rest(executed=False)  # it never heard of a claim
            return
        poll = select.poll()
        poll.register(self._tether.fileno(), select.POLLIN)
        poll.register(self._timer.fd, select.POLLIN)
        while self._run is not None:
            self._timer.set(self._renew_at)
            ready = {fd for fd, _ in poll.poll()}
            if self._tether.fileno() in ready:
                received = self._tether.receive()
                if received is None:
                    return
                if isinstance(received[0], channel.TreeDead):
                    self._tell_the_rest(executed=True)
                    return
            if kernel.now() >= self._renew_at:
                self._renew()

    def _insist(self, tell: Callable[[float], object]) -> None:
        """Tell the ledger something, jittered, for as long as the last word may take."""
        last = kernel.now() + _LAST_WORD
        pause = _FIRST_PAUSE
        poll = select.poll()
        poll.register(self._timer.fd, select.POLLIN)
        while (now := kernel.now()) < last:
            try:
                tell(now + _UNASKED)
                return
            except StoreUnavailable:
                self._timer.set(kernel.now() + self._rng.uniform(0, pause))
                poll.poll()
                pause = min(2 * pause, _LONGEST_PAUSE)
            except (GuardrunError, ValueError, OverflowError):
                return  # no asking again will help: the spool has it, and the ttl does the rest


def _public(error: GuardrunError) -> str:
    """The name of an error's class that the supervisor knows as well."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in vars(errors))


def detach(kept: frozenset[int]) -> None:
    """Make the process, just forked, independent of the job's terminal, signals and files.

    Of its descriptors only ``kept`` stay open: a keeper that outlives the run for a moment must
    not hold its host lock, nor the pipe somebody reads its output from.
    """
    os.setsid()
    for signum in _IGNORED:
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2 and fd not in kept:
            try:
                os.close(fd)
            except OSError:  # the listing's own
                pass


_IGNORED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGTSTP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
)
