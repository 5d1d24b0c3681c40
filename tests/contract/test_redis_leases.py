"""Leases in Redis: what can go wrong there alone, on real servers."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import servers
from lease_stores import (
    PrivateRedis,
    RedisStore,
    await_grant,
    busy,
    due,
    granted,
    lock_name,
    request,
)
from sentinel import client
from support import eventually

from guardrun import kernel
from guardrun.errors import ConfigError, StoreUnavailable
from guardrun.locks.redis import RedisLeases
from guardrun.locks.stores import address
from guardrun.model import Grant

DOCUMENT = Path(__file__).parents[2] / "docs" / "redis.md"


@pytest.fixture
def shared() -> Iterator[RedisStore]:
    """The session's server."""
    store = RedisStore()
    yield store
    store.close()


@pytest.fixture(scope="module")
def module_server() -> Iterator[PrivateRedis]:
    """A private server for the tests of this file that leave it as it was."""
    with PrivateRedis.start() as started:
        yield started


@pytest.fixture
def private(module_server: PrivateRedis) -> Iterator[PrivateRedis]:
    """That server, empty."""
    with client(module_server.url) as direct:
        direct.flushall()
        direct.config_set("maxmemory", 0)
    yield module_server
    module_server.close()


def keys_of(lock: str) -> list[str]:
    """A lock's keys, where its name has only letters, digits and hyphens."""
    return [f"guardrun:{{{lock}}}:{name}" for name in ("lock", "held", "queue", "alive")]


class TestForgetting:
    def test_scripts_flushed(self, private: PrivateRedis) -> None:
        """A server that has forgotten the scripts gets them again, and takes one step."""
        one, two = private.open(), private.open()
        first, second = [request(lock) for lock in [lock_name()] * 2]
        with client(private.url) as direct:
            grant = granted(one.acquire(first, False, due()))
            direct.script_flush()
            assert one.acquire(first, False, due()) == grant
            direct.script_flush()
            assert one.renew(first, due())
            direct.script_flush()
            busy(two.acquire(second, True, due()))
            direct.script_flush()
            assert one.release(first, due())
            direct.script_flush()
            granted(two.acquire(second, True, due()))

    def test_restarted_empty(self) -> None:
        """A server that comes back empty denies the lease, and its next fence is higher."""
        with PrivateRedis.start() as private:
            store = private.open()
            wanted = request(lock_name())
            before = granted(store.acquire(wanted, False, due()))
            assert store.fence_durable is False
            private.restart()
            with contextlib.suppress(StoreUnavailable):  # it finds the connection broken
                store.renew(wanted, due())
            assert not store.renew(wanted, due())
            assert not store.release(wanted, due())
            after = granted(store.acquire(request(wanted.lock), False, due()))
            assert (after.fence or 0) > (before.fence or 0)

    def test_restarted_durable(self) -> None:
        """A server that keeps every write still knows the lease when it is back."""
        with PrivateRedis.start(appendonly="yes", appendfsync="always") as private:
            store = private.open()
            wanted = request(lock_name())
            grant = granted(store.acquire(wanted, False, due()))
            assert store.fence_durable is True
            private.restart()
            with contextlib.suppress(StoreUnavailable):
                store.renew(wanted, due())

            def renewed() -> bool:
                with contextlib.suppress(StoreUnavailable):  # it reads its data
                    return store.renew(wanted, due())
                return False

            eventually(renewed, 20, "a server that is back")
            assert store.acquire(wanted, False, due()) == grant

    def test_answer_lost(self) -> None:
        """An acquisition whose answer was not waited for is found again, not made twice."""
        with PrivateRedis.start() as private:
            store = private.open()
            store.acquire(request(lock_name()), False, due())  # it is connected now
            wanted = request(lock_name(), slots=3)
            private.pause()
            with pytest.raises(StoreUnavailable):
                store.acquire(wanted, True, due(0.3))
            private.resume()
            (held,) = eventually(lambda: store.holders(wanted.lock, due()), what="a holder")
            grant = granted(store.acquire(wanted, True, due()))
            assert (grant.fence, grant.since) == (held.fence, held.since)


