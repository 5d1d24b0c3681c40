"""urllib3's connections, imported without its pools, and without HTTP/2.

Its ``http2`` reads its own version from importlib.metadata. ``import urllib3`` works as ever
afterwards. See ``lean_import``.
"""

from __future__ import annotations

import sys

from guardrun.lean_import import LeanImport

if "urllib3" not in sys.modules:
    with LeanImport("urllib3", bare={"urllib3": (), "urllib3.http2": ()}):
        import urllib3.connection
        import urllib3.exceptions
        import urllib3.response

import urllib3.connection
import urllib3.exceptions

HTTPConnection = urllib3.connection.HTTPConnection
HTTPSConnection = urllib3.connection.HTTPSConnection
HTTPError = urllib3.exceptions.HTTPError

__all__ = ["HTTPConnection", "HTTPError", "HTTPSConnection"]
