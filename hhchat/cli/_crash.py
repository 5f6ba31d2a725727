"""An error nobody expected: one line for the user, the traceback in a log."""

from __future__ import annotations

import os
import traceback
from datetime import UTC


def crash_line(error: Exception) -> str:
    """Write the traceback to the log and say in one line what happened and where it is."""
    from hhchat.plugins import one_line

    told = one_line(error)
    if os.environ.get("HHCHAT_DEBUG") == "1":
        traceback.print_exception(error)
        return told
    try:
        where = _log(error)
    except Exception:  # the log is a courtesy; its own failure must not hide the error
        return f"{told} (HHCHAT_DEBUG=1 shows where)"
    return f"{told} (details: {where})"


def _log(error: Exception) -> str:
    from datetime import datetime

    from hhchat import paths

    path = paths.ensure(paths.home()) / "hhchat.log"
    stamp = datetime.now(UTC).isoformat(timespec="seconds")
    text = f"{stamp} pid {os.getpid()}\n{''.join(traceback.format_exception(error))}\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace") as log:
        log.write(text)
    return str(path)
