"""The chat screen's judging: pick, tie, both bad, skip, write your own, undo, save again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from hhchat.pair import Pair
from hhchat.text import one_line
from hhchat.tui.dialogs import Ask, Write
from hhchat.tui.keys import Stage
from hhchat.tui.table import ChatTable
from hhchat.types import (
    Comparison,
    Generation,
    HhchatError,
    Message,
    Side,
    Source,
    StoreError,
    Turn,
    side_of,
    strength_of,
)

RETRY = 5.0  # seconds between two attempts to save a pick that a full disk refused
DEGREES = {1: "barely", 2: "somewhat", 3: "clearly", 4: "by far"}


class Judging(ChatTable):
    """One key, one judgement. "Saved" is said only after the store has committed it."""

    async def action_pick(self, side: Side) -> None:
        if self.stage is Stage.AGAIN:
            await self.second_look(side)
            return
        await self.judge(lambda: [self.session.pick(None, side, self.comment, self.latency())])

    async def action_scale(self, position: int) -> None:
        if self.stage is Stage.AGAIN:
            await self.second_look(None, position)
        if self.stage is Stage.CHOOSING:
            await self.judge(
                lambda: [self.session.pick(position, None, self.comment, self.latency())]
            )

    async def action_tie(self) -> None:
        if self.stage is Stage.AGAIN:
            await self.second_look(None)
            return
        await self.judge(lambda: [self.session.tie(self.latency(), self.comment)])

    async def action_both_bad(self) -> None:
        await self.judge(lambda: [self.session.both_bad(self.latency(), self.comment)])

    async def action_skip(self) -> None:
        if self.stage is Stage.AGAIN:
            self.session.again = None
            await self.go_on()
            return
        await self.judge(lambda: [self.session.skip(self.latency(), self.comment)])

    def action_write_own(self) -> None:
        latency = self.latency()

        async def write(own: tuple[str, Source] | None) -> None:
            if own is None or self.stage is not Stage.CHOOSING:
                return
            text, source = own
            await self.judge(
                lambda: list(self.session.write_own(text, latency, self.comment, source))
            )

        pair = self.session.pair
        assert pair is not None
        replies = [pair.texts[pair.index(side)] for side in ("left", "right")]
        self.app.push_screen(Write(replies), write)

    def action_comment(self) -> None:
        def keep(text: str | None) -> None:
            if text is not None:
                self.comment = text.strip()
                said = "Your comment goes with the pick you make now." if self.comment else ""
                self.say(said)

        self.app.push_screen(Ask("A comment on this pair", self.comment), keep)

    # After a judgement -------------------------------------------------------------------------

    async def judge(self, act: Callable[[], list[Comparison]]) -> None:
        try:
            done = act()
        except StoreError as error:
            kept = f"your pick is kept, trying again every {RETRY:.0f} s"
            self.say(f"Not saved: {error}", "bad", kept)
            self.enter(Stage.UNSAVED)
            self.set_timer(RETRY, self.try_again)
            return
        except HhchatError as error:
            self.oops(error)
            return
        await self.saved(done)

    async def saved(self, done: list[Comparison]) -> None:
        """The rows are committed: say so, show the reply, say who wrote what."""
        self.comment = ""
        self.progress.add(done)
        last, first = self.session.last, done[0]
        words = self.progress.words(first.split == "heldout")
        assert last is not None
        saved = f"✓ saved · {words}" if words else "✓ saved"
        if first.outcome in ("skip", "both-bad"):
            self.say(f"{saved} · two new replies")
            self.ask_pair()
            return
        turn = self.session.turn
        assert turn is not None
        assert turn.reply is not None
        self.say(saved, "good")
        self.enter(Stage.READY)  # first: what is typed from now on is the next message
        await self.log_view.reply(turn.reply.text, f"{verdict(done)} · {reveal(last.pair)}")

    async def try_again(self) -> None:
        if self.stage is not Stage.UNSAVED:
            return
        try:
            done = self.session.retry()
        except StoreError:
            self.set_timer(RETRY, self.try_again)
            return
        except HhchatError as error:
            self.oops(error)
            return
        if not done and self.session.last is not None:  # saved by what was tried since
            done = self.session.last.comparisons
        await self.saved(list(done))

    async def action_save_now(self) -> None:
        await self.try_again()
        if self.stage is Stage.UNSAVED:
            self.say(
                "Still not saved; your pick is kept, and tried again: free some space, or let the "
                "other program finish. u takes it back.",
                "bad",
            )

    async def action_undo(self) -> None:
        last = self.session.last if self.session.unsaved is None else None
        self.abandon()
        try:
            pair = self.session.undo()
        except HhchatError as error:
            self.oops(error)
            return
        if last is not None:
            self.progress.add(last.comparisons, -1)
            self.comment = last.comparisons[0].comment or ""
            if last.continues is not None:
                await self.log_view.take_back()
        self.table_again(pair)
        self.say("Taken back: pick again.")

    # A second look -----------------------------------------------------------------------------

    async def answer(self) -> None:
        """The replies to what was just said; now and then an old pair comes first."""
        try:
            again = self.session.look_again()
        except HhchatError as error:
            self.oops(error)
            again = None
        if again is None:
            self.ask_pair()
            return
        before = again.before
        await self.log_view.open(turns_of(before.messages))
        day = before.created[:10]
        question = f"An old pair again, from {day} · {before.question}"
        self.pair_view.ask(question, "", loud=before.mode == "redteam-worst")
        self.pair_view.finish(again.pair)
        self.complete_at = time.monotonic()
        self.say("Judge it afresh: how often you agree with yourself is what can be learned.")
        self.enter(Stage.AGAIN)

    async def second_look(self, side: Side | None, position: int | None = None) -> None:
        try:
            done = self.session.judge_again(side, position, self.latency())
        except HhchatError as error:
            self.oops(error)
            return
        self.progress.add([done])
        await self.go_on()

    async def go_on(self) -> None:
        """Back to the conversation, and to the message that waits there."""
        await self.log_view.open(self.session.history())
        self.ask_pair()

    def table_again(self, pair: Pair) -> None:
        """Put a complete pair back on the table."""
        self.pair_view.ask(self.session.question, "", loud=self.session.mode == "redteam-worst")
        self.pair_view.finish(pair)
        self.enter(Stage.CHOOSING)


def turns_of(messages: Sequence[Message]) -> list[Turn]:
    """A context as the log draws a conversation; it ends on the user's side."""
    said: list[Turn] = []
    for message in messages:
        if message.role == "user":
            said.append(Turn("", message.content, None, None, len(said)))
        elif message.role == "assistant" and said:
            said[-1] = replace(said[-1], reply=Generation(text=message.content))
    return said


