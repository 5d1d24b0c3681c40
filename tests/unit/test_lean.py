"""The lean NamedTuple behaves like typing's, as far as this house uses it."""

from __future__ import annotations

import typing

import pytest

from guardrun.lean import NamedTuple


class Lean(NamedTuple):
    """A value."""

    a: int
    b: str = "x"

    @property
    def both(self) -> str:
        """Both."""
        return f"{self.a}{self.b}"


class Real(typing.NamedTuple):
    """A value."""

    a: int
    b: str = "x"


def test_it_is_built_read_and_changed_like_the_real_one() -> None:
    """Positions, names, defaults, _replace, _asdict, _make and repr agree with typing's."""
    for make in (lambda kind: kind(1), lambda kind: kind(1, "y"), lambda kind: kind(b="z", a=2)):
        lean, real = make(Lean), make(Real)  # type: ignore[no-untyped-call]
        assert tuple(lean) == tuple(real)
        assert (lean.a, lean.b) == (real.a, real.b)
        assert lean._asdict() == real._asdict()
        assert repr(lean) == repr(real).replace("Real", "Lean")
        assert tuple(lean._replace(b="q")) == tuple(real._replace(b="q"))
    assert Lean._make([1, "y"]) == Lean(1, "y")
    assert Lean(3).both == "3x"
    assert Lean.__doc__ == "A value."
    assert Lean._fields == Real._fields


def test_it_matches_by_position() -> None:
    """A class pattern takes it apart in the order of its fields."""
    match Lean(1, "y"):
        case Lean(a, b):
            assert (a, b) == (1, "y")
        case _:
            raise AssertionError


@pytest.mark.parametrize("wrong", [{}, {"a": 1, "c": 2}, {"b": "x"}])
def test_wrong_fields_are_refused(wrong: dict[str, typing.Any]) -> None:
    """A missing or unknown field is a TypeError."""
    with pytest.raises(TypeError):
        Lean(**wrong)
    with pytest.raises(TypeError):
        Lean(1, "y", 3)  # type: ignore[call-arg]


def test_it_is_frozen() -> None:
    """A value can't be changed, nor given new attributes."""
    with pytest.raises(AttributeError):
        Lean(1).a = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        Lean(1).c = 2  # type: ignore[attr-defined]
