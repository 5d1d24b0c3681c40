"""HTTP over the simulated network, where guardrun has ``locks.json_http``: request by request.

What a connection is for is kept: it is made, it breaks when its server crashes, a stream on it
tells by its descriptor that there is something to read. Bytes and HTTP itself are not simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from select import POLLIN
from typing import Any, Protocol

from guardrun.errors import StoreUnavailable
from guardrun.locks.json_http import Overdue, Said
from guardrun.locks.members import Place

from .descriptors import Now, calling, current, open_socket
from .machine import File, Host
from .network import Network, Server

_NONE: Mapping[str, str] = {}


class Connection(File):
    """The client's end of one; ``life`` is the one of the server's lives to which it was made."""

    def __init__(self, host: Host, life: int) -> None:
        super().__init__()
        self.host = host
        self.life = life
        self.heard = b""
        self.ended = False

    def events(self, process: Any) -> int:  # noqa: ARG002
        return POLLIN if self.heard or self.ended else 0

    def hear(self, text: bytes) -> None:
        """More of a stream has come; nothing: that was its end."""
        self.heard += text
        self.ended = self.ended or not text
        self.notify(self.host.world)


class Site(Protocol):
    """Who answers."""

    server: Server
    network: Network
    life: int
    """how often its server has been started"""

    def answer(
        self, now: float, method: str, path: str, body: object, headers: Mapping[str, str]
    ) -> Said:
        """Carry out a request."""

    def stream(
        self,
        now: float,
        method: str,
        path: str,
        body: object,
        headers: Mapping[str, str],
        connection: Connection,
    ) -> Said | None:
        """Begin an answer that goes on: its beginning, or ``None`` where that comes later."""


class Wire:
    """As ``json_http.Wire``."""

    def __init__(self, place: Place, due: float) -> None:
        self._site: Site = Now.world.sites[place.host]
        self._connection = Connection(current().host, self._site.life)
        self._fd = open_socket(self._connection)
        try:
            self._call("connect", lambda _: None, due)
        except BaseException:
            self.close()
            raise

    def ask(
        self,
        due: float,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] = _NONE,
    ) -> Said:
        said: Said = self._call(
            path, lambda now: self._site.answer(now, method, path, body, headers), due
        )
        return said

    def listen(
        self, due: float, method: str, path: str, body: object, headers: Mapping[str, str]
    ) -> Said:
        said: Said = self._call(
            path,
            lambda now: self._site.stream(now, method, path, body, headers, self._connection),
            due,
        )
        return said

    def send(
        self,
        due: float,  # noqa: ARG002
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] = _NONE,
    ) -> None:
        site, connection, program = self._site, self._connection, calling()
        program.world.tell(program, f"asks {site.server.name}, to be told later: {path}")

        def do(now: float) -> Said | None:
            self._check_life()
            return site.stream(now, method, path, body, headers, connection)

        def begun(said: Said | None, error: Exception | None) -> None:
            if error is not None or said is not None:
                text = b"" if said is None else said.text
                site.network.carry(site.server, connection.host, lambda: connection.hear(text))

        site.network.carry(site.server, connection.host, lambda: site.server.receive(do, begun))

    def fileno(self) -> int:
        return self._fd

    def overheard(self) -> bool:
        return bool(self._connection.heard)

    def take(self) -> bytes | None:
        taken, self._connection.heard = self._connection.heard, b""
        return None if self._connection.ended else taken

    def close(self) -> None:
        current().close(self._fd)

    def _check_life(self) -> None:
        if self._connection.life != self._site.life:
            raise ConnectionResetError("Connection reset by peer")

    def _call(self, what: str, do: Callable[[float], Any], due: float) -> Any:
        site = self._site

        def done(now: float) -> Any:
            self._check_life()
            return do(now)

        try:
            return site.network.call(site.server, what, done, due)
        except StoreUnavailable as error:
            if current().host.boottime() >= due:
                raise Overdue("no answer in time") from None
            raise OSError(str(error)) from None
