"""Conversations: a tree of turns, listed by what happened last and searched by their words."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from hhchat.splits import split_of
from hhchat.store import rows
from hhchat.store.connection import Connection
from hhchat.store.ids import new_id, now
from hhchat.types import BadInput, Conversation, Generation, Message, Sampling, Turn, nearest

PURGE_TURNS = 50_000
TIP = "tip"  # add_turn's default: go on from the tip

TURNS = f"""
SELECT t.id, t.user, t.parent, t.idx, t.reply, {rows.generation_columns("g", "g_")}
FROM turn t LEFT JOIN generation g ON g.id = t.reply
"""
LINEAGE = f"""
WITH RECURSIVE line (id) AS (
  SELECT ? UNION ALL SELECT turn.parent FROM turn JOIN line ON turn.id = line.id
)
{TURNS} JOIN line ON line.id = t.id ORDER BY t.idx
"""


class Conversations(Connection):
    def start_conversation(
        self,
        first_message: str,
        mode: str = "helpful",
        system: str | None = None,
        sampling: Sampling | None = None,
    ) -> tuple[Conversation, Turn]:
        """Keep a new conversation and its first user message."""
        first_message = rows.clean(first_message)
        conversation = Conversation(
            id=new_id(),
            mode=mode,
            system=None if system is None else rows.clean(system),
            split=split_of(first_message),
            created=now(),
            title=title_of(first_message),
            sampling=sampling,
        )
        with self.writing() as conn:
            values = {
                "id": conversation.id,
                "mode": mode,
                "system": conversation.system,
                "split": conversation.split,
                "created": conversation.created,
                "title": conversation.title,
                "sampling": rows.pack_sampling(sampling),
                "touched": new_id(),
            }
            conn.execute(rows.insert("conversation", values), values)
            turn = self._insert_turn(conn, conversation.id, first_message, None, 0)
        return replace(conversation, tip=turn.id), turn

    def add_turn(self, conversation_id: str, user_text: str, parent: str | None = TIP) -> Turn:
        """Keep a user message after `parent`, and move the tip to it.

        `parent` is a turn id (another child of it is a branch), None for a new first message, or
        by default the tip. Raises BadInput when the parent has no reply yet.
        """
        with self.writing() as conn:
            conversation = self._conversation(conn, conversation_id)
            if parent == TIP:
                parent = conversation["tip"]
            index = 0
            if parent is not None:
                above = conn.execute(
                    "SELECT idx, reply FROM turn WHERE id = ? AND conversation = ?",
                    [parent, conversation["id"]],
                ).fetchone()
                if above is None:
                    raise BadInput(f"turn {parent} is not of conversation {conversation_id}")
                if above["reply"] is None:
                    raise BadInput("the last message has no reply yet: pick one first")
                index = above["idx"] + 1
            return self._insert_turn(conn, conversation["id"], rows.clean(user_text), parent, index)

    def _insert_turn(
        self, conn: sqlite3.Connection, conversation: str, user: str, parent: str | None, index: int
    ) -> Turn:
        turn = Turn(id=new_id(), user=user, reply=None, parent=parent, index=index)
        conn.execute(
            "INSERT INTO turn (id, conversation, parent, idx, user, created)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            [turn.id, conversation, parent, index, user, now()],
        )
        self._touch(conn, conversation, turn.id)
        return turn

    def _touch(self, conn: sqlite3.Connection, conversation: str, tip: str | None = None) -> None:
        conn.execute(
            "UPDATE conversation SET touched = ?, tip = coalesce(?, tip) WHERE id = ?",
            [new_id(), tip, conversation],
        )

    def _conversation(self, conn: sqlite3.Connection, id: str) -> sqlite3.Row:
        row: sqlite3.Row = find(conn, "conversation", id)
        return row

    # -- reading -----------------------------------------------------------------------------

    def conversation(self, id: str) -> Conversation:
        """The conversation of this id or unique start of one. Raises BadInput."""
        with self.reading() as conn:
            return rows.to_conversation(self._conversation(conn, id))

    def latest_conversation(self) -> Conversation | None:
        """The one that was last written to."""
        found = self.conversations(limit=1)
        return found[0] if found else None

    def conversations(
        self, query: str | None = None, limit: int = 50, offset: int = 0
    ) -> list[Conversation]:
        """The latest first; with `query`, those whose title, messages or replies have its words.

        A found conversation's `snippet` shows the place, the words between «». The last word of
        the query may be unfinished; what has it whole comes first. A query without a letter or
        digit finds nothing.
        """
        with self.reading() as conn:
            if query is None or not query.strip():
                listed = conn.execute(
                    "SELECT * FROM conversation ORDER BY touched DESC LIMIT ? OFFSET ?",
                    [limit, offset],
                )
                return [rows.to_conversation(row) for row in listed]
            return self._search(conn, matches_of(query), limit, offset)

    def _search(
        self, conn: sqlite3.Connection, matches: Sequence[str], limit: int, offset: int
    ) -> list[Conversation]:
        # Newest rows first and stop when there are enough: ranking would score every hit of a
        # common word before it could show one.
        found: dict[str, str] = {}
        for match in matches:
            hits = conn.execute(
                "SELECT t.conversation, snippet(turn_text, -1, '«', '»', '…', 16)"
                " FROM turn_text JOIN turn t ON t.n = turn_text.rowid"
                " WHERE turn_text MATCH ? ORDER BY turn_text.rowid DESC",
                [match],
            )
            for conversation, snippet in hits:
                found.setdefault(conversation, " ".join(snippet.split()))
                if len(found) >= offset + limit:
                    break
            hits.close()
            if len(found) >= offset + limit:
                break
        listed = []
        for id, snippet in list(found.items())[offset : offset + limit]:
            row = conn.execute("SELECT * FROM conversation WHERE id = ?", [id]).fetchone()
            if row is not None:  # else another process has deleted it just now
                listed.append(rows.to_conversation(row, snippet))
        return listed

    def history(self, conversation_id: str, tip: str | None = None) -> list[Turn]:
        """The turns from the first message to `tip`, by default the conversation's own tip."""
        with self.reading() as conn:
            conversation = self._conversation(conn, conversation_id)
            lineage = conn.execute(LINEAGE, [tip or conversation["tip"]]).fetchall()
        return [to_turn(row) for row in lineage]

    def turn(self, id: str) -> Turn:
        """One turn. Raises BadInput when there is none."""
        with self.reading() as conn:
            row = conn.execute(f"{TURNS} WHERE t.id = ?", [id]).fetchone()
        if row is None:
            raise BadInput(f"no turn {id!r}")
        return to_turn(row)

    def turns(self, conversation_id: str) -> list[Turn]:
        """Every turn of every branch, oldest first: the tree, by `parent`."""
        with self.reading() as conn:
            id = self._conversation(conn, conversation_id)["id"]
            return [
                to_turn(row)
                for row in conn.execute(f"{TURNS} WHERE t.conversation = ? ORDER BY t.n", [id])
            ]

    def messages(self, conversation_id: str, tip: str | None = None) -> tuple[Message, ...]:
        """The system prompt and the turns to `tip`; ends on the user when that is unanswered."""
        with self.reading() as conn:
            system = self._conversation(conn, conversation_id)["system"]
        return tuple(messages_of(system, self.history(conversation_id, tip)))

    def context(self, turn_id: str) -> tuple[Message, ...]:
        """What the replies to this turn answer: always ends on its user message."""
        with self.reading() as conn:
            found = conn.execute(
                "SELECT c.system FROM turn t JOIN conversation c ON c.id = t.conversation"
                " WHERE t.id = ?",
                [turn_id],
            ).fetchone()
            if found is None:
                raise BadInput(f"no turn {turn_id!r}")
            turns = [to_turn(row) for row in conn.execute(LINEAGE, [turn_id])]
        turns[-1] = replace(turns[-1], reply=None)
        return tuple(messages_of(found["system"], turns))

    def generations(self, turn_id: str) -> list[Generation]:
        """Every reply that was kept for this turn, oldest first."""
        with self.reading() as conn:
            kept = conn.execute(
                f"SELECT {rows.generation_columns('g')} FROM generation g"
                " WHERE g.turn = ? ORDER BY g.id",
                [turn_id],
            )
            return [rows.to_generation(row) for row in kept]

    # -- changing ----------------------------------------------------------------------------

    def rename(self, conversation_id: str, title: str) -> None:
        self._set(conversation_id, "title", rows.clean(title))

    def set_system(self, conversation_id: str, system: str | None) -> None:
        """Change the system prompt from the next reply on."""
        self._set(conversation_id, "system", None if system is None else rows.clean(system))

    def set_sampling(self, conversation_id: str, sampling: Sampling | None) -> None:
        self._set(conversation_id, "sampling", rows.pack_sampling(sampling))

    def set_tip(self, conversation_id: str, turn_id: str) -> None:
        """Continue from another branch's turn."""
        with self.writing() as conn:
            id = self._conversation(conn, conversation_id)["id"]
            own = conn.execute(
                "SELECT 1 FROM turn WHERE id = ? AND conversation = ?", [turn_id, id]
            ).fetchone()
            if own is None:
                raise BadInput(f"turn {turn_id} is not of conversation {conversation_id}")
            self._touch(conn, id, turn_id)

    def _set(self, conversation_id: str, column: str, value: Any) -> None:
        with self.writing() as conn:
            id = self._conversation(conn, conversation_id)["id"]
            conn.execute(f"UPDATE conversation SET {column} = ? WHERE id = ?", [value, id])

    def delete_conversation(self, id: str, purge: bool | None = None) -> None:
        """Really delete a conversation: its turns, replies, comparisons and their words.

        What was learned from it in earlier runs stays learned, and backups made before keep it.
        `purge` overwrites its words in the search index too; that takes time with the size of the
        history, so by default it is done at once up to 50,000 turns (under a second) and left to
        a later `purge()` beyond, for which `purge_due` is then true.
        """
        with self.writing() as conn:
            id = self._conversation(conn, id)["id"]
            conn.execute("CREATE TEMP TABLE IF NOT EXISTS doomed (kind TEXT, id TEXT)")
            conn.execute("DELETE FROM doomed")
            conn.execute(
                "INSERT INTO doomed SELECT 'generation', id FROM generation WHERE turn IN"
                " (SELECT id FROM turn WHERE conversation = ?)",
                [id],
            )
            for column in ("first", "second"):  # replies kept without a turn
                conn.execute(
                    f"INSERT INTO doomed SELECT 'generation', g.id FROM comparison c"
                    f" JOIN generation g ON g.id = c.{column}"
                    " WHERE c.conversation = ? AND g.turn IS NULL",
                    [id],
                )
            doomed = "(SELECT id FROM doomed WHERE kind = 'generation')"
            conn.execute(
                "INSERT INTO doomed SELECT 'context', context FROM comparison"
                f" WHERE conversation = ? OR first IN {doomed} OR second IN {doomed}"
                f" UNION SELECT 'context', context FROM generation WHERE id IN {doomed}",
                [id],
            )
            conn.execute(
                "DELETE FROM comparison"
                f" WHERE conversation = ? OR first IN {doomed} OR second IN {doomed}",
                [id],
            )
            conn.execute("DELETE FROM conversation WHERE id = ?", [id])
            conn.execute(f"DELETE FROM generation WHERE id IN {doomed}")
            conn.execute(
                "DELETE FROM context WHERE id IN (SELECT id FROM doomed WHERE kind = 'context')"
                " AND NOT EXISTS (SELECT 1 FROM generation WHERE context = context.id)"
                " AND NOT EXISTS (SELECT 1 FROM comparison WHERE context = context.id)"
                " AND NOT EXISTS (SELECT 1 FROM prompt WHERE context = context.id)"
            )
            conn.execute("DELETE FROM doomed")
            conn.execute(
                "INSERT INTO counted (name, n) VALUES ('purge_due', 1)"
                " ON CONFLICT (name) DO UPDATE SET n = n + 1"
            )
            (turns,) = conn.execute("SELECT n FROM counted WHERE name = 'turn'").fetchone()
        if purge or (purge is None and turns <= PURGE_TURNS):
            self.purge()

    def keep_generations(self, turn_id: str, generations: Iterable[Generation]) -> list[Generation]:
        """Keep complete replies to a turn, before anything is picked; returns them with ids."""
        context = self.context(turn_id)
        with self.writing() as conn:
            context_id = self._keep_context(conn, context)
            return [self._keep(conn, g, turn_id, context_id) for g in generations]

    def set_reply(self, turn_id: str, generation_id: str | None) -> None:
        """Continue the conversation from this reply (None: the turn is open again)."""
        with self.writing() as conn:
            row = conn.execute("SELECT conversation FROM turn WHERE id = ?", [turn_id]).fetchone()
            if row is None:
                raise BadInput(f"no turn {turn_id!r}")
            conn.execute("UPDATE turn SET reply = ? WHERE id = ?", [generation_id, turn_id])
            self._touch(conn, row["conversation"])

    def _keep_context(self, conn: sqlite3.Connection, messages: Sequence[Message]) -> str:
        packed = rows.pack_messages(messages)
        id = rows.digest(packed)
        conn.execute("INSERT OR IGNORE INTO context (id, messages) VALUES (?, ?)", [id, packed])
        return id

    def _keep(
        self, conn: sqlite3.Connection, generation: Generation, turn: str | None, context: str
    ) -> Generation:
        """Insert a generation that has no id yet; one that has must be known."""
        if generation.id:
            known = conn.execute(
                "SELECT 1 FROM generation WHERE id = ?", [generation.id]
            ).fetchone()
            if known is None:
                raise ValueError(f"generation {generation.id} is not in the store")
            return generation
        created = generation.created or now()
        values = rows.generation_row(generation, new_id(), turn, context, created)
        conn.execute(rows.insert("generation", values), values)
        return replace(
            generation,
            id=values["id"],
            text=values["text"],
            context=context,
            created=created,
        )


