"""Random pieces of HTTP and JSON in any order: a reply, or one line about the server."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from hhchat.openai_wire import Server, ServerError
from hhchat.remote import RemoteEngine
from hhchat.types import Draw, Message, Sampling

START = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
PIECES = [
    *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 500\r\n\r\n", b"HTTP/1.1 100\r\n\r\n", b"\r\n"),
    *(b"HTTP/1.1 302\r\nLocation: http://[\r\n\r\n", b"HTTP/1.1 307\r\nLocation: //\r\n\r\n"),
    *(b"Content-Type: application/json\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(b"Content-Length: 20\r\n", b"5\r\n", b"0\r\n\r\n", b"zz\r\n", b"x" * 70_000, b"\x00\xff"),
    *(b"data: ", b"\n\n", b"[DONE]", b"{}", b"null", b'{"error":{}}', b'{"choices":{}}'),
    *(b'{"choices":[{"delta":5,"finish_reason":7}]}', b'{"choices":[{"finish_reason":"stop"}]}'),
    b'{"choices":[{"delta":{"content":"x"}}]}',
]


@pytest.fixture
def noisy() -> Iterator[int]:
    """A port whose answers are drawn by a seeded generator."""
    rng = random.Random(4)

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with suppress(OSError), connection:
                connection.recv(1 << 16)
                head = rng.choice([b"", START, START + b"\r\n", START + b"\r\ndata: "])
                rest = [rng.choice(PIECES) for _ in range(rng.randrange(8))]
                connection.sendall(head + b"".join(rest))

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]


def test_noise_is_a_reply_or_one_line(noisy: int) -> None:
    engine = RemoteEngine(Server("http", "127.0.0.1", noisy, "/v1", timeout=3), "m", retry=0)
    draw = Draw((Message("user", "hi"),), 1, Sampling())
    replies = 0
    for _ in range(400):
        ends = 0
        try:
            for delta in engine.sample([draw]):
                assert not ends
                ends += delta.generation is not None
            replies += 1
            assert ends == 1
        except ServerError as error:
            told = str(error)
            assert told.startswith(f"the server at {engine.server.url} ")
            assert told.isprintable()
            assert "could not be read" not in told, "an exception that nobody thought of"
    assert replies
