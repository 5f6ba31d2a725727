"""The wire under `hhchat.remote`: one request to an OpenAI-compatible server, read line by line.

Standard library only. Whatever a server, a proxy or a cable can do to a request ends here as a
`ServerError`: one line that names the server and says what to check. The API key is sent in one
header and is in no message, no `repr` and no record.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import urljoin, urlsplit

from hhchat.openai_errors import context_of, is_overlong, message_of, read_error
from hhchat.text import one_line
from hhchat.types import BadInput, HhchatError, TooLong

CONNECT = 10.0  # seconds to reach the server; silence afterwards has its own, longer limit
LINE = 1 << 20  # longest line of a stream, in bytes
WHOLE = 8 << 20  # longest reply that comes in one piece
SAID = 1 << 16  # what is read of an error page
REDIRECTS = 3
PORTS = {"http": 80, "https": 443}


class ServerError(HhchatError):
    """The server could not be reached, refused, or spoke nonsense. `transient`: worth a retry."""

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class Overlong(ServerError, TooLong):
    """The conversation, or it and the room for a reply, are more than the model reads.

    `limit` is the model's context in tokens, where the server says it.
    """

    def __init__(self, message: str, limit: int | None = None) -> None:
        super().__init__(message)
        self.limit = limit


@dataclass(frozen=True)
class Server:
    """Where requests go. `timeout` is the longest silence, in seconds, before giving up."""

    scheme: str
    host: str
    port: int
    path: str
    key: str = field(default="", repr=False)
    timeout: float = 120.0
    connect: float = CONNECT

    @property
    def name(self) -> str:
        """host:port, as it is recorded with each reply."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.name}{self.path}"

    @property
    def loopback(self) -> bool:
        """Whether what is sent stays on this machine."""
        if self.host == "localhost" or self.host.endswith(".localhost"):
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def models(self) -> list[str]:
        """The names of the models it serves."""
        told = Call(self).whole("GET", "/models")
        listed = told.get("data") if isinstance(told, dict) else None
        if not isinstance(listed, list):
            raise self.nonsense("its list of models is not one")
        names = [m.get("id") for m in listed if isinstance(m, dict)]
        # A name is recorded and shown: one that would not be printed as it is, is none.
        return [n for n in names if isinstance(n, str) and n and one_line(n, 200) == n]

    def error(self, what: str, *, transient: bool = False) -> ServerError:
        """An error about this server, the key cut out of whatever was quoted."""
        if self.key:
            what = what.replace(self.key, "(key)")
        return ServerError(f"the server at {self.url} {what}", transient=transient)

    def nonsense(self, what: str) -> ServerError:
        return self.error(f"does not speak the OpenAI API ({what}): check the address and its log")


def parse_url(url: str) -> tuple[str, str, int, str]:
    """(scheme, host, port, path) of what a person writes; BadInput says what is wrong.

    "8080" and "localhost:8080" mean this machine over http, an empty path means /v1, and the
    address of the endpoint itself is cut back to its root.
    """
    text = url.strip()
    if re.fullmatch(r"\d{1,5}", text):
        text = f"http://127.0.0.1:{text}"
    elif "://" not in text and re.match(r"(localhost|127\.[\d.]+|\[::1\])(:\d+)?(/|$)", text):
        text = f"http://{text}"
    shown = one_line(re.sub(r"//[^/@]*@", "//…@", url), 100)
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise BadInput(f"{shown!r} is not an address: write http://HOST:PORT/v1") from None
    if parts.scheme not in PORTS:
        raise BadInput(f"the address {shown!r} must begin with http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise BadInput(
            f"the address {shown!r} holds a name or a password, and addresses are recorded: "
            "name the key's variable in [remote] api_key_env"
        )
    clean = re.fullmatch(r"[A-Za-z0-9._:-]+", host) and re.fullmatch(r"[!-~]*", parts.path)
    if not clean or parts.query or parts.fragment or port == 0:
        raise BadInput(f"{shown!r} is not an address: write http://HOST:PORT/v1")
    path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
    return parts.scheme, host, port or PORTS[parts.scheme], path


