"""The conversations: search, open, rename, export, delete."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from hhchat.store import Store
from hhchat.text import one_line
from hhchat.tui.dialogs import Ask, Choose, Confirm
from hhchat.tui.export import export
from hhchat.tui.keyline import KeyLine
from hhchat.types import Conversation, HhchatError

if TYPE_CHECKING:
    from hhchat.tui.app import ChatApp

PAGE = 50
NEAR = 5  # rows from the end of the list at which the next page is asked for


class Conversations(ModalScreen[str | None]):
    """Dismissed with the id of the conversation to open."""

    BINDINGS = [
        Binding("escape", "cancel", "leave", show=False),
        Binding("ctrl+d,delete", "delete", "delete", show=False, priority=True),
        Binding("ctrl+t", "rename", "rename", show=False, priority=True),
        Binding("ctrl+x", "export", "export", show=False, priority=True),
    ]

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store
        self._found: list[Conversation] = []
        self._query = ""
        self._more = False  # whether the store has more than are listed

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -large"):
            yield Static("Conversations", classes="dialog-title", markup=False)
            yield Input(placeholder="search in all that was said")
            yield OptionList()
            yield Static("", classes="dialog-told", markup=False)
            yield KeyLine(
                ("enter", "open", "open"),
                ("ctrl+t", "rename", "rename"),
                ("ctrl+x", "export", "export"),
                ("ctrl+d", "delete", "delete"),
                ("esc", "leave", "cancel"),
            )

    def on_mount(self) -> None:
        self._tell("")
        self.find("")
        self.watch(self.query_one(OptionList), "scroll_y", self._scrolled, init=False)

    def find(self, query: str) -> None:
        options = self.query_one(OptionList)
        options.clear_options()
        self._query, self._found = query, []
        self._next_page()
        if self._found:
            options.highlighted = 0
        else:
            none = "nothing found" if query.strip() else "no conversation yet"
            options.add_option(Option(Content(none), disabled=True))

    def _next_page(self) -> None:
        """Add what comes after the conversations that are listed."""
        listed = {conversation.id for conversation in self._found}
        try:
            page = self._store.conversations(
                self._query.strip() or None, limit=PAGE, offset=len(self._found)
            )
        except HhchatError as error:
            self._tell(str(error), bad=True)
            page = []
        self._more = len(page) == PAGE
        page = [found for found in page if found.id not in listed]  # one may have moved meanwhile
        self._found += page
        self.query_one(OptionList).add_options([Option(_row(found)) for found in page])

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        if self._more and event.option_index >= len(self._found) - NEAR:
            self._next_page()

    def _scrolled(self) -> None:
        """By the wheel, which leaves the cursor where it was."""
        options = self.query_one(OptionList)
        if self._more and options.scroll_y >= options.max_scroll_y - NEAR:
            self._next_page()

    def on_input_changed(self, event: Input.Changed) -> None:
        self.find(event.value)

    def on_input_submitted(self) -> None:
        self.action_open()

    def on_option_list_option_selected(self) -> None:
        self.action_open()

    def on_key(self, event: events.Key) -> None:
        """Up and down move in the list while the search box has the focus."""
        options = self.query_one(OptionList)
        if event.key in ("up", "down") and not options.has_focus:
            event.stop()
            if event.key == "up":
                options.action_cursor_up()
            else:
                options.action_cursor_down()

    @property
    def current(self) -> Conversation | None:
        index = self.query_one(OptionList).highlighted
        return self._found[index] if index is not None and index < len(self._found) else None

    def action_open(self) -> None:
        if self.current is not None:
            self.dismiss(self.current.id)

    def action_cancel(self) -> None:
        self.dismiss(None)

    def refind(self) -> None:
        self.find(self.query_one(Input).value)

    def action_rename(self) -> None:
        if (conversation := self.current) is None:
            return

        def renamed(title: str | None) -> None:
            if title and title.strip():
                self._try(lambda: self._store.rename(conversation.id, title.strip()))

        self.app.push_screen(Ask("A new title", conversation.title), renamed)

    def action_delete(self) -> None:
        if (conversation := self.current) is None:
            return

        def sure(answer: bool | None) -> None:
            if answer:
                self._try(lambda: self._delete(conversation.id))
                cast("ChatApp", self.app).purge()  # the rest of it, off this thread

        text = (
            f"“{one_line(conversation.title, 60)}” with its replies and comparisons is deleted "
            "for good. What the assistant has learned from it in earlier trainings stays learned."
        )
        self.app.push_screen(Confirm("Delete this conversation?", text), sure)

    def action_export(self) -> None:
        if (conversation := self.current) is None:
            return

        def chosen(index: int | None) -> None:
            if index is None:
                return
            suffix = (".md", ".json")[index]

            def write(name: str | None) -> None:
                if name and name.strip():
                    path = Path(name.strip()).expanduser()
                    self._try(lambda: export(self._store, conversation.id, path), f"Wrote {path}")

            name = f"hhchat-{conversation.id[-6:].lower()}{suffix}"
            self.app.push_screen(Ask("Write to which file?", str(Path.cwd() / name)), write)

        self.app.push_screen(Choose("Export as", ["Markdown", "JSON"]), chosen)

    def _delete(self, id: str) -> None:
        from hhchat.runfolder import forget_words

        asked = {turn.user for turn in self._store.turns(id)}
        self._store.delete_conversation(id, purge=False)
        forget_words(asked)

    def _try(self, act: object, done: str = "") -> None:
        assert callable(act)
        try:
            act()
        except HhchatError as error:
            self._tell(str(error), bad=True)
            return
        self.refind()
        self._tell(done)

    def _tell(self, text: str, bad: bool = False) -> None:
        """In the dialog, above its keys: a toast would lie on them where the screen is small."""
        told = self.query_one(".dialog-told", Static)
        told.update(Content(one_line(text, 200)))
        told.display = bool(text)
        told.set_class(bad, "-bad")


def _row(conversation: Conversation) -> Content:
    title = one_line(conversation.title or "untitled", 60)
    when = conversation.created[:10]
    mode = "" if conversation.mode == "helpful" else f" · {one_line(conversation.mode, 20)}"
    parts: list[tuple[str, str]] = [(title, "bold"), (f"  {when}{mode}", "dim")]
    snippet = getattr(conversation, "snippet", "")
    if snippet:
        parts.append((f"\n  {one_line(snippet, 90)}", "dim"))
    return Content.assemble(*parts)
