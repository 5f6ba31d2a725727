"""Progress: the dashboard's numbers, plots and panels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hhchat.plugins import Plugins
from hhchat.protocols import PanelData
from hhchat.standing import consistency, gather, needed
from hhchat.store import Store
from hhchat.tui.dashboard import Dashboard
from hhchat.tui.plots import Row, bar, intervals
from hhchat.types import Comparison, Generation, Message, Snapshot

Desk = Callable[..., Any]


def pick(store: Store, better: str, worse: str, n: int, **more: Any) -> Comparison:
    """One pick between two snapshots, numbered so that no two are alike."""
    replies = tuple(
        Generation(text=f"reply {n} by {name}", snapshot=name, base="b") for name in (better, worse)
    )
    messages = (Message("user", f"question {n}"),)
    return store.record(Comparison(messages, (replies[0], replies[1]), picked=0, **more))


def stand(store: Store, least: int = 20) -> Any:
    reading = gather(store, least)
    while True:
        try:
            next(reading)
        except StopIteration as done:
            return done.value


@pytest.fixture
def learned(home: Path) -> Path:
    """A store with picks between two versions, a training, and pairs that were shown again."""
    with Store(home) as store:
        run = store.start_run(["pm", "ppo"], 0, "b", {"comparisons": ["x"] * 40})
        measured = {
            "pm_accuracy": {"value": 0.7, "low": 0.6, "high": 0.78, "n": 90, "unit": ""},
            "score_gain": {"value": 0.4, "low": 0.2, "high": 0.6, "n": 64, "unit": "sd"},
        }
        store.add_snapshot(
            Snapshot("s-new", "s-new", run.id, "base", "b", info={"measurements": measured})
        )
        store.finish_run(run.id, "promoted", snapshot="s-new")
        store.promote("s-new", run=run.id)
        for n in range(40):
            pick(store, "s-new", "base", n)
        for n in range(40, 60):
            pick(store, "base", "s-new", n)
        for i, c in enumerate(list(store.comparisons(limit=4))):
            again = replace(c, id="", purpose="replay", left=1, outcome="right", preferred=None)
            if i == 0:  # the one that the user sees otherwise now
                again = replace(again, picked=1, outcome="left")
            store.record(again)
    return home


def test_what_was_learned_is_read_from_the_store(learned: Path) -> None:
    with Store(learned) as store:
        standing = stand(store)
        assert standing.current == "s-new"
        assert standing.consistency.value == 0.75
        assert standing.consistency.n == 4
        [group] = standing.ranking.groups
        assert group.games == 60  # pairs that were shown again rank nobody
        assert group.rating("s-new").wins == 40
        [version] = standing.versions
        assert version.accuracy.value == 0.7
        assert standing.needed == 50  # a quarter more than the 40 it has read
        assert standing.whole


def test_the_next_worthwhile_training(home: Path) -> None:
    with Store(home) as store:
        assert needed(store, 20) == 20
        failed = store.start_run(["pm"], 0, "b", {"comparisons": ["x"] * 400})
        store.finish_run(failed.id, "failed", reason="no")
        assert needed(store, 20) == 20
        refused = store.start_run(["pm"], 0, "b", {"comparisons": ["x"] * 100})
        store.finish_run(refused.id, "refused", reason="no")
        assert needed(store, 20) == 125


def test_consistency_needs_both_picks() -> None:
    assert consistency([]) is None


def test_bars_and_intervals_fit_and_say_where_things_are() -> None:
    assert bar(0.5, 10) == "█████░░░░░"
    assert bar(float("nan"), 4) == "░░░░"
    assert [len(bar(i / 97, 13)) for i in range(98)] == [13] * 98
    rows = [Row("one", 0.7, 0.6, 0.8, "70%"), Row("a long [red] name", 0.4, -9, 0.6, "40%")]
    for width in (30, 60, 200):
        lines = intervals(rows, width, 0.5, "%")
        assert all(len(line) <= width for line in lines)
    assert lines[0].index("├") < lines[0].index("●") < lines[0].index("┤")
    assert lines[0].index("┊") < lines[0].index("├")  # all of it above the mark
    assert "◂" in lines[1]  # an interval that leaves the axis
    assert intervals(rows, 20, 0.5) == ["one      70%", "a long … 40%"]
    assert intervals([], 80, 0.5) == []
    assert intervals([Row("one", 0.0, words="0")], 80, 0.0)  # a range of nothing


class Raising:
    name = "raising"
    title = "Breaks"

    def lines(self, data: PanelData) -> list[str]:
        raise RuntimeError("[/INST] no \x1b[31m")


class Telling:
    name = "telling"
    title = "Lengths [red]"

    def lines(self, data: PanelData) -> list[str]:
        return [f"metrics: {len(data.metrics())}", "[@click=app.quit]x[/]\x1b]52;c;eA==\x07"]


class Stranger:
    """A plugin with two panels."""

    @staticmethod
    def panels() -> list[Any]:
        return [Raising(), Telling()]


def with_panels(panels: Sequence[Any]) -> Plugins:
    plugins = Plugins()
    plugins._cache["register_panels"] = list(panels)
    return plugins


@pytest.mark.parametrize("size", [(60, 18), (100, 70)])
async def test_the_dashboard_shows_it_all(desk: Desk, learned: Path, size: tuple[int, int]) -> None:
    async with desk(size=size, plugins=with_panels(Stranger.panels())) as d:
        await d.press("ctrl+g")
        assert isinstance(d.app.screen, Dashboard)
        await d.until(lambda: d.app.screen.standing is not None)
        await d.pilot.pause()
        if size[1] > 20:
            text = d.screen_text()
            for words in (
                "64 comparisons, 60 of them can teach",
                "s-new  ",
                "70% (60% to 78%) of 90",
                "you again",
                "s-new *",
                "It wins 67%",
                "this panel failed: RuntimeError: [/INST] no",
                "Lengths [red]",
                "[@click=app.quit]x[/]",
            ):
                assert words in text, words
            assert "\x1b" not in text
        await d.press("down", "r", "escape")
        assert d.app.screen is d.chat


async def test_an_empty_dashboard_says_what_will_be_there(desk: Desk) -> None:
    async with desk(size=(100, 40)) as d:
        await d.press("ctrl+g")
        await d.until(lambda: d.app.screen.standing is not None)
        await d.pilot.pause()
        text = d.screen_text()
        assert "20 more for the next worthwhile training" in text
        assert "Nothing was trained yet" in text
        assert "No picks between two different versions yet" in text


async def test_too_few_games_support_no_order_and_the_screen_says_so(
    desk: Desk, home: Path
) -> None:
    with Store(home) as store:
        for n in range(6):
            pick(store, "s-new", "base", n)
        for n in range(6, 11):
            pick(store, "base", "s-new", n)
    async with desk(size=(100, 40)) as d:
        await d.press("ctrl+g")
        await d.until(lambda: d.app.screen.standing is not None)
        await d.pilot.pause()
        text = d.screen_text()
        assert "No order is supported yet: the intervals are too wide." in text
        assert "left picked 100% (74% to 100%) of the time" in text


async def test_a_killed_training_is_not_called_running(desk: Desk, home: Path) -> None:
    with Store(home) as store:
        store.start_run(["pm"], 0, "b")
    async with desk(size=(100, 40)) as d:
        await d.press("ctrl+g")
        await d.until(lambda: d.app.screen.standing is not None)
        await d.pilot.pause()
        assert ": interrupted" in d.screen_text()
        assert "running" not in d.screen_text()


async def test_the_progress_screen_works_with_the_mouse_and_by_its_keys(
    desk: Desk, learned: Path
) -> None:
    async with desk(size=(80, 20)) as d:
        await d.press("ctrl+g")
        await d.until(lambda: d.app.screen.standing is not None)
        scroll = d.app.screen.query_one("#dashboard")
        for down, up in (("down", "up"), ("pagedown", "pageup"), ("j", "k"), ("space", "pageup")):
            await d.press(down)
            await d.until(lambda: scroll.scroll_y > 0)
            await d.press(up, up)
            await d.until(lambda: scroll.scroll_y == 0)
        await d.press("r")
        await d.until(lambda: d.app.screen.standing is not None)
        line = d.app.screen.query_one("#dashboard-keys")
        words = line.render_lines(line.size.region)[0].text
        await d.pilot.click("#dashboard-keys", offset=(words.index("back") + 2, 0))
        assert d.app.screen is d.chat
        await d.press("ctrl+g", "t")
        await d.until(lambda: "Train the assistant now?" in d.screen_text())
