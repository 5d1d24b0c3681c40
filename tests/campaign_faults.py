"""What can go wrong while a fleet is at work, one fault a call: ``True`` when it was done.

Each gets the campaign and a random generator of its own. What it breaks for a while it repairs
later; one thing is broken in one way at a time.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable

from campaign import Campaign, Contender, Station
from fleet import ask

Fault = Callable[[Campaign, random.Random], bool]

SINGLES = ("supervisor", "keeper", "warden", "backstop", "command")
CLAIM = r"insert into guardrun\.keys as held.*claimed\.token.*commit"
FINISH = r"insert into guardrun\.attempts.*commit"
RENEWAL = r"set claim_until =.*set alive_until =.*commit"
_NEVER = r"\A\Z"
_SPRINGS_WITHIN = 6.0
"""s"""


def _victim(campaign: Campaign, rng: random.Random, members: tuple[str, ...]) -> Contender | None:
    """A run with all these processes to which nothing was done yet."""
    candidates = [
        one for one in campaign.running if not one.touched and set(members) <= one.pids().keys()
    ]
    return rng.choice(candidates) if candidates else None


def kill(*members: str) -> Fault:
    """kill -9 of these processes of a run, as close to at once as can be."""

    def do(campaign: Campaign, rng: random.Random) -> bool:
        victim = _victim(campaign, rng, members)
        if victim is None:
            return False
        with victim.grasp(members, campaign.mark) as handles:
            for member, pidfd in handles.items():
                victim.killed.add(member)
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            campaign.tell(f"killed {list(handles)} of {victim.log.name}")
            return bool(handles)

    return do


def kill_pair(campaign: Campaign, rng: random.Random) -> bool:
    """kill -9 of two processes of a run at once."""
    return kill(*rng.sample(SINGLES, 2))(campaign, rng)


def kill_in_turn(campaign: Campaign, rng: random.Random) -> bool:
    """kill -9 of one process, and of another while guardrun deals with that."""
    members = tuple(rng.sample(SINGLES, 2))
    victim = _victim(campaign, rng, members)
    if victim is None:
        return False
    with victim.grasp(members, campaign.mark) as handles:
        for pidfd in handles.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            time.sleep(rng.uniform(0, 0.1))
        victim.killed.update(handles)
        campaign.tell(f"killed {list(handles)} of {victim.log.name}, one after the other")
        return bool(handles)


def stop(member: str, fixed: float | None = None, chosen: Contender | None = None) -> Fault:
    """SIGSTOP of one process of a run, for a while."""

    def do(campaign: Campaign, rng: random.Random) -> bool:
        victim = chosen or _victim(campaign, rng, (member,))
        if victim is None:
            return False
        with victim.grasp((member,), campaign.mark) as handles:
            if not handles:
                return False
            pidfd = os.dup(handles[member])
        seconds = fixed or rng.choice((0.5, 2.0, 6.0, campaign.longest))
        victim.stopped.add(member)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)

        def go_on() -> None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)
            os.close(pidfd)
            campaign.tell(f"continued {member} of {victim.log.name}")

        campaign.later(seconds, go_on)
        campaign.tell(f"stopped {member} of {victim.log.name} for {seconds} s")
        return True

    return do


# ---------------------------------------------------------------- the server


def terminate_backends(campaign: Campaign, rng: random.Random) -> bool:  # noqa: ARG001
    """pg_terminate_backend of every connection that a guardrun has."""
    ended: list[object] = []

    def terminate() -> bool:
        if "server" in campaign.broken:
            return False
        ended.extend(
            ask(
                campaign.server.socket_url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'guardrun'",
            )
        )
        return bool(ended)

    campaign.live_until(terminate, 2.0)
    campaign.tell(f"terminated {len(ended)} backends")
    return bool(ended)


def outage(name: str, begin: Callable[[Campaign], None], end: Callable[[Campaign], None]) -> Fault:
    """The server away for a short while."""

    def do(campaign: Campaign, rng: random.Random) -> bool:
        return _break_server(campaign, name, begin, end, rng.uniform(0.2, 3.0))

    return do


def _break_server(
    campaign: Campaign,
    name: str,
    begin: Callable[[Campaign], None],
    end: Callable[[Campaign], None],
    seconds: float,
) -> bool:
    if "server" in campaign.broken:
        return False
    campaign.broken.add("server")
    begin(campaign)
    campaign.tell(f"server: {name} for {seconds:.1f} s")

    def repair() -> None:
        end(campaign)
        campaign.broken.discard("server")
        campaign.tell("server: back")

    campaign.later(seconds, repair)
    return True


def pause(shortest: float, longest: float) -> Fault:
    """SIGSTOP of the server and all its backends."""

    def do(campaign: Campaign, rng: random.Random) -> bool:
        return _break_server(
            campaign,
            "stopped by SIGSTOP",
            lambda campaign: campaign.server.pause(),
            lambda campaign: campaign.server.resume(),
            rng.uniform(shortest, longest),
        )

    return do


# ---------------------------------------------------------------- the network


def _sound_proxy(campaign: Campaign, rng: random.Random) -> Station | None:
    sound = [
        station
        for station in campaign.stations
        if station.proxy and station.proxy.port not in campaign.broken
    ]
    return rng.choice(sound) if sound else None


def cut_at(pattern: str, when: str, work: float | None = None) -> Fault:
    """A connection cut at a COMMIT, before the server gets it or after it has executed it."""

    def do(campaign: Campaign, rng: random.Random) -> bool:
        station = _sound_proxy(campaign, rng)
        if station is None:
            return False
        proxy = station.proxy
        assert proxy is not None
        fired = proxy.stats().fired
        campaign.broken.add(proxy.port)
        proxy.cut_at(pattern, when, count=rng.choice((1, 1, 2)))  # type: ignore[arg-type]
        campaign.begin(station, work)
        sprung = campaign.live_until(lambda: proxy.stats().fired > fired, _SPRINGS_WITHIN)
        proxy.cut_at(_NEVER, "before")
        campaign.broken.discard(proxy.port)
        campaign.tell(f"cut {when} {pattern} on {station.host.root.name}: {sprung}")
        return sprung

    return do


def cut_all(campaign: Campaign, rng: random.Random) -> bool:
    """Every connection of a host reset, at a moment when there is one."""
    station = _sound_proxy(campaign, rng)
    if station is None:
        return False
    proxy = station.proxy
    assert proxy is not None
    if not campaign.live_until(lambda: proxy.stats().open > 0, 2.0):
        return False
    proxy.cut()
    campaign.tell(f"cut all connections of {station.host.root.name}")
    return True


def sever(how: str, fixed: float | None = None, chosen: Station | None = None) -> Fault:
    """A host cut off for a while: nothing passes, or nothing is taken."""

    def do(campaign: Campaign, rng: random.Random) -> bool:
        station = chosen or _sound_proxy(campaign, rng)
        if station is None:
            return False
        proxy = station.proxy
        assert proxy is not None
        campaign.broken.add(proxy.port)
        seconds = fixed or rng.choice((1.0, 3.0, 5.0))
        match how:
            case "refused":
                proxy.refuse()
            case "both" | "to_client" | "to_server":
                proxy.blackhole(how)

        def repair() -> None:
            proxy.resume() if how != "refused" else proxy.accept()
            campaign.broken.discard(proxy.port)
            campaign.tell(f"{station.host.root.name} is connected again")

        campaign.later(seconds, repair)
        campaign.tell(f"{station.host.root.name} severed ({how}) for {seconds} s")
        return True

    return do


# ---------------------------------------------------------------- longer than a claim lasts


def _contend(campaign: Campaign, rng: random.Random, station: Station) -> Contender | None:
    """Have COMMAND work on this host for longer than its claim lasts unrenewed, and others wait for
    the same key; the run."""
    key = campaign.fresh_key()
    holder = campaign.begin(station, work=campaign.longest, key=key)
    holder.spared = True
    if not campaign.live_until(lambda: "command" in holder.pids(), 6.0):
        return None
    campaign.live(rng.uniform(0.2, 2.0))
    others = [other for other in campaign.stations if other is not station]
    campaign.begin(rng.choice(others), key=key, wait="30s").spared = True
    return holder


def outlast(campaign: Campaign, rng: random.Random) -> bool:
    """A host severed from its claim until that has lapsed, while others are not."""
    station = _sound_proxy(campaign, rng)
    if station is None or _contend(campaign, rng, station) is None:
        return False
    return sever(rng.choice(("refused", "both", "to_client")), campaign.longest, station)(
        campaign, rng
    )


def freeze(campaign: Campaign, rng: random.Random) -> bool:
    """SIGSTOP of the server until every claim has lapsed."""
    if "server" in campaign.broken or _contend(campaign, rng, campaign.stations[0]) is None:
        return False
    return pause(20, 20)(campaign, rng)


def stop_and_outlast(campaign: Campaign, rng: random.Random) -> bool:
    """The same as ``outlast``, and one of the run's own processes is stopped meanwhile."""
    station = _sound_proxy(campaign, rng)
    if station is None:
        return False
    holder = _contend(campaign, rng, station)
    if holder is None:
        return False
    member = rng.choice(("supervisor", "warden", "keeper"))
    severed = sever(rng.choice(("refused", "both")), campaign.longest, station)(campaign, rng)
    return severed and stop(member, campaign.longest, holder)(campaign, rng)