def find(conn: sqlite3.Connection, table: str, id: str) -> Any:
    """The row of this id or of the one id that starts so. Raises BadInput."""
    row = conn.execute(f"SELECT * FROM {table} WHERE id = ?", [id]).fetchone()
    if row is not None:
        return row
    start = id.upper() if table != "snapshot" else id
    found = (
        conn.execute(
            f"SELECT * FROM {table} WHERE id >= ? AND id < ? ORDER BY id LIMIT 2",
            [start, start + "\U0010ffff"],
        ).fetchall()
        if id
        else []
    )
    if len(found) == 1:
        return found[0]
    if found:
        raise BadInput(f"more than one {table} starts with {id!r}: give more of it")
    raise BadInput(f"no {table} {id!r}{_near(conn, table, id)}")


def _near(conn: sqlite3.Connection, table: str, id: str) -> str:
    """Which snapshot may have been meant. Other ids are too many, and nobody remembers them."""
    if table != "snapshot":
        return ""
    latest = conn.execute("SELECT id FROM snapshot ORDER BY rowid DESC LIMIT 20")
    known = [row["id"] for row in latest]
    return f": {nearest(id, ['current', 'base', *known])}"


def title_of(first_message: str, width: int = 60) -> str:
    """One line to list a conversation by."""
    line = " ".join(first_message.split())
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def matches_of(query: str) -> list[str]:
    """FTS5 expressions, one to be tried after the other: all words, then the last as a beginning.

    Finding the beginnings of words gathers every hit before the first can be shown; it waits
    until whole words have not filled the page. Each word is quoted, so nothing the user types is
    read as FTS syntax. Empty when no word is left.
    """
    words = [w for w in query.replace("\0", " ").split() if any(c.isalnum() for c in w)]
    if not words:
        return []
    whole = " ".join('"' + rows.clean(w).replace('"', '""') + '"' for w in words)
    return [whole, whole + "*"] if len(words[-1]) > 1 else [whole]


def to_turn(row: sqlite3.Row) -> Turn:
    reply = None if row["reply"] is None else rows.to_generation(row, "g_")
    return Turn(id=row["id"], user=row["user"], reply=reply, parent=row["parent"], index=row["idx"])


def messages_of(system: str | None, turns: Iterable[Turn]) -> Iterable[Message]:
    if system:
        yield Message("system", system)
    for turn in turns:
        yield Message("user", turn.user)
        if turn.reply is not None:
            yield Message("assistant", turn.reply.text)
