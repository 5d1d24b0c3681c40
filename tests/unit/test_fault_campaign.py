"""The campaign of random faults counts what did not hold, and fails for it."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import fault_campaign
import pytest
from fault_campaign import Part, Tally, table


def broken(what: str) -> Tally:
    """A tally in which one thing did not hold."""
    tally = Tally(Counter({"kill keeper": 2, "cut": 1}), runs=7)
    getattr(tally, what).append("what happened")
    return tally


def count(text: str, name: str) -> int:
    """A number of the table."""
    (line,) = (line for line in text.splitlines() if line.startswith(name))
    return int(line.split()[-1])


@pytest.mark.parametrize("what", ["overlaps", "lost", "survivors", "other"])
def test_what_did_not_hold_is_an_exit_code(
    what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever it is, it is told, it is in the table, and the exit code is 1."""
    monkeypatch.setattr(sys, "argv", ["fault_campaign", "--seconds", "1", "--seed", "5"])
    made: list[Tally] = []

    def campaign(seconds: float, seed: int) -> Tally:
        assert (seconds, seed) == (1.0, 5)
        return made[-1]

    monkeypatch.setattr(fault_campaign, "campaign", campaign)
    made.append(broken(what))
    assert fault_campaign.main() == 1
    said = capsys.readouterr().out
    assert "what happened" in said
    wrong = ("overlaps", "lost outcomes", "survivors", "other promises broken")
    assert [count(said, name) for name in wrong].count(1) == 1
    made.append(Tally())
    assert fault_campaign.main() == 0


def test_the_table() -> None:
    """Faults by kind and in all, runs, and what did not hold."""
    text = table(broken("lost"), 5, 61.4)
    numbers = {"kill keeper": 2, "cut": 1, "faults in all": 3, "runs": 7, "lost outcomes": 1}
    for name, number in (numbers | {"seed": 5, "seconds": 61, "overlaps": 0}).items():
        assert count(text, name) == number


def test_a_campaign_that_fails_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wrong with one is told, with its seed, and the others go on."""

    def fail(part: Part, tally: Tally) -> None:
        assert part.root.is_dir()
        tally.runs += 1
        raise RuntimeError(part.seed)

    def go_on(part: Part, tally: Tally) -> None:
        tally.runs += len(list(part.rounds()))

    parts: dict[str, tuple[float, Callable[[Part, Tally], None]]] = {
        "one": (0.5, fail),
        "two": (0.0, go_on),
    }
    monkeypatch.setattr(fault_campaign, "PARTS", parts)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tally = fault_campaign.campaign(0.0, 9)
    assert tally.runs == 2
    assert len(tally.failures) == 1
    assert "RuntimeError: 9-one" in tally.failures[0]
    assert "what is left of it is in" in capsys.readouterr().out
