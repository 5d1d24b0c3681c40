"""An etcd cluster: its members one by one, and what keeps it from taking writes."""

from __future__ import annotations

from typing import Any

from guardrun import kernel
from guardrun.doctor import quorum
from guardrun.doctor.finding import BROKEN, NOTE, Finding
from guardrun.errors import StoreUnavailable
from guardrun.locks.etcd_session import Session
from guardrun.locks.etcd_url import read
from guardrun.locks.stores import address

_REPAIRED = {(3, 4): 31, (3, 5): 13}
"""patch from which a stalled leader ends no lease that was renewed (etcd issue 15247)"""


def look(subject: str, url: str, due: float) -> tuple[str, dict[str, object], list[Finding]]:
    """What the cluster is, and what is wrong with it. Raises ``StoreUnavailable``."""
    session = Session(url)
    try:
        members = session.ask(due, "cluster/member/list", {}).get("members", [])
        alarms = _alarms(session, due)
    finally:
        session.close()
    told = []
    each = _each(url)
    for done, one in enumerate(each):  # a member that hangs has no more than its share
        share = (due - kernel.now()) / (len(each) - done)
        told.append(_status(one, kernel.now() + share))
    versions = sorted({str(one["version"]) for one in told if one["version"]})
    facts: dict[str, object] = {
        "version": ", ".join(versions) or None,
        "members": len(members),
        "endpoints": told,
        "alarms": alarms,
    }
    where = address(url)
    found = [
        Finding(subject, level, f"{where}: {says}", remedy, facts)
        for level, says, remedy in wrong(len(members), told, versions, alarms)
    ]
    number = f"{len(members)} members" if len(members) != 1 else "1 member"
    return f"etcd {facts['version'] or 'of unknown version'}, {number}", facts, found


def _each(url: str) -> list[str]:
    """A URL for every member that ``url`` names."""
    scheme, _, rest = url.partition("://")
    hosts, _, query = rest.partition("?")
    login, at, _ = hosts.rpartition("@")
    return [
        f"{scheme}://{login}{at}{f'[{one.host}]' if ':' in one.host else one.host}:{one.port}"
        + (f"?{query}" if query else "")
        for one in read(url).members
    ]


def _status(url: str, due: float) -> dict[str, Any]:
    """What one member says of itself."""
    session = Session(url)
    said: dict[str, Any] = {}
    problem: str | None = None
    try:
        said = session.ask(due, "maintenance/status", {})
    except StoreUnavailable as error:
        problem = str(error)
    finally:
        session.close()
    return {
        "url": address(url),
        "version": said.get("version"),
        "leader": said.get("leader"),
        "bytes": int(said.get("dbSize", 0)) or None,
        "problem": problem or "; ".join(map(str, said.get("errors", ()))) or None,
    }


def _alarms(session: Session, due: float) -> list[str] | None:
    """What the cluster has raised an alarm about; ``None`` where we may not ask."""
    try:
        said = session.ask(due, "maintenance/alarm", {"action": "GET"})
    except StoreUnavailable:
        return None
    return sorted({str(one.get("alarm", "NONE")) for one in said.get("alarms", ())})


def wrong(
    members: int, told: list[dict[str, Any]], versions: list[str], alarms: list[str] | None
) -> list[tuple[str, str, str]]:
    """(level, what, remedy) of everything that is; ``told`` is what each member says of itself."""
    found = []
    for alarm in alarms or ():
        mend = "compact, defragment, then etcdctl alarm disarm"
        found.append((BROKEN, f"the alarm {alarm} is raised: it takes no writes", mend))
    for one in told:
        if one["problem"]:
            says = f"{one['url']} does not do its part: {one['problem']}"
            found.append((NOTE, says, "look at that member; a majority of them must be well"))
    for version in versions:
        if not is_repaired(version):
            says = f"etcd {version} may end leases that were renewed, when its leader stalls"
            found.append((NOTE, says, "take 3.4.31, 3.5.13 or later (etcd issue 15247)"))
    return found + quorum.wrong(members, "members")


def is_repaired(version: str) -> bool:
    """Whether that version keeps leases that were renewed, whatever its leader does."""
    numbers = [int(part) if part.isdigit() else 0 for part in version.split("-")[0].split(".")]
    major, minor, patch, *_ = [*numbers, 0, 0, 0]
    return (major, minor) > (3, 5) or patch >= _REPAIRED.get((major, minor), 1 << 30)
