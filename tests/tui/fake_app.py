"""The real app on a scripted engine, for looking at it and for tests in a pseudo-terminal.

python tests/tui/fake_app.py DATABASE [--slow] [--hostile] [--fail] [--load SECONDS]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from fake_engine import FakeEngine
from hostile import HOSTILE

from hhchat.tui import run
from hhchat.types import Draw, HhchatError

REPLIES = (
    "Of course! Here is how to make **tea**:\n\n1. Boil fresh water.\n2. Warm the pot.\n"
    "3. One spoon of leaves per cup.\n4. Wait *four* minutes.\n\n"
    "Shall I suggest a tea for the evening?",
    "Boil water, add leaves, wait four minutes, pour.",
    "## Two ways\n\nA function:\n\n```python\ndef add(a, b):\n    return a + b\n```\n\n"
    "| way | speed |\n|---|---|\n| function | fine |\n| operator | fast |\n",
    "You could write `a + b`. There is nothing more to it, and no function is needed. "
    "> Simple things should be simple.\n\nWide characters: 日本語のテキスト, emoji 🎉.",
)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("database", type=Path)
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--hostile", action="store_true")
    parser.add_argument("--fail", action="store_true")
    parser.add_argument("--load", type=float, default=0.0)
    parser.add_argument("--resume")
    parser.add_argument("--mode", default="helpful")
    options = parser.parse_args()
    replies = HOSTILE if options.hostile else REPLIES

    def script(draw: Draw, call: int) -> str:
        return replies[call % len(replies)]

    def factory() -> FakeEngine:
        time.sleep(options.load)
        if options.fail:
            raise HhchatError("no such model")
        return FakeEngine(
            script, chunk=4 if options.slow else 400, pause=0.04 if options.slow else 0.0
        )

    return run(options.database, factory, mode=options.mode, resume=options.resume)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except HhchatError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
