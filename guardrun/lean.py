"""A NamedTuple that costs nothing to import.

``typing.NamedTuple`` pulls in ``typing`` and ``re``: 11 ms, most of a bare interpreter's start.
Type checkers see the real one; at run time the class body is handed to ``collections.namedtuple``.
"""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import NamedTuple
else:

    class _Meta(type):
        def __new__(mcs, name, bases, body):
            if not bases:
                return super().__new__(mcs, name, bases, body)
            fields = list(body.get("__annotations__", {}))
            defaults = [body.pop(field) for field in fields if field in body]
            base = namedtuple(name, fields, defaults=defaults, module=body["__module__"])
            body["__slots__"] = ()
            return type(name, (base,), body)

    class NamedTuple(metaclass=_Meta):
        pass


__all__ = ["NamedTuple"]
