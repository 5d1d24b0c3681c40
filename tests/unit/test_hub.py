"""Where a pool's items wait: whoever can go on goes on, and nobody is forgotten."""

from __future__ import annotations

from guardrun.pool.hub import Hub


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
