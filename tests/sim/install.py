"""Where the simulated system calls take the place of the real ones; everything else stays real."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import descriptors, http, syscalls

_OS, _SELECT = ("os", syscalls.OS), ("select", descriptors.SELECT)
_SIGNAL, _TIME = ("signal", syscalls.SIGNAL), ("time", syscalls.TIME)

REPLACED: dict[str, tuple[tuple[str, Any], ...]] = {
    "kernel": (
        *(_OS, _TIME),
        *(("_call", syscalls.call), ("fork", syscalls.fork), ("stat", syscalls.stat)),
    ),
    "channel": (("_socket", descriptors.SOCKET),),
    "command": (_OS,),
    "identity": (_OS,),
    "run": (_TIME,),
    "ledger.nap": (_OS,),
    "supervisor.loop": (_OS, _SELECT),
    "supervisor.guard": (_OS, _SELECT, _SIGNAL),
    "supervisor.execute": (_OS, _SELECT, _TIME),
    "supervisor.lease_news": (_TIME,),
    "warden.backstop": (_OS, _SELECT, _SIGNAL),
    "warden.warden": (_OS, _SELECT, _SIGNAL, _TIME),
    "warden.tree": (_OS, _SIGNAL, ("_listed", syscalls.listed)),
    "keeper.keeper": (_SELECT,),
    "keeper.insist": (_SELECT,),
    "keeper.lease_proxy": (_OS, _SELECT),
    "locks.json_http": (("Wire", http.Wire),),
    "locks.consul_session": (_TIME,),
    "locks.etcd_session": (_TIME,),
    "locks.watches": (_SELECT,),
    "keeper.link": (_OS, _SELECT, _SIGNAL, ("detach", syscalls.detach)),
}
"""module of guardrun → its names, and what stands for them"""


@contextmanager
def installed() -> Iterator[None]:
    """Have guardrun live in the simulated world, for as long as this lasts."""
    before: list[tuple[Any, str, Any]] = []
    try:
        for name, replaced in REPLACED.items():
            module = importlib.import_module(f"guardrun.{name}")
            for attribute, stand_in in replaced:
                before.append((module, attribute, getattr(module, attribute)))
                setattr(module, attribute, stand_in)
        yield
    finally:
        for module, attribute, real in before:
            setattr(module, attribute, real)
