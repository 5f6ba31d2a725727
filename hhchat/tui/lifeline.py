"""What ends the app when nothing else can: a terminal that is gone, or a signal while it is stuck.

Textual's input thread spins on a terminal that has hung up, and once its writer has failed, or
blocks, the event loop blocks with it: neither a handler on the loop nor Textual itself gets to
run. A thread of our own waits for both, asks the app to leave, and ends the process when it has
not left in time. Whatever was shown as saved is in the database by then.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

PATIENCE = 0.8  # seconds the app is given to leave by itself
LAST_WORDS = 0.1  # seconds a terminal is given to take the few bytes that restore it
# Out of: mouse reports, bracketed paste, kitty keys, the other screen, a hidden cursor.
RESTORE = (
    b"\x1b[?1000l\x1b[?1003l\x1b[?1015l\x1b[?1006l\x1b[?2004l\x1b[<u\x1b[?7h"
    b"\x1b[?1049l\x1b[?25h\x1b[?1004l"
)
SIGNALS = ("SIGTERM", "SIGHUP")
QUIET = b"\x00"  # wakes the thread to end it; no signal has number 0


class Lifeline:
    """A context around the app's run. `leave` is called, in the thread, with a signal's number.

    A terminal that is gone counts as SIGHUP: that is what its end should have sent.
    """

    def __init__(self, leave: Callable[[int], None]) -> None:
        self._leave = leave
        self._numbers = [int(getattr(signal, n)) for n in SIGNALS if hasattr(signal, n)]
        self._handlers: dict[int, Any] = {}
        self._wake = (-1, -1)
        self._old_wake = -1
        self._thread: threading.Thread | None = None
        self._attributes: list[Any] | None = None
        self.over = threading.Event()  # the app has left by itself

    def __enter__(self) -> Lifeline:
        if hasattr(select, "poll"):  # not on Windows
            self._attributes = _attributes()
            self._wake = os.pipe()
            for end in self._wake:
                os.set_blocking(end, False)
            # Signals reach a descriptor as well as a handler: the thread hears of them even
            # while the main thread, where Python runs handlers, is stuck.
            self._old_wake = signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
            for number in self._numbers:
                self._handlers[number] = signal.signal(number, _heard)
            self._thread = threading.Thread(target=self._watch, name="lifeline", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.over.set()
        if self._thread is None:
            return
        signal.set_wakeup_fd(self._old_wake)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        with suppress(OSError):
            os.write(self._wake[1], QUIET)
        self._thread.join()
        for end in self._wake:
            os.close(end)

    def _watch(self) -> None:
        number = self._wait()
        if number is None:
            return
        with suppress(Exception):  # the event loop may be closed by now
            self._leave(number)
        if not self.over.wait(PATIENCE):
            self._end(128 + number)

    def _wait(self) -> int | None:
        """The signal that came, or SIGHUP for a terminal that is gone; None: the app is over."""
        poll = select.poll()
        poll.register(self._wake[0], select.POLLIN)
        with suppress(OSError, ValueError, AttributeError):
            poll.register(sys.__stdin__.fileno(), 0)  # type: ignore[union-attr]  # only its end
        while True:
            for descriptor, event in poll.poll():
                if descriptor != self._wake[0]:
                    if event & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
                        return int(signal.SIGHUP)
                    continue
                heard = os.read(descriptor, 64)
                if QUIET in heard:
                    return None
                for number in heard:
                    if number in self._numbers:
                        return number

    def _end(self, code: int) -> None:
        """At once. The terminal is restored if it listens."""
        words = threading.Thread(target=self._restore, daemon=True)
        words.start()
        words.join(LAST_WORDS)
        os._exit(code)

    def _restore(self) -> None:
        with suppress(Exception):
            import termios

            if self._attributes is not None:
                termios.tcsetattr(0, termios.TCSANOW, self._attributes)
            os.write(2, RESTORE)


def _heard(number: int, frame: FrameType | None) -> None:
    """The thread does what is to be done: Python only has to think that there is a handler."""


def _attributes() -> list[Any] | None:
    with suppress(Exception):
        import termios

        return termios.tcgetattr(0)
    return None
