"""The live view of a run: one picture for the terminal of `hhchat train` and for the app.

Rich renderables, which both can show. Its height is bounded, so that a run never scrolls away:
what matters least goes first where there is little room. Texts of models are made harmless here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hhchat.plots_text import Piece, scatter, sparkline
from hhchat.progress import Watch, clock_time
from hhchat.scales import fit, running_mean
from hhchat.text import one_line, printable

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

STYLES = {"axis": "dim", "line": "yellow", "early": "cyan", "late": "bold cyan", "last": "bold red"}
BAR = 28  # columns of the bar
NARROW = 40  # columns under which replies are left out
WIDE = 60  # columns from which readings and plot stand side by side
READINGS = (24, 42)  # columns of the readings where they do, at least and at most
PLOT = (8, 16)  # lines of the plot, at least and at most
PLOT_WIDE = 38  # columns of the plot before the readings get more than the least
PAST = (6, 20)  # columns of a reading's past, at least and at most
SMOOTH = 9  # updates a point of the loss is the mean of
SAMPLE_LINES = 3  # of each reply, at most


def view(watch: Watch, width: int, height: int) -> Group:
    """The run as it stands, in at most `height` lines (10 or more) of `width` columns."""
    from rich.console import Group

    rows: list[Any] = []
    if watch.run is not None or watch.stage.name:
        rows += [*_head(watch, width), ""]
    words = watch.lines[-max(1, height // 6) :]
    room = height - len(rows) - len(words) - 1
    column = _column(width)
    readings = _readings(watch, column, room)
    kept = readings.row_count  # lines that replies leave to what says more
    if column < width:
        kept = max(kept, PLOT[0])
    elif kept + PLOT[0] <= room:
        kept += PLOT[0]
    lines = min(SAMPLE_LINES, room - kept - 4)
    samples = _samples(watch, width, room - kept, lines)
    room -= 3 + len(samples) * (lines + 1) if samples else 0
    rows += _middle(watch, readings, width, room)
    if samples:
        head = f"before{'':{_half(width) - 5}}now, after update {watch.sampled + 1}"
        rows += ["", _text(head, "dim italic"), *samples, ""]
    rows += [_text(one_line(line, max(20, width - 1)), "dim") for line in words]
    return Group(*rows)


def _text(text: str, style: str = "", *, wrap: bool = False) -> Text:
    from rich.text import Text

    return Text(text, style=style, overflow="fold" if wrap else "ellipsis", no_wrap=not wrap)


def _head(watch: Watch, width: int) -> list[Any]:
    """The stages of the run, and the bar of the one at hand."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    now, stage = watch.clock(), watch.stage
    took = dict(watch.passed)
    chain = _text("")
    names = list(watch.run.stages) if watch.run is not None else [stage.name]
    for name in [*names, "gate"]:
        at_hand = name == ("gate" if watch.measured else stage.name)
        done = name in took or (name == "gate" and watch.verdict)
        sign = "✓" if done else "●" if at_hand else "○"
        style = "green" if done else "bold cyan" if at_hand else "dim"
        said = clock_time(took[name]) if name in took else watch.verdict if done else ""
        lead = "  →  " if chain.plain else ""
        chain.append(lead, "dim").append(f"{sign} {one_line(name, 24)}", style)
        chain.append(f" {said}" if said else "", "dim")
    for name, label in (("pm_accuracy", "held out"), ("pm_cross_accuracy", "crossed")):
        if name in watch.tested:
            lead = "" if "PM accuracy" in chain.plain else "   │  PM accuracy"
            chain.append(lead, "dim").append(f" {watch.tested[name]:.0%}", "bold")
            chain.append(f" {label}", "dim")
    done_, total = watch.measured or (stage.share, 1.0)
    title = "measuring the candidate" if watch.measured else one_line(stage.name, 24)
    where = f"{done_:.0f}/{total:.0f}" if watch.measured else stage.place()
    times = clock_time(now - (watch.measuring if watch.measured else stage.began))
    left = watch.left(now)
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        _text(title, "bold"),
        ProgressBar(
            total=total,
            completed=done_,
            width=max(8, min(BAR, width - 48)),
            complete_style="cyan",
            finished_style="green",
        ),
        _text(f"{where}  {times}" + (f", {clock_time(left)} left" if left is not None else "")),
    )
    return [chain, bar] if title else [chain]


