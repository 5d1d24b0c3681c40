"""A password in a store's URL, or beside it, is nowhere in what guardrun writes or shows."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
import redis
import servers
from psycopg import sql
from support import Host, Result, family, finish

from guardrun import kernel, kinds
from guardrun.address import address
from guardrun.core.redact import redact_url
from guardrun.errors import GuardrunError
from guardrun.locks.stores import open_leases
from guardrun.postgres.connection import connect

NEEDLE = "xq7v"
"""in every part of every password: whatever is shown of one is found"""
PASSWORD = "xq7va@xq7vb:xq7vc/xq7vd?xq7ve#xq7vf %xq7vg&xq7vh='xq7vi\\xq7vj"
ESCAPED = quote(PASSWORD, safe="")
WRONG = "xq7vwrong"
USER = "runner"

QUICK = '[defaults]\nstore_wait = "500ms"\nrecord_wait = "200ms"\n'

RUNS: tuple[tuple[str, ...], ...] = (
    ("--key", "k", "--on-mismatch", "ignore", "--capture", "1K", "--", "JOB"),
    (
        "--log-level",
        "debug",
        "--log-to",
        "LOG",
        "--on-mismatch",
        "ignore",
        "--key",
        "k",
        "--",
        "JOB",
    ),
    ("--log-format", "console", "--on-ledger-down", "run", "--job", "other", "--", "JOB"),
    ("--", "JOB"),
    ("--dry-run", "--key", "k", "--", "JOB"),
    ("--on-ledger-down", "stop", "--quiet", "--", "JOB"),
)
FEW = (RUNS[0], RUNS[3], RUNS[4], ("history",), ("flush",))
LOOKS: tuple[tuple[str, ...], ...] = (
    ("history",),
    ("history", "--json"),
    ("keys",),
    ("keys", "show", "k"),
    ("show", "01234567"),
    ("prune", "--older-than", "1d"),
    ("migrate",),
    ("flush",),
    ("flush", "--json"),
)


class Vault:
    """A server with a role whose password is hard to write, and a log of all it is told."""

    def __init__(self, server: servers.Postgres) -> None:
        self.server = server
        with psycopg.connect(server.socket_url, autocommit=True) as db:
            db.execute("SET log_statement = 'none'")  # or the test itself would show it
            for name, more in ((USER, ""), ("crowded", "CONNECTION LIMIT 0")):
                statement = f"CREATE ROLE {name} LOGIN {more} PASSWORD {{}}"
                db.execute(sql.SQL(statement).format(PASSWORD))
            db.execute(f"GRANT CREATE ON DATABASE postgres TO {USER}".encode())

    @property
    def place(self) -> str:
        """Host, port and database, as in a URL."""
        return f"127.0.0.1:{self.server.port}/postgres"

    def told(self) -> str:
        """What is in the ledger, and in the server's own log."""
        found = [self.server.log]
        with psycopg.connect(self.server.socket_url) as db:
            tables = db.execute(
                "SELECT table_name FROM information_schema.tables WHERE table_schema = 'guardrun'"
            ).fetchall()
            for (table,) in tables:
                rows = db.execute(f"SELECT told::text FROM guardrun.{table} AS told".encode())
                found += [row[0] for row in rows]
            found += [row[0] for row in db.execute("SELECT a::text FROM pg_stat_activity AS a")]
        return "\n".join(found)


@pytest.fixture(scope="module")
def vault() -> Iterator[Vault]:
    """A server that writes down every statement."""
    with servers.Postgres.start(log_statement="all", log_connections="on") as server:
        yield Vault(server)


