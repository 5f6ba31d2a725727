"""The two workers: loading the model, and sampling a pair. They post messages and touch no widget.

They are daemon threads of our own rather than Textual's workers, whose pool is joined when the
process ends: a model that takes a minute to load must not keep a terminal for a minute.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from textual.message import Message

from hhchat.pair import Pair
from hhchat.protocols import Engine
from hhchat.session import Session
from hhchat.text import one_line
from hhchat.types import HhchatError, TooLong

FLUSH = 0.1  # seconds between two updates of the screen while replies grow
SHARE = 0.3  # of the time that drawing may take; when it takes more, updates become rarer

Post = Callable[[Message], object]


@dataclass
class EngineReady(Message):
    engine: Engine


@dataclass
class EngineFailed(Message):
    error: str


@dataclass
class Grew(Message):
    """Both replies, as far as they may be shown. `ticket` tells a stale message."""

    ticket: int
    left: str
    right: str


@dataclass
class Sampled(Message):
    ticket: int


@dataclass
class SamplingFailed(Message):
    ticket: int
    error: str
    too_long: bool = False  # to ask again would fail again


def reason(error: BaseException) -> str:
    """One line about an error, without a traceback."""
    text = one_line(str(error), 300)
    if isinstance(error, HhchatError):
        return text or "something went wrong"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class Loader(threading.Thread):
    """Builds the engine: imports, weights, everything that takes seconds."""

    def __init__(self, factory: Callable[[], Engine], post: Post) -> None:
        super().__init__(name="hhchat-load", daemon=True)
        self._factory, self._post = factory, post

    def run(self) -> None:
        # Every pass of the collector over all that torch brings holds up key presses, by up to a
        # fifth of a second: none while it loads, and none over what stays for good.
        gc.disable()
        try:
            _warm_up()
            engine = self._factory()
        except BaseException as error:
            deliver(self._post, EngineFailed(reason(error)))
        else:
            deliver(self._post, EngineReady(engine))
        finally:
            gc.freeze()
            gc.enable()


def _warm_up() -> None:
    """Import what draws replies, so that the first reply does not hold up a key press."""
    with suppress(Exception):  # only for speed: whatever is wrong shows when it is needed
        from rich.syntax import Syntax

        from hhchat.tui import rich_markdown  # noqa: F401

        Syntax("", "python", theme="one-dark").highlight("x = 1")


class Sampler(threading.Thread):
    """Drains `session.ask` and posts what may be shown, at most every `pause` seconds."""

    def __init__(self, session: Session, pair: Pair, ticket: int, post: Post) -> None:
        super().__init__(name="hhchat-sample", daemon=True)
        self._session, self._pair, self._post = session, pair, post
        self.ticket = ticket
        self.stopped = threading.Event()
        self.abandoned = False  # nobody waits for this pair any more
        self.pause = FLUSH

    def drawn(self, seconds: float) -> None:
        """The screen took this long for the last update: keep drawing to a share of the time."""
        self.pause = max(FLUSH, seconds / SHARE)

    def run(self) -> None:
        last = 0.0
        try:
            for _ in self._session.ask(self.stopped.is_set, self._pair):
                now = time.monotonic()
                if now - last >= self.pause and not self.abandoned:
                    last = now
                    deliver(self._post, Grew(self.ticket, *self._pair.shown()))
        except BaseException as error:
            too_long = isinstance(error, TooLong)
            deliver(self._post, SamplingFailed(self.ticket, reason(error), too_long))
        else:
            deliver(self._post, Sampled(self.ticket))


def deliver(post: Post, message: Message) -> None:
    """Post from a worker; nobody may be listening any more."""
    with suppress(RuntimeError):  # the app has gone, and its event loop with it
        post(message)
