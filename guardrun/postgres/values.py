"""Values as Postgres takes them and says them: in text, but for bytes that are sent."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from guardrun.postgres.lean_psycopg import errors, pq

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_BOOL, _BYTEA, _INT8, _INT2, _INT4, _TEXT, _OID, _FLOAT4, _FLOAT8, _TIMESTAMPTZ, _NUMERIC = (
    *(16, 17, 20, 21, 23, 25, 26, 700, 701, 1184, 1700),
)
_ARRAYS = {1000: 16, 1001: 17, 1005: 21, 1007: 23, 1009: 25, 1016: 20, 1022: 701, 1185: 1184}
"""of an array: its elements' type (pg_type.dat)"""
_ARRAY_OF = {element: array for array, element in _ARRAYS.items()}
_UNKNOWN = 0
"""it is for the server to find out"""

_PLACE = re.compile(r"%(?:\((\w+)\)[sb]|%)")
_ELEMENT = re.compile(rb'"((?:[^"\\]|\\.)*)"|([^,{}]+)', re.DOTALL)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_TO_ESCAPE = re.compile(r'(["\\])')


def numbered(statement: str) -> tuple[bytes, tuple[str, ...]]:
    """The statement with ``$1`` for the first of its ``%(name)s`` and so on, and the names."""
    names: dict[str, int] = {}

    def number(found: re.Match[str]) -> str:
        name = found[1]
        return "%" if name is None else f"${names.setdefault(name, len(names) + 1)}"

    return _PLACE.sub(number, statement).encode(), tuple(names)


def written(value: object) -> tuple[bytes | None, int, int]:
    """The value's bytes, its type and its format.

    Raises ``errors.DataError`` for text with NUL in it, which libpq would cut off there, and
    ``UnicodeError``.
    """
    if value is None:
        return None, _UNKNOWN, pq.Format.TEXT
    if isinstance(value, bytes):
        return value, _BYTEA, pq.Format.BINARY
    if isinstance(value, list | tuple):
        return _array(value), _array_type(value), pq.Format.TEXT
    text = _text(value).encode()
    if b"\0" in text:
        raise errors.DataError("PostgreSQL text cannot contain NUL (0x00) bytes")
    # What is text where it is used, is for the statement to say.
    kind = _type(value)
    return text, _UNKNOWN if kind == _TEXT else kind, pq.Format.TEXT


def read(value: bytes | None, kind: int) -> Any:
    """What the bytes of a result mean that is of this type; text where it is none of ours."""
    if value is None:
        return None
    if kind in _ARRAYS:
        return _elements(value, _ARRAYS[kind])
    return _READERS.get(kind, _decoded)(value)


def _decoded(value: bytes) -> str:
    return value.decode()


def _unescaped(value: bytes) -> bytes:
    # Which of its two forms it has depends on the server's settings.
    return bytes(pq.Escaping().unescape_bytea(value))


_READERS: dict[int, Callable[[bytes], Any]] = {
    _BOOL: lambda value: value == b"t",
    _BYTEA: _unescaped,
    **dict.fromkeys((_INT2, _INT4, _INT8, _OID), int),
    **dict.fromkeys((_FLOAT4, _FLOAT8), float),
}


def _elements(value: bytes, kind: int) -> list[Any]:
    """The elements of an array of one dimension."""
    found = []
    for quoted, bare in _ELEMENT.findall(value):
        if bare:
            found.append(None if bare == b"NULL" else read(bare, kind))
        else:
            found.append(read(_ESCAPED.sub(rb"\1", quoted), kind))
    return found


def _type(value: object) -> int:
    """The smallest type for a value, so that every function that takes a larger one takes it."""
    if isinstance(value, bool):
        return _BOOL
    if isinstance(value, int):
        bits = value.bit_length()
        return _INT2 if bits < 16 else _INT4 if bits < 32 else _INT8 if bits < 64 else _NUMERIC
    if isinstance(value, float):
        return _FLOAT8
    if isinstance(value, bytes):
        return _BYTEA
    return _TEXT if isinstance(value, str) else _TIMESTAMPTZ


def _array_type(values: Sequence[object]) -> int:
    """That of the largest element; of what has none, the statement says it."""
    kinds = {_type(value) for value in values if value is not None}
    largest = next((kind for kind in (_INT8, _INT4) if kind in kinds), None)
    kind = largest or (kinds.pop() if kinds else _UNKNOWN)
    return _ARRAY_OF.get(kind, _UNKNOWN)


def _array(values: Sequence[object]) -> bytes:
    words = ("NULL" if value is None else f'"{_escaped(value)}"' for value in values)
    written = ("{" + ",".join(words) + "}").encode()
    if b"\0" in written:
        raise errors.DataError("PostgreSQL text cannot contain NUL (0x00) bytes")
    return written


def _escaped(value: object) -> str:
    return _TO_ESCAPE.sub(r"\\\1", _text(value))


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "t" if value else "f"
    return f"\\x{value.hex()}" if isinstance(value, bytes) else str(value)
