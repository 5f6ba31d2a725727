"""The shape of the database, as one ordered list of steps, and the only way to apply them.

A step is never edited once released: a change is one more step at the end. Each is named
`mNNN_what_it_does` and runs inside the transaction that `upgrade` holds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

SET = "hhchat"
STEPS: list[Callable[[Any], None]] = []  # in order

# "hhch": lets `file` and a reader tell whose database it is
APPLICATION_ID = 0x68686368

TABLES = """
CREATE TABLE context (
  id TEXT PRIMARY KEY,              -- sha256 of `messages`
  messages TEXT NOT NULL            -- [{"role", "content"}], ends on the user's side
);
CREATE TABLE conversation (
  id TEXT PRIMARY KEY,
  mode TEXT NOT NULL,
  system TEXT,
  split TEXT NOT NULL CHECK (split IN ('train', 'heldout')),
  created TEXT NOT NULL,
  title TEXT NOT NULL DEFAULT '',
  tip TEXT,                         -- last turn of the branch being continued
  sampling TEXT,
  touched TEXT NOT NULL             -- rises with each change, to list the latest first
);
CREATE INDEX conversation_touched ON conversation (touched);
CREATE TABLE turn (
  n INTEGER PRIMARY KEY,            -- row number of turn_text
  id TEXT NOT NULL UNIQUE,
  conversation TEXT NOT NULL REFERENCES conversation (id) ON DELETE CASCADE,
  parent TEXT REFERENCES turn (id) ON DELETE CASCADE,
  idx INTEGER NOT NULL,
  user TEXT NOT NULL,
  reply TEXT REFERENCES generation (id) ON DELETE SET NULL,
  created TEXT NOT NULL
);
CREATE INDEX turn_conversation ON turn (conversation);
CREATE INDEX turn_parent ON turn (parent) WHERE parent IS NOT NULL;
CREATE INDEX turn_reply ON turn (reply) WHERE reply IS NOT NULL;
CREATE TABLE generation (
  id TEXT PRIMARY KEY,
  turn TEXT REFERENCES turn (id) ON DELETE CASCADE,
  context TEXT REFERENCES context (id),
  text TEXT NOT NULL,
  token_ids TEXT NOT NULL,          -- JSON list
  finished INTEGER NOT NULL,        -- 0: cut by the length limit or by stop
  source TEXT NOT NULL,
  snapshot TEXT,
  base TEXT,
  sampling TEXT,
  seed TEXT,                        -- text: a seed may need all 64 bits, unsigned
  created TEXT NOT NULL
);
CREATE INDEX generation_turn ON generation (turn) WHERE turn IS NOT NULL;
CREATE INDEX generation_context ON generation (context) WHERE context IS NOT NULL;
CREATE TABLE comparison (
  id TEXT PRIMARY KEY,
  conversation TEXT REFERENCES conversation (id) ON DELETE CASCADE,
  turn TEXT REFERENCES turn (id) ON DELETE CASCADE,
  context TEXT NOT NULL REFERENCES context (id),
  first TEXT NOT NULL REFERENCES generation (id) ON DELETE CASCADE,
  second TEXT NOT NULL REFERENCES generation (id) ON DELETE CASCADE,
  left INTEGER NOT NULL CHECK (left IN (0, 1)),
  picked INTEGER CHECK (picked IN (0, 1)),
  preferred INTEGER CHECK (preferred IN (0, 1)),
  outcome TEXT NOT NULL,
  position INTEGER,
  strength INTEGER,
  mode TEXT NOT NULL,
  question TEXT NOT NULL,
  turn_index INTEGER NOT NULL,
  latency REAL,
  source TEXT NOT NULL,
  purpose TEXT NOT NULL,
  comment TEXT,
  split TEXT NOT NULL CHECK (split IN ('train', 'heldout')),
  created TEXT NOT NULL,
  identical INTEGER NOT NULL,       -- the same reply twice, after tokenisation
  empty INTEGER NOT NULL,           -- one of the replies says nothing
  longer INTEGER,                   -- 1: the preferred reply is the longer one, 0: the shorter
  fingerprint TEXT                  -- of context, chosen, rejected, mode: imports once
);
CREATE INDEX comparison_conversation ON comparison (conversation) WHERE conversation IS NOT NULL;
CREATE INDEX comparison_turn ON comparison (turn) WHERE turn IS NOT NULL;
CREATE INDEX comparison_context ON comparison (context);
CREATE INDEX comparison_first ON comparison (first);
CREATE INDEX comparison_second ON comparison (second);
CREATE INDEX comparison_fingerprint ON comparison (fingerprint) WHERE fingerprint IS NOT NULL;
CREATE TABLE undone (
  comparison TEXT PRIMARY KEY REFERENCES comparison (id) ON DELETE CASCADE,
  created TEXT NOT NULL
);
CREATE TABLE original (
  comparison TEXT PRIMARY KEY REFERENCES comparison (id) ON DELETE CASCADE,
  line TEXT NOT NULL                -- an imported line that its own format spells differently
);
CREATE TABLE run (
  id TEXT PRIMARY KEY,
  state TEXT NOT NULL,
  stages TEXT NOT NULL,
  seed TEXT NOT NULL,
  base TEXT NOT NULL,
  created TEXT NOT NULL,
  finished TEXT,
  reason TEXT,
  snapshot TEXT,
  data TEXT NOT NULL
);
CREATE TABLE metric (
  n INTEGER PRIMARY KEY,
  run TEXT NOT NULL REFERENCES run (id) ON DELETE CASCADE,
  stage TEXT NOT NULL,
  step INTEGER NOT NULL,
  name TEXT NOT NULL,
  value REAL                        -- NULL: not a number
);
CREATE INDEX metric_run ON metric (run, stage, name, step);
CREATE TABLE snapshot (
  id TEXT PRIMARY KEY,
  path TEXT NOT NULL,
  run TEXT REFERENCES run (id),
  parent TEXT,
  base TEXT NOT NULL,
  created TEXT NOT NULL,
  info TEXT NOT NULL
);
CREATE TABLE promotion (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  snapshot TEXT REFERENCES snapshot (id),   -- NULL: the bare base
  run TEXT REFERENCES run (id),
  reason TEXT NOT NULL,
  rollback INTEGER NOT NULL DEFAULT 0,      -- 1: this row undid the promotion before it
  created TEXT NOT NULL
);
CREATE TABLE prompt (
  id TEXT PRIMARY KEY,
  context TEXT NOT NULL REFERENCES context (id),
  source TEXT NOT NULL,
  split TEXT NOT NULL CHECK (split IN ('train', 'heldout')),
  mode TEXT NOT NULL,
  created TEXT NOT NULL,
  UNIQUE (context, source)
);
"""

# What can teach: no tie or skip, not the weakest strength, two different replies that both say
# something, and not an old pair shown again. Written once, for the view and for the counts.
RULE = """outcome IN ('left', 'right') AND preferred IS NOT NULL
  AND (strength IS NULL OR strength > 1) AND NOT identical AND NOT empty AND purpose <> 'replay'"""

# Counts by everything that `stats` asks for, kept by triggers: at a million comparisons counting
# takes seconds, and reading these a fraction of a millisecond.
GROUP = (
    "split",
    "source",
    "mode",
    "purpose",
    "outcome",
    "preferred",
    "strength",
    "identical",
    "empty",
    "longer",
)
COUNTED = ("conversation", "turn", "generation", "prompt")


def _counts() -> list[str]:
    def move(row: str, undone: str, by: int) -> str:
        # NULLs are equal to each other here, which a primary key would not have them be
        same = " AND ".join(f"{c} IS {row}.{c}" for c in GROUP) + f" AND undone = {undone}"
        values = ", ".join(f"{row}.{c}" for c in GROUP)
        return f"""
          INSERT INTO tally ({", ".join(GROUP)}, undone, n) SELECT {values}, {undone}, 0
            WHERE NOT EXISTS (SELECT 1 FROM tally WHERE {same});
          UPDATE tally SET n = n + {by} WHERE {same};"""

    old_undone = "EXISTS (SELECT 1 FROM undone WHERE comparison = old.id)"
    row = "(SELECT * FROM comparison WHERE id = new.comparison)"
    columns = ", ".join(GROUP)
    undo = " AND ".join(f"tally.{c} IS c.{c}" for c in GROUP)
    named = ", ".join(f"c.{c}" for c in GROUP)
    statements = [
        f"CREATE TABLE tally ({columns}, undone INTEGER NOT NULL, n INTEGER NOT NULL)",
        f"""CREATE VIEW usable_comparisons AS SELECT * FROM comparison
          WHERE {RULE}
          AND NOT EXISTS (SELECT 1 FROM undone u WHERE u.comparison = comparison.id)""",
        f"CREATE VIEW usable_tally AS SELECT * FROM tally WHERE {RULE} AND NOT undone",
        f"CREATE TRIGGER tally_insert AFTER INSERT ON comparison BEGIN {move('new', '0', 1)} END",
        # before, while the row in undone is still there to be seen
        f"""CREATE TRIGGER tally_delete BEFORE DELETE ON comparison BEGIN
          {move("old", old_undone, -1)} END""",
        f"""CREATE TRIGGER tally_undo AFTER INSERT ON undone BEGIN
          INSERT INTO tally ({", ".join(GROUP)}, undone, n) SELECT {named}, 1, 0 FROM {row} c
            WHERE NOT EXISTS (SELECT 1 FROM tally WHERE {undo} AND tally.undone = 1);
          UPDATE tally SET n = n + iif(undone, 1, -1) WHERE EXISTS (SELECT 1 FROM {row} c
            WHERE {undo}); END""",
        "CREATE TABLE counted (name TEXT PRIMARY KEY, n INTEGER NOT NULL)",
    ]
    for table in COUNTED:
        statements.append(f"INSERT INTO counted VALUES ('{table}', 0)")
        for event, by in (("INSERT", 1), ("DELETE", -1)):
            statements.append(
                f"""CREATE TRIGGER counted_{table}_{event.lower()} AFTER {event} ON {table} BEGIN
                  UPDATE counted SET n = n + {by} WHERE name = '{table}'; END"""
            )
    return statements


SEARCH = (
    # the last word is searched as a prefix while it is typed, hence the prefix index
    """CREATE VIRTUAL TABLE turn_text USING fts5(
      title, user, reply, tokenize = 'unicode61 remove_diacritics 2', prefix = '2 3')""",
    """CREATE TRIGGER turn_text_insert AFTER INSERT ON turn BEGIN
      INSERT INTO turn_text (rowid, title, user, reply) VALUES (new.n, '', new.user,
        coalesce((SELECT text FROM generation WHERE id = new.reply), ''));
    END""",
    """CREATE TRIGGER turn_text_reply AFTER UPDATE OF reply ON turn BEGIN
      UPDATE turn_text SET reply =
        coalesce((SELECT text FROM generation WHERE id = new.reply), '') WHERE rowid = new.n;
    END""",
    """CREATE TRIGGER turn_text_delete AFTER DELETE ON turn BEGIN
      DELETE FROM turn_text WHERE rowid = old.n;
    END""",
    """CREATE TRIGGER turn_text_title AFTER UPDATE OF title ON conversation BEGIN
      UPDATE turn_text SET title = new.title WHERE rowid =
        (SELECT min(n) FROM turn WHERE conversation = new.id);
    END""",
)


def step(function: Callable[[Any], None]) -> Callable[[Any], None]:
    """Put a migration at the end of the list."""
    STEPS.append(function)
    return function


def _names() -> list[str]:
    return [function.__name__ for function in STEPS]


@step
def m001_the_record(db: Any) -> None:
    """Conversations, generations, comparisons, runs, snapshots, promotions, prompts."""
    for statement in TABLES.split(";\n"):
        if statement.strip():
            db.conn.execute(statement)
    for statement in (*_counts(), *SEARCH):
        db.conn.execute(statement)


class Newer(Exception):
    """The database has steps that this program does not know; args[0] names the last."""


def applied(conn: sqlite3.Connection) -> list[str] | None:
    """The steps a database has had, in order; None when it holds tables that are not ours."""
    tables = {name for (name,) in conn.execute("SELECT name FROM sqlite_master LIMIT 100")}
    if not tables:
        return []
    if "_sqlite_migrations" not in tables:
        return None
    rows = conn.execute(
        "SELECT name FROM _sqlite_migrations WHERE migration_set = ? ORDER BY rowid", [SET]
    )
    return [name for (name,) in rows] or None


def pending(conn: sqlite3.Connection) -> list[str] | None:
    """The steps still to be applied; None for another program's database. Raises `Newer`."""
    had = applied(conn)
    if had is None:
        return None
    strange = [name for name in had if name not in _names()]
    if strange:
        raise Newer(strange[-1])
    return [name for name in _names() if name not in had]


def upgrade(db: Any, backup: Callable[[int], None]) -> bool:
    """Apply what is pending under one write lock; True when something was.

    `backup(version)` is called first, with the number of steps the database has had, unless it is
    new. Four processes starting at once wait here: taking the lock before looking is what keeps
    them from creating the same table twice.
    """
    from hhchat._sqlite_utils import Migrations

    conn: sqlite3.Connection = db.conn
    conn.execute("BEGIN IMMEDIATE")
    try:
        todo = pending(conn)
        if todo:
            had = applied(conn)
            if had:
                backup(len(had))
            ours = Migrations(SET)
            for function in STEPS:
                ours()(function)
            ours.apply(db)
            conn.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        conn.execute("COMMIT")
    except BaseException:
        if conn.in_transaction:
            conn.execute("ROLLBACK")
        raise
    return bool(todo)
