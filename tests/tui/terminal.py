"""The app in a real pseudo-terminal: what it writes, and what it leaves behind."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

APP = Path(__file__).with_name("fake_app.py")
ALT_ON, ALT_OFF = b"\x1b[?1049h", b"\x1b[?1049l"


class Terminal:
    """A child whose terminal we hold. `written` is every byte it sent to it."""

    def __init__(self, *arguments: str, size: tuple[int, int] = (30, 100)) -> None:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        self.child = subprocess.Popen(
            [sys.executable, str(APP), *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env=environment,
        )
        os.close(slave)
        self._master = master
        self._lock = threading.Lock()
        self._bytes = bytearray()
        self._deaf = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while not self._deaf.is_set():
            if not select.select([self._master], [], [], 0.1)[0]:
                continue
            try:
                piece = os.read(self._master, 65536)
            except OSError:
                return
            if not piece:
                return
            with self._lock:
                self._bytes += piece

    @property
    def written(self) -> bytes:
        with self._lock:
            return bytes(self._bytes)

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def until(self, predicate: Callable[[], bool], patience: float = 30) -> None:
        deadline = time.monotonic() + patience
        while not predicate():
            assert time.monotonic() < deadline, self.written[-3000:]
            time.sleep(0.02)

    def until_written(self, text: bytes, after: int = 0) -> None:
        self.until(lambda: text in self.written[after:])

    def deaf(self) -> None:
        """Read no more, and have the app draw until its writes block."""
        self._deaf.set()
        self._reader.join()
        for width in range(60, 140):
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", 30, width, 0, 0))
            self.child.send_signal(signal.SIGWINCH)
            time.sleep(0.03)

    def vanish(self) -> None:
        """The terminal's other end is closed; with no controlling terminal, no signal is sent."""
        self._deaf.set()
        self._reader.join()
        os.close(self._master)
        self._master = os.open(os.devnull, os.O_RDWR)

    def leave(self, number: signal.Signals | None = None) -> int:
        """Send a signal, or nothing, and wait for the end."""
        if number is not None:
            self.child.send_signal(number)
        code = self.child.wait(timeout=30)
        self._reader.join(timeout=1)
        return code

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        os.close(self._master)