def given(kind: str, directory: Path, place: str) -> dict[str, str]:
    """The environment in which guardrun finds the right password that way."""
    plain = f"postgresql://{USER}@{place}"
    match kind:
        case "url":
            return {"GUARDRUN_LEDGER_URL": f"postgresql://{USER}:{ESCAPED}@{place}"}
        case "parameter":
            return {"GUARDRUN_LEDGER_URL": f"{plain}?password={ESCAPED}"}
        case "variable":
            return {"GUARDRUN_LEDGER_URL": plain, "PGPASSWORD": PASSWORD}
        case "passfile":
            path = directory / "pgpass"
            escaped = PASSWORD.replace("\\", "\\\\").replace(":", "\\:")
            path.write_text(f"*:*:*:{USER}:{escaped}\n")
            path.chmod(0o600)
            return {"GUARDRUN_LEDGER_URL": plain, "PGPASSFILE": str(path)}
        case "service":
            path = directory / "services"
            host, _, port = place.partition("/")[0].partition(":")
            lines = (f"host={host}", f"port={port}", "dbname=postgres", f"user={USER}")
            path.write_text("\n".join(("[jobs]", *lines, f"password={PASSWORD}", "")))
            url = "postgresql:///?service=jobs"
            return {"GUARDRUN_LEDGER_URL": url, "PGSERVICEFILE": str(path)}
        case "credential":
            url = f"postgresql://{USER}:{ESCAPED}@{place}"
            (directory / "guardrun.ledger-url").write_text(url + "\n")
            return {"CREDENTIALS_DIRECTORY": str(directory)}
        case "config":
            url = f"postgresql://{USER}:{ESCAPED}@{place}"
            path = directory / "config.toml"
            path.write_text(f'[defaults]\nledger_url = "{url}"\n')
            return {"GUARDRUN_CONFIG": str(path)}
    raise AssertionError(kind)


def call_all(
    host: Host, env: Mapping[str, str], commands: tuple[tuple[str, ...], ...]
) -> dict[str, Result]:
    """Run them all, a few at a time; none of them shows anything."""
    results: dict[str, Result] = {}
    names = {"JOB": host.job, "LOG": str(host.root / "log")}
    for at in range(0, len(commands), 4):
        batch = commands[at : at + 4]
        started = [
            (words, host.start(*(names.get(word, word) for word in words), env=env))
            for words in batch
        ]
        for words, process in started:
            results[" ".join(words)] = finish(process)
    for words_said, result in results.items():
        assert NEEDLE.encode() not in result.stdout + result.stderr, (words_said, result)
        assert b"Traceback" not in result.stderr, (words_said, result)
    return results


def nothing_is_kept(host: Host) -> None:
    """Check every file of the host, names included: state, spool, log."""
    for path in host.root.rglob("*"):
        assert NEEDLE not in str(path)
        if path.is_file():
            assert NEEDLE.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    "kind", ["url", "parameter", "variable", "passfile", "service", "credential", "config"]
)
def test_a_password_that_is_right(host: Host, tmp_path: Path, vault: Vault, kind: str) -> None:
    """Everything works, and the password is in no output, file, table, log or command line."""
    directory = tmp_path.parent / f"{tmp_path.name}-given"
    directory.mkdir()
    env = given(kind, directory, vault.place)
    assert call_all(host, env, (("migrate",),))["migrate"].code == 0
    process = host.hold("--key", kind, "--capture", "1K", "--log-level", "debug", env=env)
    for words in command_lines(process):
        assert NEEDLE.encode() not in words
    assert NEEDLE not in vault.told()
    result = finish(process)
    assert result.code == 0
    assert NEEDLE.encode() not in result.stdout + result.stderr
    whole = kind in ("url", "variable")  # the others differ in where libpq finds it
    results = call_all(host, env, (*RUNS, *LOOKS) if whole else FEW)
    refused = {words: result for words, result in results.items() if result.code != 0}
    # 75: at the same time as another of them.
    assert all(words.startswith("show") or refused[words].code == 75 for words in refused), refused
    nothing_is_kept(host)
    assert NEEDLE not in vault.told()


def command_lines(process: subprocess.Popen[bytes]) -> list[bytes]:
    """What ps shows of a guardrun's processes and of COMMAND."""
    pids = family(process.pid)
    assert {"supervisor", "keeper", "backstop", "warden"} <= pids.keys()
    below = Path(f"/proc/{pids['warden']}/task/{pids['warden']}/children").read_text().split()
    assert below, "no COMMAND"
    return [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (*pids.values(), *below)]


UNESCAPED = [
    "xq7va?host=xq7vb",
    "xq7va/b?host=xq7vb",
    "12345?xq7va",
    "xq7va@xq7vb",
    "xq7va:xq7vb",
    "xq7va/xq7vb",
    "xq7va?xq7vb",
    "xq7va#xq7vb",
    "xq7va xq7vb",
    "xq7va%zzxq7vb",
    "xq7va%00xq7vb",
    "xq7va[xq7vb",
    "xq7va]xq7vb",
    "xq7va,xq7vb",
    "xq7va&host=xq7vb",
    "xq7va?password=xq7vb",
    "xq7va@xq7vb/xq7vc?xq7vd@xq7ve",
    "xq7va'\"\\xq7vb",
    "xq7vä€xq7vb",
    "/xq7va",
    "@xq7va",
    "?xq7va",
    "//xq7va",
    "xq7va://xq7vb",
]


