"""Replies as lines of cells: the same whether they came at once or piece by piece."""

from __future__ import annotations

import pytest
from hostile import HOSTILE
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from hhchat.tui import markdown
from hhchat.tui.blocks import code_blocks, pieces
from hhchat.tui.markdown import SHOWN, Palette, lines

PALETTE = Palette("#ffaa00", "#0088ff", "#888888", "#ffcc88", "#222222", "one-dark")
CONSOLE = Console(width=60, force_terminal=True, color_system="truecolor")

LIST = "\n".join(f"- item **{i}** with `code`" for i in range(80))
CODE = "```python\n" + "\n".join(f"x{i} = {i}" for i in range(80)) + "\n```"
TABLE = "| a | b |\n|---|---|\n| 1 | 2 |"
MIXED = f"# Title\n\nA paragraph.\n\n{LIST}\n\nBetween.\n\n{CODE}\n\n{TABLE}\n\nEnd."


def drawn(text: str, width: int = 60) -> list[str]:
    return [strip.text.rstrip() for strip in lines(text, width, CONSOLE, PALETTE)]


def test_every_kind_of_block_is_drawn_and_nothing_of_it_is_lost() -> None:
    text = "\n".join(drawn(MIXED))
    for words in ("Title", "A paragraph.", "item 79 with code", "Between.", "x79 = 79", "End."):
        assert words in text
    assert "```" not in text
    assert "**" not in text


def test_a_long_list_or_code_block_has_no_seams() -> None:
    items = drawn(LIST)
    assert len(items) == 80
    assert all(line.strip().startswith("•") for line in items)
    code = drawn(CODE)
    assert len(code) == 80
    numbered = drawn("\n".join(f"{i}. step" for i in range(1, 61)))
    assert [int(line.split()[0]) for line in numbered] == list(range(1, 61))


@pytest.mark.parametrize("text", [LIST, CODE, MIXED, "word " * 400])
def test_what_was_read_does_not_move_while_a_reply_grows(text: str) -> None:
    before: list[str] = []
    for end in range(0, len(text), 37):
        now = drawn(text[:end])
        # all but the block being written stays where it is
        stable = max(0, len(before) - 30)
        assert now[:stable] == before[:stable]
        before = now


def test_a_piece_never_changes_once_another_follows() -> None:
    text = MIXED * 3
    known: list[object] = []
    for end in range(0, len(text), 11):
        now = pieces(text[:end])
        assert now[: len(known)] == known
        known = list(now[:-2])


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_drawn_without_a_character_that_acts(text: str) -> None:
    for strip in lines(text, 40, CONSOLE, PALETTE):
        assert strip.text.isprintable() or not set(strip.text) & set(map(chr, range(32)))
        assert "\x1b" not in strip.text
        assert "\u202e" not in strip.text
        assert all(s.style is None or s.style.link is None for s in strip)
        assert all(s.style is None or not s.style.meta for s in strip)


@given(st.text(st.sampled_from("ab*_`~#->|[]()!&;\\\n \t1.<x\x1b\u202e"), max_size=120))
@settings(max_examples=150, deadline=None)
def test_no_text_can_break_the_drawing(text: str) -> None:
    for strip in lines(text, 30, CONSOLE, PALETTE):
        assert strip.cell_length == 30
        assert "\x1b" not in strip.text


def test_lines_end_where_they_were_ended() -> None:
    text = "first line\nsecond line\n\n- an item\nwith a line of its own"
    assert [line.strip() for line in drawn(text)] == [
        "first line", "second line", "", "• an item", "with a line of its own"
    ]  # fmt: skip


def test_links_are_text() -> None:
    text = "\n".join(drawn("[bank](http://evil.example)"))
    assert "bank" in text
    assert "evil.example" in text


def test_wide_characters_fill_the_cells_they_take() -> None:
    for strip in lines("日本語のテキスト" * 20, 31, CONSOLE, PALETTE):
        assert strip.cell_length == 31


def test_a_megabyte_is_cut_on_screen_with_a_word_about_it() -> None:
    text = drawn("x" * 1_000_000)
    assert f"{1_000_000 - SHOWN:,} more characters" in text[-1]


def test_code_blocks_are_found_even_unclosed() -> None:
    assert code_blocks("a\n```py\none\n```\nb\n~~~\ntwo\n~~~\n```\nthree") == [
        "one",
        "two",
        "three",
    ]


def test_a_growing_reply_costs_its_last_piece_and_not_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn_chars = 0
    real = markdown._markdown

    def counted(text: str, colours: Palette) -> object:
        nonlocal drawn_chars
        drawn_chars += len(text)
        return real(text, colours)

    monkeypatch.setattr(markdown, "_markdown", counted)
    monkeypatch.setattr(markdown, "_kept", {})
    long = "\n".join(f"- item **{i}** with `code`" for i in range(600))
    updates = range(0, len(long), 200)
    for end in updates:
        lines(long[:end], 60, CONSOLE, PALETTE)
    assert drawn_chars < 1500 * len(updates)  # the whole each time would be ten times as much
