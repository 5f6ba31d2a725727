"""The server a browser talks to: textual-serve, behind a gate that it does not have.

textual-serve starts the app for whoever connects: it asks for no password, and checks neither
where a socket was opened from nor under what name the server was reached, so that any page open in
the user's browser could type into the app. Here every request has to pass `Gate` first, and one
that does not gets an empty 403 and starts nothing. The app runs without a shell, and of what an
app may ask of the browser (open an address, save a file) only its end is passed on: hhchat asks
for nothing else.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import secrets
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hmac import compare_digest

from aiohttp import WSMsgType, web
from aiohttp.http_exceptions import HttpProcessingError
from textual_serve.app_service import AppService
from textual_serve.server import Server

from hhchat.serving import page
from hhchat.text import one_line, printable

COOKIE = "hhchat"
TABS = 16  # apps at once
GRACE = 5.0  # seconds an app is given to end when its tab is closed
MESSAGE = 4 << 20  # bytes of the longest message of a browser: a long text pasted
PACKET = 64 << 20  # bytes of the longest packet of an app
WIDEST, HIGHEST = 1000, 500  # cells of a terminal
TAIL = 64 << 10  # bytes kept of what an app writes to standard error
ALT_OFF = b"\x1b[?1049l\x1b[?25h"
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "hhchat",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Gate:
    """Who gets in: with the token once, and from then on with a cookie.

    Everything lies below `place`, a path that nobody can guess, and the cookie is for that path
    alone: browsers send a cookie to all ports of a host, and another server on this machine must
    not be sent ours. The address bar shows the place, which opens nothing without the cookie.
    """

    names: frozenset[str]  # hosts we are known by, in lower case; an address may also be one
    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    ticket: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    place: str = field(default_factory=lambda: f"/{secrets.token_urlsafe(16)}/", repr=False)

    def host(self, request: web.Request) -> str | None:
        """The Host of a request, when it is one of ours.

        A page can make its own name lead to this machine (DNS rebinding), but can not have the
        browser call it by one of our names, or by the address that it came to.
        """
        told = request.headers.getall("Host", [])
        if len(told) != 1:
            return None
        host, port = _split(told[0].lower())
        if port != self.port or not (host in self.names or _arrived_at(request, host)):
            return None
        return told[0].lower()

    def enters(self, request: web.Request) -> bool:
        """Whether this is the way in, with the token."""
        return (
            self._sound(request)
            and request.path == "/"
            and _same(request.query.get("token", ""), self.token)
        )

    def lets(self, request: web.Request) -> bool:
        """Whether a request for something below our place is from someone who came in."""
        return (
            self._sound(request)
            and request.path.startswith(self.place)
            and _same(request.cookies.get(COOKIE, ""), self.ticket)
            # What browsers say of a page elsewhere, another port of this host among them.
            and request.headers.get("Sec-Fetch-Site", "none") in ("same-origin", "none")
        )

    def from_here(self, request: web.Request) -> bool:
        """Whether a socket is opened by a page of ours: browsers always say where from."""
        host, told = self.host(request), request.headers.getall("Origin", [])
        return host is not None and [t.lower() for t in told] == [f"http://{host}"]

    def _sound(self, request: web.Request) -> bool:
        if request.method not in ("GET", "HEAD") or self.host(request) is None:
            return False
        return "Origin" not in request.headers or self.from_here(request)


def _same(given: str, wanted: str) -> bool:
    return compare_digest(given.encode("utf-8", "surrogateescape"), wanted.encode())


def _split(authority: str) -> tuple[str, int]:
    """("::1", 80) for "[::1]"; port -1 when there is none that makes sense."""
    host, port = authority, ""
    if authority.startswith("["):
        host, _, port = authority[1:].partition("]")
        if port and not port.startswith(":"):
            return "", -1
        port = port[1:]
    elif ":" in authority:
        host, _, port = authority.partition(":")
    if not port:
        return host, 80
    return host, int(port) if port.isascii() and port.isdigit() and len(port) < 6 else -1


def _arrived_at(request: web.Request, host: str) -> bool:
    """Whether `host` is the very address that this connection was made to."""
    if request.transport is None:
        return False
    sockname = request.transport.get_extra_info("sockname")
    try:
        address, ours = ipaddress.ip_address(host), ipaddress.ip_address(sockname[0])
    except (TypeError, ValueError, IndexError):
        return False
    mapped = getattr(ours, "ipv4_mapped", None)
    return address in (ours, mapped)


class Web(Server):
    """textual-serve's server with a gate before it and apps started our way.

    `command` gives the words that start an app: another tab is open already, or not. `said` gets
    what an app wrote to standard error before it failed.
    """

    def __init__(
        self, gate: Gate, command: Callable[[bool], Sequence[str]], said: Callable[[str], None]
    ) -> None:
        super().__init__("hhchat", title="hhchat", port=gate.port)
        self.gate, self._words, self._said = gate, command, said
        self.tabs: set[Tab] = set()

    def runner(self, application: web.Application) -> web.AppRunner:
        logger = logging.Logger("hhchat.serving")
        logger.addHandler(Log(self._said))
        return web.AppRunner(application, access_log=None, logger=logger, shutdown_timeout=1)

    async def application(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=1024)
        place = self.gate.place
        app.router.add_get("/", self.handle_entry)
        app.router.add_get(place, self.handle_page)
        app.router.add_get(f"{place}page.js", self.handle_script)
        app.router.add_get(f"{place}ws", self.handle_websocket)
        app.router.add_static(f"{place}static", self.statics_path, show_index=False)
        app.on_response_prepare.append(self._mark)
        return app

    _make_app = application  # what textual-serve would run

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not (self.gate.enters(request) or self.gate.lets(request)):
            return web.Response(status=403)
        return await handler(request)

    async def _mark(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(HEADERS)
        host = self.gate.host(request)
        socket = "'none'" if host is None else f"ws://{host}"
        response.headers["Content-Security-Policy"] = page.POLICY.format(socket=socket)

    async def handle_entry(self, request: web.Request) -> web.Response:
        response = web.Response(text=page.entry(self.gate.place), content_type="text/html")
        response.set_cookie(
            COOKIE, self.gate.ticket, path=self.gate.place, httponly=True, samesite="Strict"
        )
        return response

    async def handle_page(self, request: web.Request) -> web.Response:
        socket = f"ws://{self.gate.host(request)}{self.gate.place}ws"
        size = _cells(request.query.get("fontsize"), 16, 64)
        return web.Response(text=page.app(socket, max(6, size)), content_type="text/html")

    async def handle_script(self, request: web.Request) -> web.Response:
        return web.Response(text=page.SCRIPT, content_type="text/javascript")

    async def handle_websocket(self, request: web.Request) -> web.StreamResponse:  # type: ignore[override]
        if not self.gate.from_here(request):
            return web.Response(status=403)
        if len(self.tabs) >= TABS:
            return web.Response(status=503, text=f"{TABS} tabs are open: close one")
        socket = web.WebSocketResponse(heartbeat=15, max_msg_size=MESSAGE)
        width = _cells(request.query.get("width"), 80, WIDEST)
        height = _cells(request.query.get("height"), 24, HIGHEST)
        tab = Tab(self._words(bool(self.tabs)), socket, self)
        self.tabs.add(tab)
        try:
            await socket.prepare(request)
            await tab.start(width, height)
            await self._listen(socket, tab)
        except (OSError, RuntimeError) as error:
            self._said(f"a tab broke off: {error}")
        finally:
            self.tabs.discard(tab)
            await asyncio.shield(tab.stop())
        return socket

    async def _listen(self, socket: web.WebSocketResponse, tab: Tab) -> None:
        """Pass on what the browser says; what makes no sense ends the connection."""
        async for message in socket:
            try:
                match json.loads(message.data) if message.type is WSMsgType.TEXT else None:
                    case ["stdin", str(data)]:
                        await tab.send_bytes(data.encode("utf-8", "replace"))
                    case ["resize", {"width": int(width), "height": int(height)}]:
                        width, height = min(width, WIDEST), min(height, HIGHEST)
                        await tab.set_terminal_size(max(1, width), max(1, height))
                    case ["ping", str(data)]:
                        await socket.send_json(["pong", data[:64]])
                    case ["blur"]:
                        await tab.blur()
                    case ["focus"]:
                        await tab.focus()
                    case _:
                        raise ValueError
            except (ValueError, RecursionError):
                await socket.close(code=1003)

    def failed(self, words: str) -> None:
        self._said(words)

    async def shut(self) -> None:
        """End all apps."""
        await asyncio.gather(*(tab.stop() for tab in list(self.tabs)), return_exceptions=True)


class Tab(AppService):
    """One app process, for as long as its socket is open."""

    def __init__(self, words: Sequence[str], socket: web.WebSocketResponse, server: Web) -> None:
        super().__init__(
            "hhchat",
            write_bytes=socket.send_bytes,
            write_str=socket.send_str,
            close=socket.close,  # type: ignore[arg-type]
            download_manager=server.download_manager,
        )
        self._words, self._server = words, server
        self._stopping = False
        self._errors = bytearray()

    async def _open_app_process(self, width: int = 80, height: int = 24) -> Process:
        process = await asyncio.create_subprocess_exec(
            *self._words,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=self._build_environment(width, height),
            start_new_session=True,  # Ctrl-C is for the server, which ends its children
        )
        self._process, self._stdin = process, process.stdin
        return process

    async def run(self) -> None:
        assert self._process is not None
        errors = asyncio.create_task(self._read_errors())
        with suppress(asyncio.IncompleteReadError, ConnectionError, RuntimeError, ValueError):
            await self._read_packets()
        with suppress(OSError):
            self.stdin.close()  # if it has stopped talking, it is to end
        rest = asyncio.create_task(self._read_rest())  # or it would wait for someone to read
        try:
            await asyncio.wait_for(self._process.wait(), GRACE)
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        await asyncio.wait([errors, rest], timeout=1)  # its children may hold on to them
        for task in (errors, rest):
            task.cancel()
        with suppress(ConnectionError, RuntimeError):
            await self._last_words()
            await self.remote_close()

    async def _read_packets(self) -> None:
        assert self._process is not None
        stdout = self._process.stdout
        assert stdout is not None
        while await stdout.readline() not in (b"__GANGLION__\n", b""):
            pass  # what is printed before the app begins
        while True:
            kind, size = await stdout.readexactly(1), await stdout.readexactly(4)
            length = int.from_bytes(size, "big")
            if length > PACKET:
                return
            payload = await stdout.readexactly(length)
            if kind == b"D":
                await self.remote_write_bytes(payload)
            elif kind == b"M" and json.loads(payload).get("type") == "exit":
                return

    async def _read_rest(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while await self._process.stdout.read(1 << 16):
            pass

    async def _read_errors(self) -> None:
        assert self._process is not None
        stderr = self._process.stderr
        assert stderr is not None
        while piece := await stderr.read(1 << 12):
            self._errors += piece
            del self._errors[:-TAIL]

    async def _last_words(self) -> None:
        """Why the app failed, in the browser and for whoever runs the server."""
        assert self._process is not None
        told = printable(self._errors.decode("utf-8", "replace")).strip()
        if told:
            self._server.failed(told)
        if not self._stopping and self._process.returncode:
            last = told.splitlines()[-1] if told else f"exit status {self._process.returncode}"
            await self.remote_write_bytes(ALT_OFF + f"\r\n{last}\r\n".encode())

    async def stop(self) -> None:
        """End the app: its standard input closes, and it leaves as from a closed terminal."""
        self._stopping = True
        if self._stdin is not None:
            with suppress(OSError):
                self._stdin.close()
        if self._task is not None:
            await asyncio.wait([self._task])


class Log(logging.Handler):
    """What goes wrong in the server, a line each; not what strangers send that is no HTTP."""

    def __init__(self, said: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError):
            told = f": {type(error).__name__}: {error}" if error else ""
            self._said(one_line(record.getMessage() + told, 300))


def _cells(value: str | None, otherwise: int, most: int) -> int:
    """A count from the address, within reason."""
    if value is None or not value.isascii() or not value.isdigit():
        return otherwise
    return min(max(1, int(value[:6])), most)
