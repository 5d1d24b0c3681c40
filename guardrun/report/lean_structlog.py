"""structlog, imported without what it imports for others.

``import structlog`` takes 125 ms here, on top of 12 ms for the interpreter: its ``__init__`` loads
every submodule, and those load rich with pygments (70 ms), asyncio with ssl (25 ms), logging,
inspect, uuid. A run that prints five JSON lines touches none of it. This import takes 36 ms, and
20 ms where click has been imported before.

- Optional dependencies are hidden while structlog looks for them, as if they were not installed
  (``None`` in ``sys.modules``: see the import system's reference, 5.3.1). Only the exception
  formatting of ``structlog.dev``, unused here, is plainer for it.
- Modules that structlog only touches inside functions are stood in for by an empty module that
  imports the real one at its first attribute (PEP 562). ``importlib.util.LazyLoader`` cannot do
  that: up to Python 3.13 the ``import`` statement itself looks at the module's ``__spec__``, and
  so loads it.

Afterwards none of this is left in ``sys.modules``; whoever imports asyncio or rich later gets them.
When anything unexpected happens, structlog is imported the plain way.
"""

from __future__ import annotations

import sys
from types import ModuleType

HIDDEN = ("better_exceptions", "colorama", "rich", "twisted")
DEFERRED = (
    "asyncio",
    "datetime",
    "inspect",
    "logging",
    "structlog.stdlib",
    "structlog.threadlocal",
    "uuid",
)


def _stand_in(name: str) -> ModuleType:
    module = ModuleType(name)

    def load(attribute: str) -> object:
        from importlib import import_module

        if sys.modules.get(name) is module:
            del sys.modules[name]
        return getattr(import_module(name), attribute)

    module.__getattr__ = load  # type: ignore[method-assign]
    return module


def lean_import() -> None:
    """Import structlog without the modules above; whatever fails then, ``sys.modules`` is clean."""
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]
    absent = [name for name in (*HIDDEN, *DEFERRED) if name not in modules]
    stand_ins: dict[str, ModuleType | None] = {
        name: None if name in HIDDEN else _stand_in(name) for name in absent
    }
    modules.update(stand_ins)
    try:
        import structlog  # noqa: F401
    except BaseException:
        for name in [name for name in modules if name.partition(".")[0] == "structlog"]:
            del modules[name]
        raise
    finally:
        for name, stand_in in stand_ins.items():
            if modules.get(name, stand_in) is stand_in:
                modules.pop(name, None)


if "structlog" not in sys.modules:
    try:
        lean_import()
    except Exception:
        pass  # the plain import below succeeds, or says what is wrong

import structlog  # noqa: E402

__all__ = ["structlog"]
