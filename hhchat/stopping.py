"""Ctrl-C and its relatives, made polite: a stage is asked to seal its state before it stops.

The first signal during a stage only sets a flag that the trainer reads between updates; a
second one stops it where it is (the state sealed last is still there). Outside of a stage a
signal stops at once, except while the last rows of a run are written.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Literal

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
WAITS = "stopping after this update; asked again, it stops at once"


class Stop:
    """Handles the signals for as long as it is entered; does nothing outside the main thread.

    `tell` is given a line when Ctrl-C has to wait for an update. It is called between any two
    instructions of the main thread, so it must take no lock that is held there.
    """

    def __init__(self, tell: Callable[[str], object] = lambda line: None) -> None:
        self._tell = tell
        self._asked = False
        self._manner: Literal["at once", "politely", "later"] = "at once"
        self._before: dict[int, Any] = {}

    def asked(self) -> bool:
        """Whether the user wants this to end."""
        return self._asked

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for name in SIGNALS:
                number = getattr(signal, name, None)
                # Ignored signals stay ignored: nohup means it.
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()

    @contextlib.contextmanager
    def cooperative(self) -> Iterator[None]:
        """The code inside reads `asked()`: let it finish its update and seal."""
        with self._in_manner("politely"):
            yield

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        """The code inside takes milliseconds and must not be cut in two."""
        with self._in_manner("later"):
            yield

    @contextlib.contextmanager
    def _in_manner(self, manner: Literal["politely", "later"]) -> Iterator[None]:
        before, self._manner = self._manner, manner
        try:
            yield
        finally:
            self._manner = before

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        again, self._asked = self._asked, True
        if self._manner == "at once" or (self._manner == "politely" and again):
            # Not an Exception, so that no library's `except Exception` swallows it.
            raise KeyboardInterrupt
        if self._manner == "politely" and number == signal.SIGINT:
            # A write that is cut in two by this one refuses it, and a terminal may be gone.
            with contextlib.suppress(RuntimeError, OSError):
                self._tell(WAITS)
