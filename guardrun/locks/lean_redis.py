"""redis-py, imported without what its package imports for others.

``import redis`` makes every client there is: those of asyncio, of the cluster, all of Redis's
commands. One connection and the errors need none of that. So the package stands in
``sys.modules`` without its ``__init__`` having run, and that runs as soon as somebody asks the
package for anything else (PEP 562): ``import redis`` and ``redis.Redis`` work as ever, and the
package is the usual one from then on. Only another of its *modules* is not to be imported before
that; nothing in guardrun does.

When anything unexpected happens, redis-py is imported the plain way.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec

_NAME = "redis"


def lean_import() -> None:
    """Import what is needed; when that fails, nothing of it is left in ``sys.modules``."""
    spec = find_spec(_NAME)
    if spec is None or spec.loader is None:
        return
    loader = spec.loader
    package = module_from_spec(spec)

    def complete(name: str) -> object:
        del package.__getattr__
        loader.exec_module(package)
        return getattr(package, name)

    package.__getattr__ = complete  # type: ignore[method-assign]
    sys.modules[_NAME] = package
    try:
        import redis.backoff
        import redis.connection
        import redis.exceptions
        import redis.retry  # noqa: F401
    except BaseException:
        for name in [name for name in sys.modules if name.partition(".")[0] == _NAME]:
            del sys.modules[name]
        raise


if _NAME not in sys.modules:
    try:
        lean_import()
    except Exception:
        pass  # the plain import below succeeds, or says what is wrong

import redis.backoff  # noqa: E402
import redis.connection  # noqa: E402
import redis.exceptions  # noqa: E402
import redis.retry  # noqa: E402

connection = redis.connection
exceptions = redis.exceptions
NoBackoff = redis.backoff.NoBackoff
Retry = redis.retry.Retry

__all__ = ["NoBackoff", "Retry", "connection", "exceptions"]
