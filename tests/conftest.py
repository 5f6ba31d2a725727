"""What every test gets: a data folder of its own, no one else's plugins, no network, one thread."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Before anything imports torch: parallel tests on few cores must not fight over threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A suite that a script started in its background ignores ctrl+c, and so would the commands that are
# tested for heeding it. Elsewhere than in the main thread it can not be set.
with suppress(ValueError):
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder of this test; settings of the machine's own hhchat do not reach it."""
    for variable in list(os.environ):
        if variable.startswith("HHCHAT_"):
            monkeypatch.delenv(variable)
    folder = tmp_path / "home"
    monkeypatch.setenv("HHCHAT_HOME", str(folder))
    monkeypatch.setenv("HHCHAT_LOAD_PLUGINS", "")
    return folder


@dataclass
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its standard output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    def ok(self) -> Ran:
        assert self.code == 0, self.err or self.out
        return self


def _written(stream: io.TextIOWrapper) -> str:
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """`run("prefs", "stats")`: the command in this process, as the shell would see it."""
    from hhchat.cli import main

    def call(*args: str | Path, stdin: bytes | str = b"") -> Ran:
        given = stdin.encode() if isinstance(stdin, str) else stdin
        out = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
        err = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), "utf-8"))
            patched.setattr(sys, "stdout", out)
            patched.setattr(sys, "stderr", err)
            code = main([str(arg) for arg in args])
        return Ran(code, _written(out), _written(err))

    return call


@pytest.fixture
def shell(home: Path) -> Callable[..., Ran]:
    """`shell("--help")`: the command in a fresh process."""

    def call(*args: str | Path, stdin: bytes | str = b"", **env: str) -> Ran:
        done = subprocess.run(
            [sys.executable, "-c", "import sys; from hhchat.cli import main; sys.exit(main())"]
            + [str(arg) for arg in args],
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            env={**os.environ, **env},
            timeout=300,
        )
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())

    return call
