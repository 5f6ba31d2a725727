"""The page's section on the preference model: how it learned, and how far it can be believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hhchat import plots_svg as svg
from hhchat.calibration import Calibration, calibrate
from hhchat.evidence import Readings, is_number
from hhchat.plots_svg import Series, Span
from hhchat.report_parts import figure, grid, note, section
from hhchat.scales import running_mean, usable
from hhchat.stats import wilson

SMOOTH = 9  # updates: a preference model's accuracy on one batch of pairs says little by itself
# Whose scores a set of tested pairs has: in words, and in short.
SETS = {
    "cross": ("each half's model on the other half's picks", "halves, crossed"),
    "heldout": ("the full model on held-out picks", "full, held out"),
}
MOST_KINDS = 8  # rows a way of dividing the pairs


def preference(of: Readings, pairs: Sequence[Mapping[str, Any]]) -> str:
    """Loss and accuracy by update; reliability and accuracy by kind of pair, with intervals."""
    loss = [_smooth(of, name) for name in ("loss", "loss_half_a", "loss_half_b") if name in of]
    if "heldout_loss" in of:
        loss.append(Series("heldout_loss", of["heldout_loss"], dots=True))
    right = [
        _smooth(of, name)
        for name in ("accuracy", "accuracy_half_a", "accuracy_half_b")
        if name in of
    ]
    sets = by_set(pairs)
    measured = {name: calibrate(_gaps(rows)) for name, rows in sets.items()}
    learned = note(
        f"By update, each point is the mean over {SMOOTH} updates, on pairs before they were "
        "learned from; 0.69 and 0.5 are guessing. The models of half the picks are fitted after "
        "the full one."
    )
    return section(
        "Preference model",
        grid(
            figure("Does it know how sure it is?", _reliability(measured), *_sayings(measured)),
            figure("Accuracy by kind of pick", _kinds(sets), _kinds_note(sets)),
            figure("Loss", svg.lines("Preference model: loss", loss, "update", "nats", (0.69,))),
            figure(
                "Pairs ranked right",
                svg.lines("Preference model: accuracy", right, "update", "share", (0.5, 1.0)),
            ),
        ),
        learned if loss or right else "",
    )


def by_set(pairs: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Usable pairs by whose scores they have, the set with most pairs first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for pair in pairs:
        gap = pair.get("gap")
        if is_number(gap) and usable(float(gap or 0.0)):
            found.setdefault(str(pair.get("set")), []).append(pair)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _gaps(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    return [float(row["gap"]) for row in rows]


def _label(name: str, n: int) -> str:
    return f"{SETS.get(name, ('', name))[1]} ({n})"


def _reliability(measured: Mapping[str, Calibration | None]) -> str:
    groups = {
        _label(name, c.n): [
            (b.confidence, Span("", b.share, b.low, b.high, f"of {b.n}")) for b in c.bins
        ]
        for name, c in measured.items()
        if c is not None
    }
    return svg.reliability("Reliability of the preference model", groups)


def _sayings(measured: Mapping[str, Calibration | None]) -> list[str]:
    """What the curve says, in numbers."""
    told = []
    for name, c in measured.items():
        if c is None:
            continue
        words = f"{SETS.get(name, (name, name))[0]}".capitalize()
        line = f"{words}: {c.n} pairs, on average {c.error:.1%} off the diagonal"
        if c.temperature is not None and c.low is not None:
            high = "" if c.high is None else f" to {c.high:.2f}"
            line += f"; fitted temperature {c.temperature:.2f} ({c.low:.2f}{high}), so it is "
            if c.low > 1:
                line += "too sure of itself"
            elif c.high is not None and c.high < 1:
                line += "not sure enough of itself"
            else:
                line += "as sure as it may be, as far as so many pairs can tell"
        told.append(line + ".")
    if told:
        told.append("Bars are 95% intervals; on the dashed diagonal it is as right as it is sure.")
    return told


def _kinds(sets: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    spans = [_span(_label(name, len(rows)), rows) for name, rows in sets.items()]
    rows = next(iter(sets.values()), [])
    ways: tuple[Callable[[Mapping[str, Any]], str], ...] = (
        lambda row: _turn(row.get("turn")),
        lambda row: str(row.get("mode")),
        lambda row: f"source {row.get('source')}",
        lambda row: _strength(row.get("strength")),
    )
    for way in ways:
        kinds: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            kinds.setdefault(way(row), []).append(row)
        spans += [_span(f"{kind} ({len(kinds[kind])})", kinds[kind]) for kind in _ordered(kinds)]
    return svg.intervals("Accuracy by turn, mode and source", spans, 0.5)


def _ordered(kinds: Mapping[str, Sequence[object]]) -> list[str]:
    common = sorted(kinds, key=lambda kind: -len(kinds[kind]))[:MOST_KINDS]
    return sorted(common)


def _turn(turn: Any) -> str:
    return f"turn {turn}" if isinstance(turn, int) and turn < 4 else "turn 4 and later"


def _strength(strength: Any) -> str:
    return f"strength {strength}" if isinstance(strength, int) else "strength not stated"


def _span(name: str, rows: Sequence[Mapping[str, Any]]) -> Span:
    right = sum(1.0 if gap > 0 else 0.5 if gap == 0 else 0.0 for gap in _gaps(rows))
    low, high = wilson(right, len(rows))
    share = right / len(rows)
    return Span(name, share, low, high, f"{share:.0%} ({low:.0%} to {high:.0%})")


def _kinds_note(sets: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    if not sets:
        return ""
    name = next(iter(sets))
    return (
        f"The number of pairs is in brackets. Turns, modes and sources are of the larger set: "
        f"{SETS.get(name, (name, name))[0]}. The dashed line is guessing."
    )


def _smooth(of: Readings, name: str) -> Series:
    kept = [(x, y) for x, y in of[name] if usable(y)]
    return Series(name, running_mean(kept, SMOOTH))
