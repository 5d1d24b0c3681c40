"""Where a pool's items wait: whoever can go on goes on, and nobody is forgotten."""

from __future__ import annotations

import signal

from guardrun import kernel
from guardrun.model import ReportSpec
from guardrun.pool.hub import Hub, ItemLoop
from guardrun.report.log import Log
from guardrun.supervisor.loop import Terminal


def test_what_one_does_another_waits_for() -> None:
    """In one round, whichever of them was parked first: nothing else would wake the other."""
    hub = Hub(frozenset())
    done: list[str] = []
    free = False

    def first() -> None:
        hub.park(lambda: "second" in done)
        done.append("first")

    def second() -> None:
        hub.park(lambda: free)
        done.append("second")

    hub.start(first)
    hub.start(second)
    hub.wait((), 0.0)
    assert done == []
    free = True
    hub.wait((), 0.0)
    assert done == ["second", "first"]


def test_told_while_it_could_not_hear() -> None:
    """An item that is told to stop while it is parked hears of it as soon as it sleeps."""
    hub = Hub(frozenset())
    loop = ItemLoop(hub, Terminal(None), Log.start(ReportSpec(to="none")))
    told = kernel.Signal(int(signal.SIGTERM), by_kernel=False)
    committed = False
    heard: list[kernel.Signal] = []

    def item() -> None:
        hub.park(lambda: committed)
        heard.extend(loop.wait((), float("inf"))[1])

    hub.start(item)
    hub.tell([loop], told)
    hub.wait((), 0.0)
    committed = True
    hub.wait((), 0.0)  # it is asleep now
    due = kernel.now() + 10.0
    hub.wait((), due)
    assert heard == [told]
    assert kernel.now() < due
