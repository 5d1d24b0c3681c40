"""Importing a library without what it imports for others: most of our start-up is that.

A library that makes every client there is, or looks up its own version by reading metadata, takes
longer to load than everything a run does. Four things help, each as good as the plain import for
whoever asks for more later:

- a *bare package* stands in ``sys.modules`` without its ``__init__`` having run, so its modules can
  be imported one by one. ``__init__`` runs as soon as anybody asks it for a name (PEP 562); from
  then on it is the usual package;
- names that it only annotates with are *forward references*, strings, as PEP 484 allows for;
- a *deferred* module is one that the library only touches inside functions: an empty one stands in
  for it and imports the real one at its first attribute. ``importlib.util.LazyLoader`` cannot do
  that: up to Python 3.13 the ``import`` statement itself looks at the module's ``__spec__``, and so
  loads it;
- a *hidden* module is an optional dependency that looks as if it were not installed (``None`` in
  ``sys.modules``: see the import system's reference, 5.3.1).

Whatever is loaded already is left alone. When anything unexpected happens, nothing of it is left in
``sys.modules``, and the plain import after it succeeds, or says what is wrong.
"""

from __future__ import annotations

import sys
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class LeanImport:
    """A block that imports modules of ``library``; an exception in it ends it, and is dropped.

    ``bare`` packages are named with those of their modules whose names they are asked for at once,
    ``annotated`` ones with what stands in annotations alone; any other name fails the block.
    """

    def __init__(
        self,
        library: str,
        bare: Mapping[str, Sequence[str]] | None = None,
        annotated: Mapping[str, Sequence[str]] | None = None,
        deferred: Sequence[str] = (),
        hidden: Sequence[str] = (),
    ) -> None:
        self._library = library
        self._bare = bare or {}
        self._annotated = annotated or {}
        self._deferred = deferred
        self._hidden = hidden
        self._importing = False
        self._families = {library}
        """whose modules are not left when it fails"""
        self._standing: dict[str, ModuleType | None] = {}
        """only for as long as the block lasts"""

    def __enter__(self) -> None:
        self._importing = True
        modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]
        for name in self._hidden:
            if name not in modules:
                modules[name] = self._standing[name] = None
        for name in self._deferred:
            if name not in modules:
                modules[name] = self._standing[name] = _stand_in(name)
        for name, parts in self._bare.items():
            if name not in modules:
                self._strip(name, parts)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        self._importing = False
        modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]
        for name, standing in self._standing.items():
            if modules.get(name, standing) is standing:
                modules.pop(name, None)
        if error is not None:
            for name in [name for name in modules if name.partition(".")[0] in self._families]:
                del modules[name]
        return isinstance(error, Exception)

    def _strip(self, name: str, parts: Sequence[str]) -> None:
        from importlib import import_module
        from importlib.util import find_spec, module_from_spec

        spec = find_spec(name)
        if spec is None or spec.loader is None:
            return
        loader, package, found = spec.loader, module_from_spec(spec), list[ModuleType]()
        annotated = self._annotated.get(name, ())

        def look_up(attribute: str) -> object:
            for part in found:
                if hasattr(part, attribute):
                    return getattr(part, attribute)
            if self._importing and attribute in annotated:
                return f"{name}.{attribute}"
            if self._importing:  # what is a module of it, the import statement finds by itself
                raise AttributeError(f"{name} is bare, and has no {attribute}")
            del package.__getattr__
            loader.exec_module(package)
            return getattr(package, attribute)

        package.__getattr__ = look_up  # type: ignore[method-assign]
        sys.modules[name] = package
        _bind(name, package)
        self._families.add(name.partition(".")[0])
        found += [import_module(f"{name}.{part}") for part in parts]


def _stand_in(name: str) -> ModuleType:
    module = ModuleType(name)

    def load(attribute: str) -> object:
        from importlib import import_module

        if sys.modules.get(name) is module:
            del sys.modules[name]
        return getattr(import_module(name), attribute)

    module.__getattr__ = load  # type: ignore[method-assign]
    _bind(name, module)
    return module


def _bind(name: str, module: ModuleType) -> None:
    """Make it an attribute of its parent: ``import a.b`` does so for what it loads itself."""
    parent, _, child = name.rpartition(".")
    if parent in sys.modules and child not in vars(sys.modules[parent]):
        setattr(sys.modules[parent], child, module)
