"""What the app is started with, and the counts it shows after a pick."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from hhchat.config import Config
from hhchat.protocols import Engine, Objective
from hhchat.session import SessionPlugins
from hhchat.store import Store
from hhchat.types import Comparison, Sampling

LATELY = "open-conversation"  # a file beside the database


@dataclass(frozen=True)
class FirstRun:
    """What the screens of a first run ask of whoever started the app."""

    # A line about a model on this machine, or about what it has room for ("" for the name); called
    # in a thread.
    fits: Callable[[str], str]
    choose: Callable[[str], Config]  # keep the choice; `engine_factory` loads it from then on


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
    first_run: FirstRun | None = None  # given when there are no settings yet
    train_command: Sequence[str] = ()  # empty: `hhchat train` with this model

    @property
    def starter(self) -> bool:
        """Whether the bundled toy model is in use."""
        return self.config.model.path == "starter"

    @property
    def sampling(self) -> Sampling:
        chat = self.config.chat
        return Sampling(chat.temperature, chat.top_p, chat.max_new_tokens, chat.best_of)


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


@dataclass
class Progress:
    """Counts kept up to date pick by pick, in words."""

    least: int  # usable training pairs that a first training wants
    total: int = 0
    usable: int = 0
    known: bool = False  # the store has been asked
    needed: int = 0

    def count(self, store: Store) -> None:
        """Start from what the store counts (it keeps the counts: this takes no time)."""
        from hhchat.standing import needed  # not before the first frame

        stats = store.stats()
        self.total = stats["comparisons"]
        self.usable = stats["by_split"].get("train", 0)
        self.needed = needed(store, self.least)
        self.known = True

    def add(self, comparisons: Sequence[Comparison], sign: int = 1) -> None:
        self.total += sign * len(comparisons)
        self.usable += sign * sum(map(_useful, comparisons))

    def words(self, heldout: bool = False) -> str:
        """`heldout`: what was picked just now tests what was learnt, and teaches nothing."""
        if not self.known:
            return ""
        stored = f"{self.total:,} comparison{'' if self.total == 1 else 's'} stored"
        missing = self.needed - self.usable
        if missing > 0:
            stored += f", {missing} more for the next useful training"
        else:
            stored += ", enough to train: ctrl+t"
        return f"{stored} · this chat is kept for testing what was learnt" if heldout else stored


def _useful(comparison: Comparison) -> bool:
    """As the store's view of usable comparisons sees it, near enough for a hint."""
    first, second = comparison.replies
    return (
        comparison.preferred is not None
        and comparison.strength != 1
        and comparison.purpose != "replay"
        and comparison.split == "train"
        and first.text.split() != second.text.split()
    )
