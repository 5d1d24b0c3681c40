"""Leases behind Redis Sentinel: the primary is found at each connect, on real servers."""

from __future__ import annotations

import contextlib
import os
import re
import select
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import servers
from lease_stores import await_grant, busy, due, granted, lock_name, request
from sentinel import SERVICE, Watched, client, looking_after
from servers import Redis
from support import eventually
from test_redis_leases import DOCUMENT

from guardrun import kernel
from guardrun.core.redact import redact_url
from guardrun.errors import ConfigError, StoreUnavailable
from guardrun.kinds import has_password, lease_url
from guardrun.locks.redis import RedisLeases

T = TypeVar("T")


@pytest.fixture(scope="module")
def module_watched() -> Iterator[Watched]:
    """The servers for the tests that leave them as they were, but for who is the primary."""
    with Watched.start() as started:
        yield started


@pytest.fixture
def watched(module_watched: Watched) -> Iterator[Watched]:
    """Those servers."""
    yield module_watched
    module_watched.close()


def answer(call: Callable[[float], T], within: float) -> T:
    """What the first call that gets through says."""
    said: list[T] = []

    def answered() -> bool:
        with contextlib.suppress(StoreUnavailable):
            said.append(call(due(1)))
        return bool(said)

    eventually(answered, within, "a store that works again")
    return said[0]


