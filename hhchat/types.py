"""The nouns everything speaks in. Frozen records, standard library only, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NewType

Role = Literal["system", "user", "assistant"]
Mode = Literal["helpful", "redteam-best", "redteam-worst"]
Split = Literal["train", "heldout"]
Source = Literal["model", "human", "edited", "imported", "simulated"]
Side = Literal["left", "right"]
Outcome = Literal["left", "right", "tie", "both-bad", "skip"]
Purpose = Literal["chat", "replay", "active", "imported", "simulated"]

MODES: tuple[Mode, ...] = ("helpful", "redteam-best", "redteam-worst")

# The paper shows a scale of 8 positions, A strongest .. B strongest. 1-4 mean left, 5-8 right;
# the two central positions are the weakest strength and are not used (section 2.2).
ScalePosition = NewType("ScalePosition", int)
SCALE = range(1, 9)


def strength_of(position: int) -> int:
    """Strength 1 (weakest) to 4 (strongest) of a scale position 1..8; 4 and 5 are weakest."""
    if position not in SCALE:
        raise ValueError(f"scale position {position} is not between 1 and 8")
    return 5 - position if position <= 4 else position - 4


def side_of(position: int) -> Side:
    """The side a scale position 1..8 prefers."""
    if position not in SCALE:
        raise ValueError(f"scale position {position} is not between 1 and 8")
    return "left" if position <= 4 else "right"


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str


def drop_oldest_turn(messages: Sequence[Message]) -> list[Message]:
    """Without the oldest user turn and its reply; the system message stays. [] when none can go."""
    head = [m for m in messages[:1] if m.role == "system"]
    rest = list(messages[len(head) :])
    starts = [i for i, m in enumerate(rest) if m.role == "user"]
    if len(starts) < 2:
        return []
    return head + rest[starts[1] :]


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a scorer reads: the whole conversation so far and the one reply it judges."""

    messages: tuple[Message, ...]
    reply: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a reply is drawn. temperature 0 is greedy; best_of > 1 keeps the PM's favourite."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    best_of: int = 1


@dataclass(frozen=True, slots=True)
class Draw:
    """One reply to be sampled: enough to sample it again to the same text."""

    messages: tuple[Message, ...]
    seed: int
    sampling: Sampling = Sampling()
    snapshot: str = "current"  # a snapshot id, "current", or "base"


