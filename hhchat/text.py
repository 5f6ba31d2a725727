"""Text made safe to put on a terminal. Standard library only; the CLI and the app both use it.

Model text, imported text and pasted text may hold escape sequences, direction overrides and
invisible characters. Terminals obey some of them, so none may reach one: each is shown as a
visible escape instead. Always give `printable()` the whole text so far, never one chunk, since
a sequence may be split over two chunks.
"""

from __future__ import annotations

import re

# How many invisible joiners or combining marks in a row are still ordinary writing. Emoji
# families and Indic scripts need one or two joiners; stacked accents rarely pass four.
JOINER_RUN = 2
MARK_RUN = 6

# C0 except newline and tab, DEL, C1; line and paragraph separators; direction controls;
# surrogates (they cannot be encoded); tag characters and variation selectors that can carry
# hidden text; fillers that draw nothing; interlinear annotation.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb"
    "\ud800-\udfff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_JOINERS = re.compile("[\u200c\u200d\ufe00-\ufe0f]{" + str(JOINER_RUN + 1) + ",}")
_MARKS = re.compile(
    "[\u0300-\u034e\u0350-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff"
    "\ufe20-\ufe2f]{" + str(MARK_RUN + 1) + ",}"
)


def printable(text: str) -> str:
    """`text` with everything a terminal could obey, or hide, shown as a visible escape.

    Newlines and tabs stay; CRLF becomes a newline. Doing it twice changes nothing more.
    """
    if text.isascii() and text.isprintable():
        return text
    text = text.replace("\r\n", "\n")
    text = _UNSAFE.sub(_escape, text)
    if text.isascii():
        return text
    text = _JOINERS.sub(lambda run: f"{_name(run[0][0])}×{len(run[0])}", text)
    return _MARKS.sub(
        lambda run: f"{run[0][:MARK_RUN]}{_name(run[0][MARK_RUN])}×{len(run[0]) - MARK_RUN}", text
    )


def one_line(text: str, width: int = 80) -> str:
    """`text` on one line, safe to print, cut to about `width` characters with an ellipsis."""
    line = " ".join(printable(text[: width * 20]).split())
    return line if len(line) <= width else line[: max(1, width - 1)].rstrip() + "…"


def _escape(match: re.Match[str]) -> str:
    return _name(match[0])


def _name(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