class TestWay:
    def test_verbs(self, watched: Watched) -> None:
        """Every verb works through a sentinel, in the database that the URL names."""
        one, two = watched.open(), watched.open(watched.url(service=f"{SERVICE}/0"))
        elsewhere = watched.open(watched.url(service=f"{SERVICE}/3"))
        first, second = [request(lock) for lock in [lock_name()] * 2]
        granted(one.acquire(first, True, due()))
        busy(two.acquire(second, True, due()))
        granted(elsewhere.acquire(request(first.lock), False, due()))
        fd = two.wake_fd()
        assert fd is not None
        assert one.renew(first, due())
        assert one.release(first, due())
        assert select.select([fd], [], [], 5)[0]
        two.drain()
        granted(two.acquire(second, True, due()))
        assert [held.lock for held in one.locks(due())].count(first.lock) == 1
        one.idle()
        assert one.take_away(second.lock, second.token, due())

    def test_not_durable(self, watched: Watched) -> None:
        """A failover can lose a fence, so it counts as not durable, whatever a server says."""
        store = watched.open()
        granted(store.acquire(request(lock_name()), False, due()))
        assert store.fence_durable is False

    def test_in_order(self, watched: Watched) -> None:
        """A sentinel that is not there, or does not answer, costs its share of the time alone."""
        with Redis.start() as silent:
            silent.pause()
            store = watched.open(watched.url(servers.free_port(), silent.port))
            began = kernel.now()
            granted(store.acquire(request(lock_name()), False, due(4)))
            assert kernel.now() - began < 3
            store.idle()
            began = kernel.now()
            granted(store.acquire(request(lock_name()), False, due(4)))
            assert kernel.now() - began < 0.9  # who has helped before is asked first
            silent.resume()

    def test_tls(self, certified: Path) -> None:
        """rediss+sentinel:// is TLS to both, and both names are checked."""
        tls = {
            "tls_auth_clients": "no",
            "tls_cert_file": certified / "cert",
            "tls_key_file": certified / "key",
            "tls_ca_cert_file": certified / "cert",
        }
        ports = [servers.free_port() for _ in range(2)]
        with contextlib.ExitStack() as stack:
            try:
                primary = stack.enter_context(Redis.start(**tls, tls_port=ports[0]))
            except RuntimeError as error:
                if not re.search("Bad directive|TLS support", str(error)) or os.environ.get("CI"):
                    raise
                pytest.skip("this server was built without TLS")
            resolving = {"sentinel resolve-hostnames": "yes", "sentinel announce-hostnames": "yes"}
            settings = {**resolving, **looking_after(0, primary.password)}
            settings["sentinel monitor"] = f"{SERVICE} localhost {ports[0]} 1"
            sentinel = stack.enter_context(
                Redis.start(**tls, tls_port=ports[1], tls_replication="yes", **settings)
            )
            rest = f"?sentinel_password={sentinel.password}&ssl_ca_certs={certified}/cert"
            login = f"rediss+sentinel://:{primary.password}@"
            store = RedisLeases(f"{login}localhost:{ports[1]}/{SERVICE}{rest}")
            stack.callback(store.close)
            granted(store.acquire(request(lock_name()), False, due()))
            by_number = RedisLeases(f"{login}127.0.0.1:{ports[1]}/{SERVICE}{rest}")
            with pytest.raises(StoreUnavailable, match="check the server's certificate"):
                by_number.acquire(request(lock_name()), False, due())

    def test_documented_rights(self, watched: Watched) -> None:
        """The rights in docs/redis.md, and those it names for Sentinel, are enough."""
        text = DOCUMENT.read_text()
        (rule,) = re.findall(r"^ACL SETUSER guardrun (.*?)\n```", text, re.M | re.S)
        (asking,) = re.findall(r"^ACL SETUSER finder (.*?)\n```", text, re.M | re.S)
        assert "needs `+role` as well" in text
        words = [*rule.replace("\\\n", " ").replace("PASSWORD", "p").split(), "+role"]
        asked = asking.replace("PASSWORD", "s").split()
        sentinel = f"redis://:{watched.sentinel.password}@127.0.0.1:{watched.sentinel.port}"
        with client(watched.primary().url) as direct, client(sentinel) as watching:
            direct.execute_command("ACL", "SETUSER", "guardrun", "reset", *words)
            direct.execute_command("ACL", "LOG", "RESET")
            watching.execute_command("ACL", "SETUSER", "finder", "reset", *asked)
            watching.execute_command("ACL", "LOG", "RESET")
            url = f"redis+sentinel://guardrun:p@127.0.0.1:{watched.sentinel.port}/{SERVICE}"
            store = watched.open(f"{url}?sentinel_username=finder&sentinel_password=s")
            wanted = request(lock_name())
            granted(store.acquire(wanted, True, due()))
            assert store.release(wanted, due())
            assert direct.execute_command("ACL", "LOG") == []
            assert watching.execute_command("ACL", "LOG") == []
            direct.execute_command("ACL", "SETUSER", "guardrun", "-role")
            store.idle()
            with pytest.raises(StoreUnavailable, match=r"the rights that docs/redis\.md lists"):
                store.renew(wanted, due())
            direct.execute_command("ACL", "DELUSER", "guardrun")
            watching.execute_command("ACL", "DELUSER", "finder")


