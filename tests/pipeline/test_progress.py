"""Whoever waits for a training wants to know whether it goes well, and when it will be over."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hhchat.pipeline import Event
from hhchat.progress import PLAIN_EVERY, Progress, clock_time, scatter, sparkline
from hhchat.types import Metric, Run

RUN = Run("01R", "running", ("pm", "ppo"), 0, "starter@1", "2026-01-01")


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def metric(stage: str, step: int, **values: float) -> list[Event]:
    return [Event("metric", stage, metric=Metric(stage, step, n, v)) for n, v in values.items()]


def play(live: bool, *, seconds: float = 1.0, total: int = 20) -> tuple[str, Progress]:
    """A whole run, a second an update."""
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, clock, live, width=100)
    events = [Event("run", run=RUN, total=2), Event("stage", "ppo", done=1, total=2)]
    for step in range(total):
        share = (step + 1) / total
        events += metric("ppo", step, score=step / 10, kl=step / 4, length=30.0, progress=share)
    for event in events:
        if event.kind == "metric" and event.metric and event.metric.name == "score":
            clock.now += seconds
        progress(event)
    return stream.getvalue(), progress


def test_plain_lines_say_where_it_is_and_when_it_ends_and_never_flood_a_log() -> None:
    text, progress = play(live=False)
    lines = text.splitlines()
    assert lines[0] == "run 01R: pm, ppo"
    assert lines[1] == "ppo: stage 2 of 2"
    middle = lines[4]
    assert "/20" in middle
    assert "score +" in middle
    assert "KL " in middle
    assert middle.endswith("left")
    assert len(lines) <= 2 + 20 / PLAIN_EVERY + 1
    assert "\x1b" not in text
    assert progress.stage.left(20.0) == pytest.approx(0)


def test_the_end_of_a_stage_is_always_told_even_when_it_was_short() -> None:
    stream = io.StringIO()
    progress = Progress(stream, Clock(), live=False)
    progress(Event("stage", "pm", done=0, total=2))
    for event in metric("pm", 0, loss=0.61234, accuracy=0.7):
        progress(event)
    progress(Event("stage", "ppo", done=1, total=2))
    assert "pm 1  loss 0.612  accuracy 70%  took 0:00" in stream.getvalue()


def test_the_live_view_shows_the_stage_the_readings_and_the_plot() -> None:
    text, progress = play(live=True)
    progress.close()
    assert "\x1b" in text
    from rich.console import Console

    screen = io.StringIO()
    progress = play(live=False)[1]
    Console(file=screen, width=100).print(progress.render())
    shown = screen.getvalue()
    for words in ("ppo", "20/20", "score", "+1.90", "KL", "4.75", "√KL", "★"):
        assert words in shown


def test_a_resumed_run_does_not_boast_of_the_time_it_did_not_need() -> None:
    clock = Clock()
    progress = Progress(io.StringIO(), clock, live=False)
    progress(Event("stage", "ppo", done=1, total=2))
    for step in range(80, 90):
        for event in metric("ppo", step, score=0.0, progress=(step + 1) / 100):
            progress(event)
        clock.now += 1
    assert progress.stage.left(clock.now - 1) == pytest.approx(10)


def test_nothing_a_model_or_plugin_says_reaches_the_terminal_raw() -> None:
    for live in (False, True):
        stream = io.StringIO()
        progress = Progress(stream, Clock(), live, width=80)
        progress(Event("stage", "p\x1b]0;owned\x07m", done=0, total=1))
        progress(Event("line", "pm", text="hello \x1b[2J\x1b[31m[red]world[/red] \x9b1A"))
        progress.close()
        text = stream.getvalue()
        assert "\x1b[2J" not in text
        assert "\x1b]0" not in text
        assert "\x9b" not in text
        assert "[red]world[/red]" in text


def test_measuring_is_counted_and_the_verdict_is_told() -> None:
    stream = io.StringIO()
    progress = Progress(stream, Clock(), live=False)
    progress(Event("evaluate", "gate", done=32, total=64))
    progress(Event("evaluate", "gate", done=64, total=64))
    progress(Event("verdict", text="the policy drifted", done=0))
    lines = stream.getvalue().splitlines()
    assert lines[-2:] == ["measuring the candidate: 64/64 replies", "the gate refuses it"]


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=60))
def test_no_reading_whatever_breaks_the_view(values: list[float]) -> None:
    assert len(sparkline(values)) <= 24
    points = [(v, -v) for v in values]
    drawn = scatter(points, 20, 5, "score", "√KL")
    if any(math.isfinite(v) for v in values):
        assert len(drawn.splitlines()) == 7
    progress = Progress(io.StringIO(), Clock(), live=False)
    progress(Event("stage", "ppo", done=0, total=1))
    for step, value in enumerate(values):
        for event in metric("ppo", step, kl=value, score=value, progress=value, updates=value):
            progress(event)
    progress.render()
    progress.close()


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (61, "1:01"), (3725, "1:02:05"), (-3, "0:00")]
)
def test_times_are_readable(seconds: float, shown: str) -> None:
    assert clock_time(seconds) == shown