def _column(width: int) -> int:
    """Columns of the readings: all of them where the plot does not stand beside."""
    least, most = READINGS
    return min(most, max(least, width - 4 - PLOT_WIDE)) if width >= WIDE else width


def _readings(watch: Watch, width: int, most: int) -> Any:
    """The stage's readings, with their past where there is room."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    room = min(PAST[1], width - READINGS[0] + 2)
    for name, label, value in watch.stage.parts()[: max(1, most)]:
        row = [_text(label, "dim"), _text(value, "bold")]
        if room >= PAST[0]:
            row.append(_text(sparkline(watch.stage.past(name), room), "cyan"))
        table.add_row(*row)
    return table


def _middle(watch: Watch, readings: Any, width: int, room: int) -> list[Any]:
    """Readings and plot: side by side where there is room, else one above the other."""
    from rich.table import Table

    column = _column(width)
    if column < width:
        plot = _plot(watch, min(width - column - 4, 72), max(0, min(PLOT[1], room)))
        if not plot or not readings.row_count:
            return [plot or readings]
        both = Table.grid(padding=(0, 2))
        both.add_column(width=column)
        both.add_row(readings, plot)
        return [both]
    plot = _plot(watch, width - 1, min(PLOT[1], room - readings.row_count))
    return [readings, plot] if plot else [readings]


def _plot(watch: Watch, width: int, height: int) -> Text | None:
    """Reward against the square root of KL; while there is neither, the loss by update."""
    points, up, along = watch.stage.root_kl(), "score", "√KL"
    line = fit(points)
    if not points:
        loss = sorted(watch.stage.history.get("loss", {}).items())
        points = running_mean([(float(step), value) for step, value in loss], SMOOTH)
        up, along = f"loss, mean of {SMOOTH} updates", "update"
    if len(points) < 3 or height < PLOT[0]:
        return None
    if line is not None:
        up += f"   slope {line.slope:+.2f} per √nat"
        fits = f", R² {line.r2:.2f}"
        up += fits if len(up + fits) <= width else ""
    drawn = _text("")
    for pieces in scatter(points, width, height, up, along, line):
        drawn.append("\n" if drawn.plain else "")
        _append(drawn, pieces)
    return drawn if drawn.plain else None


def _append(drawn: Text, pieces: Sequence[Piece]) -> None:
    for text, kind in pieces:
        drawn.append(text, STYLES[kind])


def _half(width: int) -> int:
    return (width - 3) // 2


def _samples(watch: Watch, width: int, room: int, lines: int) -> list[Any]:
    """Replies before and now of `lines` lines, as many as fit."""
    from rich.console import Group
    from rich.table import Table

    if width < NARROW or lines < 1:
        return []
    found: list[Any] = []
    for sample in watch.samples[: (room - 3) // (lines + 1)]:
        both = Table.grid(padding=(0, 1))
        both.add_column(width=_half(width))
        both.add_column(width=_half(width))
        both.add_row(_reply(sample.before, width, lines, "dim"), _reply(sample.after, width, lines))
        found.append(Group(_text(f"❯ {one_line(sample.prompt, width - 3)}", "bold"), both))
    return found


def _reply(reply: str, width: int, most: int, style: str = "") -> Text:
    """A reply in `most` lines at most of half the width."""
    from rich.console import Console
    from rich.text import Text

    half = _half(width)
    text = _text(_flat(reply, most * (half - 4)), style, wrap=True)
    lines = text.wrap(Console(width=half), half, overflow="fold")  # wide characters count twice
    return Text("\n").join(lines[:most])


def _flat(text: str, width: int) -> str:
    """A reply on one line to be wrapped: its own line ends would let it push the rest away."""
    return one_line(" ⏎ ".join(line for line in printable(text).split("\n") if line.strip()), width)
