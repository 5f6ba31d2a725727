"""Rich's Markdown with our headings, our code blocks, lines that break where they were broken, and
no character that is obeyed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from rich import box
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, MarkdownElement, TableElement
from rich.syntax import Syntax
from rich.table import Table

from hhchat.text import printable

if TYPE_CHECKING:
    from markdown_it.token import Token

CODE = 6_000  # characters of one code block that are coloured; a lexer can be slow on garbage


class LeftHeading(Heading):
    """A heading at the left: in a narrow pane a centred one looks lost."""

    LEVEL_ALIGN: ClassVar[dict[str, JustifyMethod]] = {}


class PlainCode(CodeBlock):
    """A code block on a quiet ground, without the empty lines above and below."""

    @classmethod
    def create(cls, markdown: Markdown, token: Token) -> PlainCode:
        lexer = (token.info or "").partition(" ")[0]
        block = cls(lexer or "text", markdown.code_theme)
        block.background = getattr(markdown, "ground", "default")
        return block

    def __init__(self, lexer_name: str, theme: str) -> None:
        super().__init__(lexer_name, theme)
        self.background = "default"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        code = str(self.text).rstrip("\n")
        lexer = self.lexer_name if len(code) <= CODE else "text"
        yield Syntax(
            code,
            lexer,
            theme=self.theme,
            word_wrap=True,
            padding=(0, 1),
            background_color=self.background,
        )


class PlainTable(TableElement):
    """A table with a line under its head and no frame."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            border_style="markdown.table.border",
        )
        if self.header is not None and self.header.row is not None:
            for cell in self.header.row.cells:
                heading = cell.content.copy()
                heading.stylize("markdown.table.header")
                table.add_column(heading)
        for row in self.body.rows if self.body is not None else ():
            table.add_row(*(cell.content for cell in row.cells))
        yield table


class ReplyMarkdown(Markdown):
    """Markdown of a reply: links are text, and what entities decode to is made visible too."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": LeftHeading,
        "fence": PlainCode,
        "code_block": PlainCode,
        "table_open": PlainTable,
    }

    def __init__(self, text: str, code_theme: str, ground: str) -> None:
        super().__init__(text, code_theme=code_theme, hyperlinks=False)
        self.ground = ground
        _sanitise(self.parsed)


def _sanitise(tokens: Iterable[Token]) -> None:
    """Entities such as `&#x202e;` become characters while parsing, after printable() ran.

    A line of a reply ends where it was ended, as everywhere where people and models chat: two
    lines that a document would flow into one are two replies to compare otherwise.
    """
    for token in tokens:
        if token.type == "softbreak":
            token.type = "hardbreak"
        token.content = printable(token.content)
        token.info = printable(token.info)
        for name, value in token.attrs.items():
            if isinstance(value, str):
                token.attrs[name] = printable(value)
        if token.children:
            _sanitise(token.children)
