"""A training run to look at: what stands after each event, and words about it on a stream.

`Watch` keeps what a run has told; the live view (liveview.py) draws it on a terminal and in the
app. `Progress` is the watch of `hhchat train`: live on a terminal, one line every few seconds
elsewhere. It prints to stderr, so that stdout stays for results. Everything it prints has gone
through `printable()`: a run's texts come from models and plugins.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from hhchat.text import one_line, printable

if TYPE_CHECKING:
    from hhchat.events import Event
    from hhchat.scales import Point
    from hhchat.types import Run, SampleReport

# What a person wants to see, in this order: label and form. The rest is in `hhchat runs show`.
SHOWN: Mapping[str, tuple[str, str]] = {
    "score": ("score", "{:+.2f}"),
    "gauge_a": ("gauge a", "{:+.2f}"),
    "gauge_b": ("gauge b", "{:+.2f}"),
    "gap_smooth": ("gap", "{:+.2f}"),
    "kl": ("KL", "{:.2f}"),
    "length": ("length", "{:.0f}"),
    "unfinished": ("unfinished", "{:.0%}"),
    "distinct": ("distinct", "{:.0%}"),
    "loss": ("loss", "{:.3f}"),
    "accuracy": ("accuracy", "{:.0%}"),
    "heldout_loss": ("held-out loss", "{:.3f}"),
    "pm_accuracy": ("held-out accuracy", "{:.1%}"),
    "pm_cross_accuracy": ("cross accuracy", "{:.1%}"),
    "tokens_per_second": ("tokens/s", "{:.0f}"),
}
TESTED = ("pm_accuracy", "pm_cross_accuracy")  # of unseen picks; shown until the end of the run
PLAIN_EVERY = 3.0  # seconds between two plain lines
SAMPLES_EVERY = 30.0  # seconds between two plain samples
LINES_KEPT = 4


@dataclass
class Reading:
    """One stage as it stands."""

    name: str = ""
    index: int = 0
    of: int = 1
    step: int = -1
    share: float = 0.0
    began: float = 0.0
    first: tuple[float, float] | None = None  # (share, time) when this process first heard
    values: dict[str, float] = field(default_factory=dict)
    history: dict[str, dict[int, float]] = field(default_factory=dict)  # by update
    updates: int | None = None

    def take(self, step: int, name: str, value: float, now: float) -> None:
        """A metric. Readings of a half's model stand in for the full one's while it is fitted."""
        name = name.partition("_half_")[0]
        self.step = max(self.step, step)
        self.values[name] = value
        self.history.setdefault(name, {})[step] = value
        if name == "progress":
            self.share = min(1.0, max(0.0, value)) if math.isfinite(value) else self.share
            if self.updates is None and self.share > 1e-6:
                self.updates = round((step + 1) / self.share)
        elif name == "updates":
            self.updates = int(value) if math.isfinite(value) else None
        elif self.updates and "progress" not in self.values:
            self.share = min(1.0, (self.step + 1) / self.updates)
        if self.first is None and self.share > 0:
            self.first = (self.share, now)

    def left(self, now: float) -> float | None:
        """Seconds to go, by the pace since this process began: a resumed run was not faster."""
        if self.first is None or self.share <= self.first[0]:
            return None
        pace = (now - self.first[1]) / (self.share - self.first[0])
        return pace * (1 - self.share)

    def parts(self) -> list[tuple[str, str, str]]:
        """(name, label, value) of what is to be shown."""
        return [
            (name, label, form.format(self.values[name]))
            for name, (label, form) in SHOWN.items()
            if name in self.values
        ]

    def past(self, name: str) -> list[float]:
        """A reading's values in the order they came."""
        return list(self.history.get(name, {}).values())

    def root_kl(self) -> list[Point]:
        """(square root of KL, score) of each update that has both."""
        kl, score = self.history.get("kl", {}), self.history.get("score", {})
        # The estimate of a small KL can fall below 0, where there is no root; it means 0.
        return [(math.sqrt(max(0.0, kl[s])), v) for s, v in score.items() if s in kl]

    def place(self) -> str:
        if self.step < 0 or not self.updates:
            return f"{self.step + 1}" if self.step >= 0 else ""
        # Closing measurements are logged one step past the last update.
        return f"{min(self.step + 1, self.updates)}/{self.updates}"


