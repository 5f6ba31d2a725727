"""Replies from any OpenAI-compatible server: vLLM, llama.cpp, Ollama and their like.

An `Engine` over /v1/chat/completions. A draw becomes one streamed request with its seed and its
sampling settings; the rows of a pair are asked at once, each by a thread that only reads its
connection, and one consumer puts their text in order. A row that fails does not take the other
with it: what arrived is kept as an unfinished reply, and the error is raised when all have ended.
A conversation that the server calls too long is asked again without its oldest turns, as the
local engine would sample it.
"""

from __future__ import annotations

import os
import queue
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hhchat.openai_wire import Call, Overlong, Server, ServerError, parse_url
from hhchat.types import (
    BadInput,
    Delta,
    Draw,
    Generation,
    Message,
    ModelError,
    drop_oldest_turn,
    nearest,
)

if TYPE_CHECKING:
    from hhchat.config import Config, RemoteConfig

SNAPSHOT = "remote"  # what a reply's `snapshot` says; its `base` names the server and the model
WORKERS = 4  # requests at once in `generate`
SIDE_BY_SIDE = 8  # requests at once in `sample`: a pair, and room for `ask --n`
POLL = 0.05  # seconds between two looks at `cancelled`
BATCH = 64  # pieces passed on between two looks at it, while they come fast
RETRY = 1.0  # seconds before `generate` asks again, once, for a row that failed in passing
CUT = ("length", "max_tokens", "content_filter")  # finish reasons of a reply that did not end
CUTS = 256  # conversations whose length is remembered to be too much for the server
LOCAL = "local"  # `--server local`: the local model, whatever the settings say


def is_remote(config: Config) -> bool:
    """Whether the settings name a server instead of the local model."""
    return config.remote.url.strip() not in ("", LOCAL)


def label(config: Config) -> str:
    """What to call the configured server before it has been asked anything."""
    scheme, host, port, path = parse_url(config.remote.url)
    return f"server:{Server(scheme, host, port, path).name}"


def open_remote(config: Config) -> RemoteEngine:
    """The engine of the configured server; asks it for its model when none is named."""
    server = server_of(config.remote)
    asked = config.model.path if config.origins.get("model.path") == "flag" else ""
    name = asked or config.remote.model.strip()
    return RemoteEngine(server, name or _only_model(server))


def server_of(remote: RemoteConfig, env: Mapping[str, str] | None = None) -> Server:
    """The server of the settings, with the key from the variable that they name."""
    scheme, host, port, path = parse_url(remote.url)
    connect = min(Server.connect, remote.timeout)
    key = _key(remote.api_key_env.strip(), os.environ if env is None else env)
    server = Server(scheme, host, port, path, key, remote.timeout, connect)
    if key and scheme == "http" and not server.loopback:
        raise BadInput(
            f"a key would travel to {server.url} for all to read: use https, or a tunnel"
        )
    return server


def check_remote(remote: RemoteConfig) -> None:
    """BadInput when the settings cannot be used, whether or not the key's variable is set yet."""
    variable = remote.api_key_env.strip()
    if remote.url.strip() in ("", LOCAL):
        _key(variable, {variable: "key"})
    else:
        server_of(remote, {variable: os.environ.get(variable, "").strip() or "key"})


def _key(variable: str, env: Mapping[str, str]) -> str:
    if not variable:
        return ""
    # Never quoted unless it looks like a name: it may be the key itself, put in the wrong place.
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", variable):
        raise BadInput("[remote] api_key_env is the name of a variable, not the key itself")
    key = env.get(variable, "").strip()
    if not key:
        raise BadInput(f"the variable {variable}, which [remote] api_key_env names, is not set")
    if not re.fullmatch(r"[!-~]+", key):
        raise BadInput(f"the key in {variable} has spaces or characters that no key has")
    return key


def _only_model(server: Server) -> str:
    names = server.models()
    if len(names) == 1:
        return names[0]
    if not names:
        raise ModelError(f"the server at {server.url} has no model loaded")
    shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    raise BadInput(
        f"which model? the server at {server.url} has {shown}: --model or [remote] model"
    )


@dataclass
class _Row:
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
class _News:
    """What a reading thread has to say: a piece of text, or how the row ended."""

    row: int
    text: str = ""
    ended: bool = False
    finished: bool = False
    again: bool = False  # the row starts afresh: forget its text
    error: ServerError | None = None


