"""Errors become one line and an exit code."""

from __future__ import annotations

import sys

import pytest

from guardrun import cli, config
from guardrun.errors import GuardrunError, StoreUnavailable, ToldToStop, UnsafePath


def end_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    """Run ``main`` where making the Plan fails with ``error``; a signal is only noted."""

    def fail(*_: object) -> config.Settled:
        raise error

    monkeypatch.setattr(sys, "argv", ["guardrun", "true"])
    monkeypatch.setattr(config, "settle", fail)
    monkeypatch.setattr(cli, "die_by", lambda signum: 1000 + signum)
    return cli.main()


@pytest.mark.parametrize(
    ("error", "code"),
    [(UnsafePath("no"), 73), (StoreUnavailable("no"), 69), (GuardrunError("no"), 70)],
)
def test_an_error_has_the_exit_code_of_its_class(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: GuardrunError,
    code: int,
) -> None:
    """Errors of ours are told by their message alone."""
    assert end_with(monkeypatch, error) == code
    assert capfd.readouterr() == ("", "guardrun: no\n")


def test_a_fault_of_ours_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An exception nobody expected says its type and the line of ours that it came through."""
    assert end_with(monkeypatch, ZeroDivisionError("by\nzero")) == 70
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(
        "guardrun: internal error, please report it: ZeroDivisionError: by\\nzero"
    )
    assert "(at guardrun/cli.py:" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "signum"), [(ToldToStop(15), 15), (KeyboardInterrupt(), 2), (BrokenPipeError(), 13)]
)
def test_signals_are_passed_on(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: BaseException,
    signum: int,
) -> None:
    """Who was told to stop ends by that signal, silently."""
    assert end_with(monkeypatch, error) == 1000 + signum
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain é", "plain é"),
        ("a\nb\tc\x1b[31m", r"a\nb\tc\x1b[31m"),
        ("\udcff\udc80", r"\xff\x80"),
        ("\ud800", r"\ud800"),
        ("a\u2028b\u202eb", r"a\u2028b\u202eb"),
    ],
)
def test_a_message_is_one_printable_line(text: str, line: str) -> None:
    """What a terminal would obey, or could not show, is shown as an escape."""
    assert cli.one_line(text) == line


def test_a_message_is_bounded() -> None:
    """No message fills the screen."""
    assert len(cli.one_line("x" * 100_000)) == 2001
