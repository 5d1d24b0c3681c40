"""``unlock``: take a lock away from a holder that is not known to be alive.

What proves that it is: of a host lock the kernel, which says that somebody has it; of a lease its
guardrun, if it runs on this host, or a renewal while we watch.
"""

from __future__ import annotations

import contextlib
import random
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from guardrun import kernel, units
from guardrun.commands import holdings, objects, stores
from guardrun.commands.holdings import Holding
from guardrun.commands.stores import LockStores
from guardrun.errors import GuardrunError, UsageError
from guardrun.locks import owner as owners
from guardrun.locks.flock import HostLock
from guardrun.locks.listing import Held
from guardrun.locks.signs import open_signs
from guardrun.locks.stores import open_leases
from guardrun.model import FOREVER, LockSpec, Place

if TYPE_CHECKING:
    from guardrun.ports import LeaseStore

_WATCH = 20.0
"""s at most; leases of up to a minute are renewed at least once in it"""
_RENEWED = 1 / 4
"""of its ttl: that is when a lease is renewed"""
_LATE = 5.0
"""s; what a renewal may take longer than it should"""
_LOOK = (0.3, 0.7)
"""s"""
_INSIST = 2.0
"""s; what passes by itself has passed by then"""
_PAUSE = 0.02
"""s"""
_SHORTEST = 6
"""characters of a job_id"""


class LockHeld(GuardrunError):
    """The holder is alive."""

    exit_code = 75


class NotTaken(GuardrunError):
    """The lock is as it was, because a person said so."""

    exit_code = 1


@click.command()
@click.argument("lock")
@click.option("--force", is_flag=True, help="Do not ask.")
@click.option(
    "--owner",
    metavar="OWNER",
    help="Only what this run holds: its owner, HOST:PID, or its job_id or the end of it.",
)
@click.option(
    "--scope",
    type=click.Choice(holdings.SCOPES),
    metavar="SCOPE",
    help="Only the lock of this scope.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--lease-url", metavar="URL", help="Use this lease store.")
@click.pass_obj
def unlock(
    where: LockStores,
    lock: str,
    force: bool,
    owner: str | None,
    scope: str | None,
    as_json: bool,
) -> None:
    """Take a lock away from its holders, and raise its fencing token.

    Refused (75) while one of them is alive: it holds a host lock, runs on this host, or renews
    its lease while it is watched, for up to 20 seconds. A --min-hold whose run has ended is taken
    away at once. A lock that is free stays so, and that is no error.
    """
    where = stores.within(where, scope)
    found = [one for one in _read(where, lock) if owner is None or _is(one, owner)]
    _refuse_the_living(lock, found)
    if found and not force:
        _ask(lock, found)
    _watch(where, lock, found)
    taken = _take_away(where, lock, found)
    _say(lock, found, taken, _left(where, lock, taken), as_json)


def _read(where: LockStores, lock: str) -> list[Holding]:
    return holdings.read_host(where, lock) + holdings.read_leases(where, lock)


def _is(one: Holding, word: str) -> bool:
    """Whether that is how somebody names the owner."""
    if one.owner is None:
        return False
    place, _, job_id = one.owner.rpartition(":")
    return word in (one.owner, place) or (len(word) >= _SHORTEST and job_id.endswith(word))


# ---------------------------------------------------------------- proofs of life


def _refuse_the_living(lock: str, found: Sequence[Holding]) -> None:
    for one in found:
        if isinstance(one.at, Held) and one.at.pids:
            pids = ", ".join(map(str, one.at.pids))
            raise _held(lock, one, f"the processes that hold it are alive ({pids})")
        if not one.released and one.owner and (pid := owners.living(one.owner)):
            raise _held(lock, one, f"its guardrun is alive on this host (process {pid})")


def _watch(where: LockStores, lock: str, found: Sequence[Holding]) -> None:
    """Look whether somebody renews a lease. Raises ``LockHeld``."""
    suspects = {
        one.at.token: one for one in found if isinstance(one.at, Place) and not one.released
    }
    if not suspects or where.lease_url is None:
        return
    # Its ttl is not known, but what is left of it after a renewal is all of it.
    left = max(FOREVER if one.expires_in is None else one.expires_in for one in suspects.values())
    watch = min(left * _RENEWED + _LATE, _WATCH)
    if sys.stderr.isatty():
        click.echo(f"watching for {watch:.0f}s whether its holder is alive …", err=True)
    until = kernel.now() + watch
    with contextlib.closing(open_signs(where.lease_url)) as signs:

        def look(due: float) -> dict[str, str]:
            return signs.of(lock, suspects, due)

        before = stores.patiently(where, look)
        while before and kernel.now() < until:
            time.sleep(random.uniform(*_LOOK))
            now = stores.patiently(where, look)
            for token, sign in now.items():
                if before.get(token, sign) != sign:
                    raise _held(lock, suspects[token], "its holder has just shown that it is alive")
            before = now


