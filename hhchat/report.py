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
from hhchat.plots_svg import Point, Series, Span, number, safe
from hhchat.types import Measurement

NOT_POLICY = ("pm", "gate")  # every other stage trains a policy
SMOOTH = 9  # updates: a preference model's accuracy on one batch of pairs says little by itself

STYLE = """
:root { color-scheme: light dark; --page: #fbfbf9; --text: #1d1d1b; --muted: #62625d;
  --card: #f1f1ed; --good: #14724a; --bad: #a33413 }
@media (prefers-color-scheme: dark) {
  :root { --page: #191917; --text: #ecece6; --muted: #a5a59d; --card: #242421; --good: #5ccd99;
    --bad: #f09a78 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem 1.2rem 4rem; max-width: 62rem; background: var(--page);
  color: var(--text); font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.15rem; margin: 2.6rem 0 .5rem }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem } p { margin: .4rem 0; max-width: 46rem }
.note { color: var(--muted); font-size: .9rem } .promoted { color: var(--good) }
.refused, .failed, .interrupted { color: var(--bad) }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .92rem }
th, td { text-align: left; padding: .25rem 1.1rem .25rem 0; vertical-align: top;
  border-bottom: 1px solid var(--grid); overflow-wrap: anywhere }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
th.n { text-align: right }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: .8rem }
.pair > div, .asked { background: var(--card); padding: .6rem .8rem; border-radius: .4rem }
.said { white-space: pre-wrap; overflow-wrap: anywhere } .asked { margin: 1.4rem 0 .5rem }
"""


def page(found: Evidence) -> str:
    """The whole file."""
    run = found.run
    sections = [
        _summary(found),
        *(_policy(found, stage) for stage in found.stages if stage not in NOT_POLICY),
        _preference(found.stages.get("pm", {})),
        _gate(found),
        _histograms(found.rows),
        _samples(found.samples),
        _not_here(found),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>hhchat run {safe(run.id)}</title><style>{STYLE}{svg.STYLE}</style></head>\n"
        "<body>\n" + "\n".join(s for s in sections if s) + "\n</body></html>\n"
    )


def _section(title: str, *parts: str) -> str:
    inside = "\n".join(part for part in parts if part)
    return f"<section><h2>{safe(title)}</h2>\n{inside}</section>" if inside else ""


def _note(text: str) -> str:
    return f'<p class="note">{safe(text)}</p>'


def _figure(title: str, drawn: str) -> str:
    return f"<h3>{safe(title)}</h3>{drawn}" if drawn else ""


