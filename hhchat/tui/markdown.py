"""Markdown as lines of cells, through Rich: some fifty times cheaper than a widget a block.

Nothing in a reply is obeyed: control and direction characters are shown as escapes (also those
written as entities, which only appear after parsing), links are text, markup is text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.text import Text
from textual.color import Color
from textual.strip import Strip

from hhchat.text import printable
from hhchat.tui.blocks import Piece, pieces

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.markdown import Markdown
    from textual.app import App

SHOWN = 24_000  # characters of one reply that are drawn; the rest is kept and can be copied


@dataclass(frozen=True)
class Palette:
    """The colours of one theme that a reply is drawn with."""

    accent: str
    heading: str
    muted: str
    code: str
    code_ground: str
    code_theme: str


def palette(app: App[Any]) -> Palette:
    """The palette of the app's theme; its colours are plain, as Rich needs them."""
    variables = app.theme_variables
    dark = app.current_theme.dark
    ground = _color(variables.get("surface", ""), "#1e1e1e" if dark else "#ffffff")
    ink = _color(variables.get("foreground", ""), "#e0e0e0" if dark else "#202020")
    accent = _color(variables.get("accent", ""), "#ffa62b")
    heading = _color(variables.get("primary", ""), "#0178d4")
    return Palette(
        accent=ink.blend(accent, 0.75).hex6,
        heading=ink.blend(heading, 0.55).hex6,
        muted=ground.blend(ink, 0.62).hex6,
        code=ink.blend(accent, 0.5).hex6,
        code_ground=ground.blend(ink, 0.06).hex6,
        code_theme="one-dark" if dark else "friendly",
    )


def lines(text: str, width: int, console: Console, colours: Palette) -> list[Strip]:
    """`text` as Markdown in lines of `width` cells; whatever it holds, it is only drawn."""
    hidden = len(text) - SHOWN
    safe = printable(text[:SHOWN])
    strips: list[Strip] = []
    for piece in pieces(safe):
        strips.extend([Strip.blank(width)] * (piece.gap if strips else 0))
        strips.extend(_piece(piece, width, console, colours))
    if hidden > 0:
        note = Text(f"… {hidden:,} more characters, kept but not drawn", style="italic")
        strips.extend(_strips(note, width, console))
    return strips


def plain(text: str, width: int, console: Console) -> list[Strip]:
    """`text` as it is, wrapped."""
    return _strips(Text(printable(text[:SHOWN]), overflow="fold"), width, console)


_kept: dict[tuple[str, int, Palette], list[Strip]] = {}
_KEPT = 400  # pieces; a long conversation redraws its older ones when it is resized


def _piece(piece: Piece, width: int, console: Console, colours: Palette) -> list[Strip]:
    key = (piece.text, width, colours)
    if key not in _kept:
        if len(_kept) >= _KEPT:
            for old in list(_kept)[: _KEPT // 4]:
                del _kept[old]
        try:
            with console.use_theme(_theme(colours)):
                drawn = _strips(_markdown(piece.text, colours), width, console)
            _kept[key] = _trimmed(drawn)
        except Exception:
            # A renderer's bug on hostile text must not close the app: show the text itself.
            _kept[key] = plain(piece.text, width, console)
    return _kept[key]


def _strips(renderable: RenderableType, width: int, console: Console) -> list[Strip]:
    options = console.options.update(width=width, height=None, highlight=False)
    rows = console.render_lines(renderable, options, pad=True)
    return [Strip(row, cell_length=sum(cell_len(s.text) for s in row)) for row in rows]


def _trimmed(strips: list[Strip]) -> list[Strip]:
    """Without the empty lines that Rich puts around some blocks: the gaps are ours."""
    start, end = 0, len(strips)
    while start < end and _empty(strips[start]):
        start += 1
    while end > start and _empty(strips[end - 1]):
        end -= 1
    return strips[start:end]


def _empty(strip: Strip) -> bool:
    """Nothing to see: an empty line of code has a ground, and stays."""
    return not strip.text.strip() and not any(s.style and s.style.bgcolor for s in strip)


@lru_cache(maxsize=8)
def _theme(colours: Palette) -> Any:
    from rich.theme import Theme

    return Theme(
        {
            "markdown.h1": f"bold underline {colours.heading}",
            "markdown.h2": f"bold {colours.heading}",
            "markdown.h3": f"bold {colours.heading}",
            "markdown.h4": f"bold italic {colours.heading}",
            "markdown.h5": f"italic {colours.heading}",
            "markdown.h6": f"italic {colours.muted}",
            "markdown.code": f"{colours.code} on {colours.code_ground}",
            "markdown.code_block": colours.code,
            "markdown.block_quote": colours.muted,
            "markdown.hr": colours.muted,
            "markdown.item.bullet": f"bold {colours.accent}",
            "markdown.item.number": f"bold {colours.accent}",
            "markdown.list": "none",
            "markdown.link": colours.heading,
            "markdown.link_url": f"underline {colours.muted}",
            "markdown.table.border": colours.muted,
            "markdown.table.header": f"bold {colours.heading}",
        }
    )


def _markdown(text: str, colours: Palette) -> Markdown:
    # Imported late: Rich's Markdown brings a parser and Pygments, and first paint needs neither.
    from hhchat.tui.rich_markdown import ReplyMarkdown

    return ReplyMarkdown(text, colours.code_theme, colours.code_ground)


def _color(value: str, fallback: str) -> Color:
    try:
        colour = Color.parse(value)
    except Exception:  # ANSI themes hold names that are no colours
        colour = Color.parse(fallback)
    return colour if colour.ansi is None else Color.parse(fallback)
