"""The examples that need servers, or several processes: the worker, docker-compose, the queue."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from crond import ENVIRONMENT
from machine import EXAMPLES, PROGRAM, Machine, unit_settings
from servers import Redis
from support import Host, eventually, finish, status, write_script


@pytest.fixture
def machine(host: Host) -> Machine:
    """A host with guardrun."""
    return Machine(host)


def holder(candidates: list[subprocess.Popen[bytes]], pid: int) -> subprocess.Popen[bytes]:
    """The guardrun that a process descends from."""
    while pid > 1:
        for one in candidates:
            if one.pid == pid:
                return one
        pid = int(status(pid)["PPid"])
    raise AssertionError("nobody's")


def one_after_the_other(
    candidates: list[subprocess.Popen[bytes]], ready: Iterator[int], code: int
) -> None:
    """One of two works; when it is told to stop, it ends with this code and the other one works.

    ``ready`` yields the pids of the workers that say they are ready.
    """
    first = holder(candidates, next(ready))
    first.terminate()
    assert finish(first).code == code
    (second,) = [one for one in candidates if one is not first]
    assert holder(candidates, next(ready)) is second
    second.terminate()
    assert finish(second).code == code


# ---------------------------------------------------------------- guardrun-worker.service

_NOTIFIES = """#!{python} -IS
import os, signal, socket
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
    systemd.sendto(b"READY=1\\nMAINPID=%d" % os.getpid(), os.environ["NOTIFY_SOCKET"].encode())
signal.pause()
"""


def test_one_worker_is_ready(machine: Machine, database_url: str) -> None:
    """What the worker that has the lock tells systemd gets there; the next one's, when it ends."""
    settings = unit_settings("guardrun-worker.service")
    assert (settings["Type"], settings["NotifyAccess"]) == ("notify", "all")
    words = shlex.split(machine.located(settings["ExecStart"]))
    write_script(machine.bin / "worker", _NOTIFIES.format(python=sys.executable))
    credentials = machine.host.root / "credentials"
    credentials.mkdir()
    env = {**ENVIRONMENT, "CREDENTIALS_DIRECTORY": str(credentials)}
    with (
        Redis.start() as redis,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
    ):
        (credentials / "guardrun.lease-url").write_text(redis.url)
        (credentials / "guardrun.ledger-url").write_text(database_url)
        assert machine.run([f"{machine.bin}/guardrun", "migrate"], env).code == 0
        env["NOTIFY_SOCKET"] = f"{machine.host.root}/notify"
        systemd.bind(env["NOTIFY_SOCKET"])
        systemd.settimeout(60)

        def ready() -> Iterator[int]:
            while True:
                said = systemd.recv(100).decode()
                assert said.startswith("READY=1\n")
                yield int(said.rpartition("=")[2])

        both = [machine.start(words, env) for _ in range(2)]
        one_after_the_other(both, ready(), -signal.SIGTERM)


# ---------------------------------------------------------------- docker-compose.yml

_PASSWORDS = {"POSTGRES_PASSWORD": "one", "REDIS_PASSWORD": "two"}


def compose() -> dict[str, Any]:
    """The services, with the variables that docker compose would put in."""
    text = (EXAMPLES / "docker-compose.yml").read_text()
    text = re.sub(r"\$\{(\w+):\?\}", lambda found: _PASSWORDS[found[1]], text)
    assert "$" not in text
    services: dict[str, Any] = yaml.safe_load(text)["services"]
    return services


class Containers:
    """The services that are guardrun's, on this host, with these servers for those of the file."""

    def __init__(self, machine: Machine, urls: Mapping[str, str]) -> None:
        self._machine = machine
        self._urls = urls
        self.app = machine.host.root / "app"
        self.app.mkdir()

    def start(self, name: str, **env: str) -> subprocess.Popen[bytes]:
        """Start a service's command with its environment."""
        service = compose()[name]
        assert service["command"][0] == "guardrun"
        words = [word.replace("/app/", f"{self.app}/") for word in service["command"]]
        stores = {
            variable: self._urls[url.partition(":")[0]]
            for variable, url in service["environment"].items()
        }
        program = f"{self._machine.bin}/guardrun"
        return self._machine.start([program, *words[1:]], {**ENVIRONMENT, **stores, **env})

    def run(self, name: str, **env: str) -> int:
        """The same, to its end; the exit code."""
        return finish(self.start(name, **env)).code


@contextmanager
def containers(machine: Machine, database_url: str) -> Iterator[Containers]:
    """The services, with a Redis as the file has it, and a database that is migrated."""
    words = compose()["redis"]["command"]
    assert words[0] == "redis-server"
    settings = dict(zip((word[2:] for word in words[1::2]), words[2::2], strict=True))
    with Redis.start(**settings) as redis:
        assert redis.password == _PASSWORDS["REDIS_PASSWORD"]
        found = Containers(machine, {"redis": redis.url, "postgresql": database_url})
        assert found.run("migrate") == 0
        yield found


def test_one_container_of_two_works(machine: Machine, database_url: str) -> None:
    """One of the worker's replicas is at work; when it is stopped the other one is."""
    assert compose()["worker"]["deploy"]["replicas"] == 2
    with containers(machine, database_url) as found:
        write_script(found.app / "worker", '#!/bin/sh\necho $$ >>"$LOG"\nexec sleep 600\n')

        def ready() -> Iterator[int]:
            yield int(eventually(machine.ran, 60, "a worker")[0])
            yield int(eventually(lambda: machine.ran()[1:], 60, "another worker")[0])

        both = [found.start("worker") for _ in range(2)]
        one_after_the_other(both, ready(), -signal.SIGTERM)


