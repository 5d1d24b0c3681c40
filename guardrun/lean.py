"""A NamedTuple that costs next to nothing: what ``typing.NamedTuple`` gives, minus its start-up.

``typing`` takes 11 ms to import, a bare interpreter 13, and ``collections.namedtuple`` compiles
each class's source at 0.1 ms; a run needs forty of them. Type checkers see the real one.
"""

from __future__ import annotations

from operator import itemgetter

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import NamedTuple
else:

    def _new(cls, /, *values, **named):
        if named or len(values) != len(cls._fields):
            values = _filled(cls, values, named)
        return tuple.__new__(cls, values)

    def _filled(cls, values, named):
        missing = cls._fields[len(values) :]
        try:
            values += tuple(
                named.pop(field) if field in named else cls._field_defaults[field]
                for field in missing
            )
        except KeyError as error:
            raise TypeError(f"{cls.__name__} needs {error.args[0]}") from None
        if named or len(values) != len(cls._fields):
            raise TypeError(f"{cls.__name__} takes {', '.join(cls._fields)}; not {[*named]}")
        return values

    def _make(cls, values):
        return cls(*values)

    def _replace(self, /, **changes):
        values = [
            changes.pop(field, value) for field, value in zip(self._fields, self, strict=True)
        ]
        if changes:
            raise TypeError(f"{type(self).__name__} takes {', '.join(self._fields)}")
        return tuple.__new__(type(self), values)

    def _asdict(self):
        return dict(zip(self._fields, self, strict=True))

    def _repr(self):
        shown = ", ".join(f"{field}={value!r}" for field, value in self._asdict().items())
        return f"{type(self).__name__}({shown})"

    class _Meta(type):
        def __new__(mcs, name, bases, body):
            if not bases:
                return super().__new__(mcs, name, bases, body)
            fields = tuple(body.get("__annotations__", ()))
            defaults = {field: body.pop(field) for field in fields if field in body}
            accessors = {field: property(itemgetter(at)) for at, field in enumerate(fields)}
            return type(name, (tuple,), _COMMON | body | accessors | {
                "__slots__": (),
                "__match_args__": fields,
                "_fields": fields,
                "_field_defaults": defaults,
            })  # fmt: skip

    _COMMON = {
        "__new__": _new,
        "__repr__": _repr,
        "_make": classmethod(_make),
        "_replace": _replace,
        "_asdict": _asdict,
    }

    class NamedTuple(metaclass=_Meta):
        pass


__all__ = ["NamedTuple"]
