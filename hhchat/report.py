"""The page of a run: what it measured, what the gate saw, and why it decided.

One HTML file that needs nothing else: no script, no font, no picture from anywhere, and a policy
in its head that forbids them. A run that was killed, refused or has lost files still gets its
page, which says what is missing. All text of models and users is escaped on its way in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hhchat import plots_svg as svg
from hhchat.evidence import Evidence, Readings, as_list, is_number
from hhchat.gate import INCUMBENT
from hhchat.plots_svg import Series, safe
from hhchat.report_parts import (
    before,
    card,
    document,
    figure,
    grid,
    hundredths,
    interval,
    note,
    percent,
    section,
    spans,
    table,
    tiles,
)
from hhchat.report_preference import preference
from hhchat.scales import fit, number, usable
from hhchat.types import Measurement

NOT_POLICY = ("pm", "gate")  # every other stage trains a policy


def page(found: Evidence) -> str:
    """The whole file."""
    return document(
        f"hhchat run {found.run.id}",
        [
            _summary(found),
            _gate(found),
            _replies(found),
            *(_policy(found, stage) for stage in found.stages if stage not in NOT_POLICY),
            preference(found.stages.get("pm", {}), found.pairs),
            _histograms(found),
        ],
    )


# The head of the page -----------------------------------------------------------------------


def _summary(found: Evidence) -> str:
    run = found.run
    if run.state == "promoted":
        promoted = "yes, and it is the assistant now"
        if run.snapshot != found.current:
            promoted = f"yes; the assistant is now {found.current}"
    else:
        promoted = "not yet decided" if run.state == "running" else "no"
    data = run.data
    rows = [
        ("promoted", promoted),
        ("snapshot", run.snapshot),
        ("compared with", found.incumbent),
        ("stages", ", ".join(run.stages)),
        ("picks trained on", len(as_list(data.get("comparisons"))) or None),
        ("picks held out", len(as_list(data.get("heldout"))) or None),
        ("base", run.base),
        ("seed", run.seed),
        ("started", run.created),
        ("finished", run.finished),
    ]
    said = run.reason or ("the run goes on" if run.state == "running" else "no reason was recorded")
    return (
        f"<header><h1>Training run <code>{safe(run.id)}</code></h1>\n"
        f'<p><strong class="state {safe(run.state)}">{safe(run.state)}</strong>{safe(said)}</p>\n'
        + tiles(_headline(found))
        + "<details><summary>About this run</summary>"
        + card(table(("", ""), [(name, str(value)) for name, value in rows if value is not None]))
        + "</details>"
        + "".join(note(f"Missing: {text}.") for text in found.missing)
        + "</header>"
    )


def _headline(found: Evidence) -> list[tuple[str, str, str]]:
    """The four numbers that say most."""
    measured = found.measured
    best = max(found.tested.values(), key=lambda m: m.n or 0, default=None)
    told: list[tuple[str, str, str]] = []
    if best is not None and usable(best.value):
        more = f"of {best.n} unseen picks" if best.n else "of unseen picks"
        told.append(("predicts your picks", f"{best.value:.0%}", f"{more}{_within(best, '.0%')}"))
    gain = measured.get("score_gain")
    if gain is not None and usable(gain.value):
        told.append(
            ("score gain", f"{gain.value:+.2f} {gain.unit}", _within(gain, "+.2f", "95%: "))
        )
    kl = measured.get("kl")
    if kl is not None and usable(kl.value):
        # the estimate of a small KL can fall below 0; no drift does
        told.append(("drift from the base", f"{max(0.0, kl.value):.2f} nats", "KL per reply"))
    length = measured.get("length")
    if length is not None and usable(length.value):
        was = before(measured, "length")
        more = "tokens a reply" + (f", was {was:.0f}" if was is not None and usable(was) else "")
        told.append(("length", f"{length.value:.0f}", more))
    return told


def _within(m: Measurement, form: str, lead: str = ", ") -> str:
    if m.low is None or m.high is None or not (usable(m.low) and usable(m.high)):
        return ""
    return f"{lead}{format(m.low, form)} to {format(m.high, form)}"


# The gate -----------------------------------------------------------------------------------


def _gate(found: Evidence) -> str:
    measured = found.measured
    gains = [m for name, m in measured.items() if "gain" in name]
    shares = [m for name, m in measured.items() if name.endswith("accuracy")]
    reasons = "".join(f"<li>{safe(reason)}</li>" for reason in found.reasons)
    rows = [
        (m.name, float(m.value), interval(m), m.n, m.unit or "–", before(measured, m.name))
        for m in measured.values()
        if not m.name.endswith(INCUMBENT)
    ]
    return section(
        "What the gate saw",
        card(f"<h3>Why it decided so</h3><ul>{reasons}</ul>") if reasons else "",
        grid(
            figure(
                "Gains over the incumbent", svg.intervals("Gains", spans(gains, hundredths), 0.0)
            ),
            figure(
                "Accuracy on unseen picks", svg.intervals("Accuracy", spans(shares, percent), 0.5)
            ),
        ),
        card(
            table(("measurement", "value", "95% interval", "n", "unit", "incumbent"), rows),
            note(
                "Held-out prompts, the same seeds for both; dashed lines are no gain and guessing."
            )
            if rows
            else "",
        ),
    )


# The policy ---------------------------------------------------------------------------------


def _policy(found: Evidence, stage: str) -> str:
    of = found.stages[stage]
    kl, score = dict(of.get("kl", [])), dict(of.get("score", []))
    # The estimate of a small KL can fall below 0, where there is no root; it means 0.
    points = {
        int(step): (math.sqrt(max(0.0, kl[step])), score[step])
        for step in score
        if step in kl and usable(kl[step]) and usable(score[step])
    }
    line = fit(points.values())
    told = ""
    if line is not None:
        told = (
            f"Fitted line: slope {number(line.slope)} per square root of a nat, intercept "
            f"{number(line.intercept)}, R² {line.r2:.3f}, {len(points)} updates. A straight line "
            "is what healthy training looks like; points that bend below it paid more for less."
        )
    elif points:
        told = "Too few updates, or none that moved: no line was fitted."
    info = found.info.get(stage, {})
    best, stop = info.get("best_update"), info.get("stop")
    kept = f"The policy that was kept is that of update {best}." if best is not None else ""
    gauges = _lines(of, "score", "gauge_a", "gauge_b", "gauge_smooth", "gap_smooth")
    if len(gauges) > 1:
        kept += (
            " The gauges are preference models of half the picks each, which the policy was not "
            "trained on. A score that leaves them behind (the gap) is its judge's taste, not yours."
        )
    root = "Score against the square root of KL"
    return section(
        f"Policy: {stage}",
        card(f"<p><strong>Stopped early:</strong> {safe(stop)}</p>") if stop else "",
        grid(
            figure(root, svg.scatter(root, points, line, "√KL", "score"), told),
            figure(
                "Score and gauges",
                svg.lines("Score and gauges", gauges, "update", "sd", (0.0,)),
                kept.strip(),
            ),
            _plot(of, "KL from the reference", "nats per response", ("kl",), (0.0,)),
            _plot(of, "Reply length", "tokens", ("length",), (0.0,)),
            _plot(of, "Unfinished replies", "share", ("unfinished",), (0.0, 0.1)),
            _plot(of, "Entropy", "nats per token", ("entropy",), (0.0,)),
            _plot(of, "Loss", "loss", ("loss",)),
            _plot(of, "Pairs ranked right", "share", ("accuracy",), (0.5, 1.0)),
        ),
    )


def _lines(of: Readings, *names: str) -> list[Series]:
    return [Series(name, of[name]) for name in names if name in of]


def _plot(
    of: Readings, title: str, unit: str, names: Sequence[str], include: Sequence[float] = ()
) -> str:
    return figure(title, svg.lines(title, _lines(of, *names), "update", unit, include))


# The replies --------------------------------------------------------------------------------


def _numbers(values: Iterable[Any]) -> list[float]:
    return [float(v) for v in values if is_number(v)]


def _histograms(found: Evidence) -> str:
    rows = found.rows

    def drawn(name: str, title: str, unit: str, *said: str) -> str:
        groups = {
            side: _numbers(row.get(key) for row in rows)
            for side, key in (("after", name), ("before", name + INCUMBENT))
        }
        return figure(title, svg.histogram(title, groups, unit), *said)

    kl = _numbers(as_list(found.replies.get("kl")))
    said = ""
    if kl:
        said = (
            f"{len(kl)} replies to held-out prompts; their mean is the KL that the gate reads. "
            "Far to the right are replies that the base would hardly have given."
        )
    return section(
        "Replies to held-out prompts",
        grid(
            drawn("score", "Score by the preference model", "score"),
            drawn("length", "Length", "tokens"),
            figure(
                "KL reply by reply",
                svg.histogram("KL reply by reply", {"after": kl}, "nats from the base"),
                said,
            ),
        ),
    )


def _replies(found: Evidence) -> str:
    if found.typical:
        told = (
            "The first held-out prompts that were drawn: nobody chose them. Nor the replies: of 17 "
            "to each prompt the one of median score is shown, as the paper does. Each mark below "
            "is one of the 17 scores, the large one that of the reply shown."
        )
        return section("Before and after", note(told), *map(_typical, found.typical))
    if found.samples:
        told = (
            "The first held-out prompts that were drawn, one reply each at temperature 1 with "
            "the same seed for both: nobody chose them."
        )
        return section(
            "Before and after", note(told), *(card(_beside(sample)) for sample in found.samples)
        )
    return ""


def _beside(told: Mapping[str, Any]) -> str:
    sides = "".join(
        f'<div class="{kind}"><div class="note">{side}</div>'
        f'<div class="said">{safe(told.get(side) or "(nothing)")}</div></div>'
        for side, kind in (("before", "was"), ("after", "is"))
    )
    return (
        f'<div class="asked said">{safe(told.get("prompt") or "(no prompt)")}</div>'
        f'<div class="pair">{sides}</div>'
    )


def _typical(told: Mapping[str, Any]) -> str:
    # "after" first, so that its tone is that of "after" in every other drawing
    groups = {side: _numbers(as_list(told.get(f"scores_{side}"))) for side in ("after", "before")}
    return card(_beside(told), svg.strip("Scores of the 17 replies", groups, "score"))
