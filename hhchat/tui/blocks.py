"""Cutting Markdown that is still growing into pieces, so that only the last is drawn again.

A list or an open fence is one block to every Markdown renderer, and a streamed reply would have
it drawn again for every token. The pieces here are stable: once text has moved past a cut, the
pieces before it never change, and their lines can be kept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PIECE_CHARS = 600  # a paragraph break is a cut when the piece is at least this long
PIECE_LINES = 24  # a list item or a line of code is a cut after this many lines

_FENCE = re.compile(r"^( {0,3})(`{3,}|~{3,})([^`]*)$")
_ITEM = re.compile(r"^([-*+]|\d{1,9}[.)])\s")


@dataclass(frozen=True)
class Piece:
    """Markdown that can be drawn by itself, and how many empty lines come before it."""

    text: str
    gap: int


def pieces(text: str) -> list[Piece]:
    """`text` in stable pieces; drawn one below the other they look like the whole."""
    done: list[Piece] = []
    lines: list[str] = []
    size, gap = 0, 0
    fence = ""  # the line that opened the fence we are in

    def cut(next_gap: int) -> None:
        nonlocal size, gap
        while lines and not lines[-1].strip() and not fence:
            lines.pop()
        if lines:
            done.append(Piece("\n".join(lines), gap))
            gap = next_gap
        lines.clear()
        size = 0

    for line in text.split("\n"):
        mark = _FENCE.match(line)
        if fence:
            closing = _closes(line, fence)
            if not closing and len(lines) > PIECE_LINES:
                lines.append(_closer(fence))
                cut(0)
                lines.append(fence)
            elif closing:
                fence = ""
        else:
            blank_before = bool(lines) and not lines[-1].strip()
            item = _ITEM.match(line) is not None
            starts = bool(line) and not line[0].isspace()
            in_list = bool(lines) and _ITEM.match(lines[0]) is not None
            if starts and blank_before and not item and (size > PIECE_CHARS or in_list):
                cut(1)
            elif item and in_list and len(lines) > PIECE_LINES:
                cut(0)
            if mark:
                fence = line
        lines.append(line)
        size += len(line) + 1
    while lines and not lines[-1].strip():
        lines.pop()
    if lines:
        done.append(Piece("\n".join(lines), gap))
    return done


def code_blocks(text: str) -> list[str]:
    """The contents of the fenced code blocks, an unclosed last one included."""
    found: list[str] = []
    fence, lines = "", list[str]()
    for line in text.split("\n"):
        if fence:
            if _closes(line, fence):
                found.append("\n".join(lines))
                fence = ""
            else:
                lines.append(line)
        elif _FENCE.match(line):
            fence, lines = line, []
    if fence:
        found.append("\n".join(lines))
    return found


def _closes(line: str, fence: str) -> bool:
    return re.match(rf"^ {{0,3}}{re.escape(_closer(fence))}+\s*$", line) is not None


def _closer(fence: str) -> str:
    match = _FENCE.match(fence)
    assert match is not None
    return match[2]
