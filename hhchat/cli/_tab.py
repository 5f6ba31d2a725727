"""The app of one browser tab, started by `hhchat serve`: `python -m hhchat.cli._tab SPEC`.

SPEC is JSON: the options of the chat, and the socket of the process that holds the model.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hhchat.cli import report_errors
from hhchat.cli.chat import open_app


def main(spec: str) -> int:
    told = json.loads(spec)
    shared = told["shared"]
    return open_app(
        told["model"],
        told["quantization"],
        told["device"],
        told["server"],
        None,
        told["resume"],
        browser=True,
        shared=None if shared is None else Path(shared),
    )


if __name__ == "__main__":
    sys.exit(report_errors(lambda: main(sys.argv[1])))
