"""The pictures of the documentation, from the real app on a scripted engine.

python tests/tui/pictures.py docs [EVENTS]

EVENTS is a real run, for the picture of a training: a line `[seconds, object]` for each object
that `hhchat train --json` printed.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from conftest import wait_until
from fake_engine import FakeEngine

from hhchat.config import Config, ModelConfig
from hhchat.events import from_record
from hhchat.store import Store
from hhchat.tui.app import ChatApp
from hhchat.tui.keys import Stage
from hhchat.tui.setup import Setup
from hhchat.types import Comparison, Generation, Message, Snapshot

SIZE = (110, 32)
SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")
SHOWN = 30  # updates of the run in the picture of a training
QUESTIONS = ("I would like to cook something simple. Any idea?", "How do I poach an egg?")
REPLIES = (
    "An egg on toast is hard to beat: five minutes, one pan, and you learn something you will "
    "use for years. Shall I show you how to poach one?",
    "You could cook pasta.",
    "**Use the freshest egg you have**, then:\n\n"
    "1. Bring a pan of water to a bare simmer, with no rolling boil.\n"
    "2. Crack the egg into a small cup.\n"
    "3. Stir the water once, and slide the egg into the middle.\n"
    "4. Leave it for *three minutes*, then lift it out with a slotted spoon.\n\n"
    "A spoon of vinegar in the water helps an older egg hold together.",
    "Poaching means cooking an egg without its shell in hot water. Boil water, add the egg, and "
    "wait until it is done.\n\n"
    "Many people like poached eggs with toast. They can also be eaten with vegetables or with "
    "sauce, for example hollandaise.",
)


def learned(store: Store) -> None:
    """A few weeks of picks between three versions, two trainings, and some second looks."""
    chance = random.Random(5)
    ids = ("base", "s-01K8ZQ", "s-01KB4M")
    strength = dict(zip(ids, (0.0, 0.45, 0.95), strict=True))
    for parent, name, right, gain in (("base", ids[1], 0.66, 0.31), (ids[1], ids[2], 0.71, 0.42)):
        run = store.start_run(["pm", "ppo"], 0, "b", {"comparisons": ["c"] * 180})
        measured = {
            "pm_accuracy": {
                "value": right, "low": right - 0.07, "high": right + 0.06, "n": 196, "unit": "",
            },
            "score_gain": {
                "value": gain, "low": gain - 0.2, "high": gain + 0.2, "n": 64, "unit": "sd",
            },
        }  # fmt: skip
        store.add_snapshot(
            Snapshot(name, name, run.id, parent, "b", info={"measurements": measured})
        )
        store.finish_run(run.id, "promoted", snapshot=name)
        store.promote(name, run=run.id)
    for n in range(230):
        a, b = chance.sample(ids, 2)
        first = chance.random() < 1 / (1 + 2.718 ** (strength[b] - strength[a]))
        replies = [Generation(text=f"{n} {name}", snapshot=name, base="b") for name in (a, b)]
        mode = "helpful" if n % 6 else "redteam-best"
        messages = (Message("user", f"question {n}"),)
        picked = 0 if first else 1
        tie = n % 12 == 5
        made = store.record(
            Comparison(
                messages, (replies[0], replies[1]), left=n % 2,
                picked=None if tie else picked,
                outcome="tie" if tie else ("left" if picked == n % 2 else "right"), mode=mode,
            )
        )  # fmt: skip
        if n % 7 == 0 and not tie:
            same = chance.random() < 0.8
            again = picked if same else 1 - picked
            store.record(
                replace(
                    made, id="", purpose="replay", left=1 - made.left, picked=again,
                    preferred=None, outcome="left" if again == 1 - made.left else "right",
                )
            )  # fmt: skip


async def picture(
    path: Path,
    drive: Callable[[ChatApp, Any], Awaitable[None]],
    prepare: Callable[[Store], None],
    size: tuple[int, int] = SIZE,
) -> None:
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "hhchat.db") as store:
        prepare(store)
        engine = FakeEngine(REPLIES, chunk=400)
        config = Config(model=ModelConfig(path="a-real-model"))
        setup = Setup(store.path, lambda: engine, config, rng=random.Random(4), train_command=SLEEP)
        app = ChatApp(setup, store)
        async with app.run_test(size=size) as pilot:
            await wait_until(pilot, lambda: app.chat is not None and app.chat.progress.known)
            await wait_until(pilot, lambda: app.chat.engine_state == "ready")
            app.chat.composer.cursor_blink = False
            await drive(app, pilot)
            path.write_text(app.export_screenshot(title="hhchat"), encoding="utf-8")


async def choosing(app: ChatApp, pilot: Any) -> None:
    assert app.chat is not None
    for i, question in enumerate(QUESTIONS):
        app.chat.composer.insert(question)
        await pilot.press("enter")
        await wait_until(pilot, lambda: app.chat.stage is Stage.CHOOSING)
        if i == 0:
            left = app.chat.session.pair.texts[app.chat.session.pair.index("left")]
            await pilot.press("left" if left == REPLIES[0] else "right")
            await wait_until(pilot, lambda: app.chat.stage is Stage.READY)


async def dashboard(app: ChatApp, pilot: Any) -> None:
    await pilot.press("ctrl+g")
    await wait_until(pilot, lambda: getattr(app.screen, "standing", None) is not None)
    await pilot.pause()


def training(events: Path) -> Callable[[ChatApp, Any], Awaitable[None]]:
    """The first updates of a run that took place, at its own pace."""

    async def drive(app: ChatApp, pilot: Any) -> None:
        await pilot.press("ctrl+t", "y")
        await pilot.pause()
        run = app.chat.training
        now = [0.0]
        run.watch.clock = lambda: now[0]
        for line in events.read_text(encoding="utf-8").splitlines():
            now[0], told = json.loads(line)
            event = from_record(told)
            if event is None:
                continue
            run.watch(event)
            if event.kind == "samples" and event.done >= SHOWN:
                break
        run.began -= now[0]
        app.screen.draw()
        await pilot.pause()
        run.cancel()

    return drive


def main(folder: Path, events: Path | None = None) -> None:
    asyncio.run(picture(folder / "chat.svg", choosing, lambda store: None))
    asyncio.run(picture(folder / "dashboard.svg", dashboard, learned))
    if events is not None:
        asyncio.run(picture(folder / "training.svg", training(events), learned, (110, 44)))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