def refusals(place: str) -> dict[str, dict[str, str]]:
    """Environments in which no ledger will be found, by what is wrong."""
    host_port, _, database = place.partition("/")
    port = host_port.partition(":")[2]
    right = f"{USER}:{ESCAPED}"
    urls = {
        "wrong": f"postgresql://{USER}:{WRONG}@{place}",
        "wrong parameter": f"postgresql://{USER}@{place}?password={WRONG}",
        "both": f"postgresql://{USER}:{ESCAPED}@{place}?password={WRONG}",
        "no such role": f"postgresql://nobody-{USER}:{WRONG}@{place}",
        "no such database": f"postgresql://{right}@{host_port}/nowhere",
        "too many": f"postgresql://crowded:{ESCAPED}@{place}",
        "no such host": f"postgresql://{right}@nohost.invalid/{database}",
        "refused": f"postgresql://{right}@127.0.0.1:1/{database}",
        "some refuse": f"postgresql://{right}@127.0.0.1:1,127.0.0.1:2/{database}",
        "no socket": f"postgresql://{right}@%2Fnowhere/{database}",
        "port": f"postgresql://{right}@127.0.0.1:{port}x/{database}",
        "port too large": f"postgresql://{right}@127.0.0.1:99999999/{database}",
        "two ports": f"postgresql://{right}@127.0.0.1:{port}:{port}/{database}",
        "bracket": f"postgresql://{right}@[::1/{database}",
        "unknown parameter": f"postgresql://{right}@{place}?nonsense=1",
        "wrong parameter's value": f"postgresql://{right}@{place}?sslmode=nonsense",
        "timeout": f"postgresql://{right}@{place}?connect_timeout=soon",
        "no such service": f"postgresql://{right}@{place}?service=nowhere",
        "TLS": f"postgresql://{right}@{place}?sslmode=require",
        "certificate": f"postgresql://{right}@{place}?sslmode=require&sslpassword={WRONG}",
        "scheme": f"postgres://{right}@{place}",
        "other scheme": f"mysql://{right}@{place}",
        "one slash": f"postgresql:/{right}@{place}",
        "no slash": f"postgresql:{right}@{place}",
        "no scheme": f"{right}@{place}",
    }
    urls |= {f"unescaped {word}": f"postgresql://{USER}:{word}@{place}" for word in UNESCAPED}
    found = {name: {"GUARDRUN_LEDGER_URL": url} for name, url in urls.items()}
    plain = {"GUARDRUN_LEDGER_URL": f"postgresql://{USER}@{place}"}
    found["wrong variable"] = plain | {"PGPASSWORD": WRONG}
    return found


SHOWN = (
    *("wrong", "wrong parameter", "wrong variable", "too many", "no such host", "refused"),
    *("unknown parameter", "two ports", "scheme", "no scheme"),
    *(f"unescaped {word}" for word in UNESCAPED if "?" in word),
)
"""Those that are tried from outside; every run or subcommand says the same of a ledger."""


@pytest.mark.parametrize("name", SHOWN)
def test_a_ledger_that_cannot_be_had(host: Host, vault: Vault, name: str) -> None:
    """Whatever is wrong is said in a line, and no part of a password is in it, or anywhere."""
    env = refusals(vault.place)[name]
    path = host.root / "config" / "guardrun" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(QUICK)
    results = call_all(host, env, (*RUNS, *LOOKS) if name == "wrong" else FEW)
    for words, result in results.items():
        if not words.startswith("--dry-run"):
            assert len(result.stderr.splitlines()) <= 1, (words, result)
    assert results[" ".join(FEW[0])].code in (64, 69, 78), results
    nothing_is_kept(host)
    assert NEEDLE not in vault.told()