class TestByHand:
    @pytest.mark.parametrize("number", range(4))
    def test_overwritten(self, private: PrivateRedis, number: int) -> None:
        """A key that somebody has overwritten is named in one line that says what to do."""
        holder, waiter = private.open(), private.open()
        wanted = request(lock_name())
        granted(holder.acquire(wanted, False, due()))
        busy(waiter.acquire(request(wanted.lock), True, due()))
        with client(private.url) as direct:
            direct.set(keys_of(wanted.lock)[number], "mine")
            with pytest.raises(StoreUnavailable, match=r"overwritten a key .* delete it") as error:
                private.open().acquire(request(wanted.lock), True, due())
            assert "\n" not in str(error.value)
            assert f"guardrun:{{{wanted.lock}}}" in str(error.value)
            assert "user_script" not in str(error.value)
            direct.delete(keys_of(wanted.lock)[number])
            if number > 1:  # the queue's keys are made again by those who wait
                assert holder.renew(wanted, due())

    @pytest.mark.parametrize("number", [0, 1])
    def test_deleted(self, private: PrivateRedis, number: int) -> None:
        """A holder whose key was deleted holds nothing, and takes nothing from the next one."""
        one, two = private.open(), private.open()
        first, second = [request(lock, ttl=1.0) for lock in [lock_name()] * 2]
        before = granted(one.acquire(first, False, due()))
        with client(private.url) as direct:
            direct.delete(keys_of(first.lock)[number])
        assert not one.renew(first, due())
        after = await_grant(two, second, 10)
        assert (after.fence or 0) > (before.fence or 0)
        assert not one.renew(first, due())
        assert not one.release(first, due())
        assert two.renew(second, due())

    def test_queue_deleted(self, private: PrivateRedis) -> None:
        """A queue that was deleted is lined up again by those who ask."""
        one, two = private.open(), private.open()
        first, second = [request(lock) for lock in [lock_name()] * 2]
        granted(one.acquire(first, False, due()))
        busy(two.acquire(second, True, due()))
        with client(private.url) as direct:
            direct.delete(*keys_of(first.lock)[2:])
        assert one.release(first, due())
        granted(two.acquire(second, True, due()))

    @pytest.mark.parametrize("text", ["", "x", "1 2 3\nx", "9" * 400, f"{'9' * 400} 1 2 3\nx"])
    def test_damaged(self, private: PrivateRedis, text: str) -> None:
        """A place that somebody has written nonsense into counts as lost, not as ours."""
        store = private.open()
        wanted = request(lock_name())
        granted(store.acquire(wanted, False, due()))
        with client(private.url) as direct:
            direct.hset(keys_of(wanted.lock)[0], f"place:{wanted.token}", text)
            direct.hset(keys_of(wanted.lock)[0], "fence", text)
        assert not store.renew(wanted, due())
        assert busy(store.acquire(request(wanted.lock), False, due())).holders == ()
        assert store.holders(wanted.lock, due()) == ()
        assert store.take_away(wanted.lock, wanted.token, due())
        granted(store.acquire(request(wanted.lock), False, due()))

    def test_taken_away(self, private: PrivateRedis) -> None:
        """Taking a place away raises the fence at once, before anybody else holds the lock."""
        store = private.open()
        wanted = request(lock_name())
        grant = granted(store.acquire(wanted, False, due()))
        assert store.take_away(wanted.lock, wanted.token, due())
        with client(private.url) as direct:
            assert int(direct.hget(keys_of(wanted.lock)[0], "fence")) > (grant.fence or 0)


