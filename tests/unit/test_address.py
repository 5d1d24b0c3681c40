"""Which ledger a URL means: what waits for one is never recorded in another."""

from __future__ import annotations

import pytest

from guardrun.address import address, spool_name


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://u:secret@db:5433/ops?sslmode=require", "postgresql://db:5433/ops"),
        ("postgresql://other@db:5433/ops", "postgresql://db:5433/ops"),
        ("postgresql://DB/ops", "postgresql://db:5432/ops"),
        ("postgresql://db/?dbname=ops&port=5432", "postgresql://db:5432/ops"),
        ("postgresql:///ops?host=db", "postgresql://db:5432/ops"),
        ("postgresql://a,b:6432/ops?target_session_attrs=any", "postgresql://a:5432,b:6432/ops"),
        ("postgresql://[::1]:5433/ops", "postgresql://[::1]:5433/ops"),
        ("postgresql://u:se?cret@db/ops?port=1", "postgresql://db:1/ops"),
        (
            "postgresql:///ops?host=%2Frun%2Fpg&port=5433&password=secret",
            "postgresql:///run/pg:5433/ops",
        ),
        ("postgresql:///?service=ops", "postgresql://:5432/?service=ops"),
        ("postgresql://", "postgresql://:5432/"),
        ("sqlite:///var/lib/x.sqlite3", "sqlite:///var/lib/x.sqlite3"),
    ],
)
def test_an_address_is_where_the_ledger_is(url: str, place: str) -> None:
    """However it is written; user, password and options are no part of it."""
    assert address(url, {}) == place


def test_libpqs_variables_stand_in_for_what_the_url_leaves_out() -> None:
    """The same URL in another environment may be another ledger, and another URL the same."""
    environ = {
        "PGHOST": "db",
        "PGPORT": "6000",
        "PGDATABASE": "ops",
        "PGUSER": "u",
        "PGAPPNAME": "",
    }
    assert address("postgresql://", environ) == "postgresql://db:6000/ops"
    assert address("postgresql://a:1/b", environ) == "postgresql://a:1/b"
    assert address("postgresql://[::1]/b", environ) == "postgresql://[::1]:6000/b"


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://ann:secret@db", "postgresql://db:5432/ann"),
        ("postgresql://bob@db/", "postgresql://db:5432/bob"),
        ("postgresql://db?user=ann", "postgresql://db:5432/ann"),
        ("postgresql://db", "postgresql://db:5432/eve"),
        ("postgresql://db?dbname=ops&user=ann", "postgresql://db:5432/ops"),
        ("postgresql://ann@db?service=ops", "postgresql://db:5432/?service=ops"),
    ],
)
def test_a_database_that_is_not_named_is_the_users(url: str, place: str) -> None:
    """As libpq has it: what waits for one user's is not recorded in another's."""
    assert address(url, {"PGUSER": "eve"}) == place


def test_every_ledger_has_a_directory_of_its_own_in_the_spool() -> None:
    """Two addresses never share one, and the name tells the kind."""
    one, other = spool_name("postgresql://a/b"), spool_name("postgresql://a/c")
    assert one != other
    assert one.startswith("postgresql-")
    assert spool_name("sqlite:///x").startswith("sqlite-")
    assert "/" not in one
