"""Start-up: what is imported, in a fresh interpreter, and how long help takes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

import pytest

from hhchat.cli import COMMANDS

HEAVY = {"torch", "transformers", "textual", "sqlite_utils", "sqlite3", "numpy", "rich", "peft"}


def loaded(*args: str, code: int = 0) -> set[str]:
    """The top-level modules a command has loaded when it ends."""
    script = (
        "import sys, json\n"
        "from hhchat.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "print(json.dumps([code, sorted({m.split('.')[0] for m in sys.modules})]), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *args], capture_output=True, text=True, env=dict(os.environ)
    )
    got, modules = json.loads(done.stderr.splitlines()[-1])
    assert got == code, done.stderr
    return set(modules)


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["config", "path"]], ids=" ".join)
def test_start_up_loads_nothing_heavy(args: list[str]) -> None:
    assert not loaded(*args) & HEAVY


def test_no_command_needs_the_heavy_to_explain_itself() -> None:
    script = (
        "import sys\n"
        "from hhchat.cli import COMMANDS, main\n"
        "for name in COMMANDS:\n"
        "    assert main([name, '--help']) == 0, name\n"
        f"heavy = {HEAVY!r} & {{m.split('.')[0] for m in sys.modules}}\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    "args",
    [["plugins"], ["prefs", "stats"], ["prefs", "list"], ["runs"], ["snapshots"], ["config"]],
    ids=" ".join,
)
def test_commands_about_the_record_load_no_model_and_no_app(args: list[str]) -> None:
    assert not loaded(*args) & {"torch", "transformers", "textual", "numpy", "pandas", "peft"}


def test_help_is_quick() -> None:
    """Less than 0.1 s of processor time where it was written; wall time would measure the load."""
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-c", "from hhchat.cli import main; main(['--help'])"],
            capture_output=True,
            check=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.5
