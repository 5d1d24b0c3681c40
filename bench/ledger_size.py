"""Only the ledgers with many runs: what a claim costs in them, and what each question."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # bench/ is a package beside guardrun's, and not installed with it
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench import launcher, ledger, machine, postgres, process, scene, table
from bench.scene import Scene


def main() -> int:
    given = _arguments()
    before = machine.load()
    with scene.directory(given.place) as name:
        server, missing = _server(Path(name).parent)
        process.adopt_orphans()
        try:
            here = Scene.lay(Path(name), str(Path(sys.executable).with_name("guardrun")))
            print(*machine.facts(here, before, missing), sep="\n", flush=True)
            sizes = (0, *given.runs)
            for section in ledger.measure(here, server, sizes, given.pairs, given.rounds):
                print("", table.text([section]), sep="\n", flush=True)
        finally:
            process.kill_all()
    return 0


def _server(place: Path) -> tuple[postgres.Server | None, list[str]]:
    """A Postgres, or what is missing; before orphans are adopted: who clears up after it is one."""
    try:
        return postgres.start(place), []
    except launcher.Missing as absent:
        return None, [f"Postgres ({absent})"]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/ledger_size.py", description=__doc__)
    parser.add_argument(
        "--runs", metavar="N", type=int, nargs="+", default=[1_000_000], help="sizes"
    )
    parser.add_argument("--pairs", metavar="N", type=int, default=200, help="claims, each")
    parser.add_argument("--rounds", metavar="N", type=int, default=7, help="of all questions")
    parser.add_argument("--place", metavar="DIR", help="where the ledgers are (default: a disk)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
