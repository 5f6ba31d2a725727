"""Bad files, full disks and strangers' eyes: a clear line for the user, and nothing lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import run

import pytest

from hhchat import migrations
from hhchat.store import Store
from hhchat.types import Comparison, Generation, Message, StoreError

PAIR = Comparison((Message("user", "hi"),), (Generation("a"), Generation("b")), picked=0)


def line(error: pytest.ExceptionInfo[StoreError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert "Traceback" not in text
    return text


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_nobody_else_can_read_what_was_said(path):
    before = os.umask(0)
    try:
        with Store(path) as store:
            store.record(PAIR)
            store.backup(path.with_name("copy.db"))
            assert mode(path.parent) == 0o700
            files = {file.name: mode(file) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert len(files) == 4
    assert set(files.values()) == {0o600}


def test_a_readable_file_is_made_private_again(path):
    Store(path).close()
    path.chmod(0o644)
    with Store(path) as store:
        store.record(PAIR)
        assert mode(path) == mode(path.with_name(path.name + "-wal")) == 0o600


def test_a_folder_of_the_users_keeps_its_mode(tmp_path):
    tmp_path.chmod(0o755)
    Store(tmp_path / "hhchat.db").close()
    assert mode(tmp_path) == 0o755


def test_a_backup_is_a_whole_database(path, store):
    kept = store.record(PAIR)
    copy = path.with_name("copy.db")
    store.backup(copy)
    store.record(PAIR)
    store.backup(copy)  # replaces it
    with Store(copy) as other:
        assert next(iter(other.comparisons())) == kept
        assert len(other.usable()) == 2
        assert other.check() == "ok"
    assert not list(path.parent.glob("*.part"))


@pytest.fixture
def next_version() -> Iterator[None]:
    """One more migration, as the next release would bring."""

    def m999_one_more(db) -> None:
        db.conn.execute("CREATE TABLE extra (x)")
        if getattr(m999_one_more, "fails", False):
            raise sqlite3.OperationalError("database or disk is full")

    migrations.step(m999_one_more)
    yield m999_one_more
    migrations.STEPS.remove(m999_one_more)


def test_an_upgrade_backs_up_first_and_keeps_everything(path, request):
    with Store(path) as store:
        kept = store.record(PAIR)
    assert not list(path.parent.glob("*.backup-*"))  # a new database needs none
    request.getfixturevalue("next_version")
    with Store(path) as store:
        assert store.conn.execute("SELECT count(*) FROM extra").fetchone()[0] == 0
        assert list(store.comparisons()) == [kept]
        backup = path.with_name(path.name + f".backup-{len(migrations.STEPS) - 1}")
        assert store.newest_backup() == backup
        assert mode(backup) == 0o600
    with sqlite3.connect(backup) as old:
        assert old.execute("SELECT id FROM comparison").fetchall() == [(kept.id,)]
        assert not old.execute("SELECT 1 FROM sqlite_master WHERE name = 'extra'").fetchall()
    Store(path).close()
    assert len(list(path.parent.glob("*.backup-*"))) == 1


def test_an_upgrade_that_fails_changes_nothing(path, request):
    with Store(path) as store:
        kept = store.record(PAIR)
    step = request.getfixturevalue("next_version")
    step.fails = True
    with pytest.raises(StoreError) as error:
        Store(path)
    assert "disk is full" in line(error)
    step.fails = False
    with Store(path) as store:
        assert list(store.comparisons()) == [kept]


def test_a_newer_database_is_refused_with_words(path):
    with Store(path) as store:
        store.record(PAIR)
        store.conn.execute("UPDATE _sqlite_migrations SET name = 'm042_future' WHERE id = 1")
    before = path.read_bytes()
    for read_only in (False, True):
        with pytest.raises(StoreError, match="newer hhchat") as error:
            Store(path, read_only=read_only)
        assert "m042_future" in line(error)
    assert path.read_bytes() == before


def test_another_programs_database_is_left_alone(path):
    path.parent.mkdir()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        Store(path)
    assert path.read_bytes() == before


def test_an_empty_file_is_a_new_database(path):
    path.parent.mkdir()
    path.touch()
    with Store(path) as store:
        store.record(PAIR)


@pytest.fixture
def filled(path: Path) -> Path:
    with Store(path) as store:
        for i in range(60):
            _, turn = store.start_conversation(f"message {i} " + "word " * 50)
            store.record(
                Comparison((), (Generation("x" * 900), Generation("y")), picked=0), turn.id
            )
        store.backup(path.with_name(path.name + ".backup-1"))
    return path


def damage_header(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(os.urandom(100) + data[100:])


def damage_text(path: Path) -> None:
    path.write_text("{}\n" * 1000)


def damage_tail(path: Path) -> None:
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size // 2)


def damage_schema(path: Path) -> None:
    with path.open("rb+") as file:
        file.seek(100)
        file.write(b"\xff" * 3900)


@pytest.mark.parametrize("damage", [damage_header, damage_text, damage_tail, damage_schema])
def test_a_damaged_database_is_untouched_and_the_backup_named(filled, damage):
    damage(filled)
    before = filled.read_bytes()
    with pytest.raises(StoreError, match="damaged") as error:
        Store(filled)
    backup = filled.with_name(filled.name + ".backup-1")
    assert str(backup) in line(error)
    assert "restore" in line(error)
    assert filled.read_bytes() == before
    # what the message says, done
    filled.rename(filled.with_name("damaged.db"))
    shutil.copy(backup, filled)
    with Store(filled) as store:
        assert len(store.usable()) == 60


def test_damage_in_the_middle_is_a_clear_error_where_it_is_met(filled):
    with sqlite3.connect(filled) as conn:
        roots = conn.execute(
            "SELECT rootpage FROM sqlite_master"
            " WHERE name IN ('comparison', 'turn', 'generation', 'conversation', 'turn_text_data')"
        ).fetchall()
    conn.close()
    with filled.open("rb+") as file:
        for (page,) in roots:
            file.seek((page - 1) * 4096)
            file.write(b"\xa5" * 4096)
    with Store(filled) as store:
        for use in (
            lambda: list(store.comparisons()),
            lambda: store.conversations("message"),
            lambda: store.conversations(),
            lambda: store.record(PAIR),
            lambda: store.start_conversation("hi"),
            lambda: store.usable(),
        ):
            with pytest.raises(StoreError) as error:
                use()
            assert str(filled) in line(error)
        assert store.check() != "ok"


def test_without_a_backup_the_message_does_not_promise_one(path):
    path.parent.mkdir()
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreError, match="no backup"):
        Store(path)


def test_a_pick_that_does_not_fit_the_disk_can_be_made_again(store):
    conversation, turn = store.start_conversation("hi")
    pages = store.conn.execute("PRAGMA page_count").fetchone()[0]
    store.conn.execute(f"PRAGMA max_page_count = {pages + 1}")
    big = Comparison((), (Generation("x" * 100_000), Generation("y")), picked=0)
    with pytest.raises(StoreError, match="disk is full") as error:
        store.record(big, turn.id)
    line(error)

    def rename_and_pick() -> None:
        with store.writing():
            store.rename(conversation.id, "part of the same transaction")
            store.record(big, turn.id)

    with pytest.raises(StoreError, match="disk is full"):
        rename_and_pick()
    assert store.stats()["generations"] == 0
    assert store.conversation(conversation.id).title == "hi"
    store.conn.execute("PRAGMA max_page_count = 1000000")
    recorded = store.record(big, turn.id)
    assert store.usable() == [recorded]
    assert store.check() == "ok"


def test_a_lock_that_is_never_given_back_is_one_line(path, store, monkeypatch):
    monkeypatch.setattr("hhchat.store.connection.BUSY_SECONDS", 0.1)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked") as error:
        store.record(PAIR)
    line(error)
    assert store.usable() == []  # reading never waits
    other.execute("COMMIT")
    other.close()
    recorded = store.record(PAIR)
    assert store.usable() == [recorded]


def test_an_impatient_store_gives_up_soon_and_others_go_on_waiting(path, store):
    store.patience = 0.05
    with Store(path) as waits, contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        for _ in range(2):  # the wait is as short the second time
            began = time.monotonic()
            with pytest.raises(StoreError, match=r"locked for 0\.05 s"):
                store.record(PAIR)
            assert time.monotonic() - began < 5
        assert waits.patience == 15
        other.rollback()
        waits.record(PAIR)
    assert len(store.usable()) == 1


def test_a_folder_that_cannot_be_made_is_one_line():
    with pytest.raises(StoreError, match="cannot make the folder") as error:
        Store(Path("/proc/nowhere/hhchat.db"))
    line(error)


def test_a_folder_where_the_database_should_be_is_one_line(path):
    path.mkdir(parents=True)
    with pytest.raises(StoreError) as error:
        Store(path)
    line(error)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_folder_is_one_line(filled):
    filled.parent.chmod(0o500)
    filled.chmod(0o400)
    try:
        with pytest.raises(StoreError) as error, Store(filled) as store:
            store.record(PAIR)
        line(error)
    finally:
        filled.parent.chmod(0o700)


def test_looking_does_not_write(filled):
    with Store(filled, read_only=True) as store:
        assert len(store.usable()) == 60
        with pytest.raises(StoreError, match="read-only") as error:
            store.record(PAIR)
        line(error)


def test_looking_at_nothing_makes_nothing(path):
    with pytest.raises(StoreError, match="no database"):
        Store(path, read_only=True)
    assert not path.parent.exists()


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="shows locks on Linux only")
def test_a_second_store_does_not_drop_the_locks_of_the_first(path, store):
    store.record(PAIR)

    def locks() -> int:
        inode = f":{path.stat().st_ino} "
        return sum(inode in line for line in Path("/proc/locks").read_text().splitlines())

    held = locks()
    assert held
    with pytest.raises(StoreError), Store(path.parent):
        pass
    with Store(path), Store(path, read_only=True):
        assert locks() >= held
    assert locks() == held


def test_a_closed_store_says_so(store):
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.stats()


def test_the_wrong_thread_is_a_mistake_not_a_lost_pick(store):
    caught: list[BaseException] = []

    def use() -> None:
        try:
            store.record(PAIR)
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert isinstance(caught[0], sqlite3.ProgrammingError)
    store.record(PAIR)


LIGHT = """
import sys, threading
import hhchat.store, hhchat.transfer, hhchat.paths
heavy = {"numpy", "pandas", "torch", "textual", "transformers", "sqlite_utils"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
import hhchat._sqlite_utils
heavy.remove("sqlite_utils")
assert not heavy & set(sys.modules), heavy & set(sys.modules)
import numpy
assert numpy.ones(2).sum() == 2
"""
# a chat loads torch in a thread while the screen opens the store: neither may break the other
TOGETHER = """
import threading
import time
failed = []
def load():
    try:
        import numpy
    except BaseException as error:
        failed.append(error)
threads = [threading.Thread(target=load) for _ in range(4)]
for t in threads: t.start()
import hhchat._sqlite_utils
for t in threads: t.join()
assert not failed, failed
"""


@pytest.mark.parametrize("code", [LIGHT, TOGETHER], ids=["light", "together"])
def test_the_store_opens_without_numpy_and_leaves_it_usable(code):
    done = run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_closing_folds_the_wal_though_a_reader_stays_open(path):
    with Store(path) as store:
        reader = Store(path, read_only=True)
        store.record(PAIR)
        reader.stats()
        assert path.with_name(path.name + "-wal").stat().st_size
    assert path.with_name(path.name + "-wal").stat().st_size == 0
    assert reader.stats()["comparisons"] == 1
    reader.close()


def test_closing_does_not_wait_for_a_reader_in_the_middle_of_something(path):
    store = Store(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT * FROM comparison").fetchall()
    store.record(PAIR)
    began = time.monotonic()
    store.close()
    assert time.monotonic() - began < 5
    other.close()
    with Store(path) as store:
        assert store.stats()["comparisons"] == 1
