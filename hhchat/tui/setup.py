"""What the app is started with, and the counts it shows after a pick."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from textual.message import Message

from hhchat.config import Config
from hhchat.protocols import Engine, Objective
from hhchat.session import SessionPlugins
from hhchat.store import Store
from hhchat.tui.pump import Post, deliver
from hhchat.types import Comparison, HhchatError, Sampling

LATELY = "open-conversation"  # a file beside the database


@dataclass(frozen=True)
class Setup:
    """All that `run` was given. `resume` is a conversation id, "latest", "new", or None."""

    store_path: Path
    engine_factory: Callable[[], Engine]
    config: Config = field(default_factory=Config)
    mode: str | None = None
    resume: str | None = None
    plugins: SessionPlugins | None = None
    objectives: Sequence[Objective] = ()
    rng: random.Random | None = None

    @property
    def starter(self) -> bool:
        """Whether the bundled toy model is in use."""
        return self.config.model.path == "starter"

    @property
    def sampling(self) -> Sampling:
        chat = self.config.chat
        return Sampling(chat.temperature, chat.top_p, chat.max_new_tokens, chat.best_of)


@dataclass
class Counted(Message):
    """How many comparisons there are, and how many of them training can use."""

    total: int
    usable: int


def remember(store_path: Path, conversation: str | None) -> None:
    """Keep the id of the open conversation beside the store; a failure only costs convenience."""
    note = store_path.with_name(LATELY)
    with suppress(OSError):
        if conversation is None:
            note.unlink(missing_ok=True)
            return
        aside = note.with_name(f"{LATELY}.{os.getpid()}")
        aside.write_text(conversation + "\n", encoding="ascii")
        aside.replace(note)


def remembered(store_path: Path) -> str | None:
    """The conversation that was open last, if one was."""
    try:
        return store_path.with_name(LATELY).read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


class Counter(threading.Thread):
    """Counts in its own connection: with a million comparisons it takes a while."""

    def __init__(self, path: Path, post: Post) -> None:
        super().__init__(name="hhchat-count", daemon=True)
        self._path, self._post = path, post

    def run(self) -> None:
        try:
            with Store(self._path, read_only=True) as store:
                stats = store.stats()
        except HhchatError:
            return  # only a count: the chat goes on without it
        train = stats["by_split"].get("train", 0)
        deliver(self._post, Counted(stats["comparisons"], train))


@dataclass
class Progress:
    """Counts kept up to date pick by pick, in words."""

    needed: int
    total: int = 0
    usable: int = 0
    known: bool = False  # the first count has come back

    def counted(self, message: Counted) -> None:
        self.total += message.total
        self.usable += message.usable
        self.known = True

    def add(self, comparisons: Sequence[Comparison], sign: int = 1) -> None:
        self.total += sign * len(comparisons)
        self.usable += sign * sum(map(_useful, comparisons))

    def words(self) -> str:
        if not self.known:
            return ""
        stored = f"{self.total:,} comparison{'' if self.total == 1 else 's'} stored"
        missing = self.needed - self.usable
        if missing > 0:
            return f"{stored}, {missing} more for the next useful training"
        return f"{stored}, enough to train: hhchat train"


def _useful(comparison: Comparison) -> bool:
    """As the store's view of usable comparisons sees it, near enough for a hint."""
    first, second = comparison.replies
    return (
        comparison.preferred is not None
        and comparison.strength != 1
        and comparison.split == "train"
        and first.text.split() != second.text.split()
    )
