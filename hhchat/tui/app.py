"""The app: paints first, opens the store, loads the model behind, and leaves a clean terminal."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import ClassVar

from textual.app import App, SystemCommand
from textual.command import CommandPalette
from textual.screen import Screen

from hhchat.config_file import set_value
from hhchat.session import Session
from hhchat.store import Store
from hhchat.text import one_line
from hhchat.tui import pump
from hhchat.tui.chat import ChatScreen
from hhchat.tui.dialogs import Choose
from hhchat.tui.purge import Purger
from hhchat.tui.setup import FirstRun, Progress, Setup, remembered
from hhchat.tui.themes import THEMES, Themes
from hhchat.types import HhchatError

PURGE_AFTER = 5.0  # seconds after the start
# Seconds to wait for another program that writes to the store. While the app waits it draws
# nothing and takes no key; what could not be saved is kept, and tried again.
PATIENCE = 0.25
PARTING = 1.0  # the same, for the last try on leaving
COMMANDS = (  # of the chat: each is offered where it means something
    ("help", "Keys", "What every key does"),
    ("new", "New conversation", "Start afresh"),
    ("mode", "Mode", "A new conversation in another mode"),
    ("conversations", "Conversations", "Search, open, rename, export, delete"),
    ("settings", "Settings", "System prompt and sampling of this chat"),
    ("dashboard", "Progress", "What your picks taught"),
    ("train", "Train", "Beside the chat; watch it"),
    ("assistant", "Which assistant", "The current one, or blind trials"),
    ("edit_last", "Edit last message", "And send it again"),
    ("branch", "Branch", "Go on from an earlier turn"),
    ("copy_reply", "Copy reply", "The last reply"),
    ("copy_code", "Copy code", "One code block"),
)


class Unsaved(Choose):
    """What becomes of a pick that is not saved, when the app is left."""


class ChatApp(App[None]):
    """One conversation at a time on one store with one engine."""

    CSS_PATH = "app.tcss"
    TITLE = "hhchat"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (80, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-low"), (22, "-middling"), (32, "-high")]
    ESCAPE_TO_MINIMIZE: ClassVar[bool] = False

    def __init__(self, setup: Setup, store: Store) -> None:
        super().__init__()
        self.setup = setup
        self.store = store
        store.patience = PATIENCE
        self.chat: ChatScreen | None = None
        self.loader: pump.Loader | None = None
        self.purger: Purger | None = None
        self.event_loop: asyncio.AbstractEventLoop | None = None
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = setup.config.chat.theme

    async def on_mount(self) -> None:
        self.event_loop = asyncio.get_running_loop()
        setup = self.setup
        try:
            session = self._session(setup)
        except HhchatError as error:
            self.exit(return_code=error.exit_code, message=None)
            self.failure = pump.reason(error)
            return
        self.chat = ChatScreen(session, Progress(setup.config.train.min_comparisons))
        await self.push_screen(self.chat)
        if setup.first_run is not None and setup.resume is None and self._untouched():
            self._first_run(setup.first_run)
            return
        # The workers start when the first frame is out: typing is possible from the start.
        self.chat.call_after_refresh(self._start_workers)

    failure = ""  # one line for stderr when the app could not start

    def _untouched(self) -> bool:
        with suppress(HhchatError):
            return self.store.latest_conversation() is None
        return False

    def _first_run(self, first: FirstRun) -> None:
        """What this is, and which model; either can be skipped, and the starter is used then."""
        from hhchat.tui.firstrun import STARTER, What, Which

        async def chosen(model: str | None) -> None:
            if model is not None and model != STARTER:
                try:
                    self.setup = replace(self.setup, config=first.choose(model))
                except HhchatError as error:
                    assert self.chat is not None
                    self.chat.oops(error)
                assert self.chat is not None
                await self.chat.show_conversation()  # its welcome speaks of the model
            self._start_workers()

        def told(go_on: bool | None) -> None:
            if go_on:
                self.push_screen(Which(first), chosen)
            else:
                self._start_workers()

        self.push_screen(What(), told)

    def _session(self, setup: Setup) -> Session:
        chat = setup.config.chat
        return Session(
            self.store,
            None,
            mode=setup.mode or chat.mode,
            system=chat.system or None,
            sampling=setup.sampling,
            pool=setup.config.pool,
            conversation_id=self._resumed(setup),
            plugins=setup.plugins,
            objectives=setup.objectives,
            question=chat.question,
            rng=setup.rng,
            replay=chat.replay,
            candidates=chat.candidates,
            plain=chat.plain,
        )

    def _resumed(self, setup: Setup) -> str | None:
        """The conversation to open on: the one asked for, else the one that was open last."""
        if setup.resume == "latest":
            latest = self.store.latest_conversation()
            return latest.id if latest else None
        if setup.resume is None and setup.mode is None:
            lately = remembered(setup.store_path)
            with suppress(HhchatError):  # deleted since
                return self.store.conversation(lately).id if lately else None
        return None if setup.resume == "new" else setup.resume

    def _start_workers(self) -> None:
        assert self.chat is not None
        self.loader = pump.Loader(self.setup.engine_factory, self.chat.post_message)
        self.loader.start()
        # Not in a thread: a second connection of one process would be one too many for SQLite's
        # locks whenever anything in this process opens and closes the file by itself.
        with suppress(HhchatError):  # only a count: the chat goes on without it
            self.chat.progress.count(self.store)

        # When what a start has to do is done: this can wait, and takes the disk.
        self.set_timer(PURGE_AFTER, self.purge)

    def purge(self) -> None:
        """What was deleted is overwritten, in a thread; at once after a deletion in the app."""
        with suppress(HhchatError):
            if self.store.purge_due and (self.purger is None or not self.purger.is_alive()):
                self.purger = Purger(self.store.path)
                self.purger.start()

    def on_unmount(self) -> None:
        if self.purger is not None:
            self.purger.stopped.set()
        if self.chat is not None:
            self.chat.abandon()

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """For themes that do not know our one variable: a grey that shows on any ground."""
        return {"frame": "#7f7f7f"}

    # Leaving ---------------------------------------------------------------------------------

    def leave(self, number: int) -> None:
        """A signal asks the app to leave, or its terminal is gone. May be called in any thread."""
        if self.event_loop is None:
            return  # not mounted yet: whoever calls will not wait for long
        self.event_loop.call_soon_threadsafe(self._signalled, number)

    lost = ""  # one line for stderr: what could not be saved before the app was left

    def _signalled(self, number: int) -> None:
        self.lost = self._put_down()
        self.exit(return_code=128 + number)

    def _put_down(self) -> str:
        """Everything is stored already, but for a pick that a full disk refused.

        It is tried once more. What still keeps it from being saved, or nothing."""
        if self.chat is None:
            return ""
        self.chat.abandon()
        self.store.patience = PARTING
        try:
            self.chat.session.retry()
        except HhchatError as error:
            return f"your last pick is not saved: {pump.reason(error)}"
        finally:
            self.store.patience = PATIENCE
        return ""

    async def action_quit(self) -> None:
        if isinstance(self.screen, Unsaved):  # asked already
            return
        if self.chat is None or self.chat.leaving():
            self.finish()

    def finish(self) -> None:
        """Leave; when a pick is not saved, the user is asked what becomes of it."""
        lost = self._put_down()
        if not lost:
            self.exit()
            return

        def chosen(index: int | None) -> None:
            if index == 0:
                self.finish()
            elif index == 1:
                self.lost = self._put_down()  # the disk may have room by now
                self.exit(return_code=1 if self.lost else 0)

        title = f"Wait: {one_line(lost, 200)}"
        self.push_screen(Unsaved(title, ["Try again", "Quit and lose it"]), chosen)

    # Palette ---------------------------------------------------------------------------------

    def search_themes(self) -> None:
        self.push_screen(CommandPalette(providers=[Themes], placeholder="Search for themes…"))

    def choose_theme(self, name: str) -> None:
        """Take the colours, and keep them in the settings where the app was started with any."""
        self.theme = name
        if self.setup.config.path is None:
            return
        try:
            set_value("chat.theme", name, self.setup.config.path)
        except HhchatError as error:
            if self.chat is not None:
                self.chat.oops(error)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        yield SystemCommand("Theme", "Colours: dark, light and others", self.action_change_theme)
        if isinstance(screen, ChatScreen):
            for action, name, words in COMMANDS:
                if screen.check_action(action, ()):  # and again when it is chosen
                    yield SystemCommand(name, words, partial(screen.command, action))
        waits = self.chat is not None and self.chat.session.unsaved is not None
        words = "Leave; a pick is not saved yet" if waits else "Leave; everything is saved"
        yield SystemCommand("Quit", words, self.action_quit)
