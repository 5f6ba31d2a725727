"""The dashboard: how many picks, what they have taught, and how sure one can be of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Static

from hhchat.standing import Standing, Version, gather
from hhchat.stats import share, win_rate_of_elo
from hhchat.text import one_line, printable
from hhchat.tui import pump
from hhchat.tui.keyline import KeyLine
from hhchat.tui.plots import Row, bar, intervals, painted
from hhchat.types import HhchatError, Measurement

if TYPE_CHECKING:
    from hhchat.elo import Group
    from hhchat.protocols import Panel
    from hhchat.store import Store

VERSIONS = 8  # snapshots a plot shows, the latest
PANEL_LINES = 40
EXPLAIN = "ties, picks of the weakest strength and pairs that said the same teach nothing"


class Block(Static):
    """A titled block of plain lines, made again for every width."""

    def __init__(self, title: str, *, id: str | None = None) -> None:
        super().__init__("", id=id, classes="block", markup=False)
        self.border_title = Content(one_line(title, 60))


class Dashboard(Screen[str | None]):
    """Dismissed with "train" when that is wanted next."""

    BINDINGS = [
        Binding("escape,ctrl+g,q", "close", "back", show=False),
        Binding("t", "train", "train", show=False),
        Binding("r", "again", "refresh", show=False),
        Binding("up,k", "scroll(-3)", "up", show=False),
        Binding("down,j", "scroll(3)", "down", show=False),
        Binding("pageup", "scroll(-15)", "up", show=False),
        Binding("pagedown,space", "scroll(15)", "down", show=False),
    ]

    def __init__(self, store: Store, least: int, panels: Sequence[Panel] = ()) -> None:
        """`least` is `[train] min_comparisons`."""
        super().__init__()
        self._store, self._least, self._panels = store, least, panels
        self.standing: Standing | None = None
        self.picks = Block("Your picks", id="picks")
        self.agreement = Block("Does it know what you prefer?", id="agreement")
        self.versions = Block("Versions, ranked by your picks", id="versions")
        self.extra = [Block(getattr(p, "title", "") or p.name, id=None) for p in panels]

    def compose(self) -> ComposeResult:
        yield Static("Progress", id="dashboard-title", markup=False)
        with VerticalScroll(id="dashboard"):
            yield self.picks
            yield self.agreement
            yield self.versions
            yield from self.extra
        yield KeyLine(
            ("t", "train", "train"),
            ("r", "refresh", "again"),
            ("↑↓", "scroll", ""),
            ("esc", "back to the chat", "close"),
            id="dashboard-keys",
        )

    def on_mount(self) -> None:
        self.picks.update("counting …")
        self.action_again()

    def action_again(self) -> None:
        self._gather()

    @work(exclusive=True)
    async def _gather(self) -> None:
        """On this thread, which has the store's only connection, a page between two frames."""
        try:
            reading = gather(self._store, self._least)
            while True:
                try:
                    next(reading)
                except StopIteration as done:
                    self.standing = done.value
                    break
                await asyncio.sleep(0)
        except HhchatError as error:
            self.picks.update(Content(pump.reason(error)))
            return
        self.draw()

    def on_resize(self) -> None:
        self.call_after_refresh(self.draw)

    def draw(self) -> None:
        standing = self.standing
        if standing is None:
            return
        width = max(20, (self.picks.content_size.width or self.size.width - 8) - 1)
        for block, lines in (
            (self.picks, picks(standing, width)),
            (self.agreement, agreement(standing, width)),
            (self.versions, versions(standing, width)),
        ):
            block.update(painted(lines))
        for block, panel in zip(self.extra, self._panels, strict=True):
            block.update(Content("\n".join(panel_lines(panel, self._store))))

    def action_scroll(self, lines: int) -> None:
        self.query_one("#dashboard").scroll_relative(y=lines, animate=False)

    def action_train(self) -> None:
        self.dismiss("train")

    def action_close(self) -> None:
        self.dismiss(None)


def picks(standing: Standing, width: int) -> list[str]:
    """How many, of which kinds, and how many more are needed."""
    stats = standing.stats
    total = stats["comparisons"]
    lines = [f"{counted(total, 'comparison')}, {stats['usable']:,} of them can teach"]
    if total > stats["usable"]:
        lines[0] += f" ({EXPLAIN})" if width > 120 else ""
    kinds = {
        "ties": stats["ties"],
        "both bad": stats["both_bad"],
        "skipped": stats["skipped"],
        "taken back": stats["undone"],
        "barely better": stats["weakest"],
    }
    if said := "  ".join(f"{name} {n:,}" for name, n in kinds.items() if n):
        lines.append(said)
    modes = stats["by_mode"]
    longest = max((len(one_line(mode, 20)) for mode in modes), default=0)
    room = max(8, min(40, width - longest - 12))
    most = max(modes.values(), default=1)
    for mode, n in sorted(modes.items(), key=lambda item: -item[1]):
        filled = bar(n / most, room).rstrip("░")
        lines.append(f"{one_line(mode, 20):<{longest}}  {filled} {n:,}")
    for words, habit in (("left picked", "left"), ("the longer reply preferred", "longer")):
        if rate := stats[f"{habit}_rate"]:
            n = stats[f"{habit}_of"]
            told = share(habit, round(rate * n), n)
            lines.append(f"{words} {told.value:.0%}{_between(told, '{:.0%}')} of the time")
    lines.append("")
    done = standing.usable / standing.needed if standing.needed else 1.0
    filled = bar(done, max(12, min(48, width - 22)))
    lines.append(f"{filled} {standing.usable:,}/{standing.needed:,} to learn from")
    lines.append(
        f"{standing.missing:,} more for the next worthwhile training"
        if standing.missing
        else "enough for a worthwhile training: press t"
    )
    return lines


