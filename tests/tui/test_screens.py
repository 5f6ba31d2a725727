"""Help, conversations, palette, mouse: every way about the app."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine
from textual.widgets import OptionList

from hhchat import paths
from hhchat.config import load_config
from hhchat.tui.conversations import Conversations
from hhchat.tui.dialogs import Ask
from hhchat.tui.help import Help
from hhchat.tui.keys import KEYS, Stage, bindings, hints, live
from hhchat.types import Generation

Desk = Callable[..., Any]


async def chatted(d: Any, *texts: str) -> None:
    for text in texts:
        await d.send(text)
        await d.press("left")
        await d.stage(Stage.READY)


def test_every_key_of_the_map_is_bound_and_every_stage_has_its_hints() -> None:
    bound = {b.key for b in bindings()}
    for key in KEYS:
        if key.action not in ("send", "newline", "command_palette"):
            assert set(key.keys.split(",")) <= bound, key
    for stage in Stage:
        assert {"help", "quit"} <= {key.action for key in hints(stage)}
    assert not live("tie", Stage.READY)


async def test_the_question_mark_opens_the_whole_map(desk: Desk) -> None:
    async with desk(size=(100, 50)) as d:
        await d.press("question_mark")
        assert isinstance(d.app.screen, Help)
        text = d.screen_text()
        assert "both bad" in text.lower() or "Neither will do" in text
        await d.press("escape")
        assert d.app.screen is d.chat
        await d.press("x", "question_mark")
        assert d.chat.composer.text == "x?"
        await d.press("f1")
        assert isinstance(d.app.screen, Help)


async def test_a_newcomer_is_told_that_the_starter_is_a_toy(desk: Desk) -> None:
    for size in ((60, 18), (80, 24), (120, 40)):
        async with desk(size=size) as d:
            d.chat.log_view.scroll_home(animate=False)
            text = " ".join(d.screen_text().split())
            assert "Say something." in text
            if size[1] > 18:
                assert "a toy" in text
                assert "hhchat chat --model PATH_OR_HUB_ID" in text


async def test_what_the_keys_do_is_on_screen_in_every_size(desk: Desk) -> None:
    for size in ((60, 18), (80, 24), (120, 40)):
        async with desk(size=size) as d:
            await d.press("ctrl+n")
            await d.send("hello")
            text = d.screen_text()
            for words in (
                "left",
                "right",
                "how much",
                "tie",
                "both bad",
                "skip",
                "write own",
                "help",
            ):
                assert words in text, (size, words)


async def test_a_conversation_is_found_opened_renamed_and_deleted(desk: Desk) -> None:
    async with desk() as d:
        await chatted(d, "the colour of the sea")
        await d.press("ctrl+n")
        assert d.chat.session.conversation is None
        await chatted(d, "bread and butter")
        await d.press("ctrl+o")
        await d.type("colour")
        await d.until(lambda: len(d.app.screen._found) == 1)
        await d.press("enter")
        await d.until(lambda: d.app.screen is d.chat)
        assert d.chat.session.messages[0].content == "the colour of the sea"
        assert "the colour of the sea" in d.screen_text()

        await d.press("ctrl+o")
        await d.type("bread")
        await d.press("ctrl+t")
        await d.type(" (renamed)")
        await d.press("enter")
        await d.until(lambda: isinstance(d.app.screen, Conversations))
        assert any("(renamed)" in c.title for c in d.store.conversations())

        await d.press("ctrl+d", "n")
        assert len(d.store.conversations()) == 2
        await d.press("ctrl+d", "y")
        await d.until(lambda: len(d.store.conversations()) == 1)
        assert d.rows("SELECT id FROM turn WHERE user LIKE '%bread%'") == []


async def test_what_was_deleted_is_overwritten_while_the_chat_goes_on(desk: Desk) -> None:
    async with desk() as d:
        await chatted(d, "xyzzyplugh forever")
        report = paths.runs() / "01" / "report.json"
        report.parent.mkdir(parents=True)
        report.write_text('{"rows": [{"prompt": "xyzzyplugh forever", "score": 1}]}')
        await d.press("ctrl+o", "ctrl+d", "y")
        await d.until(lambda: d.app.purger is not None and not d.app.purger.is_alive())
        assert not d.store.purge_due
        folder = d.store.path.parent
        files = [f for f in (*folder.rglob("*"), report) if f.is_file()]
        assert report in files
        assert not [f for f in files if b"xyzzyplugh" in f.read_bytes()]


async def test_a_deletion_that_was_never_finished_is_when_the_app_opens_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hhchat.tui.app.PURGE_AFTER", 0.05)
    async with desk() as d:
        conversation, _ = d.store.start_conversation("xyzzyplugh")
        d.store.delete_conversation(conversation.id, purge=False)
    async with desk() as d:
        await d.until(lambda: d.app.purger is not None and not d.app.purger.is_alive())
        assert not d.store.purge_due


async def test_deleting_the_open_conversation_leaves_an_empty_one(desk: Desk) -> None:
    async with desk() as d:
        await chatted(d, "secret")
        await d.press("ctrl+o", "ctrl+d", "y")
        await d.until(lambda: d.store.conversations() == [])
        await d.press("escape")
        await d.until(lambda: d.chat.session.conversation is None)
        assert "secret" not in d.screen_text()


@pytest.mark.parametrize("kind", ["md", "json"])
async def test_a_conversation_is_exported_and_no_file_is_replaced(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    async with desk() as d:
        await chatted(d, "export me")
        for _ in range(2):
            await d.press("ctrl+o", "ctrl+x")
            await d.press(*(["down"] if kind == "json" else []), "enter")
            await d.press("enter")
            await d.until(lambda: isinstance(d.app.screen, Conversations))
            await d.press("escape")
        [path] = tmp_path.glob(f"hhchat-*.{kind}")
        text = path.read_text(encoding="utf-8")
        assert "export me" in text
        if kind == "json":
            assert len(json.loads(text)["comparisons"]) == 1


async def test_a_branch_leaves_from_an_earlier_turn(desk: Desk) -> None:
    async with desk() as d:
        await chatted(d, "one", "two")
        d.chat.action_branch()
        await d.pilot.pause()
        await d.press("enter")
        await d.type("another two")
        await d.press("enter")
        await d.stage(Stage.CHOOSING)
        assert [t.user for t in d.chat.session.history()] == ["one", "another two"]


async def test_another_mode_is_another_conversation(desk: Desk) -> None:
    async with desk() as d:
        await chatted(d, "hello")
        d.chat.action_mode()
        await d.pilot.pause()
        await d.press("down", "enter")
        await d.until(lambda: d.chat.session.mode == "redteam-best")
        await d.send("hm")
        assert "Which reply would you rather have received?" in d.screen_text()
        assert [c.mode for c in d.store.conversations()] == ["redteam-best", "helpful"]


class Kind:
    name = "kind"
    question = "Which reply is kinder? [/INST]"

    def score(self, exchanges: object) -> list[float]:
        return []


async def test_a_plugins_question_heads_the_chat(desk: Desk) -> None:
    async with desk(objectives=[Kind()], mode="kind") as d:
        await d.send("hello")
        assert "Which reply is kinder? [/INST]" in d.screen_text()


async def test_it_works_with_the_mouse(desk: Desk) -> None:
    async with desk() as d:
        await d.send("hello")
        scale = d.chat.pair_view.scale
        row = "".join(strip.text for strip in scale.render_lines(scale.size.region))
        await d.pilot.click("#scale", offset=(row.index(" 7 ") + 1, 0))
        await d.stage(Stage.READY)
        assert d.rows("SELECT position FROM comparison") == [{"position": 7}]
        bar = d.chat.hint_bar
        row = bar.render_lines(bar.size.region)[0].text
        x = row.index("undo pick") + bar.styles.padding.left
        await d.pilot.click("#hints", offset=(x + 2, 0))
        await d.stage(Stage.CHOOSING)


async def click_words(d: Any, words: str) -> None:
    """Click where these words stand on the screen."""
    for y, line in enumerate(d.screen_text().split("\n")):
        if words in line:
            from rich.cells import cell_len

            await d.pilot.click(offset=(cell_len(line[: line.index(words)]) + 1, y))
            await d.pilot.pause()
            return
    raise AssertionError(f"{words!r} is not on the screen:\n{d.screen_text()}")


async def test_a_double_click_on_a_reply_picks_it(desk: Desk) -> None:
    async with desk() as d:
        await d.send("hello")
        await d.pilot.click("#pane-right", times=2)
        await d.stage(Stage.READY)
        assert d.outcomes() == ["right"]


async def test_every_line_of_the_map_can_be_clicked(desk: Desk) -> None:
    async with desk(size=(110, 50)) as d:
        await d.send("hello")
        await d.press("question_mark")
        await click_words(d, "Give one reply the whole width")
        assert d.app.screen is d.chat
        assert d.chat.pair_view.has_class("-zoom-left")
        await d.press("question_mark")
        await click_words(d, "Add a comment")
        await d.type("said with the mouse")
        await click_words(d, "keeps it")
        await d.press("question_mark")
        await click_words(d, "Send your message")  # not now: nothing to send
        assert d.chat.stage is Stage.CHOOSING
        await d.press("question_mark")
        await click_words(d, "closes")
        await click_words(d, "tie")
        await d.stage(Stage.READY)
        assert d.rows("SELECT outcome, comment FROM comparison") == [
            {"outcome": "tie", "comment": "said with the mouse"}
        ]


async def test_a_conversation_is_handled_with_the_mouse_alone(desk: Desk) -> None:
    async with desk() as d:
        await chatted(d, "hello")
        await click_words(d, "chats")
        await click_words(d, "rename")
        await d.type(" renamed")
        await click_words(d, "keeps it")
        assert d.store.conversations()[0].title == "hello renamed"
        await click_words(d, "delete")
        await click_words(d, "no")
        assert len(d.store.conversations()) == 1
        await click_words(d, "export")
        await click_words(d, "leaves")
        await click_words(d, " open")
        assert d.app.screen is d.chat
        await click_words(d, "chats")
        await click_words(d, "delete")
        await click_words(d, "yes")
        assert d.store.conversations() == []


@pytest.mark.parametrize("stage", [Stage.READY, Stage.CHOOSING])
async def test_every_key_on_screen_can_be_clicked(
    desk: Desk, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk(size=(140, 40)) as d:
        await chatted(d, "hello")  # so that there is something to undo, edit and ask again
        if stage is Stage.CHOOSING:
            await d.send("again")
        heard: list[tuple[str, tuple[object, ...]]] = []
        wanted = []
        for key in hints(stage):
            name, _, argument = key.action.partition("(")
            if name in ("scale", "quit") or not d.chat.possible(name):
                continue  # a click could not say which number; the scale itself has them
            monkeypatch.setattr(
                d.chat,
                f"action_{name}",
                lambda *given, name=name: heard.append((name, given)),
            )
            await click_words(d, f" {key.cap}  {key.label}")
            wanted.append((name, (argument.strip("')"),) if argument else ()))
        assert heard == wanted
        assert len(wanted) >= 8


async def test_a_message_is_written_and_sent_with_the_mouse(desk: Desk) -> None:
    async with desk(size=(140, 40)) as d:
        await d.type("two")
        await click_words(d, "new line")
        await d.type("lines")
        await click_words(d, " enter  send")
        await d.stage(Stage.CHOOSING)
        assert d.chat.session.turn.user == "two\nlines"


async def test_zoom_gives_one_reply_the_whole_width(desk: Desk) -> None:
    async with desk(size=(80, 24)) as d:
        await d.send("hello")
        left, right = d.chat.pair_view.left, d.chat.pair_view.right
        await d.press("z")
        assert left.display
        assert not right.display
        await d.press("z")
        assert right.display
        assert not left.display
        await d.press("z")
        assert left.display
        assert right.display


async def test_a_long_history_opens_at_its_end_and_the_rest_on_demand(desk: Desk) -> None:
    async with desk() as d:
        conversation, turn = d.store.start_conversation("message number 0")
        for i in range(1, 60):
            [kept] = d.store.keep_generations(turn.id, [Generation(text=f"reply number {i}")])
            d.store.set_reply(turn.id, kept.id)
            turn = d.store.add_turn(conversation.id, f"message number {i}")
        d.chat.session.resume(conversation.id)
        await d.chat.show_conversation()
        await d.stage(Stage.CHOOSING)
        assert len(d.chat.log_view.query(".said")) == 20
        assert "message number 59" in d.screen_text()
        d.chat.log_view.query_one(".earlier").post_message(
            type(d.chat.log_view.query_one(".earlier")).Wanted()
        )
        await d.until(lambda: len(d.chat.log_view.query(".said")) == 60)


async def test_an_old_conversation_is_found_by_going_down_the_list(desk: Desk) -> None:
    async with desk() as d:
        for i in range(120):
            d.store.start_conversation(f"number {i}")
        await d.press("ctrl+o")
        await d.until(lambda: isinstance(d.app.screen, Conversations))
        options = d.app.screen.query_one(OptionList)
        assert options.option_count == 50
        await d.press("tab", "end", "end", "end")
        assert options.option_count == 120
        assert d.app.screen.current.title == "number 0"
        await d.press("shift+tab")
        await d.type("number")
        await d.until(lambda: options.option_count == 50)
        options.scroll_end(animate=False)  # as the wheel does: the cursor stays
        await d.until(lambda: options.option_count > 50)
        assert options.highlighted == 0
        options.scroll_end(animate=False)
        await d.until(lambda: options.option_count == 120)
        titles = {conversation.title for conversation in d.app.screen._found}
        assert titles == {f"number {i}" for i in range(120)}


@pytest.mark.parametrize("size", [(80, 24), (60, 18)])
async def test_a_long_error_never_hides_what_to_do_about_it(
    desk: Desk, size: tuple[int, int]
) -> None:
    words = "the server at http://127.0.0.1:8080/v1 failed (500): " + "internal error; " * 15
    async with desk(FakeEngine(fail=words.strip()), size=size) as d:
        await d.send("hello", Stage.FAILED)
        shown = " ".join(d.screen_text().split())
        assert "the server at http://127.0.0.1:8080/v1 failed (500)" in shown
        assert "your message is stored, r asks again" in shown


async def test_what_became_of_an_export_is_said_beside_the_keys_not_on_them(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "exported"
    folder.mkdir()
    monkeypatch.chdir(folder)
    async with desk(size=(60, 18)) as d:
        await chatted(d, "hello")
        await d.press("ctrl+o")
        for said in ("Wrote", "exists already"):
            await d.until(lambda: isinstance(d.app.screen, Conversations))
            await d.press("ctrl+x", "enter")
            await d.until(lambda: isinstance(d.app.screen, Ask))
            told = d.app.screen_stack[-2].query_one(".dialog-told")
            await d.press("enter")
            await d.until(partial(lambda told, said: said in str(told.render()), told, said))
            shown = " ".join(d.screen_text().split())
            for words in ("enter open", "ctrl+t rename", "ctrl+d delete", "esc leave"):
                assert words in shown


async def test_no_key_is_offered_for_the_chat_while_it_acts_on_the_text(desk: Desk) -> None:
    async with desk(size=(120, 40)) as d:
        await chatted(d, "hello")

        def offered() -> str:
            return str(d.chat.hint_bar.render())

        for words in ("ctrl+z  undo pick", "ctrl+e  edit last", "?  help"):
            assert words in offered()
        await d.press("a")
        assert d.chat.composer.text == "a"
        assert "undo pick" not in offered()
        assert "edit last" not in offered()
        assert "f1  help" in offered()
        await d.press("ctrl+z")  # the text's
        assert d.chat.composer.text == ""
        assert "ctrl+z  undo pick" in offered()
        await d.press("a", "f1")
        assert isinstance(d.app.screen, Help)
        await d.press("escape", "backspace", "ctrl+z")  # the chat's
        await d.stage(Stage.CHOOSING)


async def test_the_colours_that_were_chosen_are_there_at_the_next_start(
    desk: Desk, tmp_path: Path
) -> None:
    path = tmp_path / "config.toml"
    path.write_text("# mine\n[chat]\ntop_p = 0.5\n")
    async with desk(config=load_config(path, env={})) as d:
        assert d.app.theme == "hhchat-dark"
        await d.press("ctrl+p")
        await d.type("theme")
        await d.until(lambda: "Colours" in d.screen_text())
        await d.press("down", "enter")
        await d.until(lambda: "Search for themes" in d.screen_text())
        await d.type("hhchat-light")
        await d.until(lambda: "hhchat-dark" not in d.screen_text())
        await d.press("down", "enter")
        await d.until(lambda: d.app.theme == "hhchat-light")
    assert path.read_text() == '# mine\n[chat]\ntop_p = 0.5\ntheme = "hhchat-light"\n'
    async with desk(config=load_config(path, env={})) as d:
        assert d.app.theme == "hhchat-light"


@pytest.mark.parametrize("theme", ["hhchat-light", "hhchat-dark", "ansi-dark"])
async def test_every_theme_draws_replies(desk: Desk, theme: str) -> None:
    async with desk() as d:
        d.app.theme = theme
        await d.send("hello")
        assert "Reply 0" in d.screen_text()


async def test_without_colour_the_words_carry_the_meaning(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with desk() as d:
        await d.send("hello")
        text = d.screen_text()
        for words in ("← left", "right →", "your pick", "left by far"):
            assert words in text
        await d.press("left")
        await d.stage(Stage.READY)
        assert "✓ saved" in d.screen_text()
        assert "picked left" in d.screen_text()


async def test_tiny_terminals_do_not_crash_it(desk: Desk) -> None:
    for size in ((40, 10), (20, 5), (10, 2)):
        async with desk(size=size) as d:
            await d.press("ctrl+n")
            await d.send("hello")
            await d.press("left")
            await d.stage(Stage.READY)
