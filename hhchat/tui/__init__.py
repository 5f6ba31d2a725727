"""The terminal app. `run` is its only door; importing this package imports no Textual."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hhchat.types import BadInput, HhchatError

if TYPE_CHECKING:
    import random

    from hhchat.config import Config
    from hhchat.protocols import Engine, Objective
    from hhchat.session import SessionPlugins
    from hhchat.tui.setup import FirstRun

GRACE = 1.0  # seconds a worker is given to notice that the app has gone


def run(
    store_path: Path,
    engine_factory: Callable[[], Engine],
    config: Config | None = None,
    *,
    mode: str | None = None,
    resume: str | None = None,
    plugins: SessionPlugins | None = None,
    objectives: Sequence[Objective] = (),
    rng: random.Random | None = None,
    first_run: FirstRun | None = None,
    browser: bool = False,
) -> int:
    """Chat until the user leaves; the exit status (give it to `sys.exit`).

    `engine_factory` is called once, in a worker thread, after the first frame is on screen; what
    it raises is shown as one line in the app. `mode` is that of new conversations (default: the
    config's). `resume` is the id of a conversation, or the unique start of one, or "latest", or
    "new"; by default the app opens on the conversation that was open last, unless `mode` is given.
    `browser`: the screen is a browser's, at the other end of standard input and output.
    `first_run` has a newcomer choose a model, when there is no conversation yet and none is
    asked for. Raises HhchatError, before anything is drawn, when the store cannot be opened, when
    `resume` names no conversation, and BadInput (exit status 2) when there is no terminal.
    After SIGTERM and SIGHUP the status is 128 plus the signal's number, the terminal restored; a
    terminal that is gone counts as SIGHUP, and neither waits longer than a second for anything.
    A pick that could not be saved and is left behind is said on stderr, and the status is not 0.
    Does not return, but ends the process with the same status, when a worker is stuck in the
    model and would keep the terminal waiting.
    """
    if not browser:
        require_terminal()
    from hhchat.config import Config
    from hhchat.store import Store
    from hhchat.tui.app import ChatApp
    from hhchat.tui.lifeline import Lifeline
    from hhchat.tui.setup import Setup
    from hhchat.tui.themes import check_theme

    config = config or Config()
    check_theme(config.chat.theme)
    setup = Setup(
        store_path,
        engine_factory,
        config,
        mode,
        resume,
        plugins,
        objectives,
        rng,
        first_run,
    )
    with Store(store_path) as store:
        if resume not in (None, "latest", "new"):
            assert resume is not None
            store.conversation(resume)
        app = ChatApp(setup, store)
        with Lifeline(app.leave):
            app.run()
        code = app.return_code or 0
        if app.failure:
            raise HhchatError(app.failure)
        if app.lost:
            print(f"hhchat: error: {app.lost}", file=sys.stderr)
    _leave(code)
    return code


def require_terminal() -> None:
    """BadInput unless stdin, stdout and stderr are a terminal: Textual draws on the last."""
    streams = ((sys.stdin, "input"), (sys.stdout, "output"), (sys.stderr, "error output"))
    for stream, name in streams:
        if stream is None or not stream.isatty():
            raise BadInput(
                f"the chat needs a terminal, and its {name} is not one: see hhchat --help"
            )


def _leave(code: int) -> None:
    """End the process at once when a worker is still inside the model."""
    import threading

    workers = [t for t in threading.enumerate() if t.name.startswith("hhchat-") and t.daemon]
    for worker in workers:
        worker.join(GRACE / len(workers))
    if any(worker.is_alive() for worker in workers):
        # Leaving the interpreter while native code runs in another thread can crash it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
