"""The Debian package: built, installed, run and removed, without harm to the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from trees import build, call, repository

_ASIDE = """
set -eu
# Whatever is written below root is kept in memory, and gone with this namespace.
mount -t tmpfs none "$1"
cd "$1"
mkdir upper work root
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay root
mount -t proc proc root/proc
mount --rbind /dev root/dev
rm -rf root/var/lib/guardrun
mkdir -p root/run/lock
cp "$2" root/tmp/guardrun.deb
exec chroot root sh -euc "$3"
"""
_STEPS = """
cd /
dpkg --no-triggers -i /tmp/guardrun.deb >/dev/null
/usr/bin/guardrun --version
for n in 1 2; do
  env -i PATH=/usr/bin:/bin PYTHONPATH=/nowhere PYTHONHOME=/nowhere \\
    guardrun -q --lock a --key b -- sh -c 'echo "ran with ${PYTHONHOME}"'
done
guardrun history --json | wc -l
gzip -dc /usr/share/man/man1/guardrun.1.gz | grep -c '^\\.Nm guardrun$' | sed 's/[1-9].*/page/'
for file in bash-completion/completions/guardrun zsh/vendor-completions/_guardrun \\
  fish/vendor_completions.d/guardrun.fish doc/guardrun/copyright doc/guardrun/changelog.Debian.gz
do
  test -s "/usr/share/$file"
done
guardrun completion bash | cmp - /usr/share/bash-completion/completions/guardrun
# Nothing was changed by having been run: no file that dpkg does not know, none that is another now.
dpkg --verify guardrun
find /opt/guardrun ! -type d | sort >/tmp/there
dpkg -L guardrun | grep ^/opt/guardrun/ | while read -r name; do
  if test ! -d "$name" || test -L "$name"; then echo "$name"; fi
done | sort | cmp - /tmp/there
dpkg --no-triggers -P guardrun >/dev/null 2>&1
for file in /opt/guardrun /usr/bin/guardrun /usr/share/doc/guardrun; do
  test ! -e "$file"
done
test -s /var/lib/guardrun/ledger.sqlite3
echo purged
"""


def lacking(what: str) -> NoReturn:
    """Skip by the name of what isn't here; in CI that is a failure."""
    assert not os.environ.get("CI"), what
    pytest.skip(what)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the tree, in a copy of it, where there is what a Debian package is made with."""
    python = Path("/usr/bin/python3")
    if shutil.which("dpkg-deb") is None or not python.exists():
        lacking("this is no Debian: no dpkg-deb, or no /usr/bin/python3")
    if int(python.resolve().name.rpartition(".")[2]) < 11:
        lacking(f"{python.resolve()} is older than 3.11")
    return build(repository(tmp_path_factory.mktemp("built") / "tree"), "wheel")


@pytest.fixture(scope="module")
def deb(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Debian package of that."""
    return package(wheel, tmp_path_factory.mktemp("package"))


def package(wheel: Path, out: Path) -> Path:
    """The Debian package of this wheel; skip where the package index cannot be reached."""
    tool = wheel.parents[2] / "tools" / "deb.py"
    made = subprocess.run(
        [sys.executable, tool, wheel, "--out", out],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if "NewConnectionError" in made.stderr or "ConnectTimeoutError" in made.stderr:
        lacking(made.stderr)
    assert made.returncode == 0, made.stderr
    return Path(made.stdout.strip())


def test_installed_run_and_purged(wheel: Path, deb: Path, tmp_path: Path) -> None:
    """dpkg installs it, a keyed job runs once whatever PYTHONPATH is meant for the job, and a purge
    takes away every file of it but not what was recorded."""
    if os.geteuid() != 0:
        pytest.skip("dpkg installs for root only")
    aside = tmp_path / "aside"
    aside.mkdir()
    alone = ("unshare", "--mount", "--pid", "--fork", "--mount-proc")
    said = call(*alone, "sh", "-c", _ASIDE, "sh", aside, deb, _STEPS, cwd=tmp_path)
    version = wheel.name.split("-")[1]
    assert said.splitlines() == [
        f"guardrun {version}",
        "ran with /nowhere",
        "2",
        "page",
        "purged",
    ]


def test_building_a_package_twice_gives_the_same_bytes(
    wheel: Path, deb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither umask nor time zone, nor the directory where it was put together, show in it."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    before = os.umask(0o077)
    try:
        again = package(wheel, tmp_path)
    finally:
        os.umask(before)
    assert (again.name, again.read_bytes()) == (deb.name, deb.read_bytes())