class TestRefusals:
    def test_memory_full(self, private: PrivateRedis) -> None:
        """Without memory nothing new is granted; what is held is renewed and released."""
        one, two = private.open(), private.open()
        first = request(lock_name())
        granted(one.acquire(first, False, due()))
        with client(private.url) as direct:
            direct.config_set("maxmemory", 1)
            with pytest.raises(StoreUnavailable, match="memory is full: raise maxmemory"):
                two.acquire(request(lock_name()), False, due())
            assert one.renew(first, due())
            assert one.release(first, due())

    @pytest.mark.parametrize("password", ["", ":wr0ng@"])
    def test_login(self, private: PrivateRedis, password: str) -> None:
        """A wrong password, or none, is said so; the password is not."""
        url = f"redis://{password}127.0.0.1:{private.own.port}/0"
        with pytest.raises(StoreUnavailable, match="check the user and the password") as error:
            RedisLeases(url).acquire(request(lock_name()), False, due())
        assert "wr0ng" not in str(error.value)

    def test_no_rights(self, private: PrivateRedis) -> None:
        """A user without the rights is told where they are listed."""
        with client(private.url) as direct:
            direct.execute_command("ACL", "SETUSER", "u", "on", ">p", "~other:*", "+@all")
        url = f"redis://u:p@127.0.0.1:{private.own.port}/0"
        with pytest.raises(StoreUnavailable, match=r"the rights that docs/redis\.md lists"):
            RedisLeases(url).acquire(request(lock_name()), False, due())

    def test_documented_rights(self, private: PrivateRedis) -> None:
        """The rights in docs/redis.md are enough for everything, and are no more than needed."""
        (rule,) = re.findall(r"^ACL SETUSER guardrun (.*?)\n```", DOCUMENT.read_text(), re.M | re.S)
        words = rule.replace("\\\n", " ").replace(">PASSWORD", ">hunter2").split()
        with client(private.url) as direct:
            direct.execute_command("ACL", "SETUSER", "guardrun", "reset", *words)
            direct.execute_command("ACL", "LOG", "RESET")
            url = f"redis://guardrun:hunter2@127.0.0.1:{private.own.port}/0"
            one, two = RedisLeases(url), RedisLeases(url)
            first, second = [request(lock, min_hold=0.1) for lock in [lock_name()] * 2]
            granted(one.acquire(first, True, due()))
            busy(two.acquire(second, True, due()))
            assert two.wake_fd() is not None
            assert one.renew(first, due())
            assert one.release(first, due())
            await_grant(two, second, 10)
            assert [held.lock for held in two.locks(due())] == [first.lock]
            assert one.take_away(second.lock, second.token, due())
            two.leave(second, due())
            assert one.fence_durable is False
            assert direct.execute_command("ACL", "LOG") == []
            commands = {word[1:] for word in words if word.startswith("+")}
            called = direct.info("commandstats")
        for used in (one, two):
            used.close()
        texts = "".join(path.read_text() for path in LUA.glob("*.lua"))
        in_scripts = {name.lower() for name in re.findall(r"call\('(\w+)'", texts)}
        assert in_scripts <= commands
        unused = commands - in_scripts - {"eval", "evalsha", "scan", "subscribe", "config|get"}
        assert unused <= {"auth", "select", "hello", "ping"}
        assert f"cmdstat_{sorted(in_scripts)[0]}" in called

    def test_no_channels(self, private: PrivateRedis) -> None:
        """Who may not listen waits all the same, asking more often."""
        with client(private.url) as direct:
            rights = ("on", ">p", "~guardrun:*", "resetchannels", "+@all")
            direct.execute_command("ACL", "SETUSER", "deaf", "reset", *rights)
        url = f"redis://deaf:p@127.0.0.1:{private.own.port}/0"
        one, two = RedisLeases(url), RedisLeases(url)
        first, second = [request(lock) for lock in [lock_name()] * 2]
        granted(one.acquire(first, False, due()))
        said = busy(two.acquire(second, True, due()))
        assert (two.wake_fd(), said.ask_again <= 0.5) == (None, True)
        assert busy(two.acquire(second, True, due())).ask_again <= 0.5
        assert one.release(first, due())
        await_grant(two, second, 10)
        for used in (one, two):
            used.close()

    def test_may_not_ask_about_durability(self, private: PrivateRedis) -> None:
        """Where the server does not tell its configuration, durability is unknown, not assumed."""
        with client(private.url) as direct:
            rights = ("on", ">p", "~guardrun:*", "&*", "+@all", "-config")
            direct.execute_command("ACL", "SETUSER", "curious", "reset", *rights)
        store = RedisLeases(f"redis://curious:p@127.0.0.1:{private.own.port}/0")
        granted(store.acquire(request(lock_name()), False, due()))
        assert store.fence_durable is None
        store.close()

    def test_replica(self) -> None:
        """A replica is refused, with what to name instead; it may be looked at."""
        with PrivateRedis.start(replicaof="127.0.0.1 1") as replica:
            store = replica.open()
            with pytest.raises(StoreUnavailable, match="name the primary"):
                store.acquire(request(lock_name()), False, due())
            assert list(store.locks(due())) == []

    def test_cluster(self) -> None:
        """A node of a cluster is refused, saying so."""
        with (
            PrivateRedis.start(cluster_enabled="yes") as node,
            pytest.raises(StoreUnavailable, match="Redis Cluster is not supported"),
        ):
            node.open().acquire(request(lock_name()), False, due())

    def test_loading(self) -> None:
        """A server that still reads its data is one to try again."""
        with PrivateRedis.start() as private:
            with client(private.url) as direct:
                direct.mset({f"other{number}": "x" * 100 for number in range(2000)})
                direct.save()
                if not direct.config_get("loading-process-events-interval-bytes"):
                    pytest.skip("this server answers nobody while it reads so little")
            private.own.kill()
            conf = private.own.minded.directory / "redis.conf"
            conf.write_text(conf.read_text() + _SLOWLY)
            private.own.start_again()
            with pytest.raises(StoreUnavailable, match="try again when it has read its data"):
                private.open().acquire(request(lock_name()), False, due())