@dataclass
class Watch:
    """What a run has told so far; give it every event. Prints nothing."""

    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.stage = Reading(began=self.clock())
        self.run: Run | None = None
        self.passed: list[tuple[str, float]] = []  # finished stages and their seconds
        self.tested: dict[str, float] = {}
        self.samples: tuple[SampleReport, ...] = ()
        self.sampled = 0  # the update that the samples are of
        self.lines: list[str] = []
        self.measured: tuple[int, int] | None = None
        self.measuring = 0.0  # when that began
        self.verdict = ""

    def __call__(self, event: Event) -> None:
        now = self.clock()
        if event.kind == "metric" and event.metric is not None:
            self._metric(event, now)
        elif event.kind == "stage":
            self._finish_stage()
            self.stage = Reading(event.stage, event.done, event.total, began=now)
            self._say(f"{event.stage}: stage {event.done + 1} of {event.total}")
        elif event.kind == "samples":
            self.samples, self.sampled = event.samples, event.done
        elif event.kind == "evaluate":
            if self.measured is None:
                self._finish_stage()
                self.measuring = now
            self.measured = (event.done, event.total)
        elif event.kind == "run" and event.run is not None:
            self.run = event.run
            self._say(f"run {event.run.id}: {', '.join(event.run.stages)}")
        elif event.kind == "verdict":  # why is for the last line, which the command prints
            self.verdict = "promoted" if event.done else "refused"
            self._say("the gate promotes it" if event.done else "the gate refuses it")
        elif event.kind == "line" and event.text:
            self._say(f"{event.stage}: {event.text}" if event.stage else event.text)

    def summary(self, now: float) -> str:
        """The stage in one line."""
        parts = [f"{label} {value}" for _, label, value in self.stage.parts()]
        left = self.stage.left(now)
        if left is not None:
            parts.append(f"{clock_time(left)} left")
        return "  ".join([f"{self.stage.name} {self.stage.place()}", *parts])

    def left(self, now: float) -> float | None:
        """Seconds to the end of the stage, or of the measuring."""
        if self.measured is None:
            return self.stage.left(now)
        done, total = self.measured
        return (now - self.measuring) * (total - done) / done if 0 < done < total else None

    def _metric(self, event: Event, now: float) -> None:
        metric = event.metric
        assert metric is not None
        if metric.stage != self.stage.name:  # the gate's readings belong to no stage
            return
        if metric.name in TESTED and math.isfinite(metric.value):
            self.tested[metric.name] = metric.value
        self.stage.take(metric.step, metric.name, metric.value, now)

    def _say(self, text: str) -> None:
        self.lines = [*self.lines, text][-LINES_KEPT:]

    def _finish_stage(self) -> None:
        if self.stage.step >= 0 and self.stage.values:
            took = self.clock() - self.stage.began
            self.passed.append((self.stage.name, took))
            self.stage.first = None
            self._say(f"{self.summary(self.clock())}  took {clock_time(took)}")
            self.stage.values = {}


@dataclass
class Progress(Watch):
    """Shows a run's events; call it with each one, and close it at the end."""

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    live: bool | None = None  # None: live when the stream is a terminal that can move its cursor
    width: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        able = os.environ.get("TERM") not in ("dumb", "unknown")
        self.is_live = self.stream.isatty() and able if self.live is None else self.live
        self._printed = self._sampled = -math.inf
        self._view: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        if self.is_live:
            self._refresh()
            return
        now = self.clock()
        if event.kind == "evaluate" and (event.done >= event.total or self._due(now)):
            self._plain(f"measuring the candidate: {event.done}/{event.total} replies")
        elif event.kind == "samples" and now - self._sampled >= SAMPLES_EVERY:
            self._sampled = now
            for sample in event.samples[:1]:
                self._plain(f"{event.stage} update {event.done + 1}: {one_line(sample.prompt, 90)}")
                self._plain(f"  before: {one_line(sample.before, 160)}")
                self._plain(f"  now:    {one_line(sample.after, 160)}")

    def close(self) -> None:
        """Leave the last state on the screen."""
        self._finish_stage()
        if self._view is not None:
            view, self._view = self._view, None
            view.update(self.render(), refresh=True)
            view.stop()
        self.stream.flush()

    def render(self) -> Any:
        """The view as it stands, as large as the terminal."""
        from hhchat.liveview import view

        console = None if self._view is None else self._view.console
        width = console.width if console is not None else self.width or 100
        return view(self, width, console.height if console is not None else 40)

    def _metric(self, event: Event, now: float) -> None:
        metric = event.metric
        assert metric is not None
        new_step = metric.stage == self.stage.name and metric.step > self.stage.step >= 0
        if new_step and not self.is_live and self._due(now):
            self._plain(self.summary(now))
        super()._metric(event, now)

    def _due(self, now: float) -> bool:
        return now - self._printed >= PLAIN_EVERY

    def _plain(self, text: str) -> None:
        self._printed = self.clock()
        self.stream.write(f"{printable(text)}\n")
        self.stream.flush()

    def _say(self, text: str) -> None:
        if self.is_live:
            super()._say(text)
        else:
            self._plain(text)

    def _refresh(self) -> None:
        if self._view is None:
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self.stream, width=self.width, force_terminal=True)
            self._view = Live(
                console=console, get_renderable=self.render, refresh_per_second=5, transient=False
            )
            self._view.start()


def clock_time(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
