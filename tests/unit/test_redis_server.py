"""The Redis that tests start: shared or private, and certainly gone at the end."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
import servers
from servers import REDIS, Redis, Url
from support import eventually, kill


def ping(url: str) -> object:
    """Whether a server answers at that URL."""
    client = redis.Redis.from_url(url)
    try:
        return client.ping()
    finally:
        client.close()


def test_url_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that the environment names is used, whatever else there is."""
    monkeypatch.setenv("GUARDRUN_TEST_REDIS_URL", "redis://elsewhere/0")
    assert servers.find(REDIS) == Url("redis://elsewhere/0")
    assert servers.redis_url() == "redis://elsewhere/0"


def test_shared() -> None:
    """The session's server is the same for everybody who asks, and takes its password."""
    url = servers.redis_url()
    assert servers.redis_url() == url
    assert ping(url)


def test_both_ways() -> None:
    """A private server is reached by TCP and by its socket, not without its password."""
    with Redis.start() as own:
        assert ping(own.url)
        assert ping(own.socket_url)
        with pytest.raises(redis.AuthenticationError):
            ping(f"redis://127.0.0.1:{own.port}/0")


@pytest.mark.parametrize("state", ["running", "paused", "killed", "started again"])
def test_gone(state: str) -> None:
    """Whatever a test did to its server, it is gone with its directory when the test ends."""
    with Redis.start() as own:
        if state == "paused":
            own.pause()
        elif state != "running":
            own.kill()
        if state == "started again":
            own.start_again()
            assert ping(own.url)
        pid, directory = own.minded.pid, own.minded.directory
    assert not directory.exists()
    assert not pid or not Path(f"/proc/{pid}").exists()


def test_minder_killed() -> None:
    """Even without its minder a server doesn't outlive the test."""
    with Redis.start() as own:
        kill(own.minded.minder.pid)
        eventually(own.minded.ended, what="no server")
        for left in own.minded.directory.iterdir():
            left.unlink()
        own.minded.directory.rmdir()
