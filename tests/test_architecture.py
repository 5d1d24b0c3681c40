"""The house's shape, as tests: who may know whom, and what the way to COMMAND may import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Host

ROOT = Path(__file__).parent.parent / "guardrun"

VALUES = {"errors", "lean", "lean_import", "model", "units"}
SYSTEM = {"kernel", "safety", "blocking", "outlet", "digest", "chance"}
"""thin wrappers of kernel calls, without a will of their own"""

MAY_IMPORT = {
    "errors": set(),
    "lean": set(),
    "lean_import": set(),
    "model": {"lean"},
    "units": {"errors", "lean", "model"},
    "digest": set(),
    "chance": set(),
    "kernel": {"lean"},
    "safety": {"errors"},
    "outlet": set(),
    "blocking": {"kernel"},
    "ports": VALUES,
    "channel": {"lean"},
    "term": {"lean"},
    "template": VALUES | {"digest"},
    "core": VALUES | {"core", "digest"},
    "address": {"digest"},
    "adopt": VALUES | {"adopt"},
    "sql": set(),
    "version": {"_version"},
    "_version": set(),
    "postgres": VALUES | SYSTEM | {"address", "sql", "postgres"},
    "locks": VALUES | SYSTEM | {"ports", "sql", "postgres", "locks"},
    "ledger": VALUES | SYSTEM | {"ports", "address", "sql", "postgres", "ledger"},
    "report": VALUES | {"outlet", "core", "digest", "version", "report"},
    "warden": {"lean", "kernel", "channel", "core", "warden"},
    "keeper": VALUES | {"kernel", "channel", "core", "ledger", "supervisor", "keeper"},
    "supervisor": VALUES
    | {"kernel", "outlet", "channel", "ports", "core", "warden", "report", "supervisor"},
    "identity": VALUES | {"template", "core", "digest", "ports"},
    "errand": {"kernel", "keeper", "ports"},
    "reports": VALUES | {"errand", "report", "supervisor"},
    "command": VALUES | {"kernel", "channel", "identity", "supervisor", "report"},
    "run": VALUES
    | {"kernel", "ports", "core", "report", "supervisor", "command", "ledger", "reports"},
    "kinds": VALUES | {"template"},
    "jobname": {"lean"},
    "paths": VALUES,
    "options": VALUES | {"kinds"},
    "configfile": VALUES | {"kinds", "options"},
    "settings": VALUES | {"kinds", "options", "configfile", "jobname", "paths"},
    "config": VALUES | {"options", "settings", "paths", "template"},
}
"""What each module or package imports at run time at most; those above them may import all."""

TOP = {"world", "pool", "dryrun", "help", "commands", "doctor", "cli", "__main__", "__init__"}


def modules() -> Iterator[tuple[str, Path]]:
    """(module or package, file) of every source file."""
    for path in sorted(ROOT.rglob("*.py")):
        yield path.relative_to(ROOT).with_suffix("").parts[0], path


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(dotted name, at module level) of everything that ``path`` imports when it runs."""

    def visit(nodes: list[ast.stmt], top: bool) -> Iterator[tuple[str, bool]]:
        for node in nodes:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                yield from visit(node.orelse, top)
            elif isinstance(node, ast.Import):
                yield from ((alias.name, top) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                for alias in node.names:
                    yield f"{node.module}.{alias.name}", top
            else:
                inner = top and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                for _, value in ast.iter_fields(node):
                    if isinstance(value, list):
                        yield from visit([v for v in value if isinstance(v, ast.AST)], inner)  # type: ignore[misc]

    yield from visit(ast.parse(path.read_text()).body, True)


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda value: str(value)[-40:])
def test_arrows_run_one_way(name: str, path: Path) -> None:
    """A module imports only what stands below it."""
    if name in TOP:
        return
    used = {dotted.split(".")[1] for dotted, _ in imports(path) if dotted.startswith("guardrun.")}
    assert used <= MAY_IMPORT[name], f"{path} must not import {used - MAY_IMPORT[name]}"