class Call:
    """One request and its answer. `close`, from any thread, wakes whoever is reading it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.closed = False
        self._connection: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None

    def close(self) -> None:
        self.closed = True
        sock, self._socket = self._socket, None
        if sock is not None:
            # Past the TLS layer, whose own shutdown is not safe beside a reading thread.
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def whole(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON that the server answers with."""
        with _Translated(self.server):
            response = self._request(method, path, body)
            try:
                return self._json(response)
            finally:
                self._end(response)

    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any] | None]:
        """The JSON objects of a stream as they arrive; None where it says [DONE].

        A server that does not stream gives its one object, then None. A stream that just stops
        ends without None.
        """
        with _Translated(self.server):
            response = self._request("POST", path, body)
            try:
                if _kind(response) == "application/json":
                    yield self._object(self._json(response))
                    yield None
                    return
                if _kind(response) != "text/event-stream":
                    raise self.server.nonsense(f"it sent {_kind(response) or 'no content type'}")
                for data in self._data(response):
                    if data == "[DONE]":
                        yield None
                        return
                    try:
                        yield self._object(json.loads(data))
                    except (ValueError, RecursionError):
                        raise self.server.nonsense("its stream holds broken JSON") from None
            finally:
                self._end(response)

    # -- inside

    def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> http.client.HTTPResponse:
        server = self.server
        target = server.path + path
        headers = {"Accept": "text/event-stream, application/json", "Connection": "close"}
        payload = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            payload = json.dumps(body).encode()
        if server.key:
            headers["Authorization"] = f"Bearer {server.key}"
        for _ in range(REDIRECTS + 1):
            self._connect()
            assert self._connection is not None
            self._connection.request(method, target, payload, headers)
            response = self._connection.getresponse()
            if response.status == 200:
                return response
            try:
                if response.status not in (301, 302, 303, 307, 308):
                    raise self._refusal(response)
                target = self._redirect(method, response, target)
            finally:
                self._end(response)
        raise server.error("redirects in a circle: check the address")

    def _connect(self) -> None:
        """Connect with one limit, then read with the other: a busy server may think for long."""
        server = self.server
        connection: http.client.HTTPConnection
        if server.scheme == "https":
            connection = http.client.HTTPSConnection(
                server.host,
                server.port,
                timeout=server.connect,
                context=ssl.create_default_context(),
            )
        else:
            connection = http.client.HTTPConnection(
                server.host, server.port, timeout=server.connect
            )
        try:
            connection.connect()
        except ssl.SSLError as error:
            why = one_line(getattr(error, "verify_message", "") or error.reason or str(error))
            raise server.error(f"offers no TLS connection to trust ({why})") from None
        except OSError as error:
            why = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
            raise server.error(
                f"cannot be reached ({one_line(why).lower()}): is it running, "
                "and is the address right?",
                transient=True,
            ) from None
        connection.sock.settimeout(server.timeout)
        self._connection, self._socket = connection, connection.sock
        if self.closed:  # while it was connecting
            self.close()

    def _end(self, response: http.client.HTTPResponse) -> None:
        self._socket = None
        response.close()
        if self._connection is not None:
            self._connection.close()

    def _redirect(self, method: str, response: http.client.HTTPResponse, target: str) -> str:
        """Where to ask instead, on the same server only: neither the key nor the talk leaves it."""
        server = self.server
        origin = f"{server.scheme}://{server.name}"
        try:
            to = urlsplit(urljoin(origin + target, response.getheader("Location") or ""))
            same = (to.scheme, to.hostname, to.port or PORTS.get(to.scheme)) == (
                server.scheme,
                server.host.lower(),
                server.port,
            )
        except ValueError:
            raise server.nonsense("it redirects to what is no address") from None
        kept = method == "GET" or response.status in (307, 308)  # the others would drop the body
        if same and kept and re.fullmatch(r"[!-~]+", to.path):
            return to.path
        where = one_line(f"{to.scheme}://{to.netloc.rpartition('@')[2]}{to.path}", 120)
        raise server.error(
            f"redirects to {where}, which is not followed: "
            "set [remote] url to it if that is where you want to go"
        )

    def _refusal(self, response: http.client.HTTPResponse) -> ServerError:
        status = response.status
        try:
            told = read_error(response.read(SAID), _kind(response))
        except (OSError, http.client.HTTPException):
            told = ""  # the status says enough
        said = self._quotable(message_of(told))
        quoted = f": {one_line(said, 200)}" if said.strip() else ""
        if status not in (401, 403, 404, 429) and is_overlong(told):
            return self._overlong(told)
        if status in (401, 403):
            advice = "name the variable that holds its key in [remote] api_key_env"
            if self.server.key:
                advice = "check the key in the variable that [remote] api_key_env names"
            return self.server.error(f"refused the key ({status}){quoted}; {advice}")
        if status == 404:
            return self.server.error(
                f"knows no such model or address (404){quoted}; check [remote] url and model"
            )
        if status == 429:
            return self.server.error(
                f"has too many requests (429){quoted}; try again later", transient=True
            )
        if status >= 500:
            return self.server.error(f"failed ({status}){quoted}; check its log", transient=True)
        return self.server.error(f"refused the request ({status}){quoted}")

    def _overlong(self, told: Any) -> Overlong:
        said = one_line(self._quotable(message_of(told)), 200)
        return Overlong(f"the server at {self.server.url} reads no more: {said}", context_of(told))

    def _quotable(self, said: str) -> str:
        """Without the key, before it is shortened: that could lose a part of the key only."""
        return said.replace(self.server.key, "(key)") if self.server.key else said

    def _json(self, response: http.client.HTTPResponse) -> Any:
        kind = _kind(response)
        if kind != "application/json":
            raise self.server.nonsense(f"it sent {kind or 'no content type'}")
        raw = response.read(WHOLE + 1)
        if len(raw) > WHOLE:
            raise self.server.nonsense(f"its answer is longer than {WHOLE >> 20} MiB")
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            raise self.server.nonsense("it sent broken JSON") from None

    def _object(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.server.nonsense("its stream holds no objects")
        if value.get("error"):
            if is_overlong(value):  # some servers say so after a status of 200
                raise self._overlong(value)
            said = self._quotable(message_of(value["error"]) or "no reason given")
            raise self.server.error(f"gave up: {one_line(said, 200)}", transient=True)
        return value

    def _data(self, response: http.client.HTTPResponse) -> Iterator[str]:
        """What the events of a stream carry. Bytes become text by whole lines, so that a
        character split over two packets stays one."""
        lines: list[str] = []
        size = 0
        while True:
            raw = response.readline(LINE + 1)
            size += len(raw)
            if len(raw) > LINE or size > WHOLE:
                raise self.server.nonsense(f"its stream has a line of over {LINE >> 20} MiB")
            line = raw.decode("utf-8", "replace").rstrip("\r\n")
            if line.startswith("data:"):
                lines.append(line[5:].removeprefix(" "))
            elif not line:  # the end of an event, or of the stream
                if lines:
                    yield "\n".join(lines)
                lines, size = [], 0
            if not raw:
                return


class _Translated:
    """What http.client and sockets raise, in words. The original may quote a header: dropped."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        server = self.server
        if isinstance(error, TimeoutError):
            raise server.error(
                f"said nothing for {server.timeout:g} s: it may be loading a model or be "
                "overloaded ([remote] timeout waits longer)",
                transient=True,
            ) from None
        if isinstance(error, http.client.IncompleteRead | ConnectionError):
            raise server.error("closed the connection midway: check its log", transient=True) from (
                None
            )
        if isinstance(error, http.client.HTTPException):
            raise server.nonsense("its answer is not HTTP") from None
        if isinstance(error, OSError):
            why = one_line(error.strerror or str(error)).lower()
            raise server.error(f"was lost ({why})", transient=True) from None


def _kind(response: http.client.HTTPResponse) -> str:
    return (response.getheader("Content-Type") or "").partition(";")[0].strip().lower()
