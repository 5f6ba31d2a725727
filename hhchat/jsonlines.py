"""JSON values from a file of other people's making: JSON lines or one array, gzipped or not.

Nothing in a file raises: what cannot be read is yielded as a BadLine with its line number, and
the reading goes on behind it where it can.
"""

from __future__ import annotations

import codecs
import io
import json
import re
import zlib
from collections.abc import Iterator
from typing import IO, Any

MAX_LINE = 64 * 2**20  # bytes; a longer line is refused without being held in memory
CHUNK = 2**20
BLANK = re.compile(r"[\s,]*")
ESCAPED = re.compile("[\udc80-\udcff]")


class BadLine(ValueError):
    """What is wrong with a line; the message is shown beside its number."""


def items(raw: IO[bytes]) -> Iterator[tuple[int, Any]]:
    """The JSON values of a file with their line numbers; a BadLine where one cannot be read."""
    at = 0
    file: io.BufferedReader[Any] = io.BufferedReader(raw)
    try:
        packed = file.peek(2).startswith(b"\x1f\x8b")
        source: io.BufferedReader[Any] = io.BufferedReader(_Gunzip(file)) if packed else file
        first, before = _skip_blank(source)
        for at, item in (_array if first == b"[" else _lines)(source, before):
            yield at, item
    except (EOFError, zlib.error):
        yield at + 1, BadLine("the gzip file is damaged or ends early from here on")
    finally:
        file.detach()  # the file is the caller's to close


class _Gunzip(io.RawIOBase):
    """The contents of a gzip file. gzip.GzipFile would lose what came just before a damage."""

    def __init__(self, file: io.BufferedReader[Any]) -> None:
        self.file = file
        self.inflate = zlib.decompressobj(31)
        self.ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises EOFError where the file ends early, zlib.error where it is damaged."""
        while not self.ready:
            if self.inflate.eof:  # one gzip file may follow another
                raw = (self.inflate.unused_data or self.file.read(CHUNK >> 4)).lstrip(b"\0")
                if not raw:
                    return 0
                self.inflate = zlib.decompressobj(31)
            else:
                raw = self.inflate.unconsumed_tail or self.file.read(CHUNK >> 4)
                if not raw:
                    raise EOFError
            self.ready = self.inflate.decompress(raw, CHUNK)
        size = min(len(self.ready), len(buffer))
        buffer[:size] = self.ready[:size]
        self.ready = self.ready[size:]
        return size


def _skip_blank(file: io.BufferedReader[Any]) -> tuple[bytes, int]:
    """Go to the first byte that is not blank: that byte, and how many line ends were passed."""
    if file.peek(3).startswith(codecs.BOM_UTF8):
        file.read(3)
    passed = 0
    while True:
        seen = file.peek(1)
        rest = seen.lstrip(b" \t\r\n")
        passed += file.read(len(seen) - len(rest)).count(b"\n")
        if rest or not seen:
            return rest[:1], passed


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        return BadLine(f"not valid JSON: {error.msg} at character {error.pos + 1}")
    except RecursionError:
        return BadLine("nested too deeply")
    except ValueError:
        return BadLine("a number too long to read")


def _lines(source: io.BufferedReader[Any], number: int) -> Iterator[tuple[int, Any]]:
    """JSON lines; `number` is how many line ends lie before."""
    while line := source.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE and not line.endswith(b"\n"):
            while (rest := source.readline(CHUNK)) and not rest.endswith(b"\n"):
                pass
            yield number, BadLine(f"longer than {MAX_LINE // 2**20} MiB")
            continue
        if not line.strip():
            continue
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            yield number, BadLine(f"not valid UTF-8 at byte {error.start + 1}")
            continue
        yield number, _loads(text.strip("\r\n"))


def _array(source: io.BufferedReader[Any], number: int) -> Iterator[tuple[int, Any]]:
    """The items of one JSON array, held in memory a few at a time."""
    decode = json.JSONDecoder().raw_decode
    # bytes that are not UTF-8 become lone surrogates, so that only their item is refused
    utf8 = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    source.read(1)  # the bracket
    text, at, line, size, ended = "", 0, number + 1, CHUNK, False
    while True:
        start = BLANK.match(text, at).end()  # type: ignore[union-attr]
        line += text.count("\n", at, start)
        at = start
        error: BadLine | None = None
        if text[at : at + 1] == "]":
            if text[at + 1 :].strip() or source.read(CHUNK).strip():
                yield line, BadLine("text after the end of the array was not read")
            return
        if at < len(text):
            try:
                item, end = decode(text, at)
            except (ValueError, RecursionError) as problem:
                error = BadLine(f"not valid JSON ({problem}); nothing after it was read")
            else:
                bad = ESCAPED.search(text, at, end)
                yield line, BadLine("not valid UTF-8") if bad else item
                line += text.count("\n", at, end)
                at, size = end, CHUNK
                continue
        if ended or len(text) - at > MAX_LINE:
            yield line, error or BadLine("the array is not closed")
            return
        raw = source.read(size)
        size *= 2  # an item that spans chunks is parsed again: not each time for one chunk more
        ended = not raw
        text, at = text[at:] + utf8.decode(raw, final=ended), 0
