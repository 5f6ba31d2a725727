"""Whoever waits for a training wants to know whether it goes well, and when it will be over."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from hhchat.events import Event, as_record, from_record
from hhchat.liveview import view
from hhchat.plots_text import scatter, sparkline
from hhchat.progress import PLAIN_EVERY, Progress, Watch, clock_time
from hhchat.scales import fit
from hhchat.types import Metric, Run, SampleReport

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
    progress = Progress(clock, stream, live, width=100)
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
    progress = Progress(Clock(), stream, live=False)
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
    progress = Progress(clock, io.StringIO(), live=False)
    progress(Event("stage", "ppo", done=1, total=2))
    for step in range(80, 90):
        for event in metric("ppo", step, score=0.0, progress=(step + 1) / 100):
            progress(event)
        clock.now += 1
    assert progress.stage.left(clock.now - 1) == pytest.approx(10)


def test_nothing_a_model_or_plugin_says_reaches_the_terminal_raw() -> None:
    for live in (False, True):
        stream = io.StringIO()
        progress = Progress(Clock(), stream, live, width=80)
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
    progress = Progress(Clock(), stream, live=False)
    progress(Event("evaluate", "gate", done=32, total=64))
    progress(Event("evaluate", "gate", done=64, total=64))
    progress(Event("verdict", text="the policy drifted", done=0))
    lines = stream.getvalue().splitlines()
    assert lines[-2:] == ["measuring the candidate: 64/64 replies", "the gate refuses it"]


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=60))
def test_no_reading_whatever_breaks_the_view(values: list[float]) -> None:
    assert len(sparkline(values)) <= 24
    points = [(v, -v) for v in values]
    drawn = scatter(points, 40, 9, "score", "√KL", fit(points))
    assert all(len("".join(text for text, _ in line)) <= 40 for line in drawn)
    if any(abs(v) < 1e30 for v in values):
        assert len(drawn) == 9
    progress = Progress(Clock(), io.StringIO(), live=False)
    progress(Event("stage", "ppo", done=0, total=1))
    for step, value in enumerate(values):
        for event in metric("ppo", step, kl=value, score=value, progress=value, updates=value):
            progress(event)
    progress.render()
    progress.close()


def shown(watch: Watch, width: int, height: int) -> list[str]:
    from rich.console import Console

    screen = io.StringIO()
    Console(file=screen, width=width).print(view(watch, width, height))
    return [line.rstrip() for line in screen.getvalue().splitlines()]


def watched(now: float = 24.0) -> Watch:
    """A run in the middle of its second stage, with long replies to look at."""
    clock = Clock()
    watch = Watch(clock)
    watch(Event("run", run=RUN, total=2))
    watch(Event("stage", "pm", done=0, total=2))
    for event in metric("pm", 3, loss=0.5, pm_accuracy=0.76, pm_cross_accuracy=0.74):
        watch(event)
    clock.now = 10.0
    watch(Event("stage", "ppo", done=1, total=2))
    for step in range(12):
        clock.now += 1
        for event in metric(
            "ppo", step, kl=step / 4, score=(step / 4) ** 0.5, gauge_a=0.1, gauge_b=0.2,
            length=30.0, unfinished=0.0, distinct=1.0, progress=(step + 1) / 24,
        ):  # fmt: skip
            watch(event)
    long = "word 漢字漢字漢字漢字 " * 400 + "\n\n\n" * 40
    watch(Event("samples", "ppo", done=11, samples=(SampleReport("Ask?", long, "New!"),) * 2))
    for i in range(4):
        watch(Event("line", "ppo", text=f"line {i} {long}"))
    clock.now = now
    return watch


def test_the_view_says_where_the_run_is_what_it_knows_and_what_it_says_now() -> None:
    text = "\n".join(shown(watched(), 110, 44))
    for words in ("✓ pm 0:10", "● ppo", "○ gate", "76% held out", "74% crossed"):
        assert words in text
    assert "12/24" in text
    assert "0:14, 0:14 left" in text
    assert "slope +1.00 per √nat, R² 1.00" in text
    assert text.count("★") == 1
    assert "now, after update 12" in text
    assert "❯ Ask?" in text
    assert "New!" in text


@given(st.integers(20, 200), st.integers(10, 70))
def test_the_view_fits_every_terminal_and_never_scrolls_the_run_away(
    width: int, height: int
) -> None:
    lines = shown(watched(), width, height)
    assert all(cell_len(line) <= width for line in lines)
    assert "● ppo" in "\n".join(lines)
    assert len(lines) <= height


@pytest.mark.parametrize(
    ("width", "height", "replies"),
    [(80, 24, 1), (80, 30, 2), (84, 24, 1), (60, 20, 0), (73, 16, 0), (50, 30, 0)],
)
def test_a_small_terminal_shows_the_plot_before_it_shows_replies(
    width: int, height: int, replies: int
) -> None:
    watch = watched()
    for event in metric("ppo", 11, gap_smooth=0.1, loss=0.5, accuracy=0.6, tokens_per_second=900.0):
        watch(event)
    lines = shown(watch, width, height)
    text = "\n".join(lines)
    assert len(lines) <= height
    for words in ("distinct", "slope +1.00 per √nat", "★", "√KL"):
        assert words in text, text
    assert text.count("New!") == replies


def test_a_small_terminal_still_shows_a_reply_where_readings_are_few() -> None:
    text = "\n".join(shown(watched(), 60, 20))
    assert "★" in text
    assert text.count("New!") == 1


def test_the_plot_is_a_picture_of_its_points() -> None:
    drawn = scatter([(0.0, 0.0), (1.0, 1.0), (2.0, 2.0)], 30, 12, "up", "along")
    rows = ["".join(text for text, _ in line) for line in drawn][1:-2]
    found = {s: next((r, row.index(s)) for r, row in enumerate(rows) if s in row) for s in "·•★"}
    assert found["·"][0] > found["•"][0] > found["★"][0]
    assert found["·"][1] < found["•"][1] < found["★"][1]
    assert found["★"] == (0, max(len(row) for row in rows) - 1)
    line = scatter(
        [(0.0, 0.0), (1.0, 1.0), (2.0, 2.0)], 30, 12, "up", "along", fit([(0, 0), (1, 1), (2, 2)])
    )
    assert sum(kind == "line" for row in line for _, kind in row) > 5


def test_plain_output_shows_a_reply_now_and_then() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(clock, stream, live=False)
    for second in range(0, 100, 5):
        clock.now = float(second)
        sample = SampleReport("Ask \x1b[2J?", "old", f"new at {second}\nand on")
        progress(Event("samples", "ppo", done=second, samples=(sample, sample)))
    text = stream.getvalue()
    assert text.count("before: old") == 4
    assert "new at 0 and on" in text
    assert "ppo update 91: Ask \\x1b[2J?" in text
    assert "\x1b" not in text


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert Progress(Clock(), Terminal()).is_live
    monkeypatch.setenv("TERM", "dumb")
    assert not Progress(Clock(), Terminal()).is_live


@pytest.mark.parametrize(
    "event",
    [
        Event("stage", "ppo", done=1, total=2),
        Event("line", "pm", text="a word"),
        Event("metric", "ppo", metric=Metric("ppo", 3, "kl", 0.5)),
        Event("samples", "ppo", done=7, samples=(SampleReport("a", "b", "c"),)),
        Event("evaluate", "gate", done=32, total=64),
        Event("verdict", text="why", done=1),
        Event("verdict", text="why", done=0),
    ],
)
def test_whoever_reads_the_json_of_a_run_sees_what_happened(event: Event) -> None:
    assert from_record(as_record(event)) == event


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"event": "metric", "stage": "ppo"},
        {"event": "metric", "stage": "p", "step": float("inf"), "name": "n", "value": 1},
        {"event": "samples", "samples": [{"prompt": 1}]},
        {"event": "samples", "samples": 3},
        {"event": ["run"]},
        {"event": "run", "run": 4},
    ],
)
def test_a_line_that_was_cut_is_no_event(told: dict[str, object]) -> None:
    assert from_record(told) is None


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (61, "1:01"), (3725, "1:02:05"), (-3, "0:00")]
)
def test_times_are_readable(seconds: float, shown: str) -> None:
    assert clock_time(seconds) == shown
