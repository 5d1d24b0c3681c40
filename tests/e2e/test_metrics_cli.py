"""`metrics`: what the ledger, locks and spool come to, as Prometheus reads it."""

from __future__ import annotations

import stat
import subprocess
import time
from collections.abc import Iterator

import pytest
import servers
from ledgers import claimed, ended, make_run, refused
from monitoring import promtool
from places import KINDS, Place, make_place
from prometheus_client.parser import text_string_to_metric_families
from support import Host, Result, finish

from guardrun.commands.exposition import MOST_JOBS
from guardrun.model import Attempt, Budget, KeySpec


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, host: Host) -> Iterator[Place]:
    """An empty ledger of each kind."""
    made = make_place(request.param, host)
    yield made
    made.close()


def samples(result: Result, code: int = 0) -> dict[str, float]:
    """By name, and the values of the labels after it."""
    assert result.code == code, result
    return {
        "/".join([one.name.removeprefix("guardrun_"), *one.labels.values()]): one.value
        for family in text_string_to_metric_families(result.stdout.decode())
        for one in family.samples
    }


def test_runs_of_the_window(place: Place) -> None:
    """Runs are counted by result, attempts and waits measured; older ones are left out."""
    ledger, now = place.open(), time.time()
    for number in range(3):
        run = make_run(job="a", started_at=now - 60 - number, enqueued_at=now - 70 - number)
        tries = tuple(Attempt(n, now, 0.1, "failed") for n in range(1, number + 2))
        ledger.finish(ended(run, None, attempts=tries, duration=2.0, lock_wait=0.5))
    ledger.finish(refused(make_run(job="a", lock="l", started_at=now - 60)))
    ledger.finish(ended(make_run(job="b", started_at=now - 7200), None))
    found = samples(place.run("metrics"))
    assert found["window_runs/a/success"] == 3
    assert (found["window_retries/a"], found["window_lock_failures/a"]) == (3, 1)
    retries = [found[f"window_run_retries/a/{percentile}"] for percentile in (50, 100)]
    assert retries == [1, 2]
    assert found["window_duration_seconds/a/99"] == 2.0
    assert found["window_lock_wait_seconds/a/50"] == 0.5
    assert found["window_queue_lag_seconds/a/50"] == pytest.approx(10, abs=1e-3)
    assert not any(name.startswith("window_runs/b") for name in found)
    assert samples(place.run("metrics", "--since", "3h"))["window_runs/b/success"] == 1


def test_jobs_that_are_overdue(place: Place) -> None:
    """A job that has not run for long is still told of, with its last success, if it had one."""
    ledger, now = place.open(), time.time()
    ledger.finish(ended(make_run(job="a", started_at=now - 9000), None, finished_at=now - 8000))
    ledger.finish(ended(make_run(job="a", started_at=now - 5000), None, "failed"))
    ledger.finish(ended(make_run(job="never", started_at=now - 4000), None, "failed"))
    found = samples(place.run("metrics"))
    success = "job_last_success_timestamp_seconds"
    assert found[f"{success}/a"] == pytest.approx(now - 8000, abs=1)
    assert f"{success}/never" not in found


def test_the_number_of_series_is_bounded(place: Place) -> None:
    """However many jobs there are: so many are shown, and how many are not is told."""
    ledger, now = place.open(), time.time()
    for number in range(MOST_JOBS + 20):
        ledger.finish(ended(make_run(job=f"job {number:04}", started_at=now - 60), None))
    found = samples(place.run("metrics"))
    assert sum(name.startswith("window_runs/") for name in found) == MOST_JOBS
    assert found["jobs_omitted"] == 20


def test_budgets(place: Place) -> None:
    """What retries have cost is told by job."""
    ledger = place.open()
    run = make_run("key", job="a", started_at=time.time())
    claimed(ledger.begin(run, KeySpec("key")))
    assert ledger.spend_retry(run, Budget(5, 3600.0))
    assert ledger.spend_retry(run, Budget(5, 3600.0))
    assert samples(place.run("metrics"))["window_budget_spent/a"] == 2


def test_promtool_takes_it(place: Place) -> None:
    """Prometheus' own linter has nothing to say, whatever jobs are called."""
    place.open().finish(ended(make_run(job='a "b\\ c', started_at=time.time()), None))
    result = place.run("metrics")
    said = subprocess.run(
        [promtool(), "check", "metrics"], input=result.stdout, capture_output=True, check=False
    )
    assert (said.returncode, said.stdout, said.stderr) == (0, b"", b"")


def test_the_file_is_replaced_whole(place: Place) -> None:
    """It can be read by all, has no draft beside it, and must be one that node_exporter reads."""
    path = place.host.root / "out" / "guardrun.prom"
    path.parent.mkdir()
    for _ in range(2):
        result = place.run("metrics", "--textfile", str(path))
        assert (result.code, result.stdout) == (0, b"")
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert path.read_bytes() == path.read_bytes().strip() + b"\n"
    assert place.run("metrics", "--textfile", "/proc/a.prom").code == 70
    assert place.run("metrics", "--textfile", str(path.parent / "a.txt")).code == 64


def test_locks(host: Host) -> None:
    """How many are held, and for how long the oldest one; no name of a lock becomes a label."""
    with servers.Redis.start() as server:
        env = {"GUARDRUN_LEASE_URL": server.url}
        holders = [
            host.hold("--lock", "secret-lock"),
            host.hold("--lock", "b", "--scope", "distributed", env=env),
        ]
        result = host.run("metrics", env=env)
        found = samples(result)
        assert b"secret-lock" not in result.stdout
        assert (found["locks_held/host"], found["locks_held/distributed"]) == (1, 1)
        assert 0 < found["lock_age_seconds/distributed"] < 3600
        assert found["store_up/leases"] == 1
        for holder in holders:
            assert finish(holder).code == 0


def test_a_store_that_is_down(host: Host) -> None:
    """What is known is told, the store as down, and then it is exit code 69."""
    port = servers.free_port()
    env = {"GUARDRUN_LEASE_URL": f"redis://127.0.0.1:{port}"}
    config = host.root / "guardrun.toml"
    config.write_text('[defaults]\nstore_wait = "200ms"\n')
    result = host.run("metrics", "--config", str(config), env=env)
    found = samples(result, 69)
    assert (found["store_up/ledger"], found["store_up/leases"]) == (1, 0)
    assert len(result.stderr.splitlines()) == 1
    env = {"GUARDRUN_LEDGER_URL": f"postgresql://127.0.0.1:{port}/jobs"}
    found = samples(host.run("metrics", "--config", str(config), env=env), 69)
    assert found["store_up/ledger"] == 0
    assert found["spool_outcomes"] == 0


def test_outcomes_that_wait(host: Host) -> None:
    """The spool's depth and age are told, whatever ledger they are meant for."""
    env = {"GUARDRUN_LEDGER_URL": f"postgresql://127.0.0.1:{servers.free_port()}/jobs"}
    words = ("--store-wait", "0", "--record-wait", "0", "--", "true")
    assert host.run(*words, env=env).code == 0
    assert samples(host.run("metrics"))["spool_outcomes"] == 1


def test_an_empty_ledger(host: Host) -> None:
    """Before the first run there is something to scrape, and nothing is made; none: is refused."""
    assert samples(host.run("metrics"))["store_up/ledger"] == 1
    assert not host.state.exists()
    assert host.run("metrics", "--ledger-url", "none:").code == 78