class RemoteEngine:
    """Samples from a server's model. Draws of "current" and "base" go to the model it was made
    with, draws of "remote:NAME" to another model of the same server."""

    def __init__(
        self, server: Server, model: str, *, workers: int = WORKERS, retry: float = RETRY
    ) -> None:
        self.server = server
        self.model = model
        self.base = self._base(model)
        self.workers = workers
        self.retry = retry
        self._cuts: dict[tuple[str, int, tuple[Message, ...]], tuple[int, int]] = {}

    def __repr__(self) -> str:
        return f"RemoteEngine({self.base!r})"

    # -- the Engine protocol

    def sample(
        self, draws: Sequence[Draw], cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[Delta]:
        """Both rows at once. Raises ServerError after the last row's end when one broke off."""
        rows = self._rows(draws)
        failed: ServerError | None = None
        for news in self._ask(rows, SIDE_BY_SIDE, cancelled):
            row = rows[news.row]
            if not news.ended:
                shown = row.add(news.text)
                if shown:
                    yield Delta(news.row, shown)
                continue
            failed = failed or news.error
            if news.error is None or row.pieces:
                yield Delta(news.row, "", self._generation(row, news.finished))
        if failed is not None and not cancelled():
            raise failed

    def generate(self, draws: Sequence[Draw]) -> list[Generation]:
        """All replies, a few requests at a time; a row that fails in passing is asked once more.

        A reply that breaks off twice is kept unfinished; one that never began ends the batch.
        """
        rows = self._rows(draws)
        done: list[Generation | None] = [None] * len(rows)
        asked = self._ask(rows, self.workers, lambda: False, self.retry)
        for news in asked:
            row = rows[news.row]
            if news.again:
                row.pieces, row.held, row.size = [], "", 0
            elif not news.ended:
                row.add(news.text)
            elif news.error is not None and not row.pieces:
                asked.close()
                raise news.error
            else:
                done[news.row] = self._generation(row, news.finished)
        return [g for g in done if g is not None]

    # -- inside

    def _base(self, model: str) -> str:
        return f"server:{self.server.name}/{model}"

    def _rows(self, draws: Sequence[Draw]) -> list[_Row]:
        return [_Row(draw, self._model(draw), self._fitting(draw)) for draw in draws]

    def _fitting(self, draw: Draw) -> Draw:
        """The draw as it is worth asking: what was too long a turn ago has only grown since."""
        messages, new = draw.messages, draw.sampling.max_new_tokens
        for known in (messages, messages[:-2]):
            cut = self._cuts.get((self._model(draw), new, known))
            if cut is not None:
                dropped, room = cut
                head = messages[:1] if messages[0].role == "system" else ()
                return replace(
                    draw,
                    messages=head + messages[len(head) + dropped :],
                    sampling=replace(draw.sampling, max_new_tokens=room),
                )
        return draw

    def _remember_cut(self, row: _Row) -> None:
        asked, sent = row.draw, row.sent
        if sent is asked:
            return
        key = (row.model, asked.sampling.max_new_tokens, asked.messages)
        dropped = len(asked.messages) - len(sent.messages)
        self._cuts[key] = (dropped, sent.sampling.max_new_tokens)
        while len(self._cuts) > CUTS:
            self._cuts.pop(next(iter(self._cuts)))

    def _model(self, draw: Draw) -> str:
        if draw.sampling.best_of > 1:
            raise ModelError("best-of needs a preference model, and a server has none: set it to 1")
        kind, _, name = draw.snapshot.partition(":")
        if kind == SNAPSHOT and name:
            return name
        known = ("current", "base", SNAPSHOT)
        if draw.snapshot not in known:
            raise ModelError(
                f"snapshot {draw.snapshot!r} is not on the server: {nearest(draw.snapshot, known)}"
            )
        return self.model

    def _generation(self, row: _Row, finished: bool) -> Generation:
        if row.held:  # its other half never came
            row.held = ""
            row.add("\ufffd")
        self._remember_cut(row)
        return Generation(
            text=row.text,
            finished=finished,
            source="model",
            snapshot=SNAPSHOT if row.model == self.model else f"{SNAPSHOT}:{row.model}",
            base=self._base(row.model),
            sampling=row.draw.sampling,
            seed=row.draw.seed,
        )

    def _ask(
        self,
        rows: Sequence[_Row],
        workers: int,
        cancelled: Callable[[], bool],
        retry: float | None = None,
    ) -> Generator[_News, None, None]:
        """Ask for every row, at most `workers` at once; each ends with one `ended`.

        Threads are daemons that hold nothing but a socket: on cancel, or when nobody listens any
        more, their sockets are shut and they end by themselves.
        """
        crew = _Crew(self, rows, retry)
        crew.start(min(workers, len(rows)))
        open_rows = set(range(len(rows)))
        try:
            while open_rows:
                stop = cancelled()
                # What has arrived by now counts, also when it is time to stop.
                for news in crew.heard(0 if stop else POLL):
                    if news.ended:
                        open_rows.discard(news.row)
                    yield news
                if stop:
                    for row in sorted(open_rows):
                        yield _News(row, ended=True)
                    return
        finally:
            crew.halt()


class _Crew:
    """The threads that read connections, and what they have heard."""

    def __init__(self, engine: RemoteEngine, rows: Sequence[_Row], retry: float | None) -> None:
        self.engine, self.rows, self.retry = engine, rows, retry
        self.news: queue.SimpleQueue[_News] = queue.SimpleQueue()
        self._todo = iter(range(len(rows)))
        self._calls: set[Call] = set()
        self._lock = threading.Lock()
        self._halted = threading.Event()

    def start(self, workers: int) -> None:
        for _ in range(workers):
            threading.Thread(target=self._work, name="hhchat-remote", daemon=True).start()

    def heard(self, wait: float) -> list[_News]:
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

    def _row(self, row: int) -> _News:
        """Read one reply to its end, again once where that is wanted and may help."""
        tries = 1 if self.retry is None else 2
        for left in reversed(range(tries)):
            try:
                return _News(row, ended=True, finished=self._fitted(row))
            except ServerError as error:
                if not (left and error.transient) or self._halted.wait(self.retry):
                    return _News(row, ended=True, error=error)
            except Exception as error:  # a thread that dies silently would leave its row waiting
                return _News(row, ended=True, error=self._unexpected(error))
            self.news.put(_News(row, again=True))
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
        call = Call(self.engine.server)
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
                    self.news.put(_News(row, text))
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
        raise self.engine.server.error(
            f"ended a reply midway after {spent:.1f} s: check its log", transient=True
        )

    def _unexpected(self, error: Exception) -> ServerError:
        return self.engine.server.error(f"could not be read ({type(error).__name__})")


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
