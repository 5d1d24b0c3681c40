"""The ``guardrun`` command."""

from __future__ import annotations

import sys

from guardrun.cli import main

if __name__ == "__main__":
    sys.exit(main())
