"""`python -m hhchat`: the same as the `hhchat` command."""

from __future__ import annotations

import sys

from hhchat.cli import main

if __name__ == "__main__":
    sys.exit(main())
