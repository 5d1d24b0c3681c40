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

_WARDENS_TURN = 500
"""ms that the warden has to end the tree when the supervisor is gone; it may be stopped"""


def start(group: int | None, mask: frozenset[int]) -> tuple[channel.Channel, int]:
    """Fork backstop and warden; return the way to talk to the warden, and the backstop's pid.

    ``group``: the process group that COMMAND joins; ``None``: it gets one of its own. ``mask``:
    the signal mask that COMMAND gets.
    """
    ours, theirs = channel.pair()
    supervisor = os.pidfd_open(os.getpid())
    pid = os.fork()
    if pid:
        theirs.close()
        os.close(supervisor)
        return ours, pid
    try:
        ours.close()
        _stand_by(theirs, supervisor, group, mask)
    finally:
        os._exit(0)


def _stand_by(
    theirs: channel.Channel, supervisor: int, group: int | None, mask: frozenset[int]
) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    kernel.become_subreaper()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            kernel.become_subreaper()
            os.setpgid(0, 0)
            Warden(theirs, supervisor, group, mask).serve()
            status = 0
        except Exception as error:
            os.write(2, f"guardrun: the warden failed: {error!r}\n".encode())
        finally:
            os._exit(status)
    theirs.close()
    warden = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(supervisor, select.POLLIN)
    poll.register(warden, select.POLLIN)
    if warden not in dict(poll.poll()):  # the supervisor is gone
        poll.unregister(supervisor)
        if not poll.poll(_WARDENS_TURN):
            os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if status != 0:
        tree.kill_all()