class TestFailover:
    def test_ordered(self, watched: Watched) -> None:
        """A lease that was replicated outlives a failover; nobody else gets it, who waits does."""
        watched.await_replica()
        one, two = watched.open(), watched.open()
        first, second = [request(lock) for lock in [lock_name()] * 2]
        before = granted(one.acquire(first, False, due()))
        busy(two.acquire(second, True, due()))
        watched.replicated()
        old = watched.primary()
        watched.fail_over()

        def failed_over() -> bool:
            with contextlib.suppress(StoreUnavailable):
                busy(two.acquire(second, True, due(1)))
            return watched.primary() is not old

        eventually(failed_over, 30, "a failover")
        watched.await_replica()  # so the old one is no primary any more
        assert answer(lambda by: one.renew(first, by), 10)
        busy(answer(lambda by: two.acquire(second, True, by), 10))
        fd = two.wake_fd()
        assert fd is not None
        assert one.release(first, due())
        assert select.select([fd], [], [], 5)[0]
        two.drain()
        after = granted(two.acquire(second, True, due()))
        assert (after.fence or 0) > (before.fence or 0)
        assert not one.renew(first, due())

    @pytest.mark.parametrize("how", ["killed", "frozen"])
    def test_primary_gone(self, how: str) -> None:
        """Without its primary the store works again soon; a waiter hears of it by asking."""
        with Watched.start() as watched:
            one, two = watched.open(), watched.open()
            first, second = [request(lock) for lock in [lock_name()] * 2]
            granted(one.acquire(first, False, due()))
            said = busy(two.acquire(second, True, due()))
            watched.replicated()
            old, deaf = watched.primary(), two.wake_fd()
            if how == "killed":
                old.kill()
            else:
                old.pause()
            with pytest.raises(StoreUnavailable):
                one.renew(first, due(0.5))
            watched.await_failover(old)
            assert answer(lambda by: one.renew(first, by), 10)
            # Nothing has to come from a server that is just silent.
            assert deaf is not None
            if how == "frozen":
                assert select.select([deaf], [], [], 0)[0] == []
            assert said.ask_again <= 3
            busy(answer(lambda by: two.acquire(second, True, by), 10))
            fd = two.wake_fd()
            assert fd is not None
            assert one.release(first, due())
            assert select.select([fd], [], [], 5)[0]
            two.drain()
            granted(two.acquire(second, True, due()))
            assert not one.renew(first, due())

    def test_demoted(self) -> None:
        """Who is connected to a primary that has become a replica looks for another one."""
        with Redis.start() as server:
            settings = looking_after(server.port, server.password)
            with Redis.start(**settings) as sentinel, client(server.url) as direct:
                url = f"redis+sentinel://:{server.password}@127.0.0.1:{sentinel.port}/{SERVICE}"
                store = RedisLeases(f"{url}?sentinel_password={sentinel.password}")
                wanted = request(lock_name())
                granted(store.acquire(wanted, False, due()))
                direct.execute_command("REPLICAOF", "127.0.0.1", 1)
                with pytest.raises(StoreUnavailable, match="leases cannot be kept in a replica"):
                    store.renew(wanted, due())
                said = (
                    rf"no sentinel leads to its primary: the sentinel \S+:{sentinel.port}: it "
                    rf"names \S+:{server.port}/, which is no primary; try again when"
                )
                with pytest.raises(StoreUnavailable, match=said):
                    store.renew(wanted, due())
                direct.execute_command("REPLICAOF", "NO", "ONE")
                assert store.renew(wanted, due())
                store.close()