def test_the_report_is_made_once_a_day(machine: Machine, database_url: str) -> None:
    """A report that failed is tried again; one that has succeeded is not, whoever asks."""
    with containers(machine, database_url) as found:
        write_script(found.app / "report", PROGRAM)
        assert found.run("report", ACT="kill -9 $$") == -signal.SIGKILL
        assert machine.ran() == ["report"] * 3
        assert found.run("report") == 0
        assert found.run("report") == 0
        assert machine.ran() == ["report"] * 4


def test_the_services_fit_together() -> None:
    """What is waited for is there, URLs name the services, and there is time to stop."""
    services = compose()
    for service in services.values():
        assert set(service.get("depends_on", {})) <= services.keys()
        for variable, url in service.get("environment", {}).items():
            if variable.startswith("GUARDRUN_"):
                login, host = re.findall(r"://(.*)@(\w+):", url)[0]
                assert host in services
                assert login.partition(":")[2] in _PASSWORDS.values()
    found = re.search(r"--kill-after (\d+)s", " ".join(services["worker"]["command"]))
    assert found is not None
    assert int(services["worker"]["stop_grace_period"].removesuffix("s")) > int(found[1]) + 30


# ---------------------------------------------------------------- produce.sh, consume.sh

_HANDLE = """#!/bin/sh
# Notes the order that it gets, and does what $ACT says.
order=$(sed 's/.*"order": "\\([^"]*\\)".*/\\1/')
echo "$order" >>"$LOG"
eval "$ACT"
"""


class Queue:
    """A queue of orders, and consumers that hand them to a program."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.path = machine.host.root / "queue"
        text = (EXAMPLES / "consume.sh").read_text()
        fast = text.replace("--backoff 1s..10s", "--backoff 1ms..1ms")
        assert fast != text
        self._consume = write_script(machine.host.root / "consume.sh", fast)
        self._handle = write_script(machine.host.root / "handle", _HANDLE)
        self._env = {"PATH": f"{machine.bin}:/usr/bin:/bin"}

    def produce(self, orders: str) -> None:
        """Send a message for each letter."""
        lines = "".join(json.dumps({"order": order, "of": "x y"}) + "\n" for order in orders)
        words = [str(EXAMPLES / "produce.sh"), str(self.path)]
        assert self._machine.run(words, self._env, lines.encode()).code == 0

    def consumer(self, act: str = ":") -> subprocess.Popen[bytes]:
        """Start a consumer whose program does this."""
        words = [str(self._consume), str(self.path), str(self._handle)]
        return self._machine.start(words, {**self._env, "ACT": act})

    def consume(self, act: str = ":") -> int:
        """The same, to its end; the exit code."""
        result = finish(self.consumer(act))
        assert result.stderr == b"" or result.code, result
        return result.code

    def left(self) -> list[str]:
        """The orders that are still in the queue, in theirs."""
        return [json.loads(path.read_text())["order"] for path in sorted(self.path.iterdir())]


def test_a_failure_in_the_middle_is_resumed(machine: Machine) -> None:
    """What failed stays in the queue; the next call does that, and nothing that is done."""
    queue = Queue(machine)
    queue.produce("abcad")
    assert queue.left() == ["a", "b", "c", "a", "d"]
    assert queue.consume('test "$order" != b') == 1
    assert machine.ran() == ["a", "b", "b", "b", "c", "d"]
    assert queue.left() == ["b"]
    assert queue.consume() == 0
    assert machine.ran() == ["a", "b", "b", "b", "c", "d", "b"]
    assert queue.left() == []
    queue.produce("da")
    assert (queue.consume(), queue.left(), len(machine.ran())) == (0, [], 7)


def test_a_consumer_that_is_killed_loses_nothing(machine: Machine) -> None:
    """The order that it was at is done by the next one; those before it are not done again."""
    queue = Queue(machine)
    queue.produce("abc")
    killed = queue.consumer('test "$order" != b || sleep 600')
    eventually(lambda: machine.ran() == ["a", "b"], 30, "the second order")
    os.killpg(killed.pid, signal.SIGKILL)
    finish(killed)
    assert queue.left() == ["b", "c"]
    assert queue.consume() == 0
    assert (machine.ran(), queue.left()) == (["a", "b", "b", "c"], [])


def test_consumers_share_the_work(machine: Machine) -> None:
    """Two consumers at once: every order once, though half of them were sent twice."""
    queue = Queue(machine)
    queue.produce("abcdefgh")
    queue.produce("abcd")
    both = [queue.consumer() for _ in range(2)]
    assert [finish(one).code for one in both] == [0, 0]
    queue.consume()  # what was busy for one of them when the other had it
    assert (sorted(machine.ran()), queue.left()) == (list("abcdefgh"), [])


def test_the_lag_of_a_message_is_recorded(machine: Machine) -> None:
    """How long a message was in the queue is counted from when it was sent."""
    queue = Queue(machine)
    queue.produce("a")
    (message,) = queue.path.iterdir()
    os.utime(message, (1_700_000_000, 1_700_000_000))
    assert queue.consume() == 0
    (run,) = machine.host.rows()
    assert (run["job"], run["enqueued_at"]) == ("consume", 1_700_000_000_000_000)


def test_every_example_is_spoken_of() -> None:
    """The list of examples is complete, and nothing in it is missing."""
    names = {path.name for path in EXAMPLES.iterdir()} - {"README.md"}
    readme = (EXAMPLES / "README.md").read_text()
    assert set(re.findall(r"\]\(([\w.-]+)\)", readme)) == names
    for path in re.findall(r"`(tests/[\w/]+\.py)`", readme):
        assert (Path(EXAMPLES).parent / path).exists()
