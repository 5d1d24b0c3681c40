"""What guardrun does itself between libpq and its stores: values, one round trip, TLS."""

from __future__ import annotations

import contextlib
import datetime
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import servers
from hypothesis import given
from hypothesis import strategies as st
from support import eventually

from guardrun import kernel
from guardrun.postgres.connection import connect
from guardrun.postgres.wire import Connection, answers

NOON = datetime.datetime(2026, 11, 28, 12, 0, 0, 123456, tzinfo=datetime.UTC)
NUL_FREE = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@pytest.fixture(scope="module")
def connection() -> Iterator[Connection]:
    """A connection to the session's Postgres."""
    made = connect(servers.postgres_url(), kernel.now() + 20)
    yield made
    made.close()


def told(connection: Connection, kind: str, value: object) -> Any:
    """What comes back of a value that is sent, and is of that type there."""
    connection.due = kernel.now() + 20
    ((found,),) = connection.execute(f"SELECT %(value)s::{kind}", {"value": value})
    return found


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *[("bool", value) for value in (True, False)],
        *[("smallint", value) for value in (0, -1, 2**15 - 1, -(2**15))],
        *[("integer", value) for value in (2**15, 2**31 - 1, -(2**31))],
        *[("bigint", value) for value in (2**31, 2**63 - 1, -(2**63))],
        *[("float8", value) for value in (0.1, -1e300, float("inf"))],
        *[("bytea", value) for value in (b"", b"\\x00", bytes(range(256)))],
        *[("text", value) for value in ("", "100% %(x)s $1", "n\u00e4chtlich/\u2603", "a'b\"c\\d")],
        *[(kind, None) for kind in ("bool", "integer", "text", "bytea", "text[]")],
        ("text[]", []),
        ("text[]", ["NULL", None, "", "null", "{", "}", ",", '"', "\\", " ", "\n", "\u2603"]),
        ("integer[]", [1, None, 2**31 - 1]),
        ("bigint[]", [1, 2**40]),
        ("bytea[]", [b"", b"\\", bytes(range(256)), None]),
        ("float8[]", [0.5, float("inf")]),
        ("bool[]", [True, None, False]),
    ],
)
def test_a_value_comes_back(connection: Connection, kind: str, value: object) -> None:
    """What is sent as a type is read as the same value."""
    assert told(connection, kind, value) == value


@given(NUL_FREE, st.lists(st.one_of(st.none(), NUL_FREE)), st.binary(max_size=300))
def test_any_value_comes_back(
    connection: Connection, text: str, texts: list[str | None], data: bytes
) -> None:
    """Whatever is in them: nothing in a value is taken for the syntax of one."""
    assert told(connection, "text", text) == text
    assert told(connection, "text[]", texts) == texts
    assert told(connection, "bytea", data) == data
    assert told(connection, "bytea[]", [data, None, data]) == [data, None, data]


def test_moments(connection: Connection) -> None:
    """An instant is the same one on the server, alone and in a list."""
    seconds = "extract(epoch FROM %(at)s)::float8, extract(epoch FROM (%(all)s)[2])::float8"
    values = {"at": NOON, "all": [None, NOON]}
    connection.due = kernel.now() + 20
    assert connection.execute(f"SELECT {seconds}", values) == [(NOON.timestamp(),) * 2]


def test_bytes_in_the_old_form(connection: Connection) -> None:
    """A server that is set to say bytes in the other of its two forms is understood."""
    connection.due = kernel.now() + 20
    connection.execute("SET bytea_output = 'escape'")
    assert told(connection, "bytea", bytes(range(256))) == bytes(range(256))
    connection.execute("RESET bytea_output")


@pytest.mark.parametrize("value", ["a\0b", ["a\0b"]])
def test_what_would_be_cut_off_is_refused(connection: Connection, value: object) -> None:
    """Text with NUL in it is an error, before anything is sent."""
    with pytest.raises(psycopg.DataError, match="NUL"):
        told(connection, "text", value)
    assert told(connection, "text", "b") == "b"


