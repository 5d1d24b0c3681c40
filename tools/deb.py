"""Make the Debian package of a wheel: an environment below /opt/guardrun that dpkg looks after.

The environment is made here and not by a script at install time: what is unpacked is what was
tested, needs no network and no compiler, and dpkg knows every file of it, so that an upgrade or a
removal leaves nothing behind. That binds it to one minor version of Python, which the package
therefore depends on. It always lies at the same path, so nothing has to be relocatable.
"""

from __future__ import annotations

import argparse
import csv
import email.parser
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from calendar import timegm
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
HOME = "opt/guardrun"
MAINTAINER = "The guardrun maintainers <guardrun@example.invalid>"
DOC = "usr/share/doc/guardrun"

_PROGRAM = f"""\
#!/{HOME}/bin/python -I
# -I: a PYTHONPATH or PYTHONHOME that is meant for COMMAND is none of guardrun's.
import sys

from guardrun.__main__ import main

sys.exit(main())
"""
_LINKS = {
    "usr/bin/guardrun": f"/{HOME}/bin/guardrun",
    "usr/share/bash-completion/completions/guardrun": (
        f"/{HOME}/share/bash-completion/completions/guardrun"
    ),
    "usr/share/zsh/vendor-completions/_guardrun": f"/{HOME}/share/zsh/site-functions/_guardrun",
    "usr/share/fish/vendor_completions.d/guardrun.fish": (
        f"/{HOME}/share/fish/vendor_completions.d/guardrun.fish"
    ),
}
_CONTROL = """\
Package: guardrun
Version: {version}
Architecture: {architecture}
Maintainer: {maintainer}
Installed-Size: {size}
Depends: {python}, libc6 (>= 2.28), tzdata
Section: admin
Priority: optional
Description: job wrapper like a smarter flock
 guardrun runs a command under a lock (on one host by flock(2), between hosts
 by a lease in Redis, Postgres, etcd or Consul), at most one success per
 idempotency key, with retries and limits, and records how it ended.
 .
 The package has a Python environment of its own below /opt/guardrun. What was
 recorded, in /var/lib/guardrun, outlasts the package: neither its removal nor a
 purge touches that.
"""
_COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: guardrun

Files: *
Copyright: 2026 The guardrun maintainers
License: Apache-2.0
 On Debian systems, the text is in /usr/share/common-licenses/Apache-2.0.
"""
_OTHERS = """
Files: {files}
Copyright: © the authors of {name} {version}
License: {licence}
 The text is below /{info}
"""


class Package(NamedTuple):
    """One distribution in the environment, as its metadata tells."""

    name: str
    version: str
    licence: str
    info: str
    """its directory with metadata and licences"""
    files: str
    """what it has in site-packages, as patterns"""


def main() -> int:
    """Build what the command line says; print the package's path."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--python", type=Path, default=Path("/usr/bin/python3"))
    given = parser.parse_args()
    os.umask(0o022)
    python = given.python.resolve()  # python3.11 and not python3, which an upgrade makes another
    owner = _owner(python)
    with tempfile.TemporaryDirectory() as directory:
        stage = Path(directory) / "root"
        _environment(stage / HOME, python, given.wheel.resolve())
        packages = list(_packages(stage))
        (guardrun,) = (one for one in packages if one.name == "guardrun")
        date = _date(given.wheel)
        _share(stage)
        _document(stage, guardrun, packages, date)
        _settle(stage, python, date)
        print(_pack(stage, guardrun, owner, given.out, date))
    return 0


def _owner(python: Path) -> str:
    """The Debian package to depend on, so that this interpreter and its library are there."""
    found = subprocess.run(["dpkg", "-S", python], capture_output=True, text=True, check=False)
    if found.returncode:
        sys.exit(f"{python} is not Debian's: the package could not depend on it")
    return found.stdout.partition(":")[0].removesuffix("-minimal")


def _date(wheel: Path) -> int:
    """When what is in the wheel was made, in seconds since 1970: the build's SOURCE_DATE_EPOCH."""
    with zipfile.ZipFile(wheel) as files:
        return max(timegm((*entry.date_time, 0, 0, 0)) for entry in files.infolist())


# ---------------------------------------------------------------- the environment


def _environment(home: Path, python: Path, wheel: Path) -> None:
    """Make what is below /opt/guardrun, as it will be at that path."""
    subprocess.run([python, "-m", "venv", "--without-pip", home], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "--quiet"]
    pip += ["--disable-pip-version-check"]
    install = [*pip, "install", "--no-compile", "--no-warn-script-location"]
    pinned = ROOT / "deb" / "requirements.txt"
    subprocess.run(
        [*install, "--require-hashes", "--only-binary", ":all:", "-r", pinned], check=True
    )
    subprocess.run([*install, "--no-deps", "--no-index", wheel], check=True)
    subprocess.run([*pip, "check"], check=True, stdout=subprocess.DEVNULL)
    for path in (home / "bin").iterdir():
        if not path.is_symlink():  # scripts with our directory in their first line
            path.unlink()
    program = home / "bin" / "guardrun"
    program.write_text(_PROGRAM)
    program.chmod(0o755)
    minor = python.name.removeprefix("python")
    (home / "pyvenv.cfg").write_text(
        f"home = {python.parent}\ninclude-system-site-packages = false\nversion = {minor}\n"
    )
    shutil.rmtree(home / "include", ignore_errors=True)