def _table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table whose numbers stand right, headed unless all headers are empty; "" without rows."""
    body = [list(row) for row in rows]
    if not body:
        return ""

    def cell(tag: str, value: object, right: bool) -> str:
        shown = number(value) if isinstance(value, float) else safe("–" if value is None else value)
        return f"<{tag}{' class=' + chr(34) + 'n' + chr(34) if right else ''}>{shown}</{tag}>"

    right = [any(isinstance(row[i], (int, float)) for row in body) for i in range(len(headers))]
    head = "".join(cell("th", h, r) for h, r in zip(headers, right, strict=True))
    lines = ("".join(cell("td", v, r) for v, r in zip(row, right, strict=True)) for row in body)
    return (
        '<div class="wide"><table>'
        + (f"<thead><tr>{head}</tr></thead>" if any(headers) else "")
        + "<tbody>"
        + "".join(f"<tr>{line}</tr>" for line in lines)
        + "</tbody></table></div>"
    )


def _summary(found: Evidence) -> str:
    run = found.run
    if run.state == "promoted":
        promoted = "yes, and it is the assistant now"
        if run.snapshot != found.current:
            promoted = f"yes; the assistant is now {found.current}"
    else:
        promoted = "not yet decided" if run.state == "running" else "no"
    data = run.data
    picks = len(as_list(data.get("comparisons"))) or None
    rows = [
        ("promoted", promoted),
        ("snapshot", run.snapshot),
        ("compared with", data.get("incumbent")),
        ("stages", ", ".join(run.stages)),
        ("picks trained on", picks),
        ("picks held out", len(as_list(data.get("heldout"))) or None),
        ("base", run.base),
        ("seed", run.seed),
        ("started", run.created),
        ("finished", run.finished),
    ]
    said = run.reason or ("the run goes on" if run.state == "running" else "no reason was recorded")
    return (
        f"<header><h1>Run {safe(run.id)}</h1>\n"
        f'<p><strong class="{safe(run.state)}">{safe(run.state)}</strong>: {safe(said)}</p>\n'
        + _table(("", ""), [(name, str(value)) for name, value in rows if value is not None])
        + "".join(_note(f"Missing: {text}.") for text in found.missing)
        + "</header>"
    )


def _policy(found: Evidence, stage: str) -> str:
    of = found.stages[stage]
    kl, score = dict(of.get("kl", [])), dict(of.get("score", []))
    # The estimate of a small KL can fall below 0, where there is no root; it means 0.
    points = {
        int(step): (math.sqrt(max(0.0, kl[step])), score[step])
        for step in score
        if step in kl and svg.usable(kl[step]) and svg.usable(score[step])
    }
    line = svg.fit(points.values())
    told = ""
    if line is not None:
        told = _note(
            f"Fitted line: slope {number(line.slope)} per square root of a nat, intercept "
            f"{number(line.intercept)}, R² {line.r2:.3f}, {len(points)} updates. A straight line "
            "is what healthy training looks like; points that bend below it paid more for less."
        )
    elif points:
        told = _note("Too few updates, or none that moved: no line was fitted.")
    best = found.info.get(stage, {}).get("best_update")
    kept = _note(f"The policy that was kept is that of update {best}.") if best is not None else ""
    gauges = _lines(of, "score", "gauge_a", "gauge_b", "gauge_smooth")
    if len(gauges) > 1:
        kept = kept + _note(
            "The gauges are preference models of half the picks each, which the policy was not "
            "trained on. A score that rises away from them is learning its judge, not your taste."
        )
    return _section(
        f"Policy: {stage}",
        _figure("Score against the square root of KL", _scatter(points, line)),
        told,
        _figure("Score and gauges", svg.lines("Score and gauges", gauges, "update", "sd", (0.0,))),
        kept,
        _plot(of, "KL from the reference", "nats per response", ("kl",), (0.0,)),
        _plot(of, "Reply length", "tokens", ("length",), (0.0,)),
        _plot(of, "Unfinished replies", "share", ("unfinished",), (0.0, 0.1)),
        _plot(of, "Loss", "loss", ("loss",)),
        _plot(of, "Pairs ranked right", "share", ("accuracy",), (0.5, 1.0)),
    )


def _scatter(points: Mapping[int, Point], line: svg.Fit | None) -> str:
    return svg.scatter("Score against the square root of KL", points, line, "√KL", "score")


def _lines(of: Readings, *names: str) -> list[Series]:
    return [Series(name, of[name]) for name in names if name in of]


def _plot(
    of: Readings, title: str, unit: str, names: Sequence[str], include: Sequence[float] = ()
) -> str:
    return _figure(title, svg.lines(title, _lines(of, *names), "update", unit, include))


def _preference(of: Readings) -> str:
    loss = [_smooth(of, name) for name in ("loss", "loss_half_a", "loss_half_b") if name in of]
    if "heldout_loss" in of:
        loss.append(Series("heldout_loss", of["heldout_loss"], dots=True))
    right = [
        _smooth(of, name)
        for name in ("accuracy", "accuracy_half_a", "accuracy_half_b")
        if name in of
    ]
    if not loss and not right:
        return ""
    return _section(
        "Preference model",
        _figure("Loss", svg.lines("Preference model: loss", loss, "update", "nats", (0.69,))),
        _figure(
            "Pairs ranked right",
            svg.lines("Preference model: accuracy", right, "update", "share", (0.5, 1.0)),
        ),
        _note(
            f"Each point is the mean over {SMOOTH} updates, on pairs before they were learned "
            "from; 0.69 and 0.5 are guessing. The models of half the picks are fitted after the "
            "full one."
        ),
    )


def _smooth(of: Readings, name: str) -> Series:
    kept = [(x, y) for x, y in of[name] if svg.usable(y)]
    return Series(name, svg.running_mean(kept, SMOOTH))


def _gate(found: Evidence) -> str:
    measured = found.measured
    gains = [m for name, m in measured.items() if "gain" in name]
    shares = [m for name, m in measured.items() if name.endswith("accuracy")]
    reasons = "".join(f"<li>{safe(reason)}</li>" for reason in found.reasons)
    table = [
        (m.name, float(m.value), _interval(m), m.n, m.unit or "–", _before(measured, m.name))
        for m in measured.values()
        if not m.name.endswith(INCUMBENT)
    ]
    return _section(
        "What the gate saw",
        f"<p>Why it decided so:</p><ul>{reasons}</ul>" if reasons else "",
        _figure("Gains over the incumbent", svg.intervals("Gains", _spans(gains), 0.0)),
        _figure("Accuracy on unseen picks", svg.intervals("Accuracy", _spans(shares), 0.5)),
        _table(("measurement", "value", "95% interval", "n", "unit", "incumbent"), table),
        _note("Held-out prompts, the same seeds for both; dashed lines are no gain and guessing.")
        if table
        else "",
    )


def _spans(measured: Sequence[Measurement]) -> list[Span]:
    return [Span(m.name, m.value, m.low, m.high) for m in measured]


def _interval(m: Measurement) -> str:
    if m.low is None or m.high is None:
        return "–"
    return f"{number(m.low)} to {number(m.high)}"


def _before(measured: Mapping[str, Measurement], name: str) -> float | None:
    other = measured.get(name + INCUMBENT)
    return None if other is None else float(other.value)


def _histograms(rows: Sequence[Mapping[str, Any]]) -> str:
    def drawn(name: str, title: str, unit: str) -> str:
        groups = {
            side: [float(row[key]) for row in rows if is_number(row.get(key))]
            for side, key in (("candidate", name), ("incumbent", name + INCUMBENT))
        }
        return _figure(title, svg.histogram(title, groups, unit))

    return _section(
        "Replies to held-out prompts",
        drawn("score", "Score by the preference model", "score"),
        drawn("length", "Length", "tokens"),
    )


def _samples(samples: Sequence[Mapping[str, Any]]) -> str:
    if not samples:
        return ""
    parts = [
        _note(
            "The first held-out prompts that were drawn, one reply each at temperature 1 with "
            "the same seed for both: nobody chose them."
        )
    ]
    for sample in samples:
        sides = "".join(
            f'<div><div class="note">{side}</div>'
            f'<div class="said">{safe(sample.get(side) or "(nothing)")}</div></div>'
            for side in ("before", "after")
        )
        parts.append(
            f'<div class="asked said">{safe(sample.get("prompt") or "(no prompt)")}</div>'
            f'<div class="pair">{sides}</div>'
        )
    return _section("Before and after", *parts)


def _not_here(found: Evidence) -> str:
    """Said plainly, so that nobody takes the page for more than it is."""
    return _section(
        "Not on this page",
        _note(
            "The preference model's reliability curve, its accuracy by turn, mode and source, and "
            "a histogram of KL: a run keeps no scores of held-out pairs and no KL of single "
            "replies. Nor medians of many samples: one reply a prompt is drawn."
        ),
    )
