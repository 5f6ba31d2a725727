"""Training from the app: a process beside the chat, and the assistant that it makes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fake_engine import FakeEngine

from hhchat.config import Config, ModelConfig
from hhchat.tui.keys import Stage
from hhchat.tui.training import LOG, Training, TrainScreen, command

Desk = Callable[..., Any]

SAY = (sys.executable, "-c", "print('pm: stage 1 of 2'); print('\\x1b[31m[/INST]')")
PROMOTE = """
import sys
from pathlib import Path
from hhchat.store import Store
from hhchat.types import Snapshot
with Store(Path(sys.argv[1])) as store:
    store.add_snapshot(Snapshot("s-new", "s-new", None, "base", "fake-base"))
    store.promote("s-new")
print("run promoted")
"""
WAIT = """
import signal, sys, time
def stop(*_):
    print("sealed")
    sys.exit(130)
signal.signal(signal.SIGINT, stop)
print("waiting")
time.sleep(60)
"""


EVENTS = """
import sys
from hhchat.cli.train import _emit
from hhchat.events import Event
from hhchat.types import Metric, Run, SampleReport
run = Run("01RUN", "running", ("pm", "ppo"), 0, "base", "2026-01-01")
_emit(Event("run", run=run, total=2))
_emit(Event("stage", "pm", done=0, total=2))
_emit(Event("metric", "pm", metric=Metric("pm", 9, "pm_accuracy", 0.81)))
_emit(Event("stage", "ppo", done=1, total=2))
for step in range(12):
    for name, value in (("kl", step / 4), ("score", step / 9), ("progress", (step + 1) / 24)):
        _emit(Event("metric", "ppo", metric=Metric("ppo", step, name, value)))
hostile = "was \\x1b[31m[bold]this[/] \\u202e"
_emit(Event("samples", "ppo", done=11, samples=(SampleReport("Ask [red]?", hostile, "is that"),)))
_emit(Event("line", "ppo", text="a word of it"))
print('{"event": "metric", "stage": "ppo"')
print('{"event": "nonsense"}')
"""


async def start(d: Any) -> None:
    await d.press("ctrl+t")
    assert "Train the assistant now?" in d.screen_text()
    await d.press("y")
    await d.until(lambda: isinstance(d.app.screen, TrainScreen))


async def ended(d: Any) -> None:
    await d.until(lambda: d.chat.training is not None and not d.chat.training.running)


async def test_the_runs_words_are_shown_as_text(desk: Desk, home: Path) -> None:
    async with desk(train_command=SAY) as d:
        await start(d)
        await ended(d)
        await d.until(lambda: "[/INST]" in d.screen_text())
        text = d.screen_text()
        assert "pm: stage 1 of 2" in text
        assert "\x1b" not in text
        await d.press("escape")
        assert d.app.screen is d.chat
        await d.until(lambda: "The training has ended" in d.notice())
        assert home.with_name(LOG).stat().st_mode & 0o077 == 0


async def test_the_run_is_watched_as_it_goes(desk: Desk) -> None:
    words = (sys.executable, "-c", EVENTS)
    async with desk(train_command=words, size=(110, 44)) as d:
        await start(d)
        await ended(d)
        await d.until(lambda: "a word of it" in d.screen_text())
        text = d.screen_text()
        for shown in ("✓ pm", "● ppo", "12/24", "81% held out", "√KL", "★", "slope +"):
            assert shown in text, shown
        assert "now, after update 12" in text
        assert "❯ Ask [red]?" in text
        assert "was \\x1b[31m[bold]this[/] \\u202e" in text
        assert "is that" in text
        assert "\x1b" not in text
        assert '{"event": "nonsense"}' in text  # what is no event is words


async def test_a_small_terminal_still_shows_the_run_and_its_words(desk: Desk) -> None:
    words = (sys.executable, "-c", EVENTS)
    async with desk(train_command=words, size=(60, 20)) as d:
        await start(d)
        await ended(d)
        await d.until(lambda: "a word of it" in d.screen_text())
        assert "● ppo" in d.screen_text()
        assert "esc" in d.screen_text()


async def test_the_chat_goes_on_with_the_old_assistant_and_is_offered_the_new_one(
    desk: Desk, home: Path
) -> None:
    engine = FakeEngine()
    words = (sys.executable, "-c", PROMOTE, str(home))
    async with desk(engine, train_command=words) as d:
        await start(d)
        await d.press("escape")
        await ended(d)
        await d.until(lambda: d.chat.offered)
        assert "A better assistant is ready" in d.notice()
        await d.send("still the old one")
        assert {draw.snapshot for draw in engine.draws} == {"base"}
        await d.press("left")
        await d.stage(Stage.READY)
        await d.press("ctrl+t")
        assert "Use it from now on" in d.screen_text()
        await d.press("enter")
        await d.send("now the new one")
        assert {draw.snapshot for draw in engine.draws[2:]} == {"current"}
        assert not d.chat.offered


async def test_the_new_assistant_is_tried_blind(desk: Desk, home: Path) -> None:
    engine = FakeEngine()
    words = (sys.executable, "-c", PROMOTE, str(home))
    async with desk(engine, train_command=words) as d:
        await start(d)
        await d.press("escape")
        await d.until(lambda: d.chat.offered)
        await d.press("ctrl+t", "down", "enter")
        for text in ("one", "two", "three"):
            await d.send(text)
            assert {draw.snapshot for draw in engine.draws[-2:]} == {"current", "base"}
            await d.press("right")
            await d.stage(Stage.READY)


async def test_a_run_is_stopped_politely_and_leaving_asks_about_it(desk: Desk) -> None:
    async with desk(train_command=(sys.executable, "-c", WAIT)) as d:
        await start(d)
        await d.until(lambda: "waiting" in d.screen_text())
        await d.press("escape")
        await d.send("the chat goes on")
        await d.press("left")
        await d.stage(Stage.READY)
        await d.press("ctrl+q")
        assert "A training is running" in d.screen_text()
        await d.press("escape")
        assert d.chat.training.running
        await d.press("ctrl+t")
        assert isinstance(d.app.screen, TrainScreen)
        await d.press("c")
        await ended(d)
        await d.until(lambda: "it can be resumed" in d.screen_text())
        assert "sealed" in d.screen_text()
        await d.press("escape", "ctrl+q")
        await d.until(lambda: d.app._exit)


async def test_what_cannot_be_started_is_said(desk: Desk) -> None:
    async with desk(train_command=("/no/such/program",)) as d:
        await d.press("ctrl+t", "y")
        await d.until(lambda: "cannot start the training" in d.notice())
    async with desk(config=Config(model=ModelConfig(path="server:x/y"))) as d:
        await d.press("ctrl+t")
        assert "cannot be trained from here" in d.notice()


def test_the_command_is_the_models_own() -> None:
    words = command(Config(model=ModelConfig(path="some/model", device="cpu")))
    assert words[1:5] == ["-m", "hhchat", "train", "--json"]
    assert "some/model" in words


def test_a_failed_run_says_so(tmp_path: Path) -> None:
    training = Training([sys.executable, "-c", "print('why'); raise SystemExit(1)"], tmp_path, "")
    training._process.wait()
    while training.look():
        pass
    assert training.state().startswith("failed")
    assert training.last == "why"
