"""A server process that speaks /v1/chat/completions, well or badly: the model's name says how.

`python server.py` prints its port on the first line. Nothing but the standard library. Each
request's body is kept; GET /asked gives them all, with the headers.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

asked: list[dict] = []
failures: dict[str, int] = {}
lock = threading.Lock()
models = sys.argv[1:] or ["normal"]
CONTEXT = 100  # words that the servers with a limit read
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self.page(200, {"object": "list", "data": [{"id": m} for m in models]})
        elif self.path == "/asked":
            with lock:
                self.page(200, asked)
        elif self.path == "/empty/models":
            self.page(200, {"data": []})
        elif self.path == "/odd/models":
            self.page(200, {"models": "none"})
        else:
            self.page(404, {"error": "no such page"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with lock:
            asked.append({"path": self.path, "body": body, "headers": dict(self.headers)})
        if self.path == "/moved/chat/completions":
            return self.redirect("/v1/chat/completions")
        if self.path == "/circle/chat/completions":
            return self.redirect(self.path)
        if self.path == "/away/chat/completions":
            return self.redirect("http://elsewhere.example/v1/chat/completions")
        if self.path == "/lost/chat/completions":
            return self.redirect("/v1/chat/completions", 302)
        if self.path != "/v1/chat/completions":
            return self.page(404, {"error": {"message": "no such endpoint"}})
        mode = body["model"].replace("-", "_")
        if mode == "half" and body["seed"] % 2:
            mode = "fails"
        if mode == "half":
            mode = "slow"
        found = getattr(self, f"mode_{mode}", None)
        if found is None:
            return self.page(404, {"error": {"message": f"model {mode} not found"}})
        return found(body)

    # -- ways to answer

    def mode_normal(self, body: dict) -> None:
        self.stream()
        self.delta({"role": "assistant", "content": ""})
        for word in WORDS:
            self.delta({"content": f"{word} "})
        self.delta({"content": str(body["seed"])})
        self.finish("stop")

    def mode_slow(self, body: dict) -> None:
        self.stream()
        for word in WORDS:
            self.delta({"content": f"{word} "})
            time.sleep(0.03)
        self.finish("stop")

    def mode_endless(self, body: dict) -> None:
        self.stream()
        for _ in range(2000):
            self.delta({"content": "on and on "})
            time.sleep(0.01)

    def mode_deaf(self, body: dict) -> None:
        """Ignores max_tokens."""
        self.stream()
        for _ in range(200):
            self.delta({"content": "blah " * 100})
        self.finish("stop")

    def mode_long(self, body: dict) -> None:
        self.stream()
        self.delta({"content": "cut he"})
        self.finish("length")

    def mode_stalled(self, body: dict) -> None:
        self.stream()
        self.delta({"content": "a start"})
        time.sleep(30)

    def mode_silent(self, body: dict) -> None:
        time.sleep(30)

    def mode_dropped(self, body: dict) -> None:
        self.stream()
        self.delta({"content": "half a "})
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def mode_reset(self, body: dict) -> None:
        self.stream()
        self.delta({"content": "half a "})
        self.close_connection = True
        time.sleep(0.05)
        # Closing with a linger of 0 sends RST instead of FIN.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.wfile.close()
        self.connection.close()

    def mode_ended(self, body: dict) -> None:
        """The chunked body ends well, but no finish reason and no [DONE] ever came."""
        self.stream()
        self.delta({"content": "half a "})
        self.chunk(b"")

    def mode_done_only(self, body: dict) -> None:
        self.stream()
        self.delta({"content": "whole"})
        self.event("[DONE]")
        self.chunk(b"")

    def mode_fails(self, body: dict) -> None:
        self.page(500, {"error": {"message": "out of \x1b[31mmemory\nsorry", "type": "server"}})

    def mode_flaky(self, body: dict) -> None:
        """Fails the first time it sees a seed."""
        key = str(body["seed"])
        with lock:
            failures[key] = failures.get(key, 0) + 1
        if failures[key] == 1:
            return self.page(503, "busy", "text/plain")
        return self.mode_normal(body)

    def mode_key(self, body: dict) -> None:
        self.page(401, {"error": {"message": f"bad key {self.headers['Authorization']}"}})

    def mode_busy(self, body: dict) -> None:
        self.page(429, {"detail": "slow down"})

    def mode_bad(self, body: dict) -> None:
        self.page(400, {"error": "the prompt is longer than 2048 tokens"})

    # Each of these reads CONTEXT words, of which the reply gets max_tokens, and says so in the
    # words of the server it is named after.

    def fits(self, body: dict, needed_for_reply: bool = True) -> tuple[bool, int, int]:
        prompt = sum(len(m["content"].split()) for m in body["messages"])
        new = body["max_tokens"] if needed_for_reply else 0
        if prompt + new <= CONTEXT:
            self.mode_normal(body)
            return True, prompt, new
        return False, prompt, new

    def mode_vllm(self, body: dict) -> None:
        done, prompt, new = self.fits(body)
        if not done:
            said = (
                f"This model's maximum context length is {CONTEXT} tokens. However, you requested "
                f"{prompt + new} tokens ({prompt} in the messages, {new} in the completion). "
                "Please reduce the length of the messages or completion."
            )
            kind = {"type": "BadRequestError", "param": None, "code": 400}
            self.page(400, {"object": "error", "message": said, **kind})

    def mode_vllm_new(self, body: dict) -> None:
        done, prompt, new = self.fits(body)
        if not done:
            said = (
                f"'max_tokens' or 'max_completion_tokens' is too large: {new}. This model's "
                f"maximum context length is {CONTEXT} tokens and your request has {prompt} input "
                f"tokens ({new} > {CONTEXT} - {prompt})."
            )
            self.page(400, {"error": {"message": said, "type": "BadRequestError", "code": 400}})

    def mode_llamacpp(self, body: dict) -> None:
        done, prompt, _ = self.fits(body, needed_for_reply=False)
        if not done:
            said = "the request exceeds the available context size. try increasing the context size"
            error = {"code": 400, "message": said, "type": "exceed_context_size_error"}
            self.page(400, {"error": {**error, "n_prompt_tokens": prompt, "n_ctx": CONTEXT}})

    def mode_llamacpp_200(self, body: dict) -> None:
        """As some versions do: the status says that all is well."""
        done, *_ = self.fits(body, needed_for_reply=False)
        if not done:
            said = "the request exceeds the available context size, try increasing it"
            self.stream()
            self.event(json.dumps({"error": {"code": 400, "message": said}}))
            self.chunk(b"")

    def mode_ollama(self, body: dict) -> None:
        done, prompt, _ = self.fits(body, needed_for_reply=False)
        if not done:
            said = f"prompt too long; exceeded max context length by {prompt - CONTEXT} tokens"
            error = {"message": said, "type": "api_error", "param": None, "code": None}
            self.page(500, {"error": error})

    def mode_openai(self, body: dict) -> None:
        done, prompt, _ = self.fits(body, needed_for_reply=False)
        if not done:
            said = (
                f"This model's maximum context length is {CONTEXT} tokens. However, your messages "
                f"resulted in {prompt} tokens. Please reduce the length of the messages."
            )
            error = {"type": "invalid_request_error", "code": "context_length_exceeded"}
            self.page(400, {"error": {"message": said, "param": "messages", **error}})

    def mode_bursts(self, body: dict) -> None:
        """Runs out of context in the middle of a reply, and calls that an error."""
        self.stream()
        self.delta({"content": "so far "})
        self.event(json.dumps({"error": {"message": "context size exceeded", "code": 500,
                                         "type": "exceed_context_size_error"}}))  # fmt: skip
        self.chunk(b"")

    def mode_garbage(self, body: dict) -> None:
        self.stream()
        self.event("{this is not JSON")
        self.chunk(b"")

    def mode_array(self, body: dict) -> None:
        self.stream()
        self.event("[1, 2]")
        self.chunk(b"")

    def mode_nested(self, body: dict) -> None:
        self.stream()
        self.event("[" * 100_000)
        self.chunk(b"")

    def mode_notjson(self, body: dict) -> None:
        self.page(200, "{half", "application/json")

    def mode_html(self, body: dict) -> None:
        self.page(200, "<html>router login</html>", "text/html")

    def mode_nottp(self, body: dict) -> None:
        self.close_connection = True
        self.wfile.write(b"\x00\x01 what is this\r\n\r\n")

    def mode_huge(self, body: dict) -> None:
        self.stream()
        line = b"data: " + b"x" * (1 << 16)
        for _ in range(40):
            self.chunk(line)

    def mode_error(self, body: dict) -> None:
        self.stream()
        self.delta({"content": "so far "})
        self.event(json.dumps({"error": {"message": "the model crashed", "code": 500}}))
        self.chunk(b"")

    def mode_whole(self, body: dict) -> None:
        """Does not stream at all."""
        message = {"role": "assistant", "content": "in one piece"}
        self.page(200, {"choices": [{"message": message, "finish_reason": "stop"}]})

    def mode_odd(self, body: dict) -> None:
        """Legal, and rarely tested: comments, CRLF, no space, two data lines, usage, nulls."""
        self.stream()
        self.chunk(b": keep-alive\r\n\r\nevent: message\r\nid: 7\r\nretry: 10\r\n")
        self.chunk(b'data:{"choices":[{"delta":{"content":"a"}}]}\r\n\r\n')
        self.chunk(b'data: {"choices":\ndata: [{"delta":{"content":"b"}}]}\n\n')
        self.chunk(b'data: {"choices":[{"delta":{"content":null,"reasoning_content":"hm"}}]}\n\n')
        self.chunk(b'data: {"choices":[{"delta":{}}]}\n\ndata: {"choices":[],"usage":{}}\n\n')
        self.chunk(b'data: {"choices":[{"delta":null,"finish_reason":"stop"}]}\n\n')
        self.chunk(b"")

    def mode_unicode(self, body: dict) -> None:
        """Characters split over packets, and a surrogate pair split over two events."""
        self.stream()
        line = 'data: {"choices":[{"delta":{"content":"naïve 日本 👍🏽"}}]}\n\n'.encode()
        for byte in line:
            self.chunk(bytes([byte]))
            time.sleep(0.0005)
        self.chunk(b'data: {"choices":[{"delta":{"content":" \\ud83d"}}]}\n\n')
        self.chunk(b'data: {"choices":[{"delta":{"content":"\\ude00 end \\udc00"}}]}\n\n')
        self.chunk(b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\n')
        self.finish("stop")

    def mode_escapes(self, body: dict) -> None:
        self.stream()
        for piece in ("red \x1b", "[31m now", "\x1b]52;c;AAAA\x07 ", "\u202eevil", " \x9b2J"):
            self.delta({"content": piece})
        self.finish("stop")

    def mode_empty(self, body: dict) -> None:
        self.stream()
        self.finish("stop")

    # -- parts

    def page(self, status: int, body: object, kind: str = "application/json") -> None:
        raw = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def redirect(self, to: str, status: int = 307) -> None:
        self.send_response(status)
        self.send_header("Location", to)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, raw: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(raw), raw))
        self.wfile.flush()

    def event(self, data: str) -> None:
        self.chunk(f"data: {data}\n\n".encode())

    def delta(self, delta: dict) -> None:
        self.event(json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}))

    def finish(self, reason: str) -> None:
        self.event(json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}))
        self.event("[DONE]")
        self.chunk(b"")


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, address: object) -> None:
        pass  # clients of these tests leave early


if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