def verdict(done: list[Comparison]) -> str:
    """What was judged, in a few words."""
    first = done[0]
    if len(done) > 1:
        return "written by you, preferred over both"
    if first.outcome == "tie":
        return "a tie, going on from one of them by chance"
    words = f"picked {first.outcome}"
    if first.position is not None:
        words += f", {DEGREES[strength_of(first.position)]} ({first.position})"
        assert side_of(first.position) == first.outcome
    if first.mode == "redteam-worst":
        words += " as the more harmful"
    return words


def reveal(pair: Pair) -> str:
    """Who wrote each reply, said only after the pick."""
    left, right = (writer(pair.generations[pair.index(side)]) for side in ("left", "right"))
    return f"both by {left}" if left == right else f"left by {left}, right by {right}"


def writer(generation: Generation | None) -> str:
    if generation is None:
        return "nobody"
    if generation.source != "model":
        return generation.source
    name = generation.snapshot or "?"
    words = "the base model" if name == "base" else name[:12]
    if name.startswith("remote") and generation.base:  # a server's: the model's name says more
        words = one_line(generation.base.partition("/")[2], 40)
    sampling = generation.sampling
    if sampling is not None and sampling.best_of > 1:
        words += f", best of {sampling.best_of}"
    if sampling is not None and sampling.temperature != 1.0:
        words += f", temperature {sampling.temperature:g}"
    return words
