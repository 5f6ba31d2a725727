"""One SQLite connection: how it is opened, locked, backed up, and how its errors are worded."""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hhchat import migrations, paths
from hhchat.types import BadInput, StoreError

BUSY_SECONDS = 15.0  # longer than any write transaction lasts; see docs of `writing`
MAGIC = b"SQLite format 3\x00"
CHECKPOINT = 1000  # pages in the -wal file after which a commit copies them to the database
HEADER = 100  # bytes, the database header of the SQLite file format

_open_files: Counter[Path] = Counter()  # connections of this process, by file
_open_lock = threading.Lock()


class Connection:
    """A database file, opened and upgraded. Used by the thread that made it, and no other.

    A second thread, like a second process, opens its own: SQLite keeps them apart, readers never
    wait for a writer, and a writer waits up to 15 seconds for another, or as long as `patience`
    says: a thread that draws a screen cannot wait.
    """

    def __init__(self, path: Path | None = None, *, read_only: bool = False) -> None:
        """Open `path` (default: paths.database()), making or upgrading it unless `read_only`.

        Raises StoreError, one line, when it is corrupt, newer than this program, another
        program's, on a read-only or full disk, or absent with `read_only`.
        """
        self.path = (paths.database() if path is None else Path(path)).absolute()
        self.read_only = read_only
        self._conn: sqlite3.Connection | None = None
        self._patience: float | None = None
        self._later = False
        self._folds = False  # whether it is open and may be written
        self._registered: Path | None = None
        try:
            with self._in_words():
                self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        if self.read_only:
            if not self.path.exists():
                raise StoreError(f"there is no database at {self.path} yet")
        else:
            paths.ensure(self.path.parent)
            self._private()
        self._register()
        self._conn = self._connect()
        try:
            todo = migrations.pending(self._conn)
        except migrations.Newer as newer:
            raise StoreError(
                f"{self.path} was written by a newer hhchat (it has step {newer}); "
                "upgrade this one, or point HHCHAT_HOME elsewhere"
            ) from None
        if todo is None:
            raise StoreError(f"{self.path} is a database of another program; it was not touched")
        if self.read_only:
            if todo:
                raise StoreError(f"{self.path} has to be upgraded first: open it writable once")
            return
        self._enable_wal()
        if todo:
            migrations.upgrade(self.db, self._back_up_before_upgrade)
        self._folds = True

    def _connect(self) -> sqlite3.Connection:
        if self.read_only:
            fixed = self._fixed()
            conn = sqlite3.connect(
                self.path.as_uri() + ("?immutable=1" if fixed else "?mode=ro"),
                uri=True,
                timeout=BUSY_SECONDS,
                isolation_level=None,
            )
        else:
            conn = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        conn.row_factory = sqlite3.Row
        conn.execute("PRAGMA foreign_keys = ON")
        if not self.read_only:
            conn.execute("PRAGMA synchronous = FULL")
            conn.execute("PRAGMA cache_size = -16000")  # KiB
            conn.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT}")
            conn.execute("PRAGMA secure_delete = ON")  # deleted text is overwritten
        return conn

    def _fixed(self) -> bool:
        """Whether nobody can write here: WAL has no place for its -shm file then."""
        if os.access(self.path.parent, os.W_OK):
            return False
        wal = self._wal()
        if not wal.exists() or not wal.stat().st_size:
            return True
        if not self.path.with_name(self.path.name + "-shm").exists():
            raise StoreError(
                f"the latest changes to {self.path} wait in its -wal file, and its folder is "
                "read-only: copy both files to a folder of yours, and set HHCHAT_HOME to that"
            )
        return False

    def _private(self) -> None:
        """Make the file owner-only before SQLite sees it: -wal and -shm copy its mode."""
        try:
            handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        except FileExistsError:
            if self.path.stat().st_mode & 0o077:
                with contextlib.suppress(OSError):  # someone else's file: theirs to guard
                    self.path.chmod(0o600)
        else:
            os.close(handle)

    def _register(self) -> None:
        """Check the file, unless this process has it open.

        To close any descriptor of a file drops all locks that the process has on it: reading the
        header beside an open connection would let another process delete a -wal file in use.
        """
        path = self.path.resolve()
        with _open_lock:
            if not _open_files[path]:
                self._check_header()
            _open_files[path] += 1
        self._registered = path

    def _check_header(self) -> None:
        """Refuse a file that is not SQLite before SQLite can touch it."""
        with self.path.open("rb") as file:
            head = file.read(HEADER)
            size = file.seek(0, os.SEEK_END)
        if not head:
            return
        if not head.startswith(MAGIC):
            raise StoreError(self._damaged("it is not an SQLite file"))
        page = int.from_bytes(head[16:18], "big")
        pages = int.from_bytes(head[28:32], "big")
        counted = head[24:28] == head[92:96]  # else the page count is of an older time
        # with a -wal file the last pages may still be on their way
        if counted and size < pages * (page if page != 1 else 65536) and not self._wal().exists():
            raise StoreError(self._damaged("it is cut short"))

    def _wal(self) -> Path:
        return self.path.with_name(self.path.name + "-wal")

    def _enable_wal(self) -> None:
        """Switch a new file to WAL; retried, as the busy timeout does not cover this switch."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                mode = self.conn.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
            else:
                if mode == "wal" or time.monotonic() > deadline:
                    return
            time.sleep(0.01)

    @property
    def patience(self) -> float:
        """Seconds that a transaction waits for another writer before it raises StoreError."""
        return BUSY_SECONDS if self._patience is None else self._patience

    @patience.setter
    def patience(self, seconds: float) -> None:
        self._patience = seconds
        self.conn.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")

    @property
    def conn(self) -> sqlite3.Connection:
        if self._conn is None:
            raise StoreError("the database is closed")
        return self._conn

    @functools.cached_property
    def db(self) -> Any:
        """The same connection as a sqlite_utils Database.

        Imported when it is first asked for, such as by an upgrade: that takes longer than all
        else that an ordinary start does with the store.
        """
        from hhchat._sqlite_utils import Database

        return Database(self.conn, recursive_triggers=False, execute_plugins=False)

    # -- transactions ------------------------------------------------------------------------

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """For SELECTs: errors come out as StoreError."""
        with self._in_words():
            yield self.conn

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One IMMEDIATE transaction: committed and on disk when the block ends, or undone.

        It takes the write lock before the first read, so that no other writer can slip in between
        (SQLite refuses such a late upgrade at once, whatever the timeout). Keep it short: others
        wait for it. Inside another `writing` block it is a part of that one: undone alone when it
        fails, on disk when the outer one is.
        """
        with self._in_words():
            conn = self.conn
            if conn.in_transaction:
                commit, undo = "RELEASE part", "ROLLBACK TO part"
                conn.execute("SAVEPOINT part")
            else:
                commit, undo = "COMMIT", "ROLLBACK"
                self._lock(conn)
            try:
                yield conn
                conn.execute(commit)
            except BaseException:
                if conn.in_transaction:  # a full disk may have ended it already
                    conn.execute(undo)
                    if undo != "ROLLBACK":
                        conn.execute(commit)
                raise
            finally:
                if self._later and not conn.in_transaction:
                    self._later = False
                    conn.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT}")

    def _lock(self, conn: sqlite3.Connection) -> None:
        """Begin a write transaction, asking for the lock each millisecond.

        SQLite's own waiting sleeps up to 100 ms between two tries, and so keeps missing the gaps
        that an import leaves: a pick was seen to wait for 3.6 s.
        """
        deadline = time.monotonic() + self.patience
        conn.execute("PRAGMA busy_timeout = 0")
        try:
            while True:
                try:
                    conn.execute("BEGIN IMMEDIATE")
                    return
                except sqlite3.OperationalError as error:
                    if "locked" not in str(error) or time.monotonic() > deadline:
                        raise
                time.sleep(0.001)
        finally:
            conn.execute(f"PRAGMA busy_timeout = {int(self.patience * 1000)}")

    def checkpoint_later(self) -> None:
        """Let the next commit leave copying the -wal file into the database to the one after.

        Every so many pages a commit does that too, and takes several times as long for it. A pick
        is waited for; what follows it, the next message, has the model's time to hide behind.
        """
        self._later = True
        self.conn.execute("PRAGMA wal_autocheckpoint = 0")

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        """Turn what SQLite and the file system raise into one line for the user."""
        try:
            yield
        except sqlite3.ProgrammingError:
            raise  # a mistake in this program, such as the wrong thread
        except sqlite3.IntegrityError as error:
            raise BadInput(
                f"the database refused it ({error}): something it names is gone"
            ) from error
        except sqlite3.DatabaseError as error:
            raise StoreError(self._words(str(error))) from error
        except OSError as error:
            raise StoreError(f"cannot use {self.path}: {error.strerror or error}") from error

    def _words(self, error: str) -> str:
        if "full" in error:
            return f"the disk is full: nothing could be saved in {self.path}"
        if "readonly" in error or "read-only" in error:
            return f"{self.path} is read-only: nothing can be saved"
        if "disk I/O" in error:
            return f"{self.path} could not be read or written: its disk is full, failing or gone"
        if "locked" in error or "busy" in error:
            return f"another program has kept {self.path} locked for {self.patience:g} s; try again"
        if "unable to open" in error:
            return f"cannot open {self.path}: its folder is missing, read-only or not yours"
        if "not a database" in error or "malformed" in error or "encrypted" in error:
            return self._damaged(error)
        return f"the database {self.path} cannot be used: {error}"

    def _damaged(self, why: str) -> str:
        backup = self.newest_backup()
        cure = (
            f"to restore the newest backup, move it away and copy {backup} in its place"
            if backup
            else "there is no backup beside it; move it away to start afresh"
        )
        return f"{self.path} is damaged ({why}) and was left as it is; {cure}"

    # -- backups and checks ------------------------------------------------------------------

    def newest_backup(self) -> Path | None:
        """The latest of the backups that lie beside the database, if any."""
        found = self.path.parent.glob(self.path.name + ".backup-*")
        whole = [path for path in found if not path.name.endswith(".part")]
        return max(whole, key=lambda path: path.stat().st_mtime_ns, default=None)

    def _back_up_before_upgrade(self, version: int) -> None:
        # The caller holds the write lock and has written nothing, so a second connection reads
        # the last committed state while nobody can change it.
        self._copy_to(self.path.with_name(f"{self.path.name}.backup-{version}"))

    def backup(self, path: Path) -> None:
        """Write a compact copy of the database to `path` (owner-only), replacing what is there."""
        with self._in_words():
            self._copy_to(Path(path))

    def _copy_to(self, target: Path) -> None:
        part = target.with_name(target.name + ".part")
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        try:
            source = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
            try:
                source.execute("VACUUM INTO ?", [str(part)])
            finally:
                source.close()
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    def check(self) -> str:
        """ "ok", or the first lines of what PRAGMA quick_check and foreign_key_check say."""
        with self.reading() as conn:
            found = [row[0] for row in conn.execute("PRAGMA quick_check(10)")]
            if found != ["ok"]:
                return "; ".join(found)
            strays = conn.execute("PRAGMA foreign_key_check").fetchmany(10)
            return "; ".join(f"a row of {r[0]} points to a lost {r[2]}" for r in strays) or "ok"

    def purge(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Overwrite what was deleted, in the search index and in the -wal file too.

        The index keeps deleted words until its parts are merged. That is done in short
        transactions, so that others can write meanwhile, and takes time with the whole history:
        about 10 s at a million turns. For a thread with a store of its own, then; `stopped` is
        asked between two transactions, and leaves the rest for another time.
        """
        with self.reading() as conn:
            due = conn.execute("SELECT n FROM counted WHERE name = 'purge_due'").fetchone()
        pages = -500  # the first merge, being negative, begins with everything
        while not stopped():
            with self.writing() as conn:
                before = conn.total_changes
                conn.execute("INSERT INTO turn_text (turn_text, rank) VALUES ('merge', ?)", [pages])
                done = conn.total_changes - before < 2
            pages = 500
            if done:
                break
        else:
            return
        with self.writing() as conn:  # unless something was deleted meanwhile
            known = [None if due is None else due["n"]]
            conn.execute("DELETE FROM counted WHERE name = 'purge_due' AND n = ?", known)
        with self.reading() as conn:
            conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    @property
    def purge_due(self) -> bool:
        """Whether something was deleted whose words `purge` has not overwritten yet."""
        with self.reading() as conn:
            due = conn.execute("SELECT 1 FROM counted WHERE name = 'purge_due'").fetchone()
        return due is not None

    def _fold(self) -> None:
        """Copy the -wal file into the database, if nobody is in the way.

        SQLite does so when the last connection closes, but not when that one is read-only.
        """
        if self._folds and self._conn is not None:
            with contextlib.suppress(sqlite3.Error):
                self._conn.execute("PRAGMA busy_timeout = 0")
                self._conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._conn is not None:
            self._fold()
            self._conn.close()
            self._conn = None
        if self._registered is not None:
            with _open_lock:
                _open_files[self._registered] -= 1
            self._registered = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
