"""The threads that read a server's replies, a connection each, and what they have heard."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hhchat.openai_wire import Call, Overlong, Server, ServerError
from hhchat.types import Draw, drop_oldest_turn

BATCH = 64  # pieces passed on between two looks at what has come, while they come fast
CUT = ("length", "max_tokens", "content_filter")  # finish reasons of a reply that did not end


@dataclass
class Row:
    """What has arrived of one reply."""

    draw: Draw
    model: str
    sent: Draw  # what the server is asked: less, when it says that this is too much for it
    pieces: list[str] = field(default_factory=list)
    held: str = ""  # the first half of a character whose other half is in the next event
    size: int = 0

    def add(self, text: str) -> str:
        """Keep a piece; what of it can be shown now."""
        text = self.held + text
        self.held = ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self.held = text[:-1], text[-1]
        if any("\ud800" <= c <= "\udfff" for c in text):
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        self.pieces.append(text)
        self.size += len(text)
        return text

    def ask_less(self, context: int | None) -> bool:
        """First a quarter of the context is enough for the reply, then the oldest whole turns go;
        False when only the last message is left. `context`: the model's, in tokens, if known."""
        sampling = self.sent.sampling
        room = sampling.max_new_tokens
        if context is not None:
            room = min(room, max(16, context // 4))
        if room < sampling.max_new_tokens:
            self.sent = replace(self.sent, sampling=replace(sampling, max_new_tokens=room))
            return True
        kept = drop_oldest_turn(self.sent.messages)
        if kept:
            self.sent = replace(self.sent, messages=tuple(kept))
        return bool(kept)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def limit(self) -> int:
        """Characters after which a server is taken to ignore max_tokens."""
        return max(4096, 64 * self.draw.sampling.max_new_tokens)


@dataclass(frozen=True)
class News:
    """What a reading thread has to say: a piece of text, or how the row ended."""

    row: int
    text: str = ""
    ended: bool = False
    finished: bool = False
    again: bool = False  # the row starts afresh: forget its text
    error: ServerError | None = None


class Crew:
    """The threads that read connections, and what they have heard."""

    def __init__(self, server: Server, rows: Sequence[Row], retry: float | None) -> None:
        """`retry`: seconds before a row that failed in passing is asked once more; None: never."""
        self.server, self.rows, self.retry = server, rows, retry
        self.news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._todo = iter(range(len(rows)))
        self._calls: set[Call] = set()
        self._lock = threading.Lock()
        self._halted = threading.Event()

    def start(self, workers: int) -> None:
        for _ in range(workers):
            threading.Thread(target=self._work, name="hhchat-remote", daemon=True).start()

    def heard(self, wait: float) -> list[News]:
        """What has been heard since it was last asked; waits for the first of it."""
        found = []
        try:
            found.append(self.news.get(timeout=wait) if wait else self.news.get_nowait())
            while len(found) < BATCH:
                found.append(self.news.get_nowait())
        except queue.Empty:
            pass
        return found

    def halt(self) -> None:
        self._halted.set()
        with self._lock:
            calls = list(self._calls)
        for call in calls:
            call.close()

    def _work(self) -> None:
        while not self._halted.is_set():
            with self._lock:
                row = next(self._todo, None)
            if row is None:
                return
            self.news.put(self._row(row))

    def _row(self, row: int) -> News:
        """Read one reply to its end, again once where that is wanted and may help."""
        tries = 1 if self.retry is None else 2
        for left in reversed(range(tries)):
            try:
                return News(row, ended=True, finished=self._fitted(row))
            except ServerError as error:
                if not (left and error.transient) or self._halted.wait(self.retry):
                    return News(row, ended=True, error=error)
            except Exception as error:  # a thread that dies silently would leave its row waiting
                return News(row, ended=True, error=self._unexpected(error))
            self.news.put(News(row, again=True))
        raise AssertionError("a try returns")  # pragma: no cover

    def _fitted(self, row: int) -> bool:
        """`_stream`, of as much of the conversation as the server takes."""
        while True:
            try:
                return self._stream(row)
            except Overlong as error:
                if self._halted.is_set() or not self.rows[row].ask_less(error.limit):
                    raise

    def _stream(self, row: int) -> bool:
        """Pass the text of a reply on as it comes; whether it ended by itself."""
        asked = self.rows[row]
        call = Call(self.server)
        with self._lock:
            self._calls.add(call)
        size, began = 0, time.monotonic()
        try:
            for event in call.events("/chat/completions", body_of(asked.sent, asked.model)):
                if event is None or self._halted.is_set():
                    return True
                text, reason = read_event(event)
                size += len(text)
                if text:
                    self.news.put(News(row, text))
                if reason:
                    return reason not in CUT
                if size > asked.limit:
                    return False
        except Overlong as error:
            if size:  # it has begun: asked again, it would begin anew
                raise ServerError(str(error)) from None
            raise
        finally:
            with self._lock:
                self._calls.discard(call)
        spent = time.monotonic() - began
        raise self.server.error(
            f"ended a reply midway after {spent:.1f} s: check its log", transient=True
        )

    def _unexpected(self, error: Exception) -> ServerError:
        return self.server.error(f"could not be read ({type(error).__name__})")


def body_of(draw: Draw, model: str) -> dict[str, Any]:
    """The request for one draw."""
    return {
        "model": model,
        "messages": [
            # A lone surrogate is no text that JSON could carry.
            {"role": m.role, "content": m.content.encode("utf-8", "replace").decode("utf-8")}
            for m in draw.messages
        ],
        "stream": True,
        "max_tokens": draw.sampling.max_new_tokens,
        "temperature": draw.sampling.temperature,
        "top_p": draw.sampling.top_p,
        "seed": draw.seed & 0x7FFF_FFFF,  # what every server's integer holds
    }


def read_event(event: Mapping[str, Any]) -> tuple[str, str]:
    """(text, finish reason) of one event, or of a whole answer; empty where it has none."""
    choices = event.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return "", ""
    told = choice.get("delta") or choice.get("message")
    text = told.get("content") if isinstance(told, dict) else None
    reason = choice.get("finish_reason")
    return text if isinstance(text, str) else "", reason if isinstance(reason, str) else ""