def test_what_cannot_be_said_leaves_the_connection_as_it_was(connection: Connection) -> None:
    """A value that is no text at all stops the batch before its first statement is sent."""
    connection.due = kernel.now() + 20
    with pytest.raises(UnicodeError):
        connection.batch(("BEGIN", {}), ("SELECT %(x)s", {"x": "\udcff"}))
    assert told(connection, "text", "b") == "b"


@pytest.mark.parametrize("prepares", [False, True])
def test_a_batch_tells_of_each_statement(connection: Connection, prepares: bool) -> None:
    """The rows of each in its place, of those without any as well; the same when asked again."""
    connection.due = kernel.now() + 20
    connection.prepares = prepares
    for number in (1, 2, 70000):
        found = connection.batch(
            ("BEGIN", {}),
            ("SELECT %(n)s::bigint, %(n)s::text FROM generate_series(1, 2)", {"n": number}),
            ("SELECT 1 WHERE false", {}),
            ("COMMIT", {}),
        )
        assert found == [[], [(number, str(number))] * 2, [], []]
    (count,) = connection.execute("SELECT count(*) FROM pg_prepared_statements")[0]
    assert (count > 0) == prepares
    connection.prepares = False


@pytest.mark.parametrize("at", [0, 1, 2])
def test_the_error_is_that_of_the_statement_that_failed(at: int) -> None:
    """Not that the ones after it were skipped."""
    broken = connect(servers.postgres_url(), kernel.now() + 20)
    statements: list[tuple[str, dict[str, Any]]] = [("SELECT 1", {})] * 3
    statements[at] = ("SELECT 1 / %(zero)s", {"zero": 0})
    with pytest.raises(psycopg.errors.DivisionByZero):
        broken.batch(*statements)
    broken.close()


def test_more_than_the_sockets_hold(connection: Connection) -> None:
    """Large values, both ways at once, do not have client and server wait for each other."""
    connection.due = kernel.now() + 60
    data = bytes(range(256)) * 2**14
    asked = ("SELECT %(data)s::bytea", {"data": data})
    assert connection.batch(asked, asked, asked) == [[(data,)]] * 3


def test_a_server_that_is_silent_is_not_waited_for() -> None:
    """The wait ends at due, and says so."""
    slow = connect(servers.postgres_url(), kernel.now() + 20)
    assert answers(slow, kernel.now() + 20)
    slow.due = kernel.now() + 0.2
    with pytest.raises(psycopg.OperationalError, match="no answer in time"):
        slow.execute("SELECT pg_sleep(20)")
    assert not answers(slow, kernel.now() + 0.1)
    slow.close()


# ---------------------------------------------------------------- with and without all of psycopg

_PATH = """
import os
from guardrun import kernel
from guardrun.ledger.postgres import PostgresLedger
from guardrun.locks.postgres import PostgresLeases
from guardrun.model import Claim, Grant, KeySpec, LeaseRequest, Outcome, Run
from guardrun.postgres.schema import migrate
url, due = sys.argv[1], kernel.now() + 30
migrate(url, due)
token = os.urandom(16).hex()
wanted = LeaseRequest("l", "h:1:x", "x", token, 1, 30.0)
leases, ledger = PostgresLeases(url), PostgresLedger(url, lambda: 1e9)
grant = leases.acquire(wanted, True, due)
assert isinstance(grant, Grant) and leases.renew(wanted, due) and leases.release(wanted, due)
job_id = f"01234567-89ab-7def-8123-{token[:12]}"
run = Run(job_id, "j", "h:1:x", "h", "u", 1, ("true",), "f", 1e9, key=token, token=token)
claim = ledger.begin(run, KeySpec(token), due)
assert isinstance(claim, Claim), claim
assert ledger.finish(Outcome(run, "success", 0, 1e9, 0.0, claim=claim, command_code=0), due)
print(leases._session._open.pgconn.ssl_in_use)
"""
_NOT_NEEDED = {
    *("asyncio.events", "asyncio.base_events", "ctypes.util", "importlib.metadata", "ssl"),
    *("psycopg.connection", "psycopg.cursor", "psycopg.types", "psycopg_binary._psycopg"),
}
_LEFT = f"print(sorted({_NOT_NEEDED} & set(sys.modules)))"
_INSISTS = """
class Insists:
    def find_spec(self, name, path=None, target=None):
        if name == "psycopg.errors" and "__getattr__" in vars(sys.modules["psycopg"]):
            raise RecursionError("this version needs its package")
sys.meta_path.insert(0, Insists())
"""


