"""The ``guardrun`` command."""

from __future__ import annotations

import gc
import sys

gc.set_threshold(50_000)  # a start makes many objects and no garbage: looking for it takes 2 ms

from guardrun.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
