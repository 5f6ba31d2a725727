"""One training in a process of its own, to be killed: `python driver.py '{"fakeppo": {...}}'`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from pipeline_fakes import FakeBackend, config, plugins

from hhchat import pipeline
from hhchat.pipeline import Event
from hhchat.store import Store
from hhchat.types import HhchatError


def show(event: Event) -> None:
    name = event.metric.name if event.metric else ""
    print(event.kind, event.stage, name or event.text, flush=True)


def main() -> int:
    tables, resume = json.loads(sys.argv[1]), "--resume" in sys.argv
    with Store() as store:
        try:
            run = pipeline.train(
                store,
                config(**tables),
                plugins(),
                resume=resume,
                on_event=show,
                backend=FakeBackend(),
            )
        except HhchatError as error:
            print(f"refused: {error}", flush=True)
            return 1
    print(json.dumps([run.id, run.state, run.reason]), flush=True)
    return pipeline.EXIT_CODES[run.state]


if __name__ == "__main__":
    sys.exit(main())
