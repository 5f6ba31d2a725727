"""Any order of chatting, picking, undoing, deleting and reopening: the store and a dict agree."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hhchat.store import Store
from hhchat.types import BadInput, Comparison, Conversation, Generation, Message

TEXT = st.text(alphabet="ab é\n\0*\"'", max_size=6)
POSITION = st.none() | st.integers(1, 8)


class Chatting(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = Store(self.folder / "hhchat.db")
        self.said: dict[str, list[list[Any]]] = {}  # conversation -> [turn id, user, reply text]
        self.picks: dict[str, tuple[str, str, Comparison]] = {}  # id -> conversation, turn, row
        self.undone: set[str] = set()

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    def last(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.said)))

    @rule(text=TEXT, mode=st.sampled_from(["helpful", "redteam-worst"]))
    def start(self, text: str, mode: str) -> None:
        conversation, turn = self.store.start_conversation(text, mode)
        self.said[conversation.id] = [[turn.id, text, None]]

    @precondition(lambda self: self.said)
    @rule(data=st.data(), text=TEXT)
    def say(self, data: st.DataObject, text: str) -> None:
        id = self.last(data)
        if self.said[id][-1][2] is None:
            try:
                self.store.add_turn(id, text)
            except BadInput:
                return
            raise AssertionError("a message after an unanswered one")
        self.said[id].append([self.store.add_turn(id, text).id, text, None])

    @precondition(lambda self: self.said)
    @rule(data=st.data(), a=TEXT, b=TEXT, keep=st.booleans(), position=POSITION, left=st.booleans())
    def pick(
        self, data: st.DataObject, a: str, b: str, keep: bool, position: int | None, left: bool
    ) -> None:
        id = self.last(data)
        turn = self.said[id][-1]
        pair = [Generation(a), Generation(b)]
        if keep:
            pair = self.store.keep_generations(turn[0], pair)
        on_left = position is None or position <= 4
        picked = int(left) if on_left else 1 - int(left)
        recorded = self.store.record(
            Comparison(
                (),
                (pair[0], pair[1]),
                left=1 if left else 0,
                picked=1 if picked else 0,
                outcome="left" if on_left else "right",
                position=position,
                mode=self.store.conversation(id).mode,
            ),
            turn[0],
        )
        turn[2] = (a, b)[picked]
        self.picks[recorded.id] = (id, turn[0], recorded)

    @precondition(lambda self: self.picks)
    @rule(data=st.data())
    def undo(self, data: st.DataObject) -> None:
        pick = data.draw(st.sampled_from(sorted(self.picks)))
        id, turn_id, row = self.picks[pick]
        turn = self.said[id][-1]
        if turn[0] != turn_id:
            return
        before = self.store.turn(turn_id).reply
        self.store.undo(pick)
        self.undone.add(pick)
        if before is not None and before.id in {g.id for g in row.replies}:
            turn[2] = None

    @precondition(lambda self: self.said)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        id = self.last(data)
        self.store.delete_conversation(id)
        del self.said[id]
        self.picks = {k: v for k, v in self.picks.items() if v[0] != id}
        self.undone &= set(self.picks)

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = Store(self.folder / "hhchat.db")

    @rule()
    def fail(self) -> None:
        """A transaction that does not end well leaves nothing."""
        try:
            with self.store.writing():
                self.store.start_conversation("lost")
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass

    @invariant()
    def the_same_is_said(self) -> None:
        listed: list[Conversation] = self.store.conversations(limit=1000)
        assert {c.id for c in listed} == set(self.said)
        for id, turns in self.said.items():
            expected = []
            for _, user, reply in turns:
                expected.append(Message("user", user))
                if reply is not None:
                    expected.append(Message("assistant", reply))
            assert list(self.store.messages(id)) == expected

    @invariant()
    def the_same_picks_teach(self) -> None:
        live = [row for id, (_, _, row) in sorted(self.picks.items()) if id not in self.undone]
        assert list(self.store.comparisons()) == live
        usable = [row for row in live if self.store.teaches(row)]
        assert self.store.usable() == usable
        stats = self.store.stats()
        assert stats["usable"] == len(usable)
        assert stats["comparisons"] == len(live)
        assert stats["undone"] == len(self.undone)
        assert sum(stats["by_split"].values()) == len(usable)
        assert stats["conversations"] == len(self.said)
        assert stats["turns"] == sum(map(len, self.said.values()))

    @invariant()
    def the_file_is_whole(self) -> None:
        assert self.store.check() == "ok"


TestChatting = Chatting.TestCase
TestChatting.settings = settings(
    max_examples=25,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
