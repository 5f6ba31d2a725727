"""An `Engine` whose model is in another process, together with all other tabs' engines."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from hhchat.serving import wire
from hhchat.types import Comparison, Delta, Draw, Generation, Message, ModelError

POLL = 0.05  # seconds between two looks at `cancelled`
PATIENCE = 10.0  # seconds that the other side is given to end what was cancelled
LESSON = 50  # comparisons a line
GONE = "the model that all tabs share is gone: start `hhchat serve` again"
ENDED = "the process that holds the model has ended midway"


class SharedEngine:
    """Samples from the model that `host.EngineHost` holds. A connection a call, so that a call
    which nobody drains any more, or whose process has died, cancels itself."""

    def __init__(self, path: Path, model: str) -> None:
        """Waits until the model is loaded. `model` is the one that is wanted: BadInput when the
        host holds another, ModelError when it cannot load it or is not there."""
        self.path = path
        told = _ask(path, {"do": "hello", "model": model})
        self.base = wire.text(told, "base")
        if told.get("asking") is True:  # else the engine is none that can choose what to ask
            self.asker = SharedAsker(path)

    def __repr__(self) -> str:
        return f"SharedEngine({self.base!r})"

    def sample(
        self, draws: Sequence[Draw], cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[Delta]:
        """As every engine's. Cancelled while it waits for another tab's pair, no row has begun."""
        request = {"do": "sample", "draws": wire.draws_out(draws)}
        with _Call(self.path, request) as call:
            yield from call.deltas(len(draws), cancelled)

    def generate(self, draws: Sequence[Draw]) -> list[Generation]:
        done: list[Generation] = []
        for at in range(0, len(draws), wire.DRAWS):
            part = draws[at : at + wire.DRAWS]
            found: dict[int, Generation] = {}
            request = {"do": "generate", "draws": wire.draws_out(part)}
            with _Call(self.path, request) as call:
                for delta in call.deltas(len(part), lambda: False):
                    if delta.generation is not None:
                        found[delta.row] = delta.generation
            if len(found) != len(part):
                raise ModelError(ENDED)
            done += (found[row] for row in range(len(part)))
        return done


class SharedAsker:
    """The `Asker` of the shared engine, which learns from the picks of all tabs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def latest(self) -> str:
        return wire.text(_ask(self.path, {"do": "latest"}), "latest")

    def learn(self, comparisons: Sequence[Comparison]) -> None:
        for at in range(0, len(comparisons), LESSON):
            part = [wire.comparison_out(c) for c in comparisons[at : at + LESSON]]
            _ask(self.path, {"do": "learn", "comparisons": part})

    def choose(
        self, messages: Sequence[Message], replies: Sequence[Generation]
    ) -> tuple[int, int] | None:
        request = {
            "do": "choose",
            "messages": wire.messages_out(messages),
            "replies": [wire.generation_out(reply) for reply in replies],
        }
        match _ask(self.path, request).get("two"):
            case None:
                return None
            case [int(first), int(second)] if {first, second} <= set(range(len(replies))):
                return first, second
        raise wire.WireError("the model's process chose replies that it was not given")


def fits(path: Path, model: str) -> str:
    """A line about the memory that a model needs, found out by the process that would hold it."""
    return wire.text(_ask(path, {"do": "fits", "model": model}), "line")


def _ask(path: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    with _Call(path, request) as call:
        return call.answer()


class _Call:
    """One connection: a request, and the lines that answer it."""

    def __init__(self, path: Path, request: Mapping[str, Any]) -> None:
        line = wire.encode(request)
        if len(line) > wire.LINE:
            raise ModelError("this conversation is too long to send to the model")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._buffer = bytearray()
        self._seen = 0  # bytes of the buffer known to hold no newline
        try:
            self._socket.connect(str(path))
            self._socket.sendall(line)
        except OSError:
            self._socket.close()
            raise ModelError(GONE) from None

    def __enter__(self) -> _Call:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def answer(self) -> dict[str, Any]:
        """The one line that answers the request, however long it takes."""
        record = self._line(None)
        assert record is not None
        return record

    def deltas(self, rows: int, cancelled: Callable[[], bool]) -> Iterator[Delta]:
        deadline = None
        while True:
            if deadline is None and cancelled():
                deadline = time.monotonic() + PATIENCE
                with suppress(OSError):
                    self._socket.sendall(wire.encode({"do": "cancel"}))
            record = self._line(POLL)
            if record is not None:
                if "end" in record:
                    return
                yield wire.delta_in(record, rows)
            elif deadline is not None and time.monotonic() > deadline:
                return  # closing the connection cancels as well

    def _line(self, timeout: float | None) -> dict[str, Any] | None:
        """The next line; None when none came in time. ModelError when none will."""
        while True:
            end = self._buffer.find(b"\n", self._seen)
            if end >= 0:
                line = bytes(self._buffer[: end + 1])
                del self._buffer[: end + 1]
                self._seen = 0
                record = wire.decode(line)
                if "error" in record:
                    raise wire.error_in(record["error"])
                return record
            self._seen = len(self._buffer)
            if self._seen > wire.LINE:
                raise wire.WireError("the model's process sent a line that is too long")
            self._socket.settimeout(timeout)
            try:
                piece = self._socket.recv(1 << 16)
            except TimeoutError:
                return None
            except OSError:
                piece = b""
            if not piece:
                raise ModelError(ENDED)
            self._buffer += piece
