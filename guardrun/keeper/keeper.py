"""The keeper: owns everything remote, so that the supervisor never waits for a network.

It answers the supervisor's questions one after the other, and renews what it holds whether it is
asked or not. It is in a session of its own and ignores what ends a job (systemd signals a whole
cgroup, Ctrl-Z a whole group), because a lease must outlive COMMAND:

- the supervisor says ``Release``: the run is over;
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

from guardrun import channel, kernel
from guardrun.core import lease
from guardrun.errors import GuardrunError, StoreUnavailable
from guardrun.keeper import messages
from guardrun.model import Claim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guardrun.ledger.spool import Spool
    from guardrun.model import Refusal, Run
    from guardrun.ports import RemoteLedger, Rng
    from guardrun.term import Term

_NEVER = float("inf")
_IDLE = 0.25
"""s that a connection is kept after its last use: a fleet's jobs must not sit on connections"""
_UNASKED = 5.0
"""s that one request may take that nobody waits for"""
_LAST_WORD = 60.0
"""s to record the end of a run whose supervisor was killed"""
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
                if self._lease is not None and not executed:
                    self._give_back()
                return False
        self._idle_at = kernel.now() + _IDLE
        return True

    def _answer(self, serial: int, asked: object, due: float) -> messages.Answer | messages.Failed:
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
            return messages.Failed(serial, type(error).__name__, str(error))
        raise AssertionError(asked)

    def _begin(self, asked: messages.Begin, due: float) -> Claim | Refusal:
        self._spool.flush(self._ledger, due)
        sent_at = kernel.now()
        said = self._ledger.begin(asked.run, asked.key, due)
        if isinstance(said, Claim):
            self._run = asked.run
            self._hold(sent_at)
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
        self._run = self._lease = None
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

    def _give_back(self) -> None:
        assert self._run is not None
        try:
            self._ledger.give_back(self._run, kernel.now() + _UNASKED)
        except GuardrunError:
            pass  # the ttl does it

    # ------------------------------------------------------------ after the supervisor's death

    def _outlive(self) -> None:
        """Keep what is held while anything of COMMAND may be alive; then record the end."""
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
                    self._record_end(self._run)
                    return
            if kernel.now() >= self._renew_at:
                self._renew()

    def _record_end(self, run: Run) -> None:
        last = kernel.now() + _LAST_WORD
        pause = _FIRST_PAUSE
        poll = select.poll()
        poll.register(self._timer.fd, select.POLLIN)
        while (now := kernel.now()) < last:
            try:
                self._ledger.interrupt(run, now + _UNASKED)
                return
            except StoreUnavailable:
                self._timer.set(kernel.now() + self._rng.uniform(0, pause))
                poll.poll()
                pause = min(2 * pause, _LONGEST_PAUSE)


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