def _packages(stage: Path) -> Iterator[Package]:
    """What is installed there, by name."""
    for info in sorted((stage / HOME).glob("lib/*/site-packages/*.dist-info")):
        with (info / "METADATA").open(encoding="utf-8") as file:
            said = email.parser.HeaderParser().parse(file)
        licence = said["License-Expression"] or (said["License"] or "").partition("\n")[0]
        tops = sorted({name.partition("/")[0] for name in _recorded(info)} - {".."})
        classified = [
            one.rpartition(" :: ")[2]
            for one in said.get_all("Classifier", [])
            if one.startswith("License :: OSI")
        ]
        yield Package(
            said["Name"],
            said["Version"],
            licence or ", ".join(classified),
            str(info.relative_to(stage)),
            " ".join(f"{info.parent.relative_to(stage)}/{top}*" for top in tops),
        )


def _recorded(info: Path) -> list[str]:
    """The files of a distribution, by what pip noted, of which only the names are kept.

    The sums were those of files that have our directory in them. dpkg has others.
    """
    for name in ("INSTALLER", "REQUESTED", "direct_url.json"):
        (info / name).unlink(missing_ok=True)
    record = info / "RECORD"
    names = [name for name, *_ in csv.reader(record.read_text().splitlines())]
    there = [name for name in names if (info.parent / name).exists()]
    record.write_text("".join(f"{name},,\n" for name in there))
    return there


# ---------------------------------------------------------------- beside it


def _share(stage: Path) -> None:
    """Man pages and completions where Debian's programs look for them."""
    pages = stage / HOME / "share" / "man"
    for page in sorted(pages.rglob("*.[1-9]")):
        _compress(page, stage / "usr/share/man" / page.parent.name / f"{page.name}.gz")
    shutil.rmtree(pages)
    for name, target in _LINKS.items():
        assert (stage / target[1:]).exists(), target
        (stage / name).parent.mkdir(parents=True, exist_ok=True)
        (stage / name).symlink_to(target)
    overrides = stage / "usr/share/lintian/overrides/guardrun"
    overrides.parent.mkdir(parents=True)
    shutil.copy(ROOT / "deb" / "lintian-overrides", overrides)


def _document(stage: Path, guardrun: Package, packages: list[Package], date: int) -> None:
    """/usr/share/doc/guardrun: licences, changelogs, documents, examples."""
    doc = stage / DOC
    shutil.copytree(ROOT / "docs", doc / "docs")
    shutil.copytree(ROOT / "examples", doc / "examples")
    (doc / "deploy").symlink_to(f"/{HOME}/share/guardrun/deploy")
    shutil.copy(ROOT / "README.md", doc)
    _compress(ROOT / "CHANGELOG.md", doc / "changelog.gz")
    when = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime(date))
    entry = f"guardrun ({_version(guardrun)}) unstable; urgency=medium\n\n"
    entry += f"  * As in changelog.gz.\n\n -- {MAINTAINER}  {when}\n"
    own = doc / "changelog.Debian"
    own.write_text(entry)
    _compress(own, doc / "changelog.Debian.gz")
    own.unlink()
    text = _COPYRIGHT
    for one in packages:
        if one is not guardrun:
            text += _OTHERS.format(**one._asdict())
    (doc / "copyright").write_text(text)


def _compress(source: Path, target: Path) -> None:
    """Write a file of a Debian package that has to be compressed, without a name or a time."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(source.read_bytes(), 9, mtime=0))


# ---------------------------------------------------------------- the package


def _settle(stage: Path, python: Path, date: int) -> None:
    """Give every file its final mode and time, then compile: who runs guardrun may not write there.

    By time and not by hash, which had to be computed at every start: dpkg keeps the times.
    """
    for path in [stage, *stage.rglob("*")]:
        if not path.is_symlink():
            program = path.parent.name in ("bin", "examples") and path.stat().st_mode & 1
            path.chmod(0o755 if program or path.is_dir() else 0o644)
            os.utime(path, (date, date))
    words = ["-m", "compileall", "-q", "-s", str(stage), "-p", "/"]
    words += ["--invalidation-mode", "timestamp"]
    for library in stage.glob(f"{HOME}/lib/*/site-packages"):
        subprocess.run([python, *words, library], env={"PYTHONHASHSEED": "0"}, check=True)


def _version(guardrun: Package) -> str:
    """As Debian sorts it: what comes before a release sorts before it there too."""
    public, plus, local = guardrun.version.partition("+")
    return re.sub(r"\.?(dev|a|b|rc)(?=\d)", r"~\1", public) + plus + local + "-1"


def _pack(stage: Path, guardrun: Package, python: str, out: Path, date: int) -> Path:
    """Add what dpkg wants to know, and make the file; its path."""
    files = sorted(path for path in stage.rglob("*") if path.is_file() and not path.is_symlink())
    size = sum(path.stat().st_size for path in files)
    architecture = subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip()
    sums = "".join(
        f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(stage)}\n"
        for path in files
    )
    control = stage / "DEBIAN"
    control.mkdir()
    control.chmod(0o755)
    (control / "md5sums").write_text(sums)
    (control / "control").write_text(
        _CONTROL.format(
            version=_version(guardrun),
            architecture=architecture,
            maintainer=MAINTAINER,
            size=size // 1024 + 1,
            python=python,
        )
    )
    for path in control.iterdir():
        path.chmod(0o644)
    out.mkdir(parents=True, exist_ok=True)
    made = out / f"guardrun_{_version(guardrun)}_{architecture}.deb"
    # dpkg-deb makes every later time this one. Several threads of xz make other bytes than one; its
    # lowest level takes a sixth of the time for a seventh more of them.
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Zxz", "-z1", "--build", stage, made],
        env={**os.environ, "SOURCE_DATE_EPOCH": str(date), "DPKG_DEB_THREADS_MAX": "1"},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return made


if __name__ == "__main__":
    sys.exit(main())
