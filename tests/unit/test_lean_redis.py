"""redis-py is imported without what a lease does not need, and is whole for whoever wants it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import servers

_NOT_NEEDED = {
    *("asyncio.events", "asyncio.base_events", "hashlib", "importlib.metadata"),
    *("redis.asyncio", "redis.client", "redis.cluster", "redis.commands"),
}


def python(code: str, *words: str) -> str:
    return subprocess.check_output([sys.executable, "-c", code, *words], text=True)


def test_the_clients_are_not_loaded() -> None:
    """Neither by the import nor by anything that leases do, errors and Sentinel included."""
    code = f"""
import contextlib, os, sys
from guardrun import kernel
from guardrun.errors import StoreUnavailable
from guardrun.locks.redis import RedisLeases
from guardrun.model import LeaseRequest, Waiting

one, two = RedisLeases(sys.argv[1]), RedisLeases(sys.argv[1])
lock = os.urandom(8).hex()
first, second = [LeaseRequest(lock, "h:1:x", "x", os.urandom(16).hex(), 1, 30.0) for _ in "12"]
due = kernel.now() + 10
one.acquire(first, True, due)
assert isinstance(two.acquire(second, True, due), Waiting)
assert one.renew(first, due) and one.release(first, due)
two.drain()
two.acquire(second, True, due)
assert two.release(second, due) and not two.holders(lock, due)
for url in ("redis://:x@127.0.0.1:1", "rediss://127.0.0.1:1", "redis+sentinel://127.0.0.1:1/s"):
    with contextlib.suppress(StoreUnavailable):
        RedisLeases(url).renew(first, due)
print({_NOT_NEEDED} & set(sys.modules))
"""
    assert python(code, servers.redis_url()) == "set()\n"


@pytest.mark.parametrize(
    "wanted",
    [
        "import redis; client = redis.Redis",
        "from redis import Redis as client",
        "from redis import *; client = Redis",
        "import redis; assert redis.__version__; client = redis.client.Redis",
    ],
)
def test_whoever_wants_it_later_gets_all_of_it(wanted: str) -> None:
    """The package is the usual one afterwards, with the same errors as ours."""
    code = f"""
import sys, guardrun.locks.redis
from guardrun.locks.lean_redis import exceptions
{wanted}
import redis, redis.asyncio
assert client is redis.Redis
assert redis.RedisError is exceptions.RedisError
assert redis.asyncio.Redis and redis.__version__
assert "__getattr__" not in vars(redis)
client.from_url(sys.argv[1]).ping()
import asyncio
async def ping(): return await redis.asyncio.from_url(sys.argv[1], protocol=protocol).ping()
for protocol in (2, 3):
    assert asyncio.run(ping())
assert "__getattr__" not in vars(asyncio)
assert redis.utils.metadata.version("redis") == redis.__version__
try:
    redis.nonsense
except AttributeError as error:
    print(error)
"""
    said = python(code, servers.redis_url())
    assert said == "module 'redis' has no attribute 'nonsense'\n"


def test_one_that_is_already_there_is_left_alone() -> None:
    """There is only ever one redis in a process."""
    code = """
import redis
before = vars(redis).copy()
from guardrun.locks.lean_redis import exceptions
import redis as again
print(again is redis, exceptions is redis.exceptions, vars(redis) == before)
"""
    assert python(code) == "True True True\n"


@pytest.mark.parametrize("trouble", ["ImportError", "AttributeError", "RecursionError"])
def test_when_it_does_not_work_out_it_is_imported_plainly(trouble: str) -> None:
    """A redis-py whose modules need their package whole is imported the usual way instead."""
    code = f"""
import sys
class Insists:
    tried = 0
    def find_spec(self, name, path=None, target=None):
        if name == "redis.connection" and "__getattr__" in vars(sys.modules["redis"]):
            Insists.tried += 1
            raise {trouble}("this version needs its package")
sys.meta_path.insert(0, Insists())
from guardrun.locks.redis import RedisLeases
import redis
print(Insists.tried, "redis.client" in sys.modules, "__getattr__" in vars(redis))
RedisLeases("redis://h")
"""
    assert python(code) == "1 True False\n"
