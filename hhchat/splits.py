"""Which conversations teach and which are held out: decided once, by the first message alone."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable

from hhchat.types import Message, Split

HELD_OUT = 0.10  # share of first messages that never train anything


def normalised(text: str) -> str:
    """`text` with case, Unicode form, punctuation and spacing taken away.

    Near-copies ("Hello there!", " hello  there") become one string, so they get one split.
    A message made of punctuation alone keeps it: there is nothing else to tell it by.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    # casefold can undo the composition ("ﬃ", dotted i), so it is composed again
    folded = unicodedata.normalize("NFKC", folded)
    words = "".join(" " if unicodedata.category(c)[0] in "PZCS" else c for c in folded).split()
    return " ".join(words) if words else " ".join(folded.split())


def split_of(first_message: str) -> Split:
    """The split of every conversation that begins with this user message, for life."""
    # surrogatepass: typed text may hold half a surrogate pair, and must still have a split
    digest = hashlib.sha256(normalised(first_message).encode("utf-8", "surrogatepass")).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return "heldout" if share < HELD_OUT else "train"


def split_of_messages(messages: Iterable[Message]) -> Split:
    """`split_of` the first user message; a conversation without one is held to be empty."""
    return split_of(next((m.content for m in messages if m.role == "user"), ""))
