"""The process that holds the model: one engine, asked by many apps over a private socket.

A few pairs are sampled at once, a piece of each in turn, the others in the order they were asked
for; what is cancelled while it waits, or whose app has gone, is never begun. All of the model's
work is done by one thread; the loop only carries.
"""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from hhchat.protocols import Asking, Engine
from hhchat.serving import wire
from hhchat.types import BadInput, Delta, Draw, ModelError

CALLS = 128  # connections at once
AT_ONCE = 4  # pairs sampled side by side: each has a key-value cache of its own


class _Job:
    """Draws to be sampled for one connection. `out` is the loop's, the rest both threads'."""

    def __init__(self, draws: list[Draw], whole: bool) -> None:
        self.draws, self.whole = draws, whole
        self.loop = asyncio.get_running_loop()
        self.cancelled = threading.Event()
        self.begun = False
        self.out: asyncio.Queue[dict[str, Any]] = asyncio.Queue()


class EngineHost:
    """`load` makes the engine of a model by name, `fits` says in a line whether one fits."""

    def __init__(
        self, load: Callable[[str], Engine], fits: Callable[[str], str] = lambda name: ""
    ) -> None:
        self._load, self._fits = load, fits
        self.engine: Engine | None = None
        self.model = ""
        self._loading: asyncio.Future[Engine] | None = None
        self._work: queue.SimpleQueue[_Job | Callable[[], None]] = queue.SimpleQueue()
        self._calls = 0

    async def serve(self, listener: socket.socket, preload: str | None = None) -> None:
        """Answer on `listener` until cancelled. Raises what loading `preload` raises."""
        threading.Thread(target=self._drudge, name="hhchat-model", daemon=True).start()
        server = await asyncio.start_unix_server(self._connected, sock=listener, limit=wire.LINE)
        async with server:
            if preload is not None:
                await self.hold(preload)
            await asyncio.Event().wait()

    async def hold(self, model: str) -> Engine:
        """The engine of this model, loaded if none is; BadInput when another one is held."""
        if self._loading is None:
            self.model = model
            self._loading = asyncio.ensure_future(self._done(lambda: self._load(model)))
        loading = self._loading
        if model != self.model:
            raise BadInput(
                f"this `hhchat serve` holds {self.model}, not {model}: start it again to change"
            )
        try:
            self.engine = await asyncio.shield(loading)
        except Exception:
            if self._loading is loading:  # the next one to ask tries again
                self._loading = None
            raise
        return self.engine

    # -- the model's thread

    def _drudge(self) -> None:
        running: deque[Iterator[None]] = deque()
        over = object()
        while True:
            while len(running) < AT_ONCE:
                try:
                    work = self._work.get(block=not running)
                except queue.Empty:
                    break
                if isinstance(work, _Job):
                    running.append(self._sample(work))
                else:
                    work()
            turn = running.popleft()
            if next(turn, over) is not over:
                running.append(turn)

    async def _done(self, act: Callable[[], Any]) -> Any:
        """What `act` returns or raises, when the model's thread has come to it."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()

        def tell(value: Any, error: BaseException | None) -> None:
            if not done.done():
                done.set_exception(error) if error is not None else done.set_result(value)

        def work() -> None:
            value, failed = None, None
            try:
                value = act()
            except Exception as error:
                failed = error
            except BaseException as error:  # SystemExit of a library must not end the thread
                failed = ModelError(f"{type(error).__name__}: {error}")
            _post(loop, tell, value, failed)

        self._work.put(work)
        return await done

    def _sample(self, job: _Job) -> Iterator[None]:
        """The job, a piece at each turn, its lines posted as they come."""
        last: dict[str, Any] = {"end": True}
        job.begun = True
        try:
            if not job.cancelled.is_set():
                for delta in self._deltas(job):
                    _post(job.loop, job.out.put_nowait, wire.delta_out(delta))
                    yield
        except GeneratorExit:
            raise
        except BaseException as error:
            last = wire.error_out(error)
        _post(job.loop, job.out.put_nowait, last)

    def _deltas(self, job: _Job) -> Iterable[Delta]:
        if self.engine is None:
            raise ModelError("the model is not loaded: open the page again")
        if job.whole:
            return wire.generations_out(self.engine.generate(job.draws))
        return self.engine.sample(job.draws, job.cancelled.is_set)

    # -- the loop

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._calls += 1
        try:
            if self._calls > CALLS:
                raise wire.WireError("too many connections at once")
            await self._call(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        except Exception as error:
            with suppress(OSError):
                await _send(writer, wire.error_out(error))
        finally:
            self._calls -= 1
            writer.close()

    async def _call(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await reader.readline()
        except ValueError:
            raise wire.WireError(f"a line is longer than {wire.LINE:,} bytes") from None
        if not line:
            return
        request = wire.decode(line)
        match request.get("do"):
            case "hello":
                engine = await self.hold(wire.text(request, "model"))
                await _send(writer, {"base": engine.base, "asking": isinstance(engine, Asking)})
            case "fits":
                name = wire.text(request, "model")
                told = await self._done(lambda: self._fits(name))
                await _send(writer, {"line": told})
            case "sample" | "generate" as what:
                if self._loading is not None:  # a host that was started again is still loading
                    await asyncio.shield(self._loading)
                draws = wire.draws_in(request.get("draws"))
                await self._answer(_Job(draws, what == "generate"), reader, writer)
            case "latest" | "learn" | "choose" as what:
                await _send(writer, await self._ask(what, request))
            case _:
                raise wire.WireError("`do` is nothing that is done here")

    async def _ask(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        """One asker for all tabs: it learns from every pick, in whichever tab it was made."""
        if not isinstance(self.engine, Asking):
            raise ModelError("this model cannot choose what to ask")
        asker = self.engine.asker
        if what == "learn":
            comparisons = wire.comparisons_in(request.get("comparisons"))
            await self._done(lambda: asker.learn(comparisons))
        elif what == "choose":
            messages = wire.messages_in(request.get("messages"))
            replies = wire.replies_in(request.get("replies"))
            return {"two": await self._done(lambda: asker.choose(messages, replies))}
        return {"latest": asker.latest}

    async def _answer(
        self, job: _Job, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._work.put(job)
        watch = asyncio.create_task(self._watch(job, reader))
        try:
            while True:
                record = await job.out.get()
                lines = [wire.encode(record)]
                while not job.out.empty() and not _last(record):
                    record = job.out.get_nowait()
                    lines.append(wire.encode(record))
                writer.write(b"".join(lines))
                await writer.drain()
                if _last(record):
                    return
        finally:
            job.cancelled.set()
            watch.cancel()

    async def _watch(self, job: _Job, reader: asyncio.StreamReader) -> None:
        """A line, or the end of the connection, cancels."""
        with suppress(ConnectionError, ValueError):
            await reader.readline()
        job.cancelled.set()
        if not job.begun:  # its turn need not be waited for
            job.out.put_nowait({"end": True})


def _last(record: dict[str, Any]) -> bool:
    return "end" in record or "error" in record


def _post(loop: asyncio.AbstractEventLoop, act: Callable[..., object], *values: object) -> None:
    with suppress(RuntimeError):  # the loop has ended, and the process with it
        loop.call_soon_threadsafe(act, *values)


async def _send(writer: asyncio.StreamWriter, record: dict[str, Any]) -> None:
    writer.write(wire.encode(record))
    await writer.drain()
