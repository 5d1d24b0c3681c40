"""Redis under a sentinel: servers for tests, and what a person would do to them by hand."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import redis
from servers import Redis
from support import eventually

from guardrun.locks.redis import RedisLeases

SERVICE = "jobs"


@dataclass
class Watched:
    """A primary, its replica, and a sentinel that looks after them."""

    servers: tuple[Redis, Redis]
    sentinel: Redis
    password: str
    opened: list[RedisLeases] = field(default_factory=list)

    @classmethod
    @contextlib.contextmanager
    def start(cls) -> Iterator[Watched]:
        """Run them for as long as the block lasts."""
        password = secrets.token_hex(16)
        settings = {"requirepass": password, "masterauth": password, "repl_diskless_sync_delay": 0}
        with contextlib.ExitStack() as stack:
            primary = stack.enter_context(Redis.start(**settings))
            replica = stack.enter_context(
                Redis.start(**settings, replicaof=f"127.0.0.1 {primary.port}")
            )
            sentinel = stack.enter_context(Redis.start(**looking_after(primary.port, password)))
            watched = cls((primary, replica), sentinel, password)
            try:
                watched.await_replica()
                yield watched
            finally:
                for server in (primary, replica, sentinel):
                    server.resume()
                watched.close()

    def url(self, *before: int, service: str = SERVICE, login: str = "") -> str:
        """A URL that names sentinels at these ports, and then ours."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in (*before, self.sentinel.port))
        login = login or f":{self.password}@"
        return (
            f"redis+sentinel://{login}{hosts}/{service}?sentinel_password={self.sentinel.password}"
        )

    def open(self, url: str = "") -> RedisLeases:
        """A store of its own."""
        self.opened.append(RedisLeases(url or self.url()))
        return self.opened[-1]

    def close(self) -> None:
        """Close what was opened here."""
        for store in self.opened:
            store.close()
        self.opened.clear()

    def ask_sentinel(self, *words: str) -> Any:
        """What the sentinel says."""
        with client(f"redis://:{self.sentinel.password}@127.0.0.1:{self.sentinel.port}") as direct:
            return direct.execute_command("SENTINEL " + words[0], *words[1:])

    def primary(self) -> Redis:
        """The server that the sentinel names."""
        port = int(self.ask_sentinel("GET-MASTER-ADDR-BY-NAME", SERVICE)[1])
        return next(server for server in self.servers if server.port == port)

    def await_replica(self) -> None:
        """Until both servers and the sentinel agree which one follows, and it is up to date."""

        def settled() -> bool:
            primary = self.primary()
            with client(primary.url) as direct:
                role, _, followers = direct.execute_command("ROLE")
            known = self.ask_sentinel("REPLICAS", SERVICE)
            return role == b"master" and len(followers) == len(known) == 1

        eventually(settled, 30, "a replica that the sentinel knows")

    def replicated(self) -> None:
        """Until the replica has what the primary has."""
        with client(self.primary().url) as direct:
            # A write of this connection's own: it is told how far that has come.
            direct.set("other", "x")
            assert direct.wait(1, 10_000) == 1

    def fail_over(self) -> None:
        """Have the sentinel make the replica the primary."""

        def accepted() -> bool:
            with contextlib.suppress(redis.ResponseError):  # it has not heard of the replica lately
                return bool(self.ask_sentinel("FAILOVER", SERVICE))
            return False

        eventually(accepted, 30, "a replica that can be the primary")

    def await_failover(self, before: Redis) -> None:
        """Until the sentinel names another server than before."""
        eventually(lambda: self.primary() is not before, 30, "a failover")


def looking_after(port: int, password: str) -> dict[str, object]:
    """The settings of a sentinel that looks after the server at this port."""
    return {
        "sentinel monitor": f"{SERVICE} 127.0.0.1 {port} 1",
        "sentinel auth-pass": f"{SERVICE} {password}",
        "sentinel down-after-milliseconds": f"{SERVICE} 500",
        "sentinel failover-timeout": f"{SERVICE} 10000",
    }


@contextlib.contextmanager
def client(url: str) -> Iterator[Any]:
    """A client of redis-py's, for what a person would do by hand."""
    with contextlib.closing(redis.Redis.from_url(url)) as direct:
        yield direct
