"""structlog is imported without what it does not need, and behaves the same."""

from __future__ import annotations

import subprocess
import sys

import pytest

_RENDER = """
from guardrun.model import Event
from guardrun.report.render import ConsoleLines, JsonLines
fields = {"job_id": "x", "job": "y", "n": 1, "of": [1.5, None, {"k": "grün"}], "o": object}
for lines in (JsonLines(), ConsoleLines(colours=True)):
    for level in ("debug", "info", "warning", "error"):
        print(lines(Event(1795508142.382156, level, "run_started", {}), fields))
"""


def python(code: str) -> str:
    return subprocess.check_output([sys.executable, "-c", code], text=True)


def test_what_is_not_needed_is_not_loaded() -> None:
    """Neither asyncio nor ssl nor rich is loaded, and nothing is left standing in for them."""
    heavy = ("asyncio", "ssl", "socket", "rich", "pygments", "logging", "inspect", "uuid")
    if sys.version_info >= (3, 13):  # its dataclasses takes a class's signature at once
        heavy = tuple(name for name in heavy if name != "inspect")
    code = f"import sys, guardrun.report.render\nprint(set(sys.modules) & set({heavy}))"
    assert python(code) == "set()\n"


def test_whoever_wants_them_later_gets_them() -> None:
    """asyncio, rich and structlog's own modules load as usual afterwards, and are the real ones."""
    code = """
import guardrun.report.render
from guardrun.report.lean_structlog import structlog
import asyncio, inspect, logging, rich.pretty, rich.console
async def answer(): return 42
assert asyncio.run(answer()) == 42
assert structlog._native.asyncio.get_running_loop is asyncio.get_running_loop
assert structlog.stdlib.BoundLogger.__module__ == "structlog.stdlib"
import structlog.stdlib
assert structlog.stdlib.logging.INFO == logging.INFO
from dataclasses import dataclass
@dataclass
class Undocumented:
    number: int
assert Undocumented.__doc__ == "Undocumented(number: int)"
assert rich.pretty.pretty_repr([1]) == "[1]"
print("ok")
"""
    assert python(code) == "ok\n"


def test_modules_that_are_already_there_are_left_alone() -> None:
    """An asyncio or a rich imported before is not touched."""
    code = """
import sys, asyncio, rich.console
before = {name: sys.modules[name] for name in ("asyncio", "rich", "logging")}
import guardrun.report.render
assert all(sys.modules[name] is module for name, module in before.items())
from structlog import dev
print(dev.rich is rich)
"""
    assert python(code) == "True\n"


def test_a_structlog_imported_before_is_used() -> None:
    """There is only ever one structlog in a process."""
    code = """
import structlog as theirs
from guardrun.report.lean_structlog import structlog as ours
print(theirs is ours, theirs.dev.rich is not None)
"""
    assert python(code) == "True True\n"


@pytest.mark.parametrize("trouble", ["ImportError", "AttributeError", "RecursionError"])
def test_when_it_does_not_work_out_structlog_is_imported_plainly(trouble: str) -> None:
    """A structlog that insists on what is hidden from it is imported the usual way instead."""
    code = f"""
import sys
class Insists:
    tried = 0
    def find_spec(self, name, path=None, target=None):
        if name == "structlog._native" and sys.modules.get("rich", 0) is None:
            Insists.tried += 1
            raise {trouble}("this version needs rich")
sys.meta_path.insert(0, Insists())
{_RENDER}
import structlog
print(Insists.tried, structlog.dev.rich is not None, None in sys.modules.values(), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "1 True False\n"
    assert done.stdout == python(_RENDER)


def test_a_structlog_that_is_not_installed_is_said_plainly() -> None:
    """The error is the usual one, and nothing half imported is left."""
    code = """
import sys
sys.modules["structlog"] = None
try:
    import guardrun.report.lean_structlog
except ModuleNotFoundError as error:
    print(error.name, [name for name in sys.modules if name.startswith("structlog.")])
"""
    assert python(code) == "structlog []\n"


def test_lines_are_the_same_with_the_plain_import() -> None:
    """JSON and console lines do not depend on how structlog was imported."""
    assert python(_RENDER) == python("import structlog" + _RENDER)