_SLOWLY = "key-load-delay 5000\nloading-process-events-interval-bytes 1024\n"

LUA = Path(__file__).parents[2] / "guardrun" / "locks" / "lua"


class TestWays:
    def test_socket(self, private: PrivateRedis) -> None:
        """A Redis is reached by its socket, in the database that the URL says."""
        url = private.own.socket_url
        store, other = RedisLeases(f"{url}?db=3"), RedisLeases(url)
        wanted = request(lock_name())
        granted(store.acquire(wanted, True, due()))
        assert other.holders(wanted.lock, due()) == ()
        with client(private.url.replace("/0", "/3")) as direct:
            assert direct.exists(*keys_of(wanted.lock)) == 2
        for used in (store, other):
            used.close()

    def test_tls(self, certified: Path) -> None:
        """rediss:// takes a server whose certificate is good for its name, and no other."""
        port = servers.free_port()
        settings = {
            "tls_port": port,
            "tls_auth_clients": "no",
            "tls_cert_file": certified / "cert",
            "tls_key_file": certified / "key",
        }
        with contextlib.ExitStack() as stack:
            try:
                private = stack.enter_context(PrivateRedis.start(**settings))
            except RuntimeError as error:
                if not re.search("Bad directive|TLS support", str(error)) or os.environ.get("CI"):
                    raise
                pytest.skip("this server was built without TLS")
            login = f"rediss://:{private.own.password}@"
            trusting = f"?ssl_ca_certs={certified}/cert"
            one, two = [RedisLeases(f"{login}localhost:{port}/0{trusting}") for _ in range(2)]
            first, second = [request(lock) for lock in [lock_name()] * 2]
            granted(one.acquire(first, True, due()))
            busy(two.acquire(second, True, due()))
            assert one.release(first, due())
            await_grant(two, second, 2)
            for where in (f"localhost:{port}/0", f"127.0.0.1:{port}/0{trusting}"):
                with pytest.raises(StoreUnavailable, match="check the server's certificate"):
                    RedisLeases(login + where).acquire(first, True, due())
            plain = RedisLeases(f"{login}localhost:{private.own.port}/0{trusting}")
            with pytest.raises(StoreUnavailable):  # it takes our greeting for the start of more
                plain.acquire(first, True, due(3))
            for used in (one, two):
                used.close()

    @pytest.mark.parametrize(
        "url",
        [
            "redis://:hun/ter2@h/0",
            "redis://:hun#ter2@h/0",
            "redis://:hun?ter2@h/0",
            "redis://:hun@ter2@h/0",
            "redis://h:hunter2/0",
            "redis://h/hunter2",
            "redis://h:1/0?hunter2=1",
            "redis://h:1/0?db=hunter2",
            "redis://[hunter2/0",
            "unix://",
            "unix://:hunter2@",
        ],
    )
    def test_unreadable(self, url: str) -> None:
        """A URL that cannot be read is a fault in the configuration, and is not shown."""
        with pytest.raises(ConfigError, match="URL cannot be read: write redis://") as error:
            RedisLeases(url).acquire(request(lock_name()), False, due())
        assert "ter2" not in str(error.value)

    @pytest.mark.parametrize(
        ("url", "place"),
        [
            ("redis://u:hunter2@h:1/2?ssl_password=hunter2", "redis://h:1/2"),
            ("redis://h", "redis://h"),
            ("unix://u:hunter2@/run/redis.sock?db=1", "unix:///run/redis.sock"),
            ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ],
    )
    def test_address(self, url: str, place: str) -> None:
        """A URL in a message has no login and no options."""
        assert address(url) == place

    def test_many_addresses(self) -> None:
        """The time of a call is shared among a name's addresses, not given to each."""
        began = kernel.now()
        with pytest.raises(StoreUnavailable):
            RedisLeases(f"redis://localhost:{servers.free_port()}/0").renew(
                request(lock_name()), due(1)
            )
        assert kernel.now() - began < 2