class TestRefusals:
    def test_no_sentinel(self) -> None:
        """Where no sentinel answers, that is said of each, in time, without any secret."""
        hosts = [f"127.0.0.1:{servers.free_port()}" for _ in range(2)]
        url = f"redis+sentinel://u:hunter1@{','.join(hosts)}/{SERVICE}?sentinel_password=hunter2"
        with pytest.raises(StoreUnavailable) as error:
            RedisLeases(url).acquire(request(lock_name()), True, due(2))
        said = str(error.value)
        assert said.startswith(
            f"the lease store redis+sentinel://{','.join(hosts)}/{SERVICE}: no sentinel leads to "
        )
        assert all(f"the sentinel redis://{host}" in said for host in hosts)
        assert said.count("check that the server runs there, and its port") == 2
        assert "hunter" not in said
        assert "\n" not in said

    def test_frozen_sentinels(self, watched: Watched) -> None:
        """Sentinels that do not answer cost no more than the time of the call."""
        store = watched.open(watched.url(watched.sentinel.port))
        watched.sentinel.pause()
        try:
            began = kernel.now()
            with pytest.raises(StoreUnavailable, match="no answer in time; check that the server"):
                store.acquire(request(lock_name()), True, due(1))
            assert kernel.now() - began < 1.5
        finally:
            watched.sentinel.resume()

    def test_unknown_service(self, watched: Watched) -> None:
        """A service that the sentinel does not know is named, with where to look."""
        store = watched.open(watched.url(service="other"))
        with pytest.raises(StoreUnavailable, match="it knows no other; check the name of the serv"):
            store.acquire(request(lock_name()), True, due())

    @pytest.mark.parametrize("whose", ["sentinel", "primary"])
    def test_login(self, watched: Watched, whose: str) -> None:
        """A wrong password is said so, and whose it is; the password is not."""
        if whose == "sentinel":
            url = watched.url().replace(watched.sentinel.password, "hunter2")
            place = f"the sentinel redis://127.0.0.1:{watched.sentinel.port}: "
        else:
            url = watched.url(login=":hunter2@")
            place = f"the lease store redis://127.0.0.1:{watched.primary().port}/"
        with pytest.raises(StoreUnavailable, match="check the user and the password") as error:
            watched.open(url).acquire(request(lock_name()), True, due())
        assert place in str(error.value)
        assert "hunter2" not in str(error.value)
        assert watched.password not in str(error.value)
        assert watched.sentinel.password not in str(error.value)

    @pytest.mark.parametrize(
        "url",
        [
            "redis+sentinel://:hun/ter2@h/jobs",
            "redis+sentinel://:hun#ter2@h/jobs",
            "redis+sentinel://:hun?ter2@h/jobs",
            "redis+sentinel://:hun@ter2@h/jobs",
            "redis+sentinel://h:hunter2/jobs",
            "redis+sentinel://h/jobs/hunter2",
            "redis+sentinel://h/jobs?sentinel_password=hun#ter2",
            "redis+sentinel://h/jobs?sentinel_password=hun@ter2",
            "redis+sentinel://h/jobs?hunter2=1",
            "redis+sentinel://h,/jobs",
            "redis+sentinel://h/",
            "redis+sentinel://[::1/jobs",
        ],
    )
    def test_unreadable(self, url: str) -> None:
        """A URL that cannot be read is a fault in the configuration, and is not shown."""
        with pytest.raises(ConfigError, match=r"redis\+sentinel://USER:PASSWORD@HOST") as error:
            RedisLeases(url).acquire(request(lock_name()), False, due(1))
        assert "ter2" not in str(error.value)

    @pytest.mark.parametrize("hosts", ["h", "h:1,[::1]", "[::1]:26380,[::2]:1,10.0.0.1"])
    def test_readable(self, hosts: str) -> None:
        """Sentinels are named as hosts are, with or without a port, IPv6 in brackets."""
        for rest in ("jobs", "jobs/3", "jobs?ssl_ca_certs=/a/b", "jobs/?sentinel_username=u"):
            url = f"rediss+sentinel://u:p%40@{hosts}/{rest}"
            assert lease_url(url) == url
            RedisLeases(url).close()


@pytest.mark.parametrize("url", ["redis+sentinel://h", "rediss+sentinel://h:1,i:2/?db=3"])
def test_no_service(url: str) -> None:
    """An option without a service says what is missing."""
    with pytest.raises(ValueError, match="the URL names no service: write redis"):
        lease_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://u:hunter2@h:1,i/jobs",
        "redis+sentinel://h:1,i/jobs?sentinel_username=u&sentinel_password=hunter2",
        "rediss+sentinel://h/jobs?%73entinel_password=hunter2",
    ],
)
def test_password_is_seen(url: str) -> None:
    """A sentinel's password is one that no option may have and no log may show."""
    assert has_password(url)
    assert "hunter2" not in redact_url(url)
    assert not has_password(redact_url("redis+sentinel://h:1,i/jobs?sentinel_username=u"))


def test_waits_like_others(watched: Watched) -> None:
    """A waiter gets the lock from a holder behind the same sentinel as it would without one."""
    one, two = watched.open(), watched.open()
    first, second = [request(lock, ttl=1.0) for lock in [lock_name()] * 2]
    granted(one.acquire(first, False, due()))
    await_grant(two, second, 10)
