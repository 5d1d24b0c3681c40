"""Wheel and sdist: what version they have, that they are reproducible, and that they install."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from time import gmtime

import pytest
from support import Host
from trees import EPOCH, build, call, copy_tree, git, repository, version

# ---------------------------------------------------------------- versions


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The tree in a repository with one commit and no tag."""
    return repository(tmp_path / "tree")


def unpacked(archive: Path, to: Path) -> Path:
    """The one directory that is in the archive."""
    with tarfile.open(archive) as tar:
        tar.extractall(to, filter="data")
    (inside,) = to.iterdir()
    return inside


def test_a_tag_is_the_version(tree: Path, tmp_path: Path) -> None:
    """At a tag the version is the tag's, in an archive and an sdist of it as well; after it, it
    leads to the next one and names the commit."""
    git(tree, "tag", "v1.2.3")
    assert version(tree) == "1.2.3"
    sdist = build(tree, "sdist")
    assert sdist.name == "guardrun-1.2.3.tar.gz"
    assert version(unpacked(sdist, tmp_path / "sdist")) == "1.2.3"
    archive = tmp_path / "archive.tar"
    git(tree, "archive", "--prefix=guardrun/", f"--output={archive}", "HEAD")
    assert version(unpacked(archive, tmp_path / "archive")) == "1.2.3"
    git(tree, "commit", "--quiet", "--allow-empty", "--message", "second")
    commit = git(tree, "rev-parse", "HEAD")
    found = re.fullmatch(r"1\.2\.4\.dev1\+g([0-9a-f]{7,})\n?", version(tree))
    assert found is not None
    assert commit.startswith(found[1])


def test_a_tree_without_tags_has_a_version(tree: Path, tmp_path: Path) -> None:
    """A shallow clone, which has no tags, and a tree without history are built all the same."""
    git(tree, "tag", "v1.2.3")
    git(tree, "commit", "--quiet", "--allow-empty", "--message", "second")
    git(tmp_path, "clone", "--quiet", "--depth", "1", tree.as_uri(), "shallow")
    assert re.fullmatch(r"0\.1\.dev1\+g[0-9a-f]{7,}", version(tmp_path / "shallow"))
    assert version(copy_tree(tmp_path / "bare")) == "0.0"


# ---------------------------------------------------------------- the same bytes


def test_building_twice_gives_the_same_bytes(tree: Path, tmp_path: Path) -> None:
    """Place, order, times and modes of the files and the umask leave no trace in what is built,
    and the wheel of an sdist is that of its tree; SOURCE_DATE_EPOCH is the time in them."""
    other = tmp_path / "elsewhere" / "tree"
    git(tmp_path, "clone", "--quiet", str(tree), str(other))
    for path in other.rglob("*.py"):
        os.utime(path, (1, 1))
        path.chmod(0o600)
    git(other, "config", "core.fileMode", "false")
    wheel, sdist = build(tree, "wheel"), build(tree, "sdist")
    before = os.umask(0o077)
    try:
        assert build(other, "wheel").read_bytes() == wheel.read_bytes()
        assert build(other, "sdist").read_bytes() == sdist.read_bytes()
    finally:
        os.umask(before)
    again = build(unpacked(sdist, tmp_path / "sdist"), "wheel")
    assert (again.name, again.read_bytes()) == (wheel.name, wheel.read_bytes())
    with zipfile.ZipFile(wheel) as files:
        assert {entry.date_time for entry in files.infolist()} == {gmtime(EPOCH)[:6]}


def test_nothing_of_the_workshop_is_installed(tree: Path) -> None:
    """The wheel has the package, its licence and what goes below share/, and nothing else."""
    with zipfile.ZipFile(build(tree, "wheel")) as files:
        names = files.namelist()
    package = re.compile(r"guardrun/|guardrun-[^/]+\.dist-info/|guardrun-[^/]+\.data/data/share/")
    assert [name for name in names if not package.match(name)] == []
    assert {"guardrun/_version.py", "guardrun/py.typed"} <= set(names)


# ---------------------------------------------------------------- installed


def _pythons() -> Iterator[str]:
    """Every interpreter ≥ 3.11 on PATH, of the system's or of pyenv's, once."""
    places = [*os.environ["PATH"].split(os.pathsep), "/usr/bin", "/usr/local/bin"]
    found = [path for place in places for path in Path(place).glob("python3.*")]
    found += Path.home().glob(".pyenv/versions/*/bin/python3.*")
    seen = set()
    for path in sorted(found):
        real = path.resolve()
        minor = re.fullmatch(r"python3\.(\d+)", real.name)
        if real in seen or minor is None or int(minor[1]) < 11:
            continue
        with real.open("rb") as file:
            if file.read(4) == b"\x7fELF":  # and no shim, which may end anywhere
                seen.add(real)
                yield str(real)


def installed(venv: Path, python: str, what: str) -> None:
    """Install into this environment, which is made if it isn't there; skip without an index."""
    if not venv.exists():
        call(python, "-m", "venv", "--without-pip", venv, cwd=venv.parent)
    pip = (sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "--quiet")
    done = subprocess.run(
        [*pip, "install", "--no-compile", "--retries", "1", what],
        cwd=venv.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if "NewConnectionError" in done.stderr or "ConnectTimeoutError" in done.stderr:
        assert not os.environ.get("CI"), done.stderr
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr


def complete(venv: Path) -> None:
    """What is installed there has all that it says it needs."""
    check = (sys.executable, "-m", "pip", "--python", venv / "bin" / "python", "check")
    assert call(*check, cwd=venv.parent) == "No broken requirements found.\n"


def works(host: Host, venv: Path, version: str) -> None:
    """What is installed there runs a keyed job once, and knows its version and its man page."""
    program = [str(venv / "bin" / "guardrun")]
    assert host.run("--version", program=program).stdout == f"guardrun {version}\n".encode()
    line = ("--lock", "report", "--key", "report", "--", host.job)
    results = [host.run(*line, program=program).finished["result"] for _ in range(2)]
    assert results == ["success", "skipped_duplicate"]
    assert len(host.executions()) == 1
    assert host.run("history", "--json", program=program).stdout.count(b"\n") == 2
    assert (venv / "share/man/man1/guardrun.1").is_file()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the tree."""
    return build(repository(tmp_path_factory.mktemp("built") / "tree"), "wheel")


@pytest.mark.parametrize("python", list(_pythons()))
def test_installed_on(python: str, wheel: Path, host: Host) -> None:
    """A fresh environment of every Python that is here gets the wheel and runs a job."""
    installed(host.root / "venv", python, str(wheel))
    complete(host.root / "venv")
    works(host, host.root / "venv", wheel.name.split("-")[1])


def test_extras(tree: Path, host: Host) -> None:
    """Without an extra the line says which; with it, the store is asked. From the sdist's wheel."""
    words = ("--lock", "a", "--store-wait", "2s", "--lease-url")
    urls = {"etcd": "etcd://127.0.0.1:1", "consul": "consul://127.0.0.1:1"}
    venv = host.root / "venv"
    program = [str(venv / "bin" / "guardrun")]
    wheel = build(unpacked(build(tree, "sdist"), host.root / "sdist"), "wheel")
    installed(venv, sys.executable, str(wheel))
    for extra, url in urls.items():
        said = host.run(*words, url, "--", "true", program=program)
        assert said.code == 64
        assert f"pip install 'guardrun[{extra}]'" in said.finished["reason"]
    installed(venv, sys.executable, f"guardrun[etcd,consul] @ {wheel.as_uri()}")
    for url in urls.values():
        assert host.run(*words, url, "--", "true", program=program).code == 69
