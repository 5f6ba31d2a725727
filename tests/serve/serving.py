"""`hhchat serve` as a process, and what a browser does with it, without a browser."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType

from hhchat.store import Store


def until(predicate: Callable[[], Any], patience: float = 30, what: str = "it") -> Any:
    deadline = time.monotonic() + patience
    while not (found := predicate()):
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.02)
    return found


class Served:
    """The process. Its standard error goes to a file beside the data folder."""

    def __init__(self, home: Path, *args: str) -> None:
        self.home = home
        home.parent.mkdir(parents=True, exist_ok=True)
        self._errors = home.with_suffix(".err")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HHCHAT_")}
        environment |= {"HHCHAT_HOME": str(home), "HHCHAT_LOAD_PLUGINS": ""}
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hhchat", "serve", "--port", "0", "--json", *args],
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.errors
        self.told: dict[str, Any] = json.loads(line)
        self.port: int = self.told["port"]
        self.origin = f"http://127.0.0.1:{self.port}"

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    def children(self, module: str) -> list[int]:
        """Process ids of the apps (`_tab`) or the model (`_engine`)."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
                words = (stat.parent / "cmdline").read_bytes().split(b"\0")
            except (OSError, ValueError, IndexError):
                continue
            if parent == self.process.pid and f"hhchat.cli.{module}".encode() in words:
                found.append(int(stat.parent.name))
        return found

    def store(self) -> Store:
        return Store(self.home / "hhchat.db")

    def picks(self) -> int:
        with self.store() as store:
            return int(store.stats()["comparisons"])

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout=20)
        finally:
            self.process.kill()
            assert self.process.stdout is not None
            self.process.stdout.close()


class Tab:
    """An app in a tab: `written` is every byte it sent to the terminal in the page."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self.socket = socket
        self.written = bytearray()
        self.texts: list[str] = []
        self.ended = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.socket:
            if message.type is WSMsgType.BINARY:
                self.written += message.data
            elif message.type is WSMsgType.TEXT:
                self.texts.append(message.data)

    async def type(self, keys: str) -> None:
        await self.socket.send_json(["stdin", keys])

    async def until(self, words: bytes, after: int = 0, patience: float = 30) -> int:
        """Wait for words on the screen; how many bytes were written by then."""
        deadline = time.monotonic() + patience
        while words not in self.written[after:]:
            assert time.monotonic() < deadline, (words, bytes(self.written[after:])[-2000:])
            await asyncio.sleep(0.02)
        return len(self.written)

    async def press(self, keys: str, words: bytes) -> None:
        """Type until it shows: a dialog that has just opened may not have the keys yet."""
        at = len(self.written)
        for _ in range(20):
            await self.type(keys)
            with suppress(AssertionError):
                await self.until(words, at, patience=1.5)
                return
        raise AssertionError(words)

    async def pair(self, text: str) -> None:
        """Say something and wait for the two replies."""
        at = len(self.written)
        await self.type(text)
        await self.type("\r")
        await self.until(b"your pick", at)

    async def pick(self) -> None:
        at = len(self.written)
        await self.type("\x1b[D")
        await self.until(b"saved", at)


class Visitor:
    """A browser's place in the conversation: its cookies, and where the token has led it."""

    def __init__(self, served: Served, session: ClientSession) -> None:
        self.served, self.session = served, session
        self.place = ""

    async def enter(self) -> None:
        async with self.session.get(self.served.told["url"]) as answer:
            assert answer.status == 200
            found = re.search(r'url=(/[\w-]+/)"', await answer.text())
        assert found is not None
        self.place = found[1]

    @asynccontextmanager
    async def tab(self) -> AsyncIterator[Tab]:
        where = f"{self.served.origin}{self.place}ws?width=100&height=30"
        async with self.session.ws_connect(where, origin=self.served.origin) as socket:
            tab = Tab(socket)
            try:
                yield tab
            finally:
                await socket.close()
                await tab.ended
