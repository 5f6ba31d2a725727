"""What starting costs: the app's imports, in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("hhchat.tui", ["textual", "sqlite_utils", "torch", "transformers"]),
        (
            "hhchat.tui.app",
            ["torch", "transformers", "numpy", "pandas", "rich.markdown", "pygments"],
        ),
        ("hhchat.text", ["rich", "textual", "sqlite_utils"]),
        ("hhchat.session", ["textual", "torch", "numpy"]),
    ],
)
def test_the_first_frame_does_not_wait_for_what_it_does_not_need(
    module: str, absent: list[str]
) -> None:
    code = f"import sys, {module}; print([m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_torchs_libraries_are_opened_without_pythons_lock_so_that_keys_are_answered() -> None:
    """Half a second of silence while the model loads, else. Only beside a screen: in a thread."""
    code = """
import sys, threading
opened = lambda: "libtorch_python" in open("/proc/self/maps").read()
import hhchat.threads
assert not opened()
del sys.modules["hhchat.threads"]
thread = threading.Thread(target=__import__, args=["hhchat.threads"])
thread.start()
thread.join()
print(opened(), "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
