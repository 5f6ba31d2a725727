"""A training run to look at: a live view on a terminal, one line every few seconds elsewhere.

Give it every event of `pipeline.train`. It prints to stderr, so that stdout stays for results.
Everything it prints has gone through `printable()`: a run's texts come from models and plugins.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from hhchat.text import one_line, printable

if TYPE_CHECKING:
    from rich.console import Group

    from hhchat.pipeline import Event

# What a person wants to see, in this order: label and form. The rest is in `hhchat runs show`.
SHOWN: Mapping[str, tuple[str, str]] = {
    "score": ("score", "{:+.2f}"),
    "gauge": ("gauge", "{:+.2f}"),
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
PLAIN_EVERY = 3.0  # seconds between two plain lines
LINES_KEPT = 4
PLOT = (44, 8)  # columns and rows of the reward plot
BARS = "▁▂▃▄▅▆▇█"


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
    history: dict[str, list[float]] = field(default_factory=dict)
    updates: int | None = None

    def take(self, step: int, name: str, value: float, now: float) -> None:
        """A metric. Readings of a half's model stand in for the full one's while it is fitted."""
        name = name.partition("_half_")[0]
        self.step = max(self.step, step)
        self.values[name] = value
        self.history.setdefault(name, []).append(value)
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

    def place(self) -> str:
        if self.step < 0 or not self.updates:
            return f"{self.step + 1}" if self.step >= 0 else ""
        # Closing measurements are logged one step past the last update.
        return f"{min(self.step + 1, self.updates)}/{self.updates}"


@dataclass
class Progress:
    """Shows a run's events; call it with each one, and close it at the end."""

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.monotonic
    live: bool | None = None  # None: live when the stream is a terminal
    width: int | None = None

    def __post_init__(self) -> None:
        self.is_live = self.stream.isatty() if self.live is None else self.live
        self.stage = Reading(began=self.clock())
        self.lines: list[str] = []
        self.measured: tuple[int, int] | None = None
        self._printed = -math.inf
        self._view: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __call__(self, event: Event) -> None:
        now = self.clock()
        if event.kind == "metric" and event.metric is not None:
            self._metric(event, now)
        elif event.kind == "stage":
            self._finish_stage()
            self.stage = Reading(event.stage, event.done, event.total, began=now)
            self._say(f"{event.stage}: stage {event.done + 1} of {event.total}")
        elif event.kind == "evaluate":
            if self.measured is None:
                self._finish_stage()
            self.measured = (event.done, event.total)
            if not self.is_live and (event.done >= event.total or self._due(now)):
                self._plain(f"measuring the candidate: {event.done}/{event.total} replies")
        elif event.kind == "run" and event.run is not None:
            self._say(f"run {event.run.id}: {', '.join(event.run.stages)}")
        elif event.kind == "verdict":  # why is for the last line, which the command prints
            self._say("the gate promotes it" if event.done else "the gate refuses it")
        elif event.kind == "line" and event.text:
            self._say(f"{event.stage}: {event.text}" if event.stage else event.text)
        self._refresh()

    def close(self) -> None:
        """Leave the last state on the screen."""
        self._finish_stage()
        if self._view is not None:
            view, self._view = self._view, None
            view.update(self.render(), refresh=True)
            view.stop()
        self.stream.flush()

    def _metric(self, event: Event, now: float) -> None:
        metric = event.metric
        assert metric is not None
        if metric.stage != self.stage.name:  # the gate's readings belong to no stage
            return
        new_step = metric.step > self.stage.step >= 0
        if new_step and not self.is_live and self._due(now):
            self._plain(self.summary(now))
        self.stage.take(metric.step, metric.name, metric.value, now)

    def summary(self, now: float) -> str:
        """The stage in one line."""
        parts = [f"{label} {value}" for _, label, value in self.stage.parts()]
        left = self.stage.left(now)
        if left is not None:
            parts.append(f"{clock_time(left)} left")
        return "  ".join([f"{self.stage.name} {self.stage.place()}", *parts])

    # Plain lines ---------------------------------------------------------------------------

    def _due(self, now: float) -> bool:
        return now - self._printed >= PLAIN_EVERY

    def _plain(self, text: str) -> None:
        self._printed = self.clock()
        self.stream.write(f"{printable(text)}\n")
        self.stream.flush()

    def _say(self, text: str) -> None:
        if self.is_live:
            self.lines = [*self.lines, text][-LINES_KEPT:]
        else:
            self._plain(text)

    def _finish_stage(self) -> None:
        if self.stage.step >= 0 and self.stage.values:
            took = clock_time(self.clock() - self.stage.began)
            self.stage.first = None
            self._say(f"{self.summary(self.clock())}  took {took}")
            self.stage.values = {}

    # The live view -------------------------------------------------------------------------

    def _refresh(self) -> None:
        if not self.is_live:
            return
        if self._view is None:
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self.stream, width=self.width, force_terminal=True)
            self._view = Live(
                console=console, get_renderable=self.render, refresh_per_second=5, transient=False
            )
            self._view.start()

    def render(self) -> Group:
        """The view as it stands: a bar, the readings with their past, the plot, the last words."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        now, stage = self.clock(), self.stage
        rows: list[Any] = []
        done, total = self.measured or (stage.share, 1.0)
        title = "measuring the candidate" if self.measured else stage.name
        if title:
            bar = Table.grid(padding=(0, 1))
            left = stage.left(now)
            times = f"{clock_time(now - stage.began)}"
            if left is not None and not self.measured:
                times += f", {clock_time(left)} left"
            where = f"{done:.0f}/{total:.0f}" if self.measured else stage.place()
            bar.add_row(
                Text(printable(title), style="bold"),
                ProgressBar(total=total, completed=done, width=24),
                Text(f"{where}  {times}"),
            )
            rows.append(bar)
        if stage.values:
            table = Table.grid(padding=(0, 2))
            for name, label, value in stage.parts():
                past = sparkline(stage.history.get(name, []))
                table.add_row(Text(label, style="dim"), Text(value), Text(past, style="cyan"))
            rows.append(table)
            kl, score = stage.history.get("kl", []), stage.history.get("score", [])
            points = [(math.sqrt(k), s) for k, s in zip(kl, score, strict=False) if k >= 0]
            if len(points) > 2:
                rows.append(Text(scatter(points, *PLOT, "score", "√KL"), style="green"))
        rows.extend(Text(one_line(line, 500), style="dim") for line in self.lines)
        return Group(*rows)


def clock_time(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """The last values as little bars; what is not a number is a gap."""
    recent = list(values)[-width:]
    known = [v for v in recent if math.isfinite(v)]
    if len(known) < 2:
        return ""
    low, high = min(known), max(known)
    return "".join(BARS[cell(v, low, high, len(BARS))] if math.isfinite(v) else " " for v in recent)


def cell(value: float, low: float, high: float, cells: int) -> int:
    """Which of `cells` equal cells between low and high a value falls in."""
    # Halved first, so that a range from -1e308 to 1e308 does not overflow.
    share = (value / 2 - low / 2) / (high / 2 - low / 2) if high / 2 > low / 2 else 0.0
    return min(cells - 1, round(share * (cells - 1)))


def scatter(
    points: Sequence[tuple[float, float]], columns: int, rows: int, up: str, along: str
) -> str:
    """Points on a small grid of characters, the latest as a star, with its ranges."""
    known = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if not known:
        return ""
    xs, ys = [x for x, _ in known], [y for _, y in known]
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)
    grid = [[" "] * columns for _ in range(rows)]
    for number, (x, y) in enumerate(known):
        column, row = cell(x, left, right, columns), cell(y, low, high, rows)
        grid[rows - 1 - row][column] = "★" if number == len(known) - 1 else "•"
    body = [f"│{''.join(line).rstrip()}" for line in grid]
    head = f"{up} {low:+.2f} to {high:+.2f}"
    foot = f"└{'─' * columns} {along} {left:.2f} to {right:.2f}"
    return "\n".join([head, *body, foot])
