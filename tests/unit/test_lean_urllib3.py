"""urllib3 is imported without what a lease does not need, and is whole for whoever wants it."""

from __future__ import annotations

import subprocess
import sys

import pytest


def python(code: str) -> str:
    return subprocess.check_output([sys.executable, "-c", code], text=True)


@pytest.mark.parametrize("before", ["", "import urllib3"], ids=["lean", "there already"])
def test_whoever_wants_it_later_gets_all_of_it(before: str) -> None:
    """The package is the usual one afterwards, with the same classes as ours."""
    code = f"""
{before}
import guardrun.locks.lean_urllib3 as ours
import urllib3
assert urllib3.PoolManager().connection_from_url("http://h").ConnectionCls is ours.HTTPConnection
assert urllib3.exceptions.HTTPError is ours.HTTPError
assert urllib3.__version__ and urllib3.http2.inject_into_urllib3
print("__getattr__" in vars(urllib3), "__getattr__" in vars(urllib3.http2))
"""
    assert python(code) == "False False\n"


def test_when_it_does_not_work_out_it_is_imported_plainly() -> None:
    """A urllib3 whose modules need their package whole is imported the usual way instead."""
    code = """
import sys
class Insists:
    def find_spec(self, name, path=None, target=None):
        if name == "urllib3.response" and "__getattr__" in vars(sys.modules["urllib3"]):
            raise AttributeError("this version needs its package")
sys.meta_path.insert(0, Insists())
import guardrun.locks.json_http, urllib3
print("urllib3.poolmanager" in sys.modules, "__getattr__" in vars(urllib3))
"""
    assert python(code) == "True False\n"
