"""The wheel puts man pages and completions where ``man`` and the shells look."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support import need
from trees import build, copy_tree

from guardrun.cli import SUBCOMMANDS
from guardrun.commands.completion import FILES

ROOT = Path(__file__).parents[2]
SOURCES = {"bash": "guardrun.bash", "zsh": "_guardrun", "fish": "guardrun.fish"}


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it; what guardrun needs is lent to it."""
    root = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheel = build(copy_tree(root / "tree"), "wheel")
    made = root / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", made], check=True)
    subprocess.run([*pip, f"--python={made}/bin/python", "install", "--no-deps", wheel], check=True)
    [packages] = made.glob("lib/python*/site-packages")
    lent = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "lent.pth").write_text("".join(f"{path}\n" for path in lent))
    return made


def said(home: Path, *words: str | Path, **env: str) -> str:
    """What a program writes for a user who has configured nothing."""
    kept = {name: value for name, value in os.environ.items() if name != "MANPATH"}
    found = subprocess.run(
        words,
        env={**kept, "HOME": str(home), "LC_ALL": "C.UTF-8", **env},
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    return found.stdout


def test_man_finds_the_pages(prefix: Path) -> None:
    """``man`` finds every page below the prefix whose bin is in PATH, and shows aliases too."""
    need("man")
    pages = prefix / "share" / "man"
    path = f"{prefix}/bin:{os.environ['PATH']}"
    commands = (f"guardrun-{name}" for name in SUBCOMMANDS)
    for name in (*commands, "guardrun-config", "guardrun-templates"):
        found = said(prefix.parent, "man", "-w", name, PATH=path).split()
        assert [Path(found[0]).parents[1]] == [pages], name
    assert (
        said(prefix.parent, "man", "-w", "guardrun", PATH=path).strip()
        == f"{pages}/man1/guardrun.1"
    )
    shown = said(prefix.parent, "man", "-M", pages, "guardrun-unlock", MANWIDTH="80")
    assert "guardrun unlock [--force]" in " ".join(shown.split())


@pytest.mark.parametrize("shell", FILES)
def test_completion_prints_what_was_installed(prefix: Path, shell: str) -> None:
    """``guardrun completion`` finds its file in the environment it runs in."""
    printed = said(prefix.parent, prefix / "bin" / "guardrun", "completion", shell)
    assert printed == (ROOT / "completions" / SOURCES[shell]).read_text()
    assert (prefix / FILES[shell]).read_text() == printed


def test_the_shells_find_the_completions(prefix: Path) -> None:
    """Each shell loads the completion by itself from the directory that is meant for it."""
    share = f"{prefix}/share"
    for program in ("zsh", "fish", "bash", "/usr/share/bash-completion/bash_completion"):
        need(program)
    zsh = f"fpath=({shlex.quote(share)}/zsh/site-functions $fpath); autoload -Uz compinit"
    zsh += "; compinit -u -D; print $_comps[guardrun]"
    assert said(prefix.parent, "zsh", "-f", "-c", zsh) == "_guardrun\n"
    data = f"{share}:/usr/local/share:/usr/share"
    # fish loads completions of commands that are there.
    path = f"{prefix}/bin:{os.environ['PATH']}"
    fish = said(
        prefix.parent,
        "fish",
        "-c",
        "complete -C 'guardrun --on-dup'",
        XDG_DATA_DIRS=data,
        PATH=path,
    )
    assert fish.startswith("--on-duplicate\t")
    bash = "source /usr/share/bash-completion/bash_completion; _completion_loader guardrun"
    bash += "; complete -p guardrun"
    assert said(prefix.parent, "bash", "--norc", "-c", bash, XDG_DATA_DIRS=data) == (
        "complete -F _guardrun guardrun\n"
    )
