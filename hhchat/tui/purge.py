"""What was deleted is overwritten too, beside the chat."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

from hhchat.store import Store
from hhchat.types import HhchatError


class Purger(threading.Thread):
    """Overwrites what was deleted, with a connection of its own: it takes time with the history."""

    def __init__(self, path: Path) -> None:
        super().__init__(name="hhchat-purge", daemon=True)
        self._path = path
        self.stopped = threading.Event()

    def run(self) -> None:
        with suppress(HhchatError), Store(self._path) as store:  # a later start tries again
            while store.purge_due and not self.stopped.is_set():
                store.purge(self.stopped.is_set)
