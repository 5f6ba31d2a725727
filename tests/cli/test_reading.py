"""Commands that only read: on a folder where nothing can be written, and after a killed run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hhchat import paths
from hhchat.sealing import only_one
from hhchat.store import Store
from hhchat.types import Comparison, Generation, Message, Snapshot

Run = Callable[..., Any]
# For root nothing is read-only, unless it gives up that right.
OVERRIDE = "--bounding-set=-dac_override,-dac_read_search,-fowner"
HUMBLE = ["setpriv", "--inh-caps=-all", OVERRIDE] if os.geteuid() == 0 else []
LEAVES = "import sys; from hhchat.cli import main; sys.exit(main())"


def reply(text: str, snapshot: str) -> Generation:
    return Generation(text, snapshot=snapshot, base="b")


@pytest.fixture
def filled(home: Path) -> Path:
    paths.ensure(home)
    with Store() as store:
        run = store.start_run(["pm"], 0, "b")
        store.add_snapshot(Snapshot("s1", "s1", run.id, "base", "b"))
        pair = (reply("yes", "s1"), reply("no", "base"))
        store.record(Comparison((Message("user", "hi"),), pair, picked=0, preferred=0))
    return home


@pytest.fixture
def fixed(filled: Path) -> Iterator[Path]:
    """A data folder that this user may read only."""
    if HUMBLE and not shutil.which("setpriv"):
        pytest.skip("nothing is read-only for root")
    (filled / "hhchat.db").chmod(0o400)
    filled.chmod(0o500)
    yield filled
    filled.chmod(0o700)
    (filled / "hhchat.db").chmod(0o600)


def humbly(*args: str | Path) -> subprocess.CompletedProcess[str]:
    words = [*HUMBLE, sys.executable, "-c", LEAVES, *map(str, args)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["prefs", "stats"], "comparisons      1"),
        (["prefs", "list"], "hi"),
        (["prefs", "export"], '"yes"'),
        (["runs"], "interrupted"),
        (["snapshots"], "s1"),
        (["elo"], "a guess"),
        (["doctor"], "read-only"),
    ],
    ids=lambda a: a[0] if isinstance(a, list) else "",
)
def test_a_read_only_folder_can_be_looked_at(fixed: Path, args: list[str], said: str) -> None:
    before = sorted(f.name for f in fixed.iterdir())
    ran = humbly(*args)
    if args != ["doctor"]:
        assert ran.returncode == 0, ran.stderr
    assert said in ran.stdout
    assert "Traceback" not in ran.stderr
    assert sorted(f.name for f in fixed.iterdir()) == before


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["report"], "--output FILE"),
        (["snapshots", "use", "s1"], "read-only"),
        (["prefs", "import", "-"], "read-only"),
    ],
    ids=lambda a: a[0] if isinstance(a, list) else "",
)
def test_what_a_read_only_folder_cannot_do_is_one_line(
    fixed: Path, args: list[str], said: str
) -> None:
    ran = humbly(*args)
    assert ran.returncode in (1, 2)
    assert said in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_a_report_of_a_read_only_folder_goes_elsewhere(fixed: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    ran = humbly("report", "--output", page)
    assert ran.returncode == 0, ran.stderr
    assert "interrupted" in page.read_text()


def test_picks_that_wait_in_the_wal_of_a_read_only_folder_are_not_left_out_in_silence(
    filled: Path,
) -> None:
    if HUMBLE and not shutil.which("setpriv"):
        pytest.skip("nothing is read-only for root")
    killed = (
        "import os\nfrom hhchat.store import Store\nstore = Store()\n"
        "store.start_conversation('never folded')\nos._exit(1)"
    )
    subprocess.run([sys.executable, "-c", killed], timeout=60)
    (filled / "hhchat.db-shm").unlink()
    assert (filled / "hhchat.db-wal").stat().st_size
    filled.chmod(0o500)
    try:
        ran = humbly("prefs", "stats")
    finally:
        filled.chmod(0o700)
    assert ran.returncode == 1
    assert "-wal" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_looking_at_an_empty_read_only_folder_says_that_it_is_empty(home: Path) -> None:
    home.mkdir()
    if HUMBLE and not shutil.which("setpriv"):
        pytest.skip("nothing is read-only for root")
    home.chmod(0o500)
    try:
        ran = humbly("prefs", "stats")
    finally:
        home.chmod(0o700)
    assert ran.returncode == 1
    assert "there is no database" in ran.stderr


def test_a_killed_run_is_interrupted_wherever_it_is_shown(run: Run, filled: Path) -> None:
    [told] = run("runs", "--json").ok().lines
    assert told["state"] == "interrupted"
    page = Path(json.loads(run("report", "--json").ok().out)["path"]).read_text()
    assert "interrupted" in page
    assert "running" not in page.split("<style")[0] + page.split("</style>")[-1]
    with only_one(paths.train_lock()):
        [told] = run("runs", "--json").ok().lines
        assert told["state"] == "running"


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--stages", "pm"], "leave --stages out"),
        (["--warm-start"], "leave --warm-start out"),
        (["--seed", "3", "--stages", "pm"], "leave --stages, --seed out"),
        (["--dry-run"], "leave --dry-run out"),
    ],
)
def test_resume_refuses_what_it_would_not_do(run: Run, args: list[str], named: str) -> None:
    ran = run("train", "--resume", *args)
    assert ran.code == 2
    assert named in ran.err
    assert len(ran.err.splitlines()) == 1