def agreement(standing: Standing, width: int) -> list[str]:
    """The preference models' accuracy beside the user's own consistency, from 50%, a coin's."""
    rows = [
        _share(_name(v), v.accuracy)
        for v in standing.versions[-VERSIONS:]
        if v.accuracy is not None
    ]
    if standing.consistency is not None:
        rows.append(_share("you again", standing.consistency))
    lines = intervals(rows, width, 0.5, "%")
    if not rows:
        lines = [
            "Nothing was trained yet. A training learns to predict your picks; how often it is",
            "right about picks that it has not seen is shown here.",
        ]
    elif standing.consistency is None:
        lines.append(
            "How often you agree with yourself is the most that can be learned: some old pairs are "
            "shown to you again, and there are none yet ([chat] replay)."
        )
    else:
        lines.append(
            "How often each is right about picks it has not seen, and how often you agreed with "
            "yourself (you again): the most that can be learned."
        )
    for version in [v for v in standing.versions if v.gain is not None][-1:]:
        gain = version.gain
        assert gain is not None
        lines.append(
            f"{_name(version)} scores {gain.value:+.2f}{_between(gain, '{:+.2f}')} {gain.unit} "
            "more than the assistant before it, says its preference model"
        )
    if standing.run is not None:
        run = standing.run
        lines.append(one_line(f"last training {run.created[:10]}: {run.state}", width))
        if run.state in ("refused", "failed") and run.reason:
            lines.append(one_line(run.reason, max(20, 3 * width)))
    return lines


def versions(standing: Standing, width: int) -> list[str]:
    """Elo of the snapshots from the user's own blind picks."""
    ranking = standing.ranking
    lines = [] if ranking.groups else list(_nothing_ranked(standing))
    for i, group in enumerate(ranking.groups):
        if i:
            lines += ["", "No game connects those above with these:"]
        lines += list(_group(group, standing.current, width))
    if not standing.whole:
        lines.append(f"from the latest {standing.read:,} comparisons")
    return lines


def _group(group: Group, current: str, width: int) -> Iterator[str]:
    rows = []
    for r in group.ratings:
        name = _short(r.player) + (" *" if r.player == current else "")
        if r.player == group.anchor:
            rows.append(Row(name, 0.0, words=f"   0 fixed, {counted(r.games, 'game')}"))
            continue
        words = f"{r.elo:+4.0f} beats it {win_rate_of_elo(r.elo):.0%}, {counted(r.games, 'game')}"
        rows.append(Row(name, r.elo, r.low, r.high, words))
    yield from intervals(rows, width, 0.0)
    played = {r.player for r in group.ratings}
    if current in played:
        yield "* the assistant that you talk to"
    if {current, "base"} <= played and current != "base":
        over = group.difference(current, "base")
        assert over.low is not None
        assert over.high is not None
        yield (
            f"It wins {win_rate_of_elo(over.value):.0%} ({win_rate_of_elo(over.low):.0%} to "
            f"{win_rate_of_elo(over.high):.0%}) of your picks against its start."
        )
    if group.regularised:
        yield "Someone only won or only lost: these numbers are a guess."
    if group.ordered:
        yield "Every step of this order is supported by the picks."
    elif not group.supported():
        yield "No order is supported yet: the intervals are too wide."
    else:
        better = "; ".join(f"{_short(a)} over {_short(b)}" for a, b in group.supported()[:4])
        yield f"Supported so far: {better}."


def _nothing_ranked(standing: Standing) -> Iterator[str]:
    yield f"You talk to {_short(standing.current)}."
    yield "No picks between two different versions yet. After a training, try the new version"
    yield "against the old one blind: it is offered then."


def panel_lines(panel: Panel, store: Store) -> list[str]:
    """What a plugin's panel says; one that fails says so, and the rest goes on."""
    try:
        lines = [printable(str(line)) for line in panel.lines(store)]
    except Exception as error:
        return [f"this panel failed: {pump.reason(error)}"]
    flat = [part for line in lines for part in line.split("\n")]
    return flat[:PANEL_LINES] or ["nothing yet"]


def counted(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def _share(label: str, m: Measurement) -> Row:
    words = f"{m.value:.0%}{_between(m, '{:.0%}')}" + (f" of {m.n}" if m.n else "")
    return Row(label, m.value, m.low, m.high, words)


def _between(m: Measurement, form: str) -> str:
    if m.low is None or m.high is None:
        return ""
    return f" ({form.format(m.low)} to {form.format(m.high)})"


def _name(version: Version) -> str:
    return _short(version.snapshot.id)


def _short(name: str) -> str:
    """As the chat names a snapshot after a pick: enough of its id for any command."""
    head, _, rest = one_line(name, 80).partition(" ")
    return f"{head[:12]} {rest}".strip()
