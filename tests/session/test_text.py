"""Nothing a terminal obeys, or hides, comes out of printable()."""

from __future__ import annotations

import unicodedata

import pytest
from hostile import HOSTILE
from hypothesis import given
from hypothesis import strategies as st

from hhchat.text import JOINER_RUN, one_line, printable

BIDI = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
NASTY = st.sampled_from(
    "\x00\x07\x08\x0b\x1b\x7f\x80\x85\x90\x9b\x9d\x9c\r\n\t ab[]m;"
    "\u061c\u200e\u200f\u202a\u202e\u2066\u2069"
    "\u200b\u200c\u200d\u2028\ufeff\ufe0f\u0301\U000e0041\ud800字é"
)
TEXT = st.one_of(st.text(NASTY, max_size=60), st.text(st.characters(), max_size=60))


def obeyed(text: str) -> set[str]:
    """Characters that a terminal or a reader's eye would obey rather than show."""
    bad = {c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"}
    bad |= {c for c in text if c in BIDI or 0xE0000 <= ord(c) <= 0xE0FFF}
    return bad | {c for c in text if c in "\u2028\u2029\u200b\ufeff\u2060"}


@given(TEXT)
def test_no_character_that_acts_ever_reaches_the_screen(text: str) -> None:
    safe = printable(text)
    assert not obeyed(safe)
    safe.encode("utf-8")


@given(TEXT)
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    assert printable(printable(text)) == printable(text)


@given(TEXT, st.integers(0, 60))
def test_a_sequence_split_over_two_pieces_is_still_caught(text: str, at: int) -> None:
    assert not obeyed(printable(text[:at] + text[at:]))
    assert not obeyed(printable(text[:at]) + printable(text[at:]))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_replies_are_shown_and_not_obeyed(text: str) -> None:
    assert not obeyed(printable(text))


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "tabs\tand\nlines",
        "naïve café",
        "日本語",
        "👩‍👩‍👧 🏳️‍🌈 ❤️",
        "हिन्दी क्‍ष",
        "שלום",
        "مرحبا",
        "[/INST] [red]",
    ],
)
def test_ordinary_writing_is_left_alone(text: str) -> None:
    assert printable(text) == text


def test_what_was_hidden_is_shown() -> None:
    assert printable("\x1b[31m") == "\\x1b[31m"
    assert printable("a\u202eb") == "a\\u202eb"
    assert printable("\x9b") == "\\x9b"
    assert printable("a\r\nb") == "a\nb"
    assert "×100" in printable("\u200d" * 100)
    assert len(printable("\u200d" * 100_000)) < 40
    assert printable("\u200d" * JOINER_RUN) == "\u200d" * JOINER_RUN


@given(TEXT, st.integers(5, 80))
def test_one_line_is_one_safe_line(text: str, width: int) -> None:
    line = one_line(text, width)
    assert "\n" not in line
    assert len(line) <= width
    assert not obeyed(line)
