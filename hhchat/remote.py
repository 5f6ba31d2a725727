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
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hhchat.openai_wire import Server, ServerError, parse_url
from hhchat.remote_crew import Crew, News, Row
from hhchat.types import (
    BadInput,
    Delta,
    Draw,
    Generation,
    Message,
    ModelError,
    nearest,
)

if TYPE_CHECKING:
    from hhchat.config import Config, RemoteConfig

SNAPSHOT = "remote"  # what a reply's `snapshot` says; its `base` names the server and the model
WORKERS = 4  # requests at once in `generate`
SIDE_BY_SIDE = 8  # requests at once in `sample`: a pair, and room for `ask --n`
POLL = 0.05  # seconds between two looks at `cancelled`
RETRY = 1.0  # seconds before `generate` asks again, once, for a row that failed in passing
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

    def _rows(self, draws: Sequence[Draw]) -> list[Row]:
        return [Row(draw, self._model(draw), self._fitting(draw)) for draw in draws]

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

    def _remember_cut(self, row: Row) -> None:
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

    def _generation(self, row: Row, finished: bool) -> Generation:
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
        rows: Sequence[Row],
        workers: int,
        cancelled: Callable[[], bool],
        retry: float | None = None,
    ) -> Generator[News, None, None]:
        """Ask for every row, at most `workers` at once; each ends with one `ended`.

        Threads are daemons that hold nothing but a socket: on cancel, or when nobody listens any
        more, their sockets are shut and they end by themselves.
        """
        crew = Crew(self.server, rows, retry)
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
                        yield News(row, ended=True)
                    return
        finally:
            crew.halt()