@dataclass(frozen=True, slots=True)
class Generation:
    """A reply and where it came from. `id` is empty until the store has kept it."""

    text: str
    token_ids: tuple[int, ...] = ()
    finished: bool = True  # ended by itself; False when cut by the length limit or by stop
    source: Source = "model"
    snapshot: str | None = None  # resolved id; "base" is the bare base; None when not sampled
    base: str | None = None  # the base model's identity (path or hub id, and fingerprint)
    sampling: Sampling | None = None
    seed: int | None = None
    context: str | None = None  # id of the stored context it answers
    id: str = ""
    created: str = ""  # ISO 8601, UTC


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of text of row `row`; the row's last delta carries its whole generation."""

    row: int
    text: str = ""
    generation: Generation | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two replies to one context and what the user thought of them.

    `picked` is what the user chose; `preferred` is which reply the assistant should lean to.
    They differ in redteam-worst, where the user picks the more harmful one; the inversion is
    made once, when the row is written. "first"/"second" is the order of `replies`, which is
    storage order; `left` says which of the two was shown on the left.
    """

    messages: tuple[Message, ...]
    replies: tuple[Generation, Generation]
    left: Literal[0, 1] = 0
    picked: Literal[0, 1] | None = None  # None: tie, both-bad or skip
    preferred: Literal[0, 1] | None = None
    outcome: Outcome = "left"
    position: int | None = None  # 1..8 on the paper's scale, None when picked with the plain key
    strength: int | None = None  # 1 weakest .. 4 strongest; None: not stated
    mode: str = "helpful"
    question: str = ""
    turn_index: int = 0
    latency: float | None = None  # seconds from both replies complete to the pick
    source: Source = "model"
    purpose: Purpose = "chat"  # active pairs were chosen to teach and never serve evaluation
    comment: str | None = None
    conversation: str | None = None
    split: Split = "train"
    id: str = ""
    created: str = ""

    @property
    def chosen(self) -> Generation:
        if self.preferred is None:
            raise ValueError("a tie or skip has no chosen reply")
        return self.replies[self.preferred]

    @property
    def rejected(self) -> Generation:
        if self.preferred is None:
            raise ValueError("a tie or skip has no rejected reply")
        return self.replies[1 - self.preferred]

    def swap(self) -> Comparison:
        """The same judgement with the two replies in the other order."""
        return replace(
            self,
            replies=(self.replies[1], self.replies[0]),
            left=1 if self.left == 0 else 0,
            picked=_other(self.picked),
            preferred=_other(self.preferred),
        )


def _other(index: Literal[0, 1] | None) -> Literal[0, 1] | None:
    if index is None:
        return None
    return 1 if index == 0 else 0


@dataclass(frozen=True, slots=True)
class Turn:
    """One user message and, once picked, the reply the conversation continued from."""

    id: str
    user: str
    reply: Generation | None
    parent: str | None
    index: int  # 0 for the first user message


@dataclass(frozen=True, slots=True)
class Conversation:
    id: str
    mode: str
    system: str | None
    split: Split
    created: str
    title: str = ""
    tip: str | None = None  # id of the last turn of the branch that is being continued
    sampling: Sampling | None = None
    snippet: str = ""  # where a search found it, the found words between «»


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that ends on the user's side, for training or evaluation."""

    messages: tuple[Message, ...]
    source: str = "mine"  # starter, mine, imported
    split: Split = "train"
    mode: str = "helpful"
    id: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An immutable directory of safetensors + JSON: a policy adapter with the PM that judged it."""

    id: str
    path: str  # relative to the snapshots folder
    run: str | None
    parent: str | None  # the snapshot (or "base") the policy started from
    base: str
    created: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Promotion:
    """One row of the append-only list whose last row says which assistant is current."""

    id: int
    snapshot: str | None  # None: the bare base
    run: str | None
    reason: str
    rollback: bool  # this row undid the promotion before it
    created: str


@dataclass(frozen=True, slots=True)
class Metric:
    """One reading of a run. `step` counts updates of the stage from 0."""

    stage: str
    step: int
    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Run:
    id: str
    state: Literal["running", "promoted", "refused", "failed", "interrupted"]
    stages: tuple[str, ...]
    seed: int
    base: str
    created: str
    finished: str | None = None
    reason: str | None = None
    snapshot: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)  # comparison ids, config, versions


@dataclass(frozen=True, slots=True)
class Measurement:
    """A number with the interval that it deserves (95%)."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What the gate reads: the candidate beside the incumbent on held-out prompts."""

    candidate: str
    incumbent: str
    measurements: Mapping[str, Measurement]

    def value(self, name: str) -> float:
        return self.measurements[name].value


@dataclass(frozen=True, slots=True)
class Verdict:
    promote: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SampleReport:
    """A prompt and a typical reply before and after training, for people to read."""

    prompt: str
    before: str
    after: str


class HhchatError(Exception):
    """An error whose message is one line written for the user: no traceback reaches them."""

    exit_code = 1


class BadInput(HhchatError):
    """The user's input or configuration is wrong; the message names it and the nearest choice."""

    exit_code = 2


class StoreError(HhchatError):
    """The database cannot be used (corrupt, read-only, full, newer than this program)."""


class ModelError(HhchatError):
    """The model cannot be loaded or does not fit."""


class TooLong(ModelError):
    """The message alone is more than the model reads: asking again changes nothing."""


class Outdated(HhchatError):
    """What a run has sealed can not be gone on with by this version."""


class Cancelled(HhchatError):
    """The user stopped it."""

    exit_code = 130


def nearest(name: str, choices: Sequence[str]) -> str:
    """' Did you mean X?' for the closest choice, else the list of choices (for error messages)."""
    from difflib import get_close_matches

    close = get_close_matches(name, choices, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return "choose from " + ", ".join(choices)
