"""COMMAND's processes: signal them all, kill them all, and know when none is left.

The caller is their parent or their subreaper (prctl(2)), so every orphan among them becomes
its child, and wait(2) failing with ECHILD is the kernel's own word that none is left: no
search can prove that. ``env -i``, setsid, a double fork, a changed name hide nothing from it.

Pids of own children can't be recycled before they are reaped: signalling them is safe. Deeper
ones are signalled through a pidfd that was checked against its parent after it was opened.
"""

from __future__ import annotations

import os
import signal

from guardrun import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


def _listed(pid: int) -> list[int]:
    """Children of all threads of ``pid``, zombies included; none of what can't be read.

    Whoever needs to be sure asks the kernel (``is_empty``).
    """
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found.extend(map(int, file.read().split()))
    except OSError:
        if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
            return _searched(pid)
    return found


def _searched(of: int) -> list[int]:
    """The same on a kernel without CONFIG_PROC_CHILDREN."""
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []
    return [pid for pid in pids if kernel.parent(pid) == of]


def children() -> list[int]:
    """Own children that have not been reaped, the dead among them included."""
    return _listed(os.getpid())


def living() -> list[int]:
    """Own children that are alive."""
    return [pid for pid in children() if kernel.stat(pid)[1] not in (b"Z", b"X", b"")]


def _descend(pid: int, spare: frozenset[int]) -> Iterator[tuple[int, int]]:
    """(parent, pid) of everything below ``pid``, but of nothing in or below ``spare``.

    Not recursive: a script that calls itself is deeper than Python's stack.
    """
    above = [pid]
    while above:
        parent = above.pop()
        for child in _listed(parent):
            if child not in spare:
                yield parent, child
                above.append(child)


def signal_tree(
    signum: int,
    group: int | None,
    spare: frozenset[int] = frozenset(),
    heard: int | None = None,
) -> None:
    """Send ``signum`` once to everything below this process, but to nothing in or below ``spare``.

    Nor to the members of process group ``heard``, which have it already.
    ``group`` is a process group of COMMAND's own whose number can't have been recycled: it is
    signalled first and in one call, which no fork(2) in it can escape.
    """
    me = os.getpid()
    below = list(_descend(me, spare))
    done: set[int] = set()
    if group is not None:
        done.update(pid for _, pid in below if _group(pid) == group)
        try:
            os.killpg(group, signum)
        except (ProcessLookupError, PermissionError):
            pass
    for above, pid in below:
        if pid in done or (heard is not None and _group(pid) == heard):
            continue
        done.add(pid)
        try:
            if above == me:
                os.kill(pid, signum)
                continue
            pidfd = os.pidfd_open(pid)
            try:
                if kernel.parent(pid) in (above, me):  # an orphan has come to us meanwhile
                    signal.pidfd_send_signal(pidfd, signum)
            finally:
                os.close(pidfd)
        except OSError:  # it is gone, or another user's by now
            pass


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except (ProcessLookupError, PermissionError):
        return -1


def reap(keep: frozenset[int] = frozenset()) -> bool:
    """Reap every dead child but those in ``keep``; True while any other child is left."""
    if not keep:  # the kernel knows them all, also where /proc can't be read
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return False
        return True
    left = False
    for pid in children():
        if pid in keep:
            continue
        try:
            left = os.waitpid(pid, os.WNOHANG) == (0, 0) or left
        except ChildProcessError:
            pass
    return left


def bury(known: set[int], keep: Collection[int] = ()) -> None:
    """Reap those of ``known`` that are dead, but none in ``keep``, and forget each with that.

    From then on its number may be that of any process, of COMMAND's too.
    """
    for pid in known.difference(keep):
        try:
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                continue
        except ChildProcessError:
            pass
        known.discard(pid)


def is_empty() -> bool:
    """Whether the kernel says that this process has no child, dead or alive."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def kill_all(spare: frozenset[int] = frozenset()) -> None:
    """Kill and reap all children, and all that become children by it, until none is left.

    For the moment when nothing else matters any more: it returns only when the kernel has ended
    them, however long one of them sits in an uninterruptible call. SIGCHLD must be blocked.
    ``spare`` are children that were there before guardrun was; with any, the proof is the list
    of children instead of ECHILD.
    """
    while True:
        signal_tree(signal.SIGKILL, None, spare)
        if not reap(spare) and (spare or is_empty()):
            return
        # A blocked SIGCHLD stays pending, so no death is missed. The timeout is for an orphan
        # that came to us after the listing: it has not been killed yet, and wakes nobody.
        signal.sigtimedwait({signal.SIGCHLD}, 0.02)
