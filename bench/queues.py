"""What a store itself says: how many wait for a lock there, and how much it has been asked.

A lock is called like the directory that its runs were given for host locks. One client for each
store, in the benchmark; what it asks is not counted.
"""

from __future__ import annotations

import json
import urllib.request
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.mark import Stuck

if TYPE_CHECKING:
    import psycopg

_PATIENCE = 10.0


class RedisStore:
    """A Redis: guardrun's queue in it, and those who poll with redis-py's ``Lock``."""

    counted = "commands, those of scripts included"

    def __init__(self, url: str) -> None:
        self._url = url
        self._asked = 0

    @cached_property
    def _client(self) -> Any:
        import redis

        return redis.Redis.from_url(self._url)

    def _ask(self, *words: str) -> Any:
        self._asked += 1
        return self._client.execute_command(*words)

    def queue(self, directory: Path) -> int:
        """How many runs of guardrun wait."""
        from guardrun.locks.redis import keys_of

        _, _, queue, _ = keys_of(directory.name)
        return int(self._ask("ZCARD", queue))

    def pollers(self, directory: Path) -> int:  # noqa: ARG002  there is one such lock at a time
        """How many are refused the lock again and again: all that have set a key, but one."""
        clients = self._ask("CLIENT", "LIST")
        said = clients if isinstance(clients, str) else clients.decode()
        return sum(" cmd=set " in line for line in said.splitlines()) - 1

    def count(self) -> int:
        """What all others have had done since the server started."""
        told: Any = self._ask("INFO", "stats")
        return int(told["total_commands_processed"]) - self._asked

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()


class PostgresStore:
    """A database of a Postgres: guardrun's queues in it."""

    counted = "transactions that wrote"

    def __init__(self, url: str) -> None:
        self._url = url

    @cached_property
    def _connection(self) -> psycopg.Connection[tuple[Any, ...]]:
        import psycopg

        return psycopg.connect(self._url, autocommit=True)

    def queue(self, directory: Path) -> int:
        """How many runs of guardrun wait for a lease, and are told when it is free."""
        return self._queue("postgresql", directory.name)

    def advisory_queue(self, directory: Path) -> int:
        """The same for an advisory lock."""
        return self._queue("postgresql+advisory", directory.name)

    def _queue(self, scheme: str, name: str) -> int:
        ((found,),) = self._connection.execute(
            "SELECT count(*) FROM guardrun.leases_queue JOIN guardrun.leases ON id = lease_id"
            " WHERE scheme = %s AND name = %s AND channel IS NOT NULL",
            (scheme, name),
        ).fetchall()
        return int(found)

    def count(self) -> int:
        """How many transactions have got a number since the server started.

        Others have none; the server's own statistics of all arrive seconds too late.
        """
        ((found,),) = self._connection.execute(
            "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
        ).fetchall()
        return int(found)

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()


class EtcdStore:
    """An etcd: the queues of ``etcdctl lock`` and of guardrun in it."""

    counted = "gRPC messages received"

    def __init__(self, address: str) -> None:
        self._address = address

    def queue(self, directory: Path) -> int:
        """How many wait: all whose keys are below the lock's, but the first."""
        return self._below(f"{directory.name}/".encode()) - 1

    def entries(self, directory: Path) -> int:
        """How many runs of guardrun wait: all that have an entry for this lock, but one."""
        from guardrun.locks.etcd_keys import ENTRY, key

        return self._below(key(directory.name, ENTRY)) - 1

    def _below(self, first: bytes) -> int:
        from guardrun.locks.etcd_keys import beyond, coded

        asked = {"key": coded(first), "range_end": coded(beyond(first)), "count_only": True}
        request = urllib.request.Request(f"{self._address}/v3/kv/range", json.dumps(asked).encode())
        return int(json.loads(_answer(request)).get("count", "0"))

    def count(self) -> int:
        """All messages but those by which the queue is asked for."""
        return _sum(
            _answer(f"{self._address}/metrics"),
            lambda name: (
                name.startswith("grpc_server_msg_received_total{")
                and 'grpc_method="Range"' not in name
            ),
        )


class ConsulStore:
    """A Consul: the sessions of ``consul lock`` in it, and guardrun's queue."""

    counted = "HTTP requests answered"

    def __init__(self, address: str) -> None:
        self._address = address
        self._asked = 0

    def queue(self, directory: Path) -> int:
        """How many wait: all that have a session for this lock, but one."""
        sessions = json.loads(_answer(f"{self._address}/v1/session/list"))
        return sum(f"at '{directory.name}'" in one["Name"] for one in sessions) - 1

    def waiters(self, directory: Path) -> int:
        """How many runs of guardrun wait."""
        from guardrun.locks.consul_keys import WAIT, key

        self._asked += 1
        asked = [{"KV": {"Verb": "get-tree", "Key": key(directory.name, WAIT)}}]
        body = json.dumps(asked).encode()
        request = urllib.request.Request(f"{self._address}/v1/txn", body, method="PUT")
        return len(json.loads(_answer(request))["Results"] or ())

    def count(self) -> int:
        """All requests but those by which queue and counters are asked for."""
        return -self._asked + _sum(
            _answer(f"{self._address}/v1/agent/metrics?format=prometheus"),
            lambda name: (
                name.startswith("consul_http_")
                and name.endswith("_count")
                and not any(ours in name for ours in ("session_list", "agent_metrics", "status"))
            ),
        )


def _answer(asked: str | urllib.request.Request) -> str:
    try:
        with urllib.request.urlopen(asked, timeout=_PATIENCE) as answer:
            return str(answer.read().decode())
    except OSError as error:
        where = asked if isinstance(asked, str) else asked.full_url
        raise Stuck(f"{where}: {error}") from None


def _sum(page: str, wanted: Any) -> int:
    """The sum of the counters on a page in Prometheus' format whose names are wanted."""
    lines = (line.rpartition(" ") for line in page.splitlines() if not line.startswith("#"))
    return round(sum(float(value) for name, _, value in lines if wanted(name)))
