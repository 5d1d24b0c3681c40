"""structlog, imported without what it imports for others.

``import structlog`` takes 125 ms here, on top of 12 ms for the interpreter: its ``__init__`` loads
every submodule, and those load rich with pygments (70 ms), asyncio with ssl (25 ms), logging,
inspect, uuid. A run that prints five JSON lines touches none of it. This import takes 36 ms, and
20 ms where click has been imported before.

Hidden are the optional dependencies that only make the exceptions of ``structlog.dev`` prettier,
unused here; deferred what it only touches inside functions. Whoever imports asyncio or rich later
gets them. See ``lean_import``.
"""

from __future__ import annotations

import sys

from guardrun.lean_import import LeanImport

if "structlog" not in sys.modules:
    with LeanImport(
        "structlog",
        deferred=(
            "asyncio",
            "datetime",
            "inspect",
            "logging",
            "structlog.stdlib",
            "structlog.threadlocal",
            "uuid",
        ),
        hidden=("better_exceptions", "colorama", "rich", "twisted"),
    ):
        import structlog

import structlog

__all__ = ["structlog"]
