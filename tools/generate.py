"""Write the man pages' tables and the completions; with ``--check``, only say what is out of date.

python tools/generate.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import complete_bash
import complete_fish
import complete_zsh
import manpage

ROOT = Path(__file__).parent.parent


def files() -> dict[Path, str]:
    """Every generated file, and what should be in it."""
    man = ROOT / "man"
    written = {path: path.read_text(encoding="utf-8") for path in man.glob("man?/*.?")}
    pages = {path: text for path, text in written.items() if not text.startswith(".so ")}
    commands = [text for path, text in pages.items() if path.suffix == ".1"]
    completions = ROOT / "completions"
    return {
        **{path: manpage.fill(text, commands) for path, text in pages.items()},
        **{man / "man1" / name: text for name, text in manpage.aliases(commands).items()},
        completions / "guardrun.bash": complete_bash.render(),
        completions / "_guardrun": complete_zsh.render(),
        completions / "guardrun.fish": complete_fish.render(),
    }


def main(words: list[str]) -> int:
    """Write what has changed; the exit code."""
    check = words == ["--check"]
    if words and not check:
        print(__doc__, file=sys.stderr)
        return 64
    stale = {path: text for path, text in files().items() if _differs(path, text)}
    for path, text in stale.items():
        print(f"{path.relative_to(ROOT)}: {'out of date' if check else 'written'}")
        if not check:
            path.write_text(text, encoding="utf-8")
    if check and stale:
        print("run python tools/generate.py")
    return int(check and bool(stale))


def _differs(path: Path, text: str) -> bool:
    return not path.exists() or path.read_text(encoding="utf-8") != text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
