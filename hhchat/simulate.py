"""A simulated user who chats and picks through the same sessions as a person, and who can judge.

The user's taste is a known utility of a reply. A pick is noisy as people's are (Bradley-Terry at
temperature 1), so that what is learned from the picks can be measured against the truth.
Conversations are independent of each other: a wave of them is sampled in one batch, and each
then goes its own way through its own `Session`.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from hhchat import stats
from hhchat.protocols import Asking, Engine
from hhchat.session import Session, SessionPlugins
from hhchat.types import (
    BadInput,
    Comparison,
    Delta,
    Draw,
    Generation,
    HhchatError,
    Measurement,
    Message,
    Prompt,
    Sampling,
    nearest,
)

if TYPE_CHECKING:
    from hhchat.store import Store

WAVE = 32  # conversations sampled together
JUDGED = 400  # held-out prompts of a verdict between two snapshots
# Where a felt difference (utility gap plus noise) becomes strength 2, 3 and 4. The weakest
# strength, which teaches nothing, is left for a few picks in a hundred.
FELT = (0.2, 1.2, 2.6)


class User(Protocol):
    """Someone whose taste is known: a utility, in logits, for every reply."""

    @property
    def name(self) -> str: ...

    def utility(self, messages: Sequence[tuple[str, str]], reply: str) -> float: ...


@dataclass
class SimReport:
    """What a simulated user did."""

    user: str
    picks: int = 0
    ties: int = 0
    conversations: int = 0
    heldout: int = 0  # picks whose conversation is held out
    better: int = 0  # picks of the reply that the user truly likes better
    left: int = 0  # picks of the left side
    active: int = 0  # picks between two replies that were chosen to teach
    seconds: float = 0.0
    comparisons: list[str] = field(default_factory=list)  # ids, in order


def find_user(name: str) -> User:
    """The shipped simulated user of that name; BadInput names the nearest."""
    from hhchat.starter.users import USERS

    if name not in USERS:
        raise BadInput(f"there is no simulated user {name!r}: {nearest(name, list(USERS))}")
    return USERS[name]


def simulate(
    store: Store,
    engine: Engine,
    user: User | str,
    picks: int,
    seed: int = 0,
    on_pick: Callable[[SimReport], None] = lambda report: None,
    *,
    prompts: Sequence[Prompt] | None = None,
    sampling: Sampling | None = None,
    snapshot: str = "current",
    plugins: SessionPlugins | None = None,
    wave: int = WAVE,
    candidates: int = 2,
    plain: float = 0.25,
    flip: float = 0.0,
) -> SimReport:
    """Chat until `picks` picks are recorded; ties between identical replies come on top.

    Every row is what a person's pick would have left, marked as simulated. The same seed on the
    same model gives the same picks. `candidates` and `plain` are those of `Session`; of the picks
    a share `flip` is turned round, as by someone who does not look (at 0.5 nothing can be learnt).
    """
    user = find_user(user) if isinstance(user, str) else user
    if picks < 1:
        raise BadInput(f"the number of picks must be at least 1, not {picks}")
    if not 0 <= flip <= 1:
        raise BadInput(f"the share of picks turned round is from 0 to 1, not {flip:g}")
    rng = random.Random(f"{user.name}:{seed}")
    batch = _AskingBatch(engine) if isinstance(engine, Asking) else _Batch(engine)
    report, began = SimReport(user.name), time.monotonic()
    barren = 0
    for scripts in _waves(prompts, rng, wave):
        before = report.picks
        talks = []
        for script in scripts[: picks - report.picks]:
            session = Session(
                store,
                batch,
                sampling=sampling,
                snapshot=snapshot,
                plugins=plugins,
                rng=random.Random(rng.getrandbits(64)),
                source="simulated",
                candidates=candidates,
                plain=plain,
            )
            talks.append(_Talk(session, user, script, random.Random(rng.getrandbits(64)), flip))
            report.conversations += 1
        while talks and report.picks < picks:
            talks = talks[: picks - report.picks]
            for talk in talks:
                talk.say()
            _ask(talks, batch)
            for talk in talks:
                talk.judge(report)
                report.seconds = time.monotonic() - began
                on_pick(report)
            talks = [talk for talk in talks if talk.script]
        if report.picks >= picks:
            return report
        # A model that always says the same would keep the user here for ever.
        barren = barren + 1 if report.picks == before else 0
        if barren == 5:
            raise HhchatError(
                f"the model gives the same two replies over and over: {report.picks} picks made"
            )
    return report  # pragma: no cover (the waves never end)


def judge(
    engine: Engine,
    user: User | str,
    snapshot_a: str,
    snapshot_b: str,
    prompts: Sequence[Prompt] | None = None,
    seed: int = 0,
    *,
    n: int = JUDGED,
    sampling: Sampling | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Measurement:
    """How often `user` truly likes A's reply better than B's; a tie counts half.

    One plain reply each, drawn independently: with shared seeds two similar snapshots would
    stumble over the same words, and a hair's breadth would win every prompt.
    """
    user = find_user(user) if isinstance(user, str) else user
    prompts = list(heldout_prompts(n) if prompts is None else prompts[:n])
    if not prompts:
        raise BadInput("there are no held-out prompts to judge on")
    sampling = sampling or Sampling()
    liked: dict[str, list[float]] = {"a": [], "b": []}
    for side, snapshot in (("a", snapshot_a), ("b", snapshot_b)):
        draws = [
            Draw(
                p.messages, random.Random(f"{seed}:{side}:{i}").getrandbits(31), sampling, snapshot
            )
            for i, p in enumerate(prompts)
        ]
        for start in range(0, len(draws), 64):
            replies = engine.generate(draws[start : start + 64])
            liked[side].extend(
                user.utility(_pairs(d.messages), r.text)
                for d, r in zip(draws[start:], replies, strict=False)
            )
            progress(len(liked["a"]) + len(liked["b"]), 2 * len(prompts))
    return stats.win_rate("win_rate", liked["a"], liked["b"])


def heldout_prompts(n: int = JUDGED) -> list[Prompt]:
    """The first n prompts of the bundled model's held-out pool."""
    from hhchat.dataset import starter_prompts

    return starter_prompts("heldout")[:n]


