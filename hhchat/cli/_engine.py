"""The process that holds the model for `hhchat serve`: `python -m hhchat.cli._engine FD`.

FD is the listening socket. The first line of standard input says which model; its end is the end
of this process. Standard output tells the server, in JSON, when the model is loaded or why not.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import hhchat.threads  # noqa: F401 (before anything imports torch)
from hhchat.cli._common import open_engine, quiet_libraries, settings
from hhchat.serving import wire
from hhchat.serving.host import EngineHost

if TYPE_CHECKING:
    from hhchat.protocols import Engine


def main(descriptor: int) -> int:
    spec = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_lifeline, daemon=True).start()
    quiet_libraries()
    flags = spec["flags"]

    def load(model: str) -> Engine:
        from hhchat import paths
        from hhchat.store import Store

        config = settings(**{**flags, "model": model})
        engine = open_engine(config, Store(paths.database(), read_only=True))
        _tell({"loaded": model, "base": engine.base})
        return engine

    def fits(model: str) -> str:
        from hhchat.cli.chat import what_fits

        return what_fits(settings(**{**flags, "model": model}))

    listener = socket.socket(fileno=descriptor)
    listener.setblocking(False)
    try:
        asyncio.run(EngineHost(load, fits).serve(listener, spec["preload"]))
    except Exception as error:
        _tell(wire.error_out(error))
        return 1
    return 0


def _lifeline() -> None:
    """The server has gone when its end of standard input is closed; so do we, at once: the
    model's thread may be deep inside a step."""
    with suppress(OSError):
        while os.read(0, 4096):
            pass
    os._exit(0)


def _tell(record: dict[str, Any]) -> None:
    with suppress(OSError):
        sys.stdout.buffer.write(wire.encode(record))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    code = main(int(sys.argv[1]))
    os._exit(code)  # not through the interpreter's end while native code may run