def _held(lock: str, one: Holding, proof: str) -> LockHeld:
    return LockHeld(
        f"the lock {_named(lock)} is held by {_who(one)} since {holdings.local(one)}, and {proof}: "
        "let that run end, or stop it, and try again"
    )


# ---------------------------------------------------------------- taking it away


def _take_away(where: LockStores, lock: str, found: Sequence[Holding]) -> list[Holding]:
    """What was taken away; the rest had ended by itself. Raises ``LockHeld``."""
    taken = [one for one in found if _end_hold(where, lock, one)]
    if where.lease_url is None:
        return taken
    with contextlib.closing(open_leases(where.lease_url)) as leases:
        return [*taken, *(one for one in found if _end_lease(where, lock, one, leases))]


def _end_lease(where: LockStores, lock: str, one: Holding, leases: LeaseStore) -> bool:
    at = one.at
    return isinstance(at, Place) and stores.patiently(
        where, lambda due: leases.take_away(lock, at.token, due)
    )


def _end_hold(where: LockStores, lock: str, one: Holding) -> bool:
    at = one.at
    if where.directory is None or not isinstance(at, Held) or at.hold is None:
        return False
    spec = LockSpec(lock, None, where.directory, "host", at.slots, at.shared)
    own = HostLock(spec, lock, stores.Patience(), random.Random())
    until = kernel.now() + _INSIST
    while not own.end_hold(at.slot, at.hold):
        if own.hold(at.slot) != at.hold:
            return False
        # A run that asks for the lock has it for an instant, to see that it is kept.
        if kernel.now() >= until:
            raise _held(lock, one, "another process has just got it")
        time.sleep(random.uniform(0, _PAUSE))
    return True


def _left(where: LockStores, lock: str, taken: Sequence[Holding]) -> list[Holding]:
    """Who has the lock now."""
    gone = {(one.scope, one.owner, one.since) for one in taken}
    until = kernel.now() + _INSIST
    while True:
        left = _read(where, lock)
        # A server that was told to end a session takes a moment to do so.
        if kernel.now() >= until or not any((o.scope, o.owner, o.since) in gone for o in left):
            return left
        time.sleep(random.uniform(0, _PAUSE))


# ---------------------------------------------------------------- people


def _ask(lock: str, found: Sequence[Holding]) -> None:
    if not sys.stdin.isatty():
        raise UsageError("taking a lock away asks first, and there is no terminal: give --force")
    whose = ", and ".join(_described(one) for one in found)
    question = f"The lock {_named(lock)} is {whose}. Take it away?"
    if not click.confirm(question, err=True):
        raise NotTaken("nothing was changed")


def _described(one: Holding) -> str:
    """How it is held, as a clause."""
    kept = "lock-delay" if holdings.keeper(one) == "lock-delay" else "--min-hold"
    how = f"kept by the {kept} of" if one.released else "held by"
    return f"{how} {_who(one)} since {holdings.local(one)}, in {one.scope} scope"


def _say(
    lock: str,
    found: Sequence[Holding],
    taken: Sequence[Holding],
    left: Sequence[Holding],
    as_json: bool,
) -> None:
    if as_json:
        objects.write_lines([_fields(lock, taken, left)])
        return
    for line in _lines(lock, found, taken, left):
        click.echo(line)


def _fields(lock: str, taken: Sequence[Holding], left: Sequence[Holding]) -> dict[str, object]:
    return {
        "lock": objects.unicode(lock),
        "taken_away": [holdings.fields(one) for one in taken],
        "held": [holdings.fields(one) for one in left],
    }


def _lines(
    lock: str, found: Sequence[Holding], taken: Sequence[Holding], left: Sequence[Holding]
) -> Iterator[str]:
    for one in found:
        if one in taken:
            yield f"taken away: the lock {_named(lock)} was {_described(one)}"
        else:
            yield f"not taken away: it was not {_who(one)}'s any more"
    for one in left:
        yield f"the lock {_named(lock)} is {_described(one)}"
    if not left:
        yield f"the lock {_named(lock)} is free"


def _named(lock: str) -> str:
    return units.shown(objects.unicode(lock))


def _who(one: Holding) -> str:
    return "somebody" if one.owner is None else objects.unicode(one.owner)
