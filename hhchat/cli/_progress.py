"""A training run on a terminal: one line that is rewritten, or plain lines elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from hhchat.text import one_line, printable

if TYPE_CHECKING:
    from hhchat.pipeline import Event

# Readings a person wants to see, in this order, and how they are called on screen. Whatever else
# a trainer logs is in `hhchat runs show`.
SHOWN: Mapping[str, tuple[str, str]] = {
    "score": ("score", "{:+.2f}"),
    "pm_score": ("score", "{:+.2f}"),
    "reward": ("reward", "{:+.2f}"),
    "kl": ("KL", "{:.2f}"),
    "length": ("length", "{:.0f}"),
    "unfinished": ("unfinished", "{:.0%}"),
    "loss": ("loss", "{:.3f}"),
    "accuracy": ("accuracy", "{:.1%}"),
    "heldout_loss": ("held-out loss", "{:.3f}"),
    "heldout_accuracy": ("held-out accuracy", "{:.1%}"),
    "tokens_per_second": ("tokens/s", "{:.0f}"),
}
PLAIN_EVERY = 2.0  # seconds between two plain lines


@dataclass
class Progress:
    """Prints a run's events; call it with each one."""

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.monotonic
    live: bool | None = None

    def __post_init__(self) -> None:
        self.rewrites = self.stream.isatty() if self.live is None else self.live
        self._stage, self._step = "", -1
        self._values: dict[str, float] = {}
        self._began = self._printed = self.clock()
        self._from: float | None = None
        self._open = False  # a line that will be rewritten is on screen

    def __call__(self, event: Event) -> None:
        metric = event.metric
        if event.kind == "metric" and metric is not None:
            if (metric.stage, metric.step) != (self._stage, self._step):
                self._flush()
                self._values = {}
                if metric.stage != self._stage:
                    self._began, self._from = self.clock(), None
                self._stage, self._step = metric.stage, metric.step
            self._values[metric.name] = metric.value
            if self.rewrites and metric.name == "progress":
                self._rewrite()
            return
        if event.kind == "evaluate":
            self._evaluate(event)
            return
        self._flush(force=True)
        if event.kind == "stage":
            self._stage, self._step, self._values = event.stage, -1, {}
            self._began, self._from = self.clock(), None
            self._line(f"{event.stage}: stage {event.done + 1} of {event.total}")
        elif event.kind != "end" and event.text:
            self._line(f"{event.stage}: {event.text}" if event.stage else event.text)

    def _evaluate(self, event: Event) -> None:
        """Measuring the candidate: its own count, since it is no training step."""
        self._flush(force=True)
        if self.rewrites:
            self._put(f"{event.stage}: measuring {event.done}/{event.total}")
            if event.done >= event.total:
                self._end()
        elif event.done == 0 or event.done >= event.total:
            self._line(f"{event.stage}: measured {event.done}/{event.total}")

    def _describe(self) -> str:
        parts = []
        # The preference models of the two halves log under the same names with a suffix.
        values = {name.split("_half_")[0]: value for name, value in self._values.items()}
        for name, (label, form) in SHOWN.items():
            if name in values:
                parts.append(f"{label} {form.format(values[name])}")
        if not parts:
            parts = [f"{name} {value:.4g}" for name, value in list(self._values.items())[:6]]
        done = self._values.get("progress", 0.0)  # the share of the stage that is behind us
        where = f"{self._step + 1}"
        left = ""
        if 0 < done <= 1:
            where += f"/{round((self._step + 1) / done)}"
            if self._from is None:  # a resumed stage begins in its middle
                self._began, self._from = self.clock(), done
            elif done > self._from:
                spent = self.clock() - self._began
                left = f"  {_clock(spent / (done - self._from) * (1 - done))} left"
        return f"{self._stage} {where}  {'  '.join(parts)}{left}"

    def _flush(self, *, force: bool = False) -> None:
        """End the line of the step that is complete."""
        if not self._values:
            return
        if self.rewrites:
            if "progress" not in self._values:  # else it is on screen already
                self._rewrite()
            if force:
                self._end()
        elif force or self.clock() - self._printed >= PLAIN_EVERY:
            self._printed = self.clock()
            self._line(self._describe())
        if force:
            self._values = {}

    def _rewrite(self) -> None:
        self._put(self._describe())

    def _put(self, text: str) -> None:
        """Rewrite the line that is open."""
        width = max(20, shutil.get_terminal_size().columns - 1)
        self.stream.write(f"\r\x1b[2K{one_line(text, width)}")
        self.stream.flush()
        self._open = True

    def _end(self) -> None:
        if self._open:
            self.stream.write("\n")
            self._open = False

    def _line(self, text: str) -> None:
        self._end()
        self.stream.write(f"{printable(text)}\n")
        self.stream.flush()

    def close(self) -> None:
        self._flush(force=True)
        self._end()
        self.stream.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