def felt_position(gap: float, rng: random.Random) -> int:
    """Where on the scale of 8 a user puts a pair whose left reply has `gap` more utility.

    The felt difference is the true one plus logistic noise: its sign is then exactly a
    Bradley-Terry choice, and how large it is makes the strength.
    """
    u = min(max(rng.random(), 1e-12), 1 - 1e-12)
    felt = gap + math.log(u / (1 - u))
    strength = 1 + sum(abs(felt) >= edge for edge in FELT)
    return 5 - strength if felt > 0 else 4 + strength


@dataclass
class _Talk:
    """One conversation with one simulated user: what is still to be said, and how to judge."""

    session: Session
    user: User
    script: list[str]
    rng: random.Random
    flip: float = 0.0

    def say(self) -> None:
        self.session.say(self.script.pop(0))

    def judge(self, report: SimReport) -> None:
        """Pick, or say tie when the two replies are the same."""
        pair = self.session.pair
        assert pair is not None
        left, right = pair.shown()
        latency = self._latency(len(left) + len(right))
        if left.split() == right.split():
            report.ties += 1
            report.comparisons.append(self.session.tie(latency=latency).id)
            return
        messages = _pairs(self.session.messages)
        gap = self.user.utility(messages, left) - self.user.utility(messages, right)
        position = felt_position(gap, self.rng)
        if self.flip and self.rng.random() < self.flip:
            position = 9 - position
        made: Comparison = self.session.pick(position=position, latency=latency)
        report.picks += 1
        report.left += position <= 4
        report.better += (gap > 0) == (position <= 4) if gap else 0
        report.heldout += made.split == "heldout"
        report.active += made.purpose == "active"
        report.comparisons.append(made.id)

    def _latency(self, characters: int) -> float:
        """Seconds to read both and decide: about 25 characters a second, and a moment."""
        return round(characters / 25 + self.rng.lognormvariate(0.5, 0.5), 2)


def _ask(talks: Sequence[_Talk], batch: _Batch) -> None:
    """Sample the pairs of all conversations at once, again where both replies are alike."""
    asking = list(talks)
    for _ in range(2):
        batch.prepare([draw for talk in asking for draw in talk.session.draw_pair()])
        for talk in asking:
            for _delta in talk.session.ask():
                pass
        asking = [t for t in asking if t.session.pair is not None and t.session.pair.alike]
        if not asking:
            return


@dataclass
class _Batch:
    """An engine that has the replies ready: what a wave will ask for is sampled beforehand."""

    engine: Engine
    ready: dict[Draw, Generation] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.base = self.engine.base

    def prepare(self, draws: Sequence[Draw]) -> None:
        self.ready = dict(zip(draws, self.engine.generate(draws), strict=True))

    def sample(
        self, draws: Sequence[Draw], cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[Delta]:
        for row, generation in enumerate(self.generate(draws)):
            yield Delta(row, generation.text, generation)

    def generate(self, draws: Sequence[Draw]) -> list[Generation]:
        return [self.ready[draw] for draw in draws]


@dataclass
class _AskingBatch(_Batch):
    """The same for an engine that chooses what to ask."""

    def __post_init__(self) -> None:
        super().__post_init__()
        assert isinstance(self.engine, Asking)
        self.asker = self.engine.asker


def _waves(
    prompts: Sequence[Prompt] | None, rng: random.Random, size: int
) -> Iterator[list[list[str]]]:
    """What each conversation of a wave will say, turn by turn; the pool is gone through in a
    shuffled order, and again when it is used up."""
    if prompts is None:
        from hhchat.dataset import starter_prompts

        prompts = starter_prompts("train")
    scripts = [[m.content for m in p.messages if m.role == "user"] for p in prompts]
    if not scripts:
        raise BadInput("there are no prompts for the simulated user to begin with")
    while True:
        order = list(scripts)
        rng.shuffle(order)
        for start in range(0, len(order), size):
            yield [list(script) for script in order[start : start + size]]


def _pairs(messages: Sequence[Message]) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in messages]
