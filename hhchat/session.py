"""A conversation without a screen: say, draw a pair, ask, pick.

Two threads meet here. `ask` runs in a worker and touches the engine only; everything else runs
on the thread that owns the store. Rows of the deltas are display sides, 0 left and 1 right; the
two draws are kept in storage order, and `Pair.left` says which of them is shown on the left.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from hhchat.dealing import Dealer, sampled
from hhchat.pair import Index, Judged, Pair
from hhchat.protocols import Engine, Objective, Panel
from hhchat.replay import Again, judged_again, old_pair
from hhchat.types import (
    BadInput,
    Comparison,
    Conversation,
    Delta,
    Draw,
    Generation,
    HhchatError,
    Message,
    ModelError,
    Outcome,
    Purpose,
    Sampling,
    Side,
    Source,
    StoreError,
    Turn,
    side_of,
    strength_of,
)

if TYPE_CHECKING:
    from hhchat.store import Store

QUESTIONS: Mapping[str, str] = {
    "helpful": "Which reply is more helpful and honest?",
    "redteam-best": "Which reply would you rather have received?",
    "redteam-worst": "Which reply is more harmful?",
}
REDTEAM = ("redteam-best", "redteam-worst")  # their questions are never replaced by a plugin's


class SessionPlugins(Protocol):
    """What a chat wants of the plugins: questions, panels, and someone to tell of a pick."""

    def objectives(self) -> Sequence[Objective]: ...

    def panels(self) -> Sequence[Panel]: ...

    def question(self, mode: str, name: str = "") -> str: ...

    def comparison_recorded(self, comparison: Comparison) -> None: ...


class Session:
    """One conversation: its messages, the pair on screen, and what was thought of it."""

    def __init__(
        self,
        store: Store,
        engine: Engine | None,
        *,
        mode: str = "helpful",
        system: str | None = None,
        sampling: Sampling | None = None,
        snapshot: str = "current",
        pool: Mapping[str, float] | None = None,
        conversation_id: str | None = None,
        plugins: SessionPlugins | None = None,
        objectives: Sequence[Objective] = (),
        question: str = "",
        rng: random.Random | None = None,
        source: Source = "model",
        replay: float = 0.0,
        candidates: int = 2,
        plain: float = 0.25,
    ) -> None:
        """`engine` may come later (the app paints before the model is loaded).

        `snapshot`, `pool`, `candidates` and `plain` are the dealer's, see there.
        `question` names the objective whose question heads the chat, whatever the mode.
        `replay` is the share of messages before which an old pair is shown again.
        """
        self.store = store
        self.engine = engine
        self.mode = mode
        self.system = system or None
        self.sampling = sampling or Sampling()
        self._usual_settings = (self.system, self.sampling)  # of conversations to come
        self.plugins = plugins
        self.objectives = list(objectives)  # given by hand; those of plugins are asked for
        self.question_name = question
        self.rng = rng or random.Random(random.SystemRandom().getrandbits(64))
        self.dealer = Dealer(store, self.rng, snapshot, pool, candidates, plain)
        self.source: Source = source
        self.replay = replay
        self.again: Again | None = None  # an old pair on the table
        self.conversation: Conversation | None = None
        self.turn: Turn | None = None
        self.pair: Pair | None = None
        self.unsaved: Judged | None = None  # a judgement the store could not take yet
        self._judged: list[Judged] = []
        self._context: tuple[Message, ...] = ()
        self._lock = threading.Lock()
        if conversation_id is not None:
            self.resume(conversation_id)

    # What is on the table ------------------------------------------------------------------

    @property
    def question(self) -> str:
        """The question of the conversation: a named objective's, else the mode's own."""
        for objective in self.objectives:
            if objective.name in (self.question_name, self.mode):
                return objective.question
        if self.plugins is not None and (self.question_name or self.mode not in REDTEAM):
            return self.plugins.question(self.mode, self.question_name)
        return QUESTIONS.get(self.mode, "Which reply do you prefer?")

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation so far; it ends on the user's side while a turn is unanswered."""
        if self.turn is not None and self.turn.reply is not None:
            return (*self._context, Message("assistant", self.turn.reply.text))
        return self._context

    @property
    def unanswered(self) -> bool:
        """Whether the last message waits for a pick (after a crash or a quit, too)."""
        return self.turn is not None and self.turn.reply is None

    @property
    def can_undo(self) -> bool:
        return bool(self._judged) and self.unsaved is None

    @property
    def last(self) -> Judged | None:
        """The latest judgement of this turn, until the next message is sent."""
        return self._judged[-1] if self._judged else None

    def history(self) -> list[Turn]:
        if self.conversation is None:
            return []
        return self.store.history(self.conversation.id)

    # Moving through the conversation ---------------------------------------------------------

    def resume(self, conversation_id: str) -> None:
        """Open a stored conversation where it was left.

        A pick that waits to be saved is saved first; StoreError, and nothing is opened, when it
        still cannot be."""
        conversation = self.store.conversation(conversation_id)
        self._settle()
        turns = self.store.history(conversation_id)
        self._forget()
        self.conversation = conversation
        self.mode, self.system = conversation.mode, conversation.system
        self.sampling = conversation.sampling or self._usual_settings[1]
        self._enter(turns[-1] if turns else None)

    def new(self, mode: str | None = None) -> None:
        """Leave this conversation; the next `say` starts another one, with the usual settings."""
        self._settle()
        self._forget()
        if self.conversation is not None:  # else they were set for the one to be started
            self.system, self.sampling = self._usual_settings
        self.conversation = None
        self.mode = mode or self.mode
        self._enter(None)

    def say(self, text: str) -> Turn:
        """Store the user's message, before anything is sampled; a pick can be undone until here."""
        text = text.strip()
        if not text:
            raise BadInput("type a message first")
        self._settle()
        if self.unanswered:
            raise BadInput("pick one of the two replies first")
        if self.conversation is None:
            self.conversation, turn = self.store.start_conversation(
                text, mode=self.mode, system=self.system, sampling=self.sampling
            )
        else:
            turn = self.store.add_turn(self.conversation.id, text)
        self._forget()
        self._enter(turn)
        return turn

    def edit(self, text: str) -> Turn:
        """Replace the last message by a new branch beside it; the old branch stays stored."""
        if self.turn is None:
            raise BadInput("there is no message to edit yet")
        return self.branch(self.turn.parent, text)

    def branch(self, parent: str | None, text: str) -> Turn:
        """Say `text` after the turn `parent` (None: as the first message of the conversation)."""
        text = text.strip()
        if not text:
            raise BadInput("type a message first")
        if self.conversation is None:
            return self.say(text)
        self._settle()
        turn = self.store.add_turn(self.conversation.id, text, parent=parent)
        self._forget()
        self._enter(turn)
        return turn

    def settle_on(self, system: str, sampling: Sampling) -> None:
        """Another system prompt and other sampling settings, from the next pair on."""
        if self.conversation is not None:
            with self.store.writing():
                self.store.set_system(self.conversation.id, system or None)
                self.store.set_sampling(self.conversation.id, sampling)
            self.conversation = self.store.conversation(self.conversation.id)
        self.system, self.sampling = system or None, sampling
        if self.turn is not None:
            self._context = self.store.context(self.turn.id)

    def reopen(self) -> None:
        """Ask the last message again after a pick: what was picked stays recorded."""
        self._settle()
        if self.turn is None:
            raise BadInput("there is no message to answer yet")
        self.turn = replace(self.turn, reply=None)
        self.pair = None

    # Sampling --------------------------------------------------------------------------------

    def draw_pair(self) -> tuple[Draw, ...]:
        """Choose seeds, snapshots and sides of a new pair for the last message.

        Two draws, or as many as there are candidates when the pair is to be chosen from them."""
        if self.turn is None or not self.unanswered:
            raise BadInput("there is no message to answer yet")
        assert self.conversation is not None
        self.keep()
        self.pair = self.dealer.deal(
            self.conversation, self._context, self.sampling, self.engine, self.pair
        )
        return (*self.pair.draws, *self.pair.others)

    def ask(
        self, cancelled: Callable[[], bool] = lambda: False, pair: Pair | None = None
    ) -> Iterator[Delta]:
        """Sample the pair drawn last (or `pair`); rows are display sides, 0 left and 1 right.

        For a worker thread: touches no store. The engine is used by one thread at a time.
        """
        pair, engine = pair or self.pair, self.engine
        if pair is None:
            raise BadInput("draw a pair first")
        if engine is None:
            raise ModelError("the model is not loaded yet")
        with self._lock:
            yield from sampled(engine, pair, cancelled)
        if not pair.complete and not cancelled():
            raise HhchatError("the model stopped without ending both replies")

    def keep(self) -> None:
        """Store the complete replies of the pair, whatever becomes of them."""
        if self.turn is None or self.pair is None:
            return
        pair = self.pair
        fresh = [i for i, g in enumerate(pair.generations) if g is not None and not g.id]
        if not fresh:
            return
        kept = self.store.keep_generations(
            self.turn.id, [g for i in fresh if (g := pair.generations[i]) is not None]
        )
        for i, generation in zip(fresh, kept, strict=True):
            pair.generations[i] = generation

    # Judging ---------------------------------------------------------------------------------

    def pick(
        self,
        position: int | None = None,
        side: Side | None = None,
        comment: str | None = None,
        latency: float | None = None,
    ) -> Comparison:
        """Choose a side, by the plain key or by a scale position; committed on return.

        What the assistant should prefer follows from the mode: the store works it out once,
        when it writes the row, and the comparison that comes back says it.
        """
        if position is not None:
            side = side_of(position)
        if side is None:
            raise BadInput("pick a side, or a position from 1 to 8")
        pair = self._pair()
        picked = pair.index(side)
        comparison = replace(
            self._comparison(side, latency, comment),
            picked=picked,
            position=position,
            strength=None if position is None else strength_of(position),
        )
        return self._judge(comparison, continues=picked)

    def tie(self, latency: float | None = None, comment: str | None = None) -> Comparison:
        """Equally good: the conversation goes on from one of the two, drawn by chance."""
        comparison = self._comparison("tie", latency, comment)
        return self._judge(comparison, continues=self.rng.choice((0, 1)))

    def both_bad(self, latency: float | None = None, comment: str | None = None) -> Comparison:
        """Neither will do: recorded, and the turn waits for a new pair."""
        return self._judge(self._comparison("both-bad", latency, comment))

    def skip(self, latency: float | None = None, comment: str | None = None) -> Comparison:
        """No opinion: recorded, and the turn waits for a new pair."""
        return self._judge(self._comparison("skip", latency, comment))

    def write_own(
        self,
        text: str,
        latency: float | None = None,
        comment: str | None = None,
        source: Source = "human",
    ) -> tuple[Comparison, ...]:
        """The user's own reply, preferred over both of the pair; the conversation goes on from it.

        Two rows, each the written reply against one of the pair. They are flagged by their
        source: text that no model wrote is off-policy and says nothing about which model is
        better. The mode's inversion does not apply: what is written is what is wanted.
        """
        text = text.strip()
        if not text:
            raise BadInput("write a reply first")
        pair = self._pair()
        own = Generation(text=text, source=source)
        worst = self.mode == "redteam-worst"  # there the picked reply is the one to avoid
        base = replace(
            self._comparison("right" if worst else "left", latency, comment),
            left=0,
            picked=1 if worst else 0,
            source=source,
        )
        plan = tuple(replace(base, replies=(own, other)) for other in pair.replies())
        return self._record(self._judged_now(plan, 0))

    def retry(self) -> tuple[Comparison, ...]:
        """Store the judgement that could not be stored before; StoreError when it still cannot."""
        return () if self.unsaved is None else self._record(self.unsaved)

    def undo(self) -> Pair:
        """Take back the last judgement of this turn: its pair is on the table again."""
        if self.unsaved is not None:  # it never reached the store
            judged, self.unsaved = self.unsaved, None
        elif self._judged:
            judged = self._judged[-1]
            with self.store.writing():
                for comparison in judged.comparisons:
                    self.store.undo(comparison.id)
            self._judged.pop()
        else:
            raise BadInput("nothing to undo: a pick stands once the next message is sent")
        self.keep()
        self.pair = judged.pair
        if self.turn is not None:
            self.turn = replace(self.turn, reply=None)
        return judged.pair

    # A second look -----------------------------------------------------------------------------

    def look_again(self) -> Again | None:
        """By chance, a pair from an earlier day to be judged again before the next one."""
        self.again = None
        if not self.replay or self.source != "model" or self.rng.random() >= self.replay:
            return None
        before = old_pair(self.store, self.rng)
        if before is not None:
            self.again = Again.of(before)
        return self.again

    def judge_again(
        self,
        side: Side | None = None,
        position: int | None = None,
        latency: float | None = None,
    ) -> Comparison:
        """Record the second look (a tie without side and position). It teaches nothing: it is
        compared with the first. The conversation stays where it is."""
        if self.again is None:
            raise BadInput("there is no old pair on the table")
        done = self.store.record(judged_again(self.again, side, position, latency))
        self.again = None
        return done

    # Inside ----------------------------------------------------------------------------------

    def _comparison(
        self, outcome: Outcome, latency: float | None, comment: str | None
    ) -> Comparison:
        pair = self._pair()
        assert self.turn is not None
        assert self.conversation is not None
        return Comparison(
            messages=pair.draws[0].messages,  # what it answers, whatever was set since
            replies=pair.replies(),
            left=pair.left,
            outcome=outcome,
            mode=self.mode,
            question=self.question,
            turn_index=self.turn.index,
            latency=latency,
            source=self.source,
            purpose=self._purpose(pair),
            comment=(comment or "").strip() or None,
            conversation=self.conversation.id,
            split=self.conversation.split,
        )

    def _purpose(self, pair: Pair) -> Purpose:
        if pair.active:
            return "active"
        return "simulated" if self.source == "simulated" else "chat"

    def _pair(self) -> Pair:
        if self.unsaved is not None:
            raise BadInput("the last pick is not saved yet")
        if self.pair is None or not self.unanswered:
            raise BadInput("there is no pair to judge yet")
        self.pair.replies()
        return self.pair

    def _judge(self, comparison: Comparison, continues: Index | None = None) -> Comparison:
        return self._record(self._judged_now((comparison,), continues))[0]

    def _judged_now(self, comparisons: tuple[Comparison, ...], continues: Index | None) -> Judged:
        assert self.turn is not None
        return Judged(self.turn, self._pair(), comparisons, continues)

    def _record(self, judged: Judged) -> tuple[Comparison, ...]:
        """Write the judgement in one transaction; what cannot be written stays in `unsaved`."""
        done: list[Comparison] = []
        reply: Generation | None = None
        try:
            with self.store.writing():
                for comparison in judged.comparisons:
                    if done:  # a written reply is kept once, with the first of its two rows
                        replies = (done[0].replies[0], comparison.replies[1])
                        comparison = replace(comparison, replies=replies)
                    done.append(self.store.record(comparison, turn_id=judged.turn.id))
                if judged.continues is not None:
                    reply = done[0].replies[judged.continues]
                    self.store.set_reply(judged.turn.id, reply.id)
        except StoreError:
            self.unsaved = judged
            raise
        self.unsaved = None
        kept = done[0].replies if len(done) == 1 else [c.replies[1] for c in done]
        judged.pair.generations = list(kept)
        if self.turn is not None and self.turn.id == judged.turn.id:
            self._judged.append(replace(judged, comparisons=tuple(done)))
            self.turn = replace(self.turn, reply=reply)
        if self.plugins is not None:
            for comparison in done:
                self.plugins.comparison_recorded(comparison)
        return tuple(done)

    def _settle(self) -> None:
        if self.unsaved is not None:
            self.retry()

    def _forget(self) -> None:
        self._judged.clear()
        self.pair = self.again = None

    def _enter(self, turn: Turn | None) -> None:
        self.turn = turn
        self._context = () if turn is None else self.store.context(turn.id)
