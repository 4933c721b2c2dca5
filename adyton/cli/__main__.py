"""`python -m adyton.cli`: the same as the `adyton` script."""

from __future__ import annotations

import sys

from adyton.cli import main

if __name__ == "__main__":
    sys.exit(main())
