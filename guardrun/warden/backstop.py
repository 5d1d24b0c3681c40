"""The backstop: the warden's parent, for the case that supervisor and warden are both killed.

Supervisor, backstop and warden are each other's ancestors and all subreapers: whichever two
are killed at once, the third becomes the parent of COMMAND's whole tree, and ends it. It sits
in the supervisor's process group (the warden does not), so that a ``kill -9`` of the whole
group leaves the warden. It has nothing else to do.
"""

from __future__ import annotations

import os
import select
import signal

from guardrun import channel, kernel
from guardrun.warden import tree
from guardrun.warden.warden import Warden

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from guardrun.term import Bond

_NEVER = float("inf")
_STOPPED = 5.0
"""s that a warden stays stopped"""
_WARDENS_TURN = 500
"""ms that the warden has to end the tree when the supervisor is gone; it may be stopped"""


def start(
    group: int | None, mask: frozenset[int], bond: Bond | None, others: Collection[int] = ()
) -> tuple[channel.Channel, channel.Channel, int]:
    """Fork backstop and warden; return the ways to talk to warden and backstop, and its pid.

    ``group``: the process group that COMMAND joins; ``None``: it gets one of its own. ``mask``:
    the signal mask that COMMAND gets. ``bond``: theirs with the keeper, closed here.
    ``others``: descriptors that they do not keep.
    """
    ours, theirs = channel.pair()
    store, kept = channel.pair()
    supervisor = os.pidfd_open(os.getpid())

    def be_backstop() -> None:
        ours.close()
        store.close()
        for fd in others:
            os.close(fd)
        _stand_by(theirs, kept, supervisor, group, mask, bond)

    pid = kernel.fork(be_backstop)
    theirs.close()
    kept.close()
    os.close(supervisor)
    if bond is not None:
        for tether in bond.tethers:
            tether.close()  # or the keeper would never see that they are gone
    return ours, store, pid


def _stand_by(
    theirs: channel.Channel,
    kept: channel.Channel,
    supervisor: int,
    group: int | None,
    mask: frozenset[int],
    bond: Bond | None,
) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    kernel.become_subreaper()
    backstop = os.getpid()

    def be_warden() -> None:
        try:
            kernel.become_subreaper()
            os.setpgid(0, 0)
            kept.close()
            Warden(theirs, supervisor, group, mask, bond).serve()
            if os.getppid() == backstop:  # stopped, it would keep the lock of a run that is over
                try:
                    os.kill(backstop, signal.SIGCONT)
                except ProcessLookupError:  # just now
                    pass
        except Exception as error:
            os.write(2, f"guardrun: the warden failed: {error!r}\n".encode())
            raise

    pid = kernel.fork(be_warden)
    theirs.close()
    warden = os.pidfd_open(pid)
    _keep_until_death(kept, supervisor, pid, warden)
    turn = select.poll()
    turn.register(warden, select.POLLIN)
    if not turn.poll(_WARDENS_TURN):
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if status != 0:
        tree.kill_all()
        if bond is not None:
            for tether in bond.tethers:
                tether.send(channel.TreeDead(bond.number))


def _keep_until_death(kept: channel.Channel, supervisor: int, pid: int, warden: int) -> None:
    """Hold on to the descriptors of lock and claim until supervisor or warden has ended.

    They are never closed here but for newer ones: so lock and claim stay held while this lives.
    A warden that was stopped (COMMAND can do that) is continued after a while: nobody else would
    notice that COMMAND has ended.
    """
    changes = kernel.SignalFd({signal.SIGCHLD})
    poll = select.poll()
    for fd in (supervisor, warden, kept.fileno(), changes.fd):
        poll.register(fd, select.POLLIN)
    timer = kernel.Timer()
    poll.register(timer.fd, select.POLLIN)
    held: tuple[int, ...] = ()
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if ready & {supervisor, warden}:
            return
        if timer.fd in ready:
            os.kill(pid, signal.SIGCONT)
            timer.set(_NEVER)
        if changes.fd in ready:
            changes.read()
            if os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG) is not None:
                timer.set(kernel.now() + _STOPPED)
        if kept.fileno() not in ready:
            continue
        received = kept.receive()
        if received is None:
            poll.unregister(kept.fileno())
            continue
        for fd in held:
            os.close(fd)
        _, held = received
