"""Several processes on one file, and deaths in the middle of a write."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hhchat.store import Store

PRELUDE = """
import sys, time
from pathlib import Path
from hhchat.store import Store
from hhchat.types import Comparison, Generation, Message
path = Path(sys.argv[1])
def ready():
    print("ready", flush=True)
    sys.stdin.readline()
"""
OPEN = (
    PRELUDE
    + """
ready()
with Store(path) as store:
    store.start_conversation("hello from " + sys.argv[2])
"""
)
PICKS = (
    PRELUDE
    + """
with Store(path) as store:
    ready()
    end = time.monotonic() + float(sys.argv[3])
    n = 0
    while time.monotonic() < end:
        conversation, turn = store.start_conversation(f"{sys.argv[2]} {n}")
        kept = store.keep_generations(turn.id, [Generation("one " * 50), Generation("two " * 50)])
        saved = store.record(Comparison((), tuple(kept), picked=0), turn.id)
        print(saved.id, flush=True)
        n += 1
"""
)
IMPORTS = (
    PRELUDE
    + """
import io, json
from hhchat.transfer import import_pairs
ready()
pairs = ({"prompt": str(i), "chosen": f"good {i}", "rejected": "bad"} for i in range(2000))
lines = "\\n".join(map(json.dumps, pairs)).encode()
with Store(path) as store:
    report = import_pairs(store, io.BytesIO(lines))
print(report.added, len(report.bad))
"""
)
READS = (
    PRELUDE
    + """
with Store(path, read_only=True) as store:
    ready()
    end = time.monotonic() + float(sys.argv[3])
    seen, after = 0, None
    while time.monotonic() < end:
        for comparison in store.comparisons(after=after):
            after = comparison.id
            seen += 1
        store.conversations(); store.stats(); store.conversations("hello")
    print("last", after, flush=True)
"""
)


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def go(*processes: subprocess.Popen[str]) -> None:
    """Let all start at the same moment."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.stderr.read()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def finish(process: subprocess.Popen[str]) -> list[str]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.split()


@pytest.mark.parametrize("round", range(3))
def test_four_starting_at_once_on_a_new_database_all_start(path, round):
    processes = [start(OPEN, path, i) for i in range(4)]
    go(*processes)
    for process in processes:
        finish(process)
    with Store(path) as store:
        assert len(store.conversations()) == 4
        assert store.check() == "ok"
    assert not list(path.parent.glob("*.backup-*"))


def test_two_chats_an_import_and_a_reader_meet_no_lock_and_lose_no_row(path):
    Store(path).close()
    writers = [start(PICKS, path, name, 2) for name in "ab"]
    reader = start(READS, path, "r", 2.2)
    importer = start(IMPORTS, path)
    go(*writers, reader, importer)
    saved = sorted(id for process in writers for id in finish(process))
    last = finish(reader)[-1]
    assert finish(importer) == ["2000", "0"]
    with Store(path) as store:
        kept = [c.id for c in store.comparisons()]
        assert kept == sorted(kept)
        assert [c.id for c in store.comparisons(source="model")] == saved
        assert len(kept) == len(saved) + 2000
        assert last in kept
        assert store.check() == "ok"


def test_a_pick_shown_as_saved_survives_a_kill_at_any_moment(path):
    Store(path).close()
    shown: list[str] = []
    for attempt in range(20):
        process = start(PICKS, path, f"chat{attempt}", 30)
        go(process)
        shown += [process.stdout.readline().strip() for _ in range(1 + attempt % 3)]
        time.sleep(0.0007 * attempt)  # into whatever it is writing next
        process.send_signal(signal.SIGKILL)
        out, _ = process.communicate()
        complete = out[: out.rfind("\n") + 1]
        shown += complete.split()
    assert len(shown) >= 39
    with Store(path) as store:
        kept = {c.id for c in store.comparisons()}
        assert kept >= set(shown)
        assert store.conn.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert store.check() == "ok"
        assert store.stats()["comparisons"] == len(kept)
        latest = store.latest_conversation()
        assert latest is not None
        assert store.messages(latest.id)


def test_a_kill_while_upgrading_leaves_a_database_that_opens(tmp_path):
    for attempt in range(4):
        path = tmp_path / str(attempt) / "hhchat.db"
        process = start(OPEN, path, attempt)
        go(process)
        deadline = time.monotonic() + 10
        while not Path(path).exists() and time.monotonic() < deadline:
            pass
        time.sleep(0.001 * attempt)
        process.kill()
        process.communicate()
        with Store(path) as store:
            store.start_conversation("still here")
            assert store.check() == "ok"
