"""Comparisons: what the user thought of two replies, and the one view of those that can teach."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from hhchat.splits import split_of_messages
from hhchat.store import rows
from hhchat.store.conversations import Conversations
from hhchat.store.ids import new_id, now
from hhchat.types import BadInput, Comparison, Prompt, Source, Split

PAGE = 256  # rows read at a time, so that no read transaction stays open while they are used

LIVE = "NOT EXISTS (SELECT 1 FROM undone u WHERE u.comparison = c.id)"
SELECT = f"""
SELECT c.*, x.messages, {rows.generation_columns("a", "a_")}, {rows.generation_columns("b", "b_")}
FROM {{table}} c
JOIN context x ON x.id = c.context
JOIN generation a ON a.id = c.first
JOIN generation b ON b.id = c.second
"""


class Comparisons(Conversations):
    def record(self, comparison: Comparison, turn_id: str | None = None) -> Comparison:
        """Commit a comparison in one transaction; on return it is on disk.

        Replies without an id are kept too. With `turn_id` the comparison belongs to that turn
        (its context is filled in when `messages` is empty) and the conversation continues from
        the picked reply. `preferred`, `strength` and `split` are worked out here; the returned
        record has them, and all ids. Raises ValueError when outcome, picked, preferred, position
        and strength do not agree, StoreError when it cannot be saved (nothing is, then).
        """
        return self._record(rows.judged(comparison), turn_id)

    def _record(
        self, c: Comparison, turn_id: str | None = None, original: str | None = None
    ) -> Comparison:
        if turn_id is not None and not c.messages:
            c = replace(c, messages=self.context(turn_id))
        if not c.messages:
            raise ValueError("a comparison needs the messages it answers")
        created = now()
        with self.writing() as conn:
            if turn_id is not None:
                turn = conn.execute(
                    "SELECT conversation, idx FROM turn WHERE id = ?", [turn_id]
                ).fetchone()
                if turn is None:
                    raise BadInput(f"no turn {turn_id!r}")
                c = replace(c, conversation=turn["conversation"], turn_index=turn["idx"])
            context = self._keep_context(conn, c.messages)
            replies = (
                self._keep(conn, c.replies[0], turn_id, context),
                self._keep(conn, c.replies[1], turn_id, context),
            )
            # the greatest id so far, read under the write lock: ids rise in commit order
            (last,) = conn.execute("SELECT max(id) FROM comparison").fetchone()
            c = replace(
                c,
                replies=replies,
                split=split_of_messages(c.messages),
                comment=None if c.comment is None else rows.clean(c.comment),
                id=new_id(after=last),
                created=created,
            )
            values = self._values(c, context, turn_id)
            conn.execute(rows.insert("comparison", values), values)
            if original is not None:
                conn.execute("INSERT INTO original VALUES (?, ?)", [c.id, original])
            if turn_id is not None:
                self.checkpoint_later()  # a user is waiting for this commit
                if c.picked is not None:
                    conn.execute(
                        "UPDATE turn SET reply = ? WHERE id = ?", [replies[c.picked].id, turn_id]
                    )
                assert c.conversation is not None
                self._touch(conn, c.conversation)
        return c

    def _values(self, c: Comparison, context: str, turn_id: str | None) -> dict[str, Any]:
        longer = print_of = None
        if c.preferred is not None:
            lengths = len(c.chosen.text), len(c.rejected.text)
            longer = None if lengths[0] == lengths[1] else int(lengths[0] > lengths[1])
            print_of = rows.fingerprint(context, c.chosen.text, c.rejected.text, c.mode)
        return {
            "id": c.id,
            "conversation": c.conversation,
            "turn": turn_id,
            "context": context,
            "first": c.replies[0].id,
            "second": c.replies[1].id,
            "left": c.left,
            "picked": c.picked,
            "preferred": c.preferred,
            "outcome": c.outcome,
            "position": c.position,
            "strength": c.strength,
            "mode": c.mode,
            "question": c.question,
            "turn_index": c.turn_index,
            "latency": c.latency,
            "source": c.source,
            "purpose": c.purpose,
            "comment": c.comment,
            "split": c.split,
            "created": c.created,
            "identical": int(rows.identical(*c.replies)),
            "empty": int(rows.empty(*c.replies)),
            "longer": longer,
            "fingerprint": print_of,
        }

    def undo(self, comparison_id: str) -> None:
        """Take a pick back: a row is added, nothing is lost, and the turn is open again.

        Raises BadInput when the conversation has gone on from the picked reply.
        """
        with self.writing() as conn:
            row = conn.execute(
                "SELECT turn, first, second FROM comparison WHERE id = ?", [comparison_id]
            ).fetchone()
            if row is None:
                raise BadInput(f"no comparison {comparison_id!r}")
            if row["turn"] is not None:
                gone_on = conn.execute(
                    "SELECT 1 FROM turn WHERE parent = ? LIMIT 1", [row["turn"]]
                ).fetchone()
                if gone_on is not None:
                    raise BadInput(
                        "the conversation has gone on: that pick can no longer be undone"
                    )
                conn.execute(
                    "UPDATE turn SET reply = NULL WHERE id = ? AND reply IN (?, ?)",
                    [row["turn"], row["first"], row["second"]],
                )
            conn.execute(
                "INSERT OR IGNORE INTO undone (comparison, created) VALUES (?, ?)",
                [comparison_id, now()],
            )

    # -- reading -----------------------------------------------------------------------------

    def comparison(self, id: str) -> Comparison:
        """The comparison of this id, undone or not. Raises BadInput."""
        with self.reading() as conn:
            row = conn.execute(SELECT.format(table="comparison") + " WHERE c.id = ?", [id])
            found = row.fetchone()
        if found is None:
            raise BadInput(f"no comparison {id!r}")
        return rows.to_comparison(found)

    def comparisons(
        self,
        limit: int | None = None,
        after: str | None = None,
        newest_first: bool = False,
        split: Split | None = None,
        source: Source | None = None,
        mode: str | None = None,
        conversation: str | None = None,
    ) -> Iterator[Comparison]:
        """All comparisons that were not undone, ties and skips among them.

        `after` is a comparison id and serves as a cursor: ids rise in the order of commits, so
        reading on from the last one seen misses none (with `newest_first` it reads on downward).
        """
        where = {"split": split, "source": source, "mode": mode, "conversation": conversation}
        return self._pages(
            "comparison",
            {k: v for k, v in where.items() if v is not None},
            LIVE,
            limit,
            after,
            newest_first,
        )

    def usable(self, split: Split | None = None, evaluation: bool = False) -> list[Comparison]:
        """Those that can teach, oldest first: the view `usable_comparisons`.

        `evaluation` leaves out pairs that were chosen to teach (purpose "active").
        """
        return list(self.iter_usable(split, evaluation))

    def iter_usable(
        self,
        split: Split | None = None,
        evaluation: bool = False,
        limit: int | None = None,
        after: str | None = None,
    ) -> Iterator[Comparison]:
        """`usable`, one at a time."""
        return self._pages(
            "usable_comparisons",
            {} if split is None else {"split": split},
            "c.purpose <> 'active'" if evaluation else "1",
            limit,
            after,
            False,
        )

    def exportable(self) -> Iterator[Comparison]:
        """The usable ones and every imported pair, oldest first."""
        usable = "EXISTS (SELECT 1 FROM usable_comparisons v WHERE v.id = c.id)"
        return self._pages(
            "comparison",
            {},
            f"({usable} OR c.purpose = 'imported' AND c.preferred IS NOT NULL AND {LIVE})",
            None,
            None,
            False,
        )

    @staticmethod
    def teaches(comparison: Comparison) -> bool:
        """Whether the view `usable_comparisons` takes a picked comparison that is not undone."""
        c = rows.judged(replace(comparison, id=""))
        return not (
            c.preferred is None
            or c.strength == 1
            or c.purpose == "replay"
            or rows.identical(*c.replies)
            or rows.empty(*c.replies)
        )

    def _pages(
        self,
        table: str,
        equal: dict[str, str],
        condition: str,
        limit: int | None,
        after: str | None,
        newest_first: bool,
    ) -> Iterator[Comparison]:
        order, beyond = ("DESC", "<") if newest_first else ("ASC", ">")
        wanted = [condition, *(f"c.{name} = :{name}" for name in equal)]
        left = limit
        while left is None or left > 0:
            conditions = [*wanted, f"c.id {beyond} :after"] if after is not None else wanted
            page = PAGE if left is None else min(PAGE, left)
            with self.reading() as conn:
                found = conn.execute(
                    f"{SELECT.format(table=table)} WHERE {' AND '.join(conditions)}"
                    f" ORDER BY c.id {order} LIMIT :page",
                    {**equal, "after": after, "page": page},
                ).fetchall()
            for row in found:
                yield rows.to_comparison(row)
            if len(found) < page:
                return
            after = found[-1]["id"]
            left = None if left is None else left - page

    def known_fingerprint(self, conn: sqlite3.Connection, fingerprint: str) -> bool:
        """Whether a pair with this fingerprint is in the store, imported or picked."""
        found = conn.execute(
            "SELECT 1 FROM comparison WHERE fingerprint = ? LIMIT 1", [fingerprint]
        )
        return found.fetchone() is not None

    def add_imported(self, comparison: Comparison, original: str | None = None) -> bool:
        """Record an imported pair unless the store has it; False when it has.

        Also adds its context as a prompt of source "imported". `original` is the line as it was,
        kept when its own format would not spell the pair the same way again.
        """
        c = rows.judged(comparison)
        if c.preferred is None:
            raise ValueError("an imported pair needs a preferred reply")
        packed = rows.pack_messages(c.messages)
        mark = rows.fingerprint(rows.digest(packed), c.chosen.text, c.rejected.text, c.mode)
        with self.writing() as conn:
            if self.known_fingerprint(conn, mark):
                return False
            self._record(c, original=original)
            self.add_prompts([Prompt(c.messages, source="imported", mode=c.mode)])
        return True

    def original(self, comparison_id: str) -> str | None:
        """The imported line of a comparison, where it was kept; see `add_imported`."""
        with self.reading() as conn:
            row = conn.execute(
                "SELECT line FROM original WHERE comparison = ?", [comparison_id]
            ).fetchone()
        return None if row is None else row["line"]

    def add_prompts(self, prompts: list[Prompt]) -> int:
        """Keep prompts, each context once a source; returns how many were new."""
        added = 0
        with self.writing() as conn:
            for prompt in prompts:
                if not prompt.messages or prompt.messages[-1].role != "user":
                    raise BadInput("a prompt ends on the user's side")
                context = self._keep_context(conn, prompt.messages)
                cursor = conn.execute(
                    "INSERT OR IGNORE INTO prompt (id, context, source, split, mode, created)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    [
                        new_id(),
                        context,
                        prompt.source,
                        split_of_messages(prompt.messages),
                        prompt.mode,
                        now(),
                    ],
                )
                added += cursor.rowcount
        return added

    def prompts(
        self, source: str | None = None, split: Split | None = None, limit: int | None = None
    ) -> list[Prompt]:
        """Prompts in the order they were added."""
        equal = {k: v for k, v in {"source": source, "split": split}.items() if v is not None}
        where = "".join(f" AND p.{name} = :{name}" for name in equal)
        with self.reading() as conn:
            found = conn.execute(
                "SELECT p.*, x.messages FROM prompt p JOIN context x ON x.id = p.context"
                f" WHERE 1{where} ORDER BY p.id LIMIT :limit",
                {**equal, "limit": -1 if limit is None else limit},
            )
            return [rows.to_prompt(row) for row in found]

    def stats(self) -> dict[str, Any]:
        """Counts for people and for `prefs stats --json`; shares are None when nothing counts.

        `picks`: a side was chosen. `left_rate`: share of picks made here that went to the left.
        `longer_rate`: share of usable pairs whose preferred reply is the longer one. `left_of` and
        `longer_of` are how many each comes from.
        """
        with self.reading() as conn:
            return _stats(conn)


def _stats(conn: sqlite3.Connection) -> dict[str, Any]:
    def total(what: str, where: str) -> Any:
        return conn.execute(f"SELECT coalesce(sum({what}), 0) FROM {where}").fetchone()[0]

    def groups(column: str) -> dict[str, int]:
        found = conn.execute(
            f"SELECT {column}, sum(n) FROM usable_tally GROUP BY 1 HAVING sum(n) ORDER BY 1"
        )
        return dict(found.fetchall())

    live = "tally WHERE NOT undone"
    here = f"{live} AND purpose <> 'imported' AND outcome"
    shown = total("n", f"{here} IN ('left', 'right')")
    unequal = total("n", "usable_tally WHERE longer IS NOT NULL")
    counted = dict(conn.execute("SELECT name, n FROM counted").fetchall())
    return {
        "comparisons": total("n", live),
        "usable": total("n", "usable_tally"),
        "picks": total("n", f"{live} AND preferred IS NOT NULL"),
        "ties": total("n", f"{live} AND outcome = 'tie'"),
        "both_bad": total("n", f"{live} AND outcome = 'both-bad'"),
        "skipped": total("n", f"{live} AND outcome = 'skip'"),
        "undone": total("n", "tally WHERE undone"),
        "weakest": total("n", f"{live} AND strength = 1"),
        "identical": total("n", f"{live} AND identical"),
        "empty": total("n", f"{live} AND empty"),
        "by_mode": groups("mode"),
        "by_source": groups("source"),
        "by_purpose": groups("purpose"),
        "by_split": groups("split"),
        "left_rate": total("n", f"{here} = 'left'") / shown if shown else None,
        "left_of": shown,
        "longer_rate": total("n * longer", "usable_tally") / unequal if unequal else None,
        "longer_of": unequal,
        "conversations": counted["conversation"],
        "turns": counted["turn"],
        "generations": counted["generation"],
        "prompts": counted["prompt"],
        "snapshots": conn.execute("SELECT count(*) FROM snapshot").fetchone()[0],
    }
