"""psycopg's ``pq``, its errors and its reading of URLs, without the rest of psycopg.

``import psycopg`` takes 140 ms of CPU here: connections and cursors for asyncio, an adapter for
each type there is, the library's own version by way of importlib.metadata. ``psycopg.pq`` is its
documented wrapper of libpq, and takes a third of that; ``wire`` and ``values`` do with it what is
left to do. ``import psycopg`` and ``psycopg.connect`` work as ever afterwards; only another of its
*modules* is not to be imported before the package has been asked for a name, and nothing in
guardrun does. See ``lean_import``.

ssl is deferred: psycopg imports it to have OpenSSL's locks set up by Python, which no OpenSSL has
needed since 1.1.0, older than any that Python 3.11 takes.
"""

from __future__ import annotations

import sys

from guardrun.lean_import import LeanImport

if "psycopg" not in sys.modules:
    with LeanImport(
        "psycopg",
        bare={"psycopg": (), "psycopg_binary": (), "psycopg_c": (), "asyncio": ("exceptions",)},
        deferred=("ctypes.util", "ssl"),
    ):
        import psycopg.pq  # noqa: I001  first, because the others need it whole
        import psycopg.conninfo
        import psycopg.errors

import psycopg.conninfo
import psycopg.errors
import psycopg.pq

conninfo = psycopg.conninfo
errors = psycopg.errors
pq = psycopg.pq

__all__ = ["conninfo", "errors", "pq"]