def python(code: str, *words: str) -> list[str]:
    return subprocess.check_output([sys.executable, "-c", code, *words], text=True).splitlines()


def test_all_of_it_without_the_rest_of_psycopg(database_url: str) -> None:
    """The way of a run needs none of what a lean import leaves out."""
    assert python("import sys" + _PATH + _LEFT, database_url) == ["False", "[]"]


@pytest.mark.parametrize("before", ["import psycopg", _INSISTS], ids=["there already", "insists"])
def test_all_of_it_with_the_plain_import(database_url: str, before: str) -> None:
    """One that was imported before, or whose modules need their package whole, is the usual one."""
    code = f"import sys\n{before}\n{_PATH}\nprint('__getattr__' in vars(sys.modules['psycopg']))"
    assert python(code, database_url) == ["False", "False"]


def test_whoever_wants_it_later_gets_all_of_it(database_url: str) -> None:
    """psycopg is the usual one afterwards, with the same errors as ours, for asyncio as well."""
    code = f"""
import sys
{_PATH}
import psycopg, asyncio
from guardrun.postgres.lean_psycopg import errors
with psycopg.connect(url) as connection:
    assert connection.execute("SELECT %s", ["x"]).fetchone() == ("x",)
async def ask():
    async with await psycopg.AsyncConnection.connect(url) as connection:
        return await (await connection.execute("SELECT 1::numeric")).fetchone()
print(asyncio.run(ask()), psycopg.Error is errors.Error, "__getattr__" in vars(psycopg))
print(psycopg.pq.__impl__, bool(psycopg.__version__))
"""
    said = python(code, database_url)
    assert said[1:] == ["(Decimal('1'),) True False", f"{psycopg.pq.__impl__} True"]


@pytest.fixture
def secured(certified: Path) -> Iterator[str]:
    """The URL of a server that is to be reached by TLS, and to be who it says."""
    with servers.Postgres.start() as own:
        key, cert = certified / "key", certified / "cert"
        key.chmod(0o600)
        if os.geteuid() == 0:  # it reads no key that others may
            owner = own.minded.directory.stat()
            os.chown(key, owner.st_uid, owner.st_gid)
        with psycopg.connect(own.url, autocommit=True) as db:
            for name, value in (("cert_file", cert), ("key_file", key), ("", "on")):
                word = f"ALTER SYSTEM SET ssl{'_' * bool(name)}{name} = '{value}'"
                db.execute(word.encode())
            db.execute("SELECT pg_reload_conf()")
        place = own.url.replace("127.0.0.1", "localhost")
        url = f"{place}?sslmode=verify-full&sslrootcert={cert}"

        def speaks_tls() -> bool:
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url):
                return True
            return False

        eventually(speaks_tls, 20, "a server that speaks TLS")
        yield url


def test_all_of_it_over_tls(secured: str) -> None:
    """libpq needs nothing of Python's ssl for that, and stands it where it is."""
    for before in ("", "import psycopg", "import ssl; ssl.create_default_context()"):
        assert python(f"import sys\n{before}\n{_PATH}", secured) == ["True"]