FAULTS: dict[str, tuple[float, Fault]] = {
    "kill supervisor": (3, kill("supervisor")),
    "kill keeper": (3, kill("keeper")),
    "kill warden": (2, kill("warden")),
    "kill backstop": (1, kill("backstop")),
    "kill COMMAND": (2, kill("command")),
    "kill supervisor and keeper": (1, kill("supervisor", "keeper")),
    "kill a pair": (4, kill_pair),
    "kill one after another": (3, kill_in_turn),
    "stop supervisor": (1.5, stop("supervisor")),
    "stop keeper": (1.5, stop("keeper")),
    "stop warden": (1, stop("warden")),
    "terminate backends": (2, terminate_backends),
    "server stopped": (
        1,
        outage("stopped", lambda c: c.server.stop(), lambda c: c.server.start_again()),
    ),
    "server crashed": (
        1,
        outage("crashed", lambda c: c.server.stop(crash=True), lambda c: c.server.start_again()),
    ),
    "server killed": (
        1,
        outage("killed", lambda c: c.server.kill(), lambda c: c.server.start_again()),
    ),
    "server frozen 1-4 s": (2, pause(1, 4)),
    "cut at claim, before": (2, cut_at(CLAIM, "before")),
    "cut at claim, after": (2, cut_at(CLAIM, "after")),
    "cut at finish, before": (2, cut_at(FINISH, "before")),
    "cut at finish, after": (2, cut_at(FINISH, "after")),
    "cut at renewal, after": (1, cut_at(RENEWAL, "after", work=5.0)),
    "all connections cut": (1, cut_all),
    "blackhole": (1, sever("both")),
    "blackhole, answers only": (1, sever("to_client")),
    "refused": (1, sever("refused")),
}
"""How often, and what."""

LONG: dict[str, tuple[float, Fault]] = {
    "server frozen 20 s": (1.5, freeze),
    "severed beyond the claim": (1, outlast),
    "the same, and one stopped": (1, stop_and_outlast),
}
"""What only a campaign of many rounds has time for."""


def strike(campaign: Campaign, rng: random.Random, faults: dict[str, tuple[float, Fault]]) -> None:
    """Let the fleet work for a moment, and then break something."""
    campaign.live(rng.uniform(0.1, 0.9))
    deadline = time.monotonic() + 60
    while True:
        (name,) = rng.choices(list(faults), [weight for weight, _ in faults.values()])
        if faults[name][1](campaign, rng):
            campaign.faults[name] += 1
            return
        assert time.monotonic() < deadline, "there is nothing to break"
        campaign.live(0.1)