@pytest.mark.parametrize("path", sorted((ROOT / "core").glob("*.py")), ids=lambda path: path.name)
def test_the_core_is_pure(path: Path) -> None:
    """Nothing in core/ can read a clock, draw a random number, or touch the outside."""
    allowed = {"__future__", "guardrun", "re", "urllib", "collections"}
    used = {dotted.split(".")[0] for dotted, _ in imports(path)}
    assert used <= allowed, used - allowed


FORBIDDEN = {
    *("asyncio", "click", "configparser", "dataclasses", "email", "greenlet", "hashlib", "http"),
    *("importlib.metadata", "urllib3", "guardrun.version", "guardrun._version"),
    *("inspect", "json", "logging", "pathlib", "psycopg", "random", "re", "redis", "rich"),
    *("selectors", "socket", "ssl", "structlog", "subprocess", "tempfile", "threading"),
    *("traceback", "typing", "uuid"),
}


@pytest.mark.parametrize(
    "told", [(), ("--metrics-textfile", "/proc", "--ping-url", "http://[::1]:1/")]
)
def test_the_way_to_command_imports_nothing_heavy(host: Host, told: tuple[str, ...]) -> None:
    """A run with lock, key and ledger starts COMMAND without any of the modules that cost ms.

    Nor does one that tells others import what they take: that happens in processes of their own.
    """
    result = subprocess.run(
        [sys.executable, "-I", "-X", "importtime", "-c", _MAIN, *told, *_WORDS],
        env=host.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "guardrun.run" in loaded
    assert not loaded & FORBIDDEN


_WORDS = ("--lock", "a", "--key", "b", "--log-to", "none", "--", "true")
_MAIN = "from guardrun.__main__ import main; main()"


_ANYWHERE = {"asyncio.base_events", "asyncio.events", "importlib.metadata"}
_NOT_BY_A_KEEPER = {
    "postgresql": {
        *("ctypes.util", "decimal", "json", "ssl", "zoneinfo"),
        *("psycopg.connection", "psycopg.cursor", "psycopg.types", "psycopg_binary._psycopg"),
    },
    "redis": {"hashlib", "redis.asyncio", "redis.client", "redis.cluster", "redis.commands"},
    "etcd": {"urllib3.connectionpool", "urllib3.poolmanager", "urllib3.http2.connection"},
    "consul": {"urllib3.connectionpool", "urllib3.poolmanager", "urllib3.http2.connection"},
}


@pytest.mark.parametrize("scheme", _NOT_BY_A_KEEPER)
def test_a_keeper_imports_no_more_of_its_driver_than_it_needs(scheme: str) -> None:
    """What drivers import for others is most of what a run with a store waits for at its start.

    Nor do two drivers in one keeper, loaded in the order in which it does that.
    """
    unwanted = _ANYWHERE | _NOT_BY_A_KEEPER[scheme]
    code = "import sys; from guardrun.locks.stores import open_leases; open_leases(sys.argv[1])"
    code += f"; print(sorted({unwanted} & set(sys.modules)))"
    code += f"; import guardrun.ledger.postgres; print(sorted({_ANYWHERE} & set(sys.modules)))"
    words = (sys.executable, "-I", "-c", code, f"{scheme}://localhost")
    assert subprocess.check_output(words, text=True) == "[]\n[]\n"


def test_no_threads_and_no_asyncio() -> None:
    """No module of the package starts a thread or imports asyncio."""
    for _, path in modules():
        used = {dotted.split(".")[0] for dotted, _ in imports(path)}
        assert not used & {"threading", "asyncio", "concurrent", "multiprocessing"}, path


def test_only_the_entry_point_exits() -> None:
    """sys.exit stands in __main__ and nowhere else."""
    for name, path in modules():
        if name != "__main__":
            assert "sys.exit" not in path.read_text(), path
