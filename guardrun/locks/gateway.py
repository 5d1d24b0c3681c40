"""The way to a cluster by HTTP: member after member, and errors for people.

A call goes to one member, and fails with it; the next call asks the next member. So no member's
silence takes more than the call's own time, and what two calls say came from the same member as
long as neither failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from guardrun import kernel
from guardrun.errors import StoreUnavailable, UsageError
from guardrun.locks.stores import address

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from guardrun.locks.json_http import Wire
    from guardrun.locks.members import Place

_LONGEST_MESSAGE = 400

Answer = TypeVar("Answer")


class Refused(Exception):
    """The cluster says no: asking another member would not help."""


class Members:
    """A cluster, with at most one connection, made when it is needed.

    ``read`` gives its members, and is asked for them when the first connection is made;
    ``unavailable`` makes of an error's text what it means for people.
    """

    def __init__(
        self,
        extra: str,
        read: Callable[[], tuple[Place, ...]],
        unavailable: Callable[[str], StoreUnavailable],
    ) -> None:
        self._extra = extra
        self._read = read
        self._unavailable = unavailable
        self._known: tuple[Place, ...] = ()
        self._wire: Wire | None = None
        self.at = 0
        """which member answers"""
        try:  # while nobody waits for it yet: it takes longer than anything else here
            from guardrun.locks import json_http
        except ImportError:
            self._http = None
        else:
            self._http = json_http

    def call(self, due: float, do: Callable[[Wire], Answer]) -> Answer:
        """Do something over the connection; when it raises, there is none any more.

        Raises what ``do`` does, for a member's failure ``StoreUnavailable``; ``UsageError`` without
        the extra. After ``Refused`` the connection stays.
        """
        try:
            if self._wire is None:
                self._wire = self._connected(due)
            return do(self._wire)
        except BaseException as error:
            raise self._explained(error) from None

    def begin(self, due: float, do: Callable[[Wire], object]) -> Wire:
        """Begin something on a connection of its own, to the member that answers now."""
        wire = None
        try:
            wire = self._connected(due)
            do(wire)
            return wire
        except BaseException as error:
            if wire is not None:
                wire.close()
            raise self._explained(error) from None

    def close(self) -> None:
        """Let go of the connection."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    def _explained(self, error: BaseException) -> BaseException:
        if isinstance(error, Refused):
            return error
        self.close()
        if self._known:
            self.at = (self.at + 1) % len(self._known)
        if self._http is not None and isinstance(error, self._http.FAILURES):
            return self._unavailable(_reason(error))
        return error

    def _connected(self, due: float) -> Wire:
        """A connection to the member whose turn it is, or to the first after it that takes one."""
        if self._http is None:
            raise UsageError(
                f"--lease-url: leases in {self._extra} need a package that is not installed: "
                f"run pip install 'guardrun[{self._extra}]'"
            )
        self._known = self._known or self._read()
        for tried in range(len(self._known)):
            left = due - kernel.now()
            share = due - left * (1 - 1 / (len(self._known) - tried))
            try:
                wire: Wire = self._http.Wire(self._known[self.at], share)
                return wire
            except self._http.FAILURES:
                if tried == len(self._known) - 1 or kernel.now() >= due:
                    raise
                self.at = (self.at + 1) % len(self._known)
        raise AssertionError(self._known)


def _reason(error: BaseException) -> str:
    """Why a connection failed, without the driver's objects around it."""
    for cause in (getattr(error, "reason", None), *reversed(error.args)):
        if isinstance(cause, BaseException):
            return _reason(cause)
    strerror = getattr(error, "strerror", None)
    return str(strerror or error) or type(error).__name__


# ---------------------------------------------------------------- errors

_TRY_AGAIN = "check the cluster and the way to it, then try again"
_BUSY = "check that the server is not stopped or overloaded, and the way to it"
_TLS = "check that it runs, and whether it speaks TLS ({0}s://) or not"
_REMEDIES = (
    ("in time", _BUSY),
    ("timed out", _BUSY),
    ("timeout", _BUSY),
    ("refused", "check that the server runs there, and its port"),
    ("name or service", "check the host's name and the resolver"),
    ("name resolution", "check the host's name and the resolver"),
    ("no such file", "check the files that cacert, cert and key in the URL name"),
    ("certificate", "check the server's certificate, its name, and cacert, cert in the URL"),
    ("ssl", "check whether the server speaks TLS ({0}s://) or not ({0}://)"),
    ("https server", _TLS),
    ("closed connection", _TLS),
    ("connection reset", _TLS),
)


def unavailable(
    url: str, said: str, remedies: Sequence[tuple[str, str]], secret: str | None, keys: str = ""
) -> StoreUnavailable:
    """What an error means for people: what, why, what to do; without the secret.

    ``remedies`` are the store's own: what an error says, in lower case, and what to do; the first
    that fits. ``keys`` is what the keys begin with that it may be about.
    """
    if secret:
        said = said.replace(secret, "***")
    said = " ".join(said.split())[:_LONGEST_MESSAGE].rstrip(". ")
    look = said.lower()
    found = (remedy for word, remedy in (*_REMEDIES, *remedies) if word in look)
    remedy = next(found, _TRY_AGAIN).format(url.partition(":")[0].removesuffix("s"))
    about = f" ({keys})" if keys else ""
    return StoreUnavailable(f"the lease store {address(url)}: {said}{about}; {remedy}")
