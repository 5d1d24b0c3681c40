"""Alert rules and dashboard: Prometheus takes them, and they ask for nothing that nobody emits."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from monitoring import promtool
from prometheus_client.parser import text_string_to_metric_families

from guardrun.commands import exposition
from guardrun.commands.exposition import JobState, LedgerState, LocksState, SpoolState
from guardrun.ledger.aggregates import JobNumbers, Spread
from guardrun.report.textfile import FAMILIES

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "guardrun.rules.yml"
TESTS = RULES.with_name("guardrun.rules.test.yml")
DASHBOARD = ROOT / "deploy" / "grafana" / "guardrun.json"

_NAME = re.compile(r"\bguardrun[_:][a-z0-9_:]+")


def emitted() -> set[str]:
    """The names of all samples that guardrun makes, by either way."""
    some = Spread(1, 1, 1, 1, 1)
    numbers = JobNumbers("a", {"success": 1}, 1, 1, 1, some, some, some, some, 1, 1)
    ledger = LedgerState(3600.0, 1, [JobState(numbers, 1)], 0)
    locks = [LocksState("host", 1, 1.0)]
    text = exposition.render({"ledger": True}, ledger, locks, SpoolState(1, 1, 1.0)).decode()
    families = text_string_to_metric_families(text)
    return {sample.name for family in families for sample in family.samples} | set(FAMILIES)


def recorded() -> set[str]:
    """The names that the rules record."""
    return set(re.findall(r"- record: (\S+)", RULES.read_text()))


def expressions() -> list[str]:
    """What the rules ask."""
    found = re.findall(r"expr: (?:>-\n((?:          .*\n)+)|(.*)\n)", RULES.read_text())
    return [folded or line for folded, line in found]


@pytest.mark.parametrize(("verb", "file"), [("check", RULES), ("test", TESTS)])
def test_promtool(verb: str, file: Path) -> None:
    """The rules are valid, and alerts fire in the storms that they are for, and not before."""
    said = subprocess.run([promtool(), verb, "rules", file], capture_output=True, check=False)
    assert said.returncode == 0, said


def test_every_alert_is_tried() -> None:
    """No alert without a case in which it fires, and one in which it does not."""
    text = TESTS.read_text()
    for alert in re.findall(r"- alert: (\w+)", RULES.read_text()):
        assert re.search(rf"alertname: {alert}\n        exp_alerts", text), alert
        assert re.search(rf"alertname: {alert}(\}}|\n      - )", text), alert


def test_every_alert_has_an_entry_in_the_runbook() -> None:
    """The heading that an alert names is there."""
    text = RULES.read_text()
    headings = re.findall(r"^#+ (.*)$", (ROOT / "docs" / "runbook.md").read_text(), re.M)
    anchors = {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}
    named = re.findall(r"runbook: docs/runbook\.md#(\S+)", text)
    assert len(named) == text.count("- alert: ")
    assert set(named) <= anchors


def test_rules_ask_for_what_is_emitted() -> None:
    """Every name in a rule is one that guardrun writes, or one that the rules record."""
    asked = {name for one in expressions() for name in _NAME.findall(one)}
    assert len(expressions()) == RULES.read_text().count("expr:")
    assert asked <= emitted() | recorded()


def test_the_dashboard_asks_for_what_is_emitted() -> None:
    """Every panel asks for something, and nothing that is not there."""
    board = json.loads(DASHBOARD.read_text())
    for panel in board["panels"]:
        names = {name for one in panel["targets"] for name in _NAME.findall(one["expr"])}
        assert names
        assert names <= emitted() | recorded(), panel["title"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_expressions_of_the_dashboard_are_valid(tmp_path: Path) -> None:
    """Prometheus takes each, with some job in the place of the variable."""
    board = json.loads(DASHBOARD.read_text())
    asked = [one["expr"] for panel in board["panels"] for one in panel["targets"]]
    rules = [
        f"      - {{record: panel:{number}, expr: {json.dumps(one.replace('$job_name', 'a'))}}}"
        for number, one in enumerate(asked)
    ]
    file = tmp_path / "panels.yml"
    file.write_text("groups:\n  - name: panels\n    rules:\n" + "\n".join(rules) + "\n")
    said = subprocess.run([promtool(), "check", "rules", file], capture_output=True, check=False)
    assert said.returncode == 0, said
