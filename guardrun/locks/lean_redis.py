"""redis-py, imported without what its package imports for others.

``import redis`` makes every client there is: those of asyncio, of the cluster, all of Redis's
commands. One connection and the errors need none of that, and of asyncio an exception and two
names to annotate with. ``import redis`` and ``redis.Redis`` work as ever afterwards; only another
of its *modules* is not to be imported before the package has been asked for a name, and nothing in
guardrun does. See ``lean_import``.
"""

from __future__ import annotations

import sys

from guardrun.lean_import import LeanImport

if "redis" not in sys.modules:
    with LeanImport(
        "redis",
        bare={"redis": (), "asyncio": ("exceptions",)},
        annotated={"asyncio": ("Lock", "StreamReader")},
        deferred=("importlib.metadata",),
        hidden=("opentelemetry",),
    ):
        import redis.backoff
        import redis.connection
        import redis.exceptions
        import redis.retry

import redis.backoff
import redis.connection
import redis.exceptions
import redis.retry

connection = redis.connection
exceptions = redis.exceptions
NoBackoff = redis.backoff.NoBackoff
Retry = redis.retry.Retry

__all__ = ["NoBackoff", "Retry", "connection", "exceptions"]