class TestCosts:
    def test_commands_for_a_handoff(self, private: PrivateRedis) -> None:
        """A handoff costs the server as many commands with forty waiters as with two."""

        def cost(waiters: int) -> int:
            holder, *stores = [private.open() for _ in range(waiters + 1)]
            lock = lock_name()
            first, *waiting = [request(lock) for _ in range(waiters + 1)]
            granted(holder.acquire(first, False, due()))
            for store, wanted in zip(stores, waiting, strict=True):
                busy(store.acquire(wanted, True, due()))
            for store, wanted in zip(stores, waiting, strict=True):
                busy(store.acquire(wanted, True, due()))  # who was silent for long is passed over
            with client(private.url) as direct:
                direct.config_resetstat()
                assert holder.release(first, due())
                granted(stores[0].acquire(waiting[0], True, due()))
                stats = direct.info("commandstats")
            private.close()
            private.opened.clear()
            ours = {"cmdstat_info", "cmdstat_config|resetstat"}
            return sum(stat["calls"] for name, stat in stats.items() if name not in ours)

        cost(1)  # the server gets to know the scripts: whoever is the first to run one sends it
        assert cost(2) == cost(40)

    def test_no_gap(self, private: PrivateRedis) -> None:
        """Who has to wait asks once more when it listens: it may have become free before that."""
        holder, waiter = private.open(), private.open()
        first = request(lock_name())
        granted(holder.acquire(first, False, due()))
        with client(private.url) as direct, direct.monitor() as monitor:
            busy(waiter.acquire(request(first.lock), True, due()))
            waiter.leave(first, due())
            heard: list[str] = []
            for said in monitor.listen():
                if said["client_type"] != "lua":
                    heard.append(said["command"].split()[0])
                if heard.count("EVALSHA") == 3:
                    break
        asked = [name for name in heard if name in ("EVALSHA", "SUBSCRIBE")]
        assert asked == ["EVALSHA", "SUBSCRIBE", "EVALSHA", "EVALSHA"]

    def test_what_stays(self, private: PrivateRedis) -> None:
        """What is held has no time to live, and after the release everything has one."""
        one, two = private.open(), private.open()
        first = request(lock_name(), min_hold=30.0)
        granted(one.acquire(first, False, due()))
        with client(private.url) as direct:
            lock, held, *_ = keys_of(first.lock)
            assert [direct.ttl(key) for key in (lock, held)] == [-1, -1]
            busy(two.acquire(request(first.lock), True, due()))
            assert one.release(first, due())
            assert len(direct.keys("*")) == 4
            assert all(direct.ttl(key) > 0 for key in direct.keys("*"))
            assert direct.ttl(lock) > 29 * 86400

    def test_stays_again(self, private: PrivateRedis) -> None:
        """What was about to go stays when the lock is held again, beside what is left of a run."""
        store = private.open()
        first = request(lock_name(), slots=2, min_hold=30.0)
        granted(store.acquire(first, False, due()))
        assert store.release(first, due())
        granted(store.acquire(request(first.lock, slots=2), False, due()))
        with client(private.url) as direct:
            assert [direct.ttl(key) for key in direct.keys("*")] == [-1, -1]

    def test_uncontended(self, private: PrivateRedis) -> None:
        """A free lock takes one connection, also for who would wait."""
        with client(private.url) as direct:
            before = direct.info("stats")["total_connections_received"]
            granted(private.open().acquire(request(lock_name()), True, due()))
            assert direct.info("stats")["total_connections_received"] == before + 1


def test_clock_of_the_server(shared: RedisStore) -> None:
    """When a lease began is told by the server's clock."""
    with client(shared.url) as direct:
        before = direct.time()
        said = shared.open().acquire(request(lock_name()), False, due())
        assert isinstance(said, Grant)
        after = direct.time()
    assert before[0] + before[1] / 1e6 <= said.since <= after[0] + after[1] / 1e6


def test_what_eviction_leaves_of_a_queue(shared: RedisStore) -> None:
    """Who stands in the queue, and nowhere else, keeps nobody from the lock."""
    lock = lock_name()
    first, second, third = (shared.open() for _ in range(3))
    held = request(lock)
    granted(first.acquire(held, True, due()))
    waits = request(lock)
    assert not isinstance(second.acquire(waits, True, due()), Grant)
    assert not isinstance(third.acquire(request(lock), True, due()), Grant)
    assert first.release(held, due())
    granted(second.acquire(waits, True, due()))
    with client(shared.url) as direct:
        assert [direct.ttl(key) for key in keys_of(lock)] == [-1] * 4
        direct.delete(keys_of(lock)[3])
    assert second.release(waits, due())
    granted(first.acquire(request(lock), False, due()))