@pytest.mark.parametrize("name", list(refusals("127.0.0.1:1/x")))
def test_what_is_said_of_a_url(vault: Vault, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused by how it looks, or else by who is there: neither the error, nor what is kept or
    shown of the URL has any part of the password."""
    env = refusals(vault.place)[name]
    for variable, value in env.items():
        monkeypatch.setenv(variable, value)
    url = env["GUARDRUN_LEDGER_URL"]
    try:
        kinds.ledger_url(url)
    except ValueError as error:
        said = [str(error)]
    else:
        with pytest.raises(GuardrunError) as refused:
            connect(url, kernel.now() + 5).close()
        said = [str(refused.value), address(url, {}), redact_url(url)]
    assert [text for text in said if NEEDLE in text] == []


# ---------------------------------------------------------------- the lease store's


LOCK = ("--scope", "distributed", "--lock", "l", "--wait", "20s")
LEASE_CALLS: tuple[tuple[str, ...], ...] = (
    (*LOCK, "--log-level", "debug", "--", "JOB"),
    (*LOCK, "--log-format", "console", "--log-to", "LOG", "--key", "k", "--", "JOB"),
    (*LOCK, "--dry-run", "--", "JOB"),
    ("locks",),
    ("locks", "--json"),
    ("unlock", "l", "--force"),
    ("history", "--json"),
)
FEW_LEASE_CALLS = (*LEASE_CALLS[:3], ("locks",))


class RedisVault:
    """A Redis where the default user, and another one, have a password that is hard to write."""

    def __init__(self, server: servers.Redis) -> None:
        self.server = server
        with redis.Redis.from_url(server.url) as client:
            client.acl_setuser(
                USER,
                enabled=True,
                passwords=[f"+{PASSWORD}"],
                keys=["guardrun:*"],
                channels=["guardrun:*"],
                commands=["+@all"],
            )
            client.config_set("requirepass", PASSWORD)

    @property
    def place(self) -> str:
        """Host, port and database, as in a URL."""
        return f"127.0.0.1:{self.server.port}/0"

    def told(self) -> str:
        """What it keeps, who is there, and what is in its own log."""
        with redis.Redis(port=self.server.port, password=PASSWORD) as client:
            found = [self.server.log, str(client.client_list())]
            for key in client.scan_iter():
                read = client.hgetall if client.type(key) == b"hash" else client.zrange
                found += [str(key), str(read(key, *((0, -1) if read == client.zrange else ())))]
        return "\n".join(found)


@pytest.fixture(scope="module")
def redis_vault() -> Iterator[RedisVault]:
    """A server that wants a password."""
    with servers.Redis.start() as server:
        yield RedisVault(server)


def lease_given(kind: str, directory: Path, vault: Vault, other: RedisVault) -> dict[str, str]:
    """The environment in which guardrun finds a lease store, and the right password, that way."""
    url = f"redis://:{ESCAPED}@{other.place}"
    match kind:
        case "user":
            url = f"redis://{USER}:{ESCAPED}@{other.place}"
        case "parameter":
            url = f"redis://{other.place}?username={USER}&password={ESCAPED}"
        case "socket":
            url = f"unix://:{ESCAPED}@{other.server.minded.directory}/socket"
        case "postgres":
            url = f"postgresql://{USER}:{ESCAPED}@{vault.place}"
        case "advisory":
            url = f"postgresql+advisory://{USER}@{vault.place}?password={ESCAPED}"
        case "variable":
            return {
                "GUARDRUN_LEASE_URL": f"postgresql+advisory://{USER}@{vault.place}",
                "PGPASSWORD": PASSWORD,
            }
        case "credential":
            (directory / "guardrun.lease-url").write_text(url + "\n")
            return {"CREDENTIALS_DIRECTORY": str(directory)}
        case "config":
            path = directory / "config.toml"
            path.write_text(f'[defaults]\nlease_url = "{url}"\n')
            return {"GUARDRUN_CONFIG": str(path)}
    return {"GUARDRUN_LEASE_URL": url}


@pytest.mark.parametrize(
    "kind",
    [
        *("url", "user", "parameter", "socket", "credential", "config"),
        *("postgres", "advisory", "variable"),
    ],
)
def test_a_lease_stores_password_that_is_right(
    host: Host, tmp_path: Path, vault: Vault, redis_vault: RedisVault, kind: str
) -> None:
    """Everything works, and the password is in no output, file, store, log or command line."""
    directory = tmp_path.parent / f"{tmp_path.name}-given"
    directory.mkdir()
    migrated = {"GUARDRUN_LEDGER_URL": f"postgresql://{USER}:{ESCAPED}@{vault.place}"}
    assert host.run("migrate", env=migrated).code == 0
    env = lease_given(kind, directory, vault, redis_vault)
    process = host.hold(*LOCK, "--log-level", "debug", env=env)
    for words in command_lines(process):
        assert NEEDLE.encode() not in words
    assert NEEDLE not in redis_vault.told() + vault.told()
    result = finish(process)
    assert result.code == 0, result
    assert result.event("lock_acquired")["lock"] == "l"
    assert NEEDLE.encode() not in result.stdout + result.stderr
    results = call_all(host, env, LEASE_CALLS if kind in ("url", "postgres") else FEW_LEASE_CALLS)
    refused = {words: result for words, result in results.items() if result.code != 0}
    assert all(words.startswith("unlock") for words in refused), refused
    nothing_is_kept(host)
    assert NEEDLE not in redis_vault.told() + vault.told()


@pytest.mark.parametrize("scheme", ["redis", "postgresql", "postgresql+advisory", "etcd", "consul"])
def test_a_lease_stores_password_in_an_option(host: Host, scheme: str) -> None:
    """64, because anybody can see it in ps; the line says where to put it instead."""
    url = f"{scheme}://{USER}:{ESCAPED}@127.0.0.1:1/0"
    result = host.run(*LOCK, "--lease-url", url, "--", host.job)
    assert result.code == 64
    assert b"$GUARDRUN_LEASE_URL" in result.stderr
    assert NEEDLE.encode() not in result.stdout + result.stderr
    nothing_is_kept(host)


def lease_refusals(place: str, redis_place: str) -> dict[str, dict[str, str]]:
    """Environments in which no lease store will be found, by what is wrong."""
    found: dict[str, dict[str, str]] = {}
    for scheme in ("postgresql", "postgresql+advisory"):
        for name, env in refusals(place).items():
            url = env["GUARDRUN_LEDGER_URL"].replace("postgresql:", f"{scheme}:", 1)
            others = {key: value for key, value in env.items() if key != "GUARDRUN_LEDGER_URL"}
            found[f"{scheme} {name}"] = others | {"GUARDRUN_LEASE_URL": url}
    host_port = redis_place.partition("/")[0]
    port = host_port.partition(":")[2]
    right = f"{USER}:{ESCAPED}"
    urls = {
        "wrong": f"redis://:{WRONG}@{redis_place}",
        "wrong user": f"redis://nobody-{USER}:{ESCAPED}@{redis_place}",
        "wrong parameter": f"redis://{redis_place}?password={WRONG}",
        "both": f"redis://{USER}:{WRONG}@{redis_place}?password={ESCAPED}",
        "no such database": f"redis://{right}@{host_port}/99",
        "no such number": f"redis://{right}@{host_port}/nowhere",
        "no such host": f"redis://{right}@nohost.invalid/0",
        "refused": f"redis://{right}@127.0.0.1:1/0",
        "no socket": f"unix://{right}@/nowhere",
        "relative socket": f"unix://{right}@nowhere",
        "port": f"redis://{right}@127.0.0.1:{port}x/0",
        "port too large": f"redis://{right}@127.0.0.1:99999999/0",
        "two ports": f"redis://{right}@127.0.0.1:{port}:{port}/0",
        "bracket": f"redis://{right}@[::1/0",
        "unknown parameter": f"redis://{right}@{redis_place}?nonsense=1",
        "wrong parameter's value": f"redis://{right}@{redis_place}?db=nonsense",
        "TLS": f"rediss://{right}@{redis_place}",
        "certificate": f"rediss://{right}@{redis_place}?ssl_password={WRONG}",
        "no sentinel": f"redis+sentinel://{right}@127.0.0.1:1/jobs",
        "no sentinel's password": f"redis+sentinel://127.0.0.1:1/jobs?sentinel_password={WRONG}",
        "not a sentinel": f"redis+sentinel://{right}@{host_port}/jobs",
        "scheme": f"valkey://{right}@{redis_place}",
        "one slash": f"redis:/{right}@{redis_place}",
        "no slash": f"redis:{right}@{redis_place}",
    }
    urls |= {f"unescaped {word}": f"redis://{USER}:{word}@{redis_place}" for word in UNESCAPED}
    urls |= {
        f"sentinel unescaped {word}": f"redis+sentinel://{USER}:{word}@{host_port}/jobs"
        for word in UNESCAPED
    }
    found |= {f"redis {name}": {"GUARDRUN_LEASE_URL": url} for name, url in urls.items()}
    urls = {
        "refused": f"etcd://{right}@127.0.0.1:1",
        "two hosts": f"etcd://{right}@127.0.0.1:1,127.0.0.1:2",
        "no such host": f"etcd://{right}@nohost.invalid",
        "not an etcd": f"etcd://{right}@{host_port}",
        "TLS": f"etcds://{right}@{host_port}",
        "no file": f"etcds://{right}@{host_port}?cacert=/nowhere",
        "port": f"etcd://{right}@127.0.0.1:1x",
        "two ports": f"etcd://{right}@127.0.0.1:1:1",
        "bracket": f"etcd://{right}@[::1",
        "path": f"etcd://{right}@127.0.0.1:1/x",
        "unknown parameter": f"etcd://{right}@127.0.0.1:1?password={WRONG}",
        "no name": f"etcd://:{ESCAPED}@127.0.0.1:1",
        "one slash": f"etcd:/{right}@127.0.0.1:1",
    }
    urls |= {f"unescaped {word}": f"etcd://{USER}:{word}@127.0.0.1:1" for word in UNESCAPED}
    found |= {f"etcd {name}": {"GUARDRUN_LEASE_URL": url} for name, url in urls.items()}
    urls = {
        "refused": f"consul://{ESCAPED}@127.0.0.1:1",
        "two hosts": f"consul://{ESCAPED}@127.0.0.1:1,127.0.0.1:2",
        "no such host": f"consul://{ESCAPED}@nohost.invalid",
        "not a Consul": f"consul://{ESCAPED}@{host_port}",
        "TLS": f"consuls://{ESCAPED}@{host_port}",
        "no file": f"consuls://{ESCAPED}@{host_port}?cacert=/nowhere",
        "port": f"consul://{ESCAPED}@127.0.0.1:1x",
        "path": f"consul://{ESCAPED}@127.0.0.1:1/x",
        "unknown parameter": f"consul://127.0.0.1:1?token={ESCAPED}",
        "user and password": f"consul://{right}@127.0.0.1:1",
        "one slash": f"consul:/{ESCAPED}@127.0.0.1:1",
    }
    urls |= {f"unescaped {word}": f"consul://{word}@127.0.0.1:1" for word in UNESCAPED}
    return found | {f"consul {name}": {"GUARDRUN_LEASE_URL": url} for name, url in urls.items()}


LEASE_NAMES = tuple(lease_refusals("127.0.0.1:1/x", "127.0.0.1:1/0"))


@pytest.mark.parametrize("name", LEASE_NAMES)
def test_what_is_said_of_a_lease_stores_url(
    vault: Vault, redis_vault: RedisVault, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused by how it looks, or else by who is there, and no error has a part of a password."""
    env = lease_refusals(vault.place, redis_vault.place)[name]
    for variable, value in env.items():
        monkeypatch.setenv(variable, value)
    url = env["GUARDRUN_LEASE_URL"]
    try:
        kinds.lease_url(url)
    except ValueError as error:
        said = [str(error)]
    else:
        with pytest.raises(GuardrunError) as refused:
            open_leases(url).holders("l", kernel.now() + 5)
        said = [str(refused.value), redact_url(url)]
    assert [text for text in said if NEEDLE in text] == []


@pytest.mark.parametrize(
    "name",
    [
        *(f"redis {name}" for name in ("wrong", "both", "refused", "unknown parameter", "scheme")),
        *(f"redis unescaped {word}" for word in UNESCAPED if "?" in word or word.count("@") > 1),
        *(f"postgresql {name}" for name in ("wrong", "wrong variable", "refused")),
        *(f"postgresql unescaped {word}" for word in ("xq7va@xq7vb", "xq7va/b?host=xq7vb")),
        "postgresql+advisory wrong",
    ],
)
def test_a_lease_store_that_cannot_be_had(
    host: Host, vault: Vault, redis_vault: RedisVault, name: str
) -> None:
    """Whatever is wrong is said in a line, and no part of a password is in it, or anywhere."""
    env = lease_refusals(vault.place, redis_vault.place)[name]
    path = host.root / "config" / "guardrun" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(QUICK)
    results = call_all(host, env, LEASE_CALLS if name == "redis wrong" else FEW_LEASE_CALLS)
    for words, result in results.items():
        if "--dry-run" not in words:
            assert len(result.stderr.splitlines()) <= 1, (words, result)
    first = results[" ".join(LEASE_CALLS[0])]
    assert first.code in (64, 69, 78), first
    assert host.executions() == []
    nothing_is_kept(host)
    assert NEEDLE not in redis_vault.told() + vault.told()
