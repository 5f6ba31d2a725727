"""Plots as inline SVG: lines, points with a fitted line, histograms, intervals. Text out.

Colours are CSS variables of the page, so one drawing serves light and dark. Nothing is fetched
and nothing runs: a page with these plots can be kept, sent and opened anywhere.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hhchat.scales import Fit, Point, number, thin, ticks, usable
from hhchat.text import one_line, printable

WIDTH, HEIGHT = 640, 280
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 40

# Tones are told apart by colour and, for lines, by dash as well: not everyone sees colours.
DASHES = ("", "7 4", "2 3", "9 3 2 3")

STYLE = """
:root { --s0: #2a78d6; --s1: #c2501f; --s2: #1b8a5a; --s3: #7a5bc4; --grid: #e4e4e0;
  --axis: #8a8a84 }
@media (prefers-color-scheme: dark) {
  :root { --s0: #5ba0ee; --s1: #ee8a5a; --s2: #4cc38a; --s3: #ab92ee; --grid: #33332f;
    --axis: #85857e } }
svg { display: block; width: 100%; height: auto; max-width: 40rem }
svg text { fill: var(--muted); font: 12px system-ui, sans-serif }
.grid { stroke: var(--grid) } .axis, .mark { stroke: var(--axis) } .mark { stroke-dasharray: 4 3 }
.line { fill: none; stroke-width: 2; stroke-linejoin: round }
.t0 { stroke: var(--s0) } .t1 { stroke: var(--s1) } .t2 { stroke: var(--s2) }
.t3 { stroke: var(--s3) }
.f0 { fill: var(--s0) } .f1 { fill: var(--s1) } .f2 { fill: var(--s2) } .f3 { fill: var(--s3) }
.dot { fill-opacity: .75 } .thin { stroke-width: 1.2; opacity: .55 }
.whisker { stroke-width: 2; stroke-linecap: round; opacity: .7 }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .85rem;
  color: var(--muted) }
.legend svg { display: inline-block; width: 26px; height: 10px; margin-right: .4rem }
"""


@dataclass(frozen=True)
class Series:
    """A named line; `dots` draws its points as well, for readings that are few."""

    name: str
    points: Sequence[Point]
    dots: bool = False


@dataclass(frozen=True)
class Span:
    """A value with the ends of its interval; an end that is not known is None."""

    name: str
    value: float
    low: float | None
    high: float | None
    words: str = ""  # said at its right


def safe(text: object) -> str:
    """Anything as HTML text: markup is escaped, what a reader could not see is made visible."""
    return html.escape(printable(str(text)), quote=True)


def _ends(values: Sequence[float], *around: float) -> Point:
    """Ends of an axis that holds all values, and those of `around`, with a little room."""
    low, high = min(*values, *around, values[0]), max(*values, *around, values[0])
    # One value, or values that differ by rounding alone, still need an axis of some width.
    room = max((high - low) * 0.05, abs(high) * 1e-6, abs(low) * 1e-6, 1e-9)
    if high - low < room:
        room = abs(high) * 0.1 or 0.5
    return low - room, high + room


@dataclass(frozen=True)
class _Frame:
    """The scales of one drawing, and its axes."""

    xs: Point
    ys: Point

    def x(self, value: float) -> float:
        low, high = self.xs
        return round(LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        low, high = self.ys
        return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    def draw(self, title: str, x_name: str, y_name: str, inside: Iterable[str]) -> str:
        right, floor = WIDTH - RIGHT, HEIGHT - BOTTOM
        parts = []
        for tick in ticks(*self.ys):
            y = self.y(tick)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y}" y2="{y}"/>')
            parts.append(
                f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{number(tick)}</text>'
            )
        for tick in ticks(*self.xs, wanted=8):
            x = self.x(tick)
            parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="{floor}" y2="{floor + 4}"/>')
            parts.append(
                f'<text x="{x}" y="{floor + 17}" text-anchor="middle">{number(tick)}</text>'
            )
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{floor}" y2="{floor}"/>')
        middle = (LEFT + right) / 2
        parts.append(
            f'<text x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">{safe(x_name)}</text>'
        )
        high = (TOP + floor) / 2
        parts.append(
            f'<text x="12" y="{high}" text-anchor="middle" '
            f'transform="rotate(-90 12 {high})">{safe(y_name)}</text>'
        )
        return _svg(title, WIDTH, HEIGHT, [*parts, *inside])


def _svg(title: str, width: int, height: int, parts: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{safe(title)}">'
        + "".join(parts)
        + "</svg>"
    )


def _dot(x: float, y: float, tone: int, told: str, size: float = 3.5) -> str:
    return (
        f'<circle class="dot f{tone}" cx="{x}" cy="{y}" r="{size}">'
        f"<title>{safe(told)}</title></circle>"
    )


def legend(names: Sequence[str], *, bars: bool = False) -> str:
    """What each tone stands for."""
    found = []
    for i, name in enumerate(names):
        tone = i % len(DASHES)
        sign = (
            f'<rect class="f{tone}" x="4" y="0" width="18" height="10"/>'
            if bars
            else f'<line class="line t{tone}" stroke-dasharray="{DASHES[tone]}" '
            'x1="0" x2="26" y1="5" y2="5"/>'
        )
        found.append(
            f'<span><svg viewBox="0 0 26 10" aria-hidden="true">{sign}</svg>{safe(name)}</span>'
        )
    return f'<div class="legend">{"".join(found)}</div>'


def lines(
    title: str,
    series: Sequence[Series],
    x_name: str,
    y_name: str,
    include: Sequence[float] = (),
) -> str:
    """Lines over a shared x; `include` are values the y axis must show. "" without a point."""
    kept = [Series(s.name, thin(s.points), s.dots) for s in series]
    kept = [s for s in kept if s.points]
    if not kept:
        return ""
    frame = _Frame(
        _ends([x for s in kept for x, _ in s.points]),
        _ends([y for s in kept for _, y in s.points], *include),
    )
    parts = []
    for i, one in enumerate(kept):
        tone = i % len(DASHES)
        placed = " ".join(f"{frame.x(x)},{frame.y(y)}" for x, y in one.points)
        parts.append(
            f'<polyline class="line t{tone}" stroke-dasharray="{DASHES[tone]}" points="{placed}"/>'
        )
        if one.dots or len(one.points) == 1:
            parts.extend(
                _dot(frame.x(x), frame.y(y), tone, f"{one.name}: {number(y)} at {number(x)}")
                for x, y in one.points
            )
    drawn = frame.draw(title, x_name, y_name, parts)
    return drawn + (legend([s.name for s in kept]) if len(kept) > 1 else "")


def scatter(
    title: str, points: Mapping[int, Point], line: Fit | None, x_name: str, y_name: str
) -> str:
    """Points named by their update, later ones stronger, and the fitted line under them."""
    kept = {step: p for step, p in points.items() if usable(p[0]) and usable(p[1])}
    if not kept:
        return ""
    xs = [x for x, _ in kept.values()]
    frame = _Frame(_ends(xs, 0.0), _ends([y for _, y in kept.values()]))
    parts = []
    if line is not None:
        first, last = min(xs), max(xs)
        y1, y2 = (frame.y(line.slope * x + line.intercept) for x in (first, last))
        parts.append(
            f'<line class="line t1" x1="{frame.x(first)}" x2="{frame.x(last)}" '
            f'y1="{y1}" y2="{y2}"/>'
        )
    last_step = max(kept) or 1
    for step, (x, y) in kept.items():
        told = f"update {step}: {x_name} {number(x)}, {y_name} {number(y)}"
        dot = _dot(frame.x(x), frame.y(y), 0, told, 4)
        parts.append(f'<g opacity="{0.35 + 0.65 * step / last_step:.2f}">{dot}</g>')
    return frame.draw(title, x_name, y_name, parts)


def histogram(
    title: str, groups: Mapping[str, Sequence[float]], x_name: str, bins: int = 16
) -> str:
    """Counts of two or more groups over the same bins, side by side."""
    kept = {name: [v for v in values if usable(v)] for name, values in groups.items()}
    values = [v for group in kept.values() for v in group]
    if not values:
        return ""
    low, high = min(values), max(values)
    # Whole numbers get bins of whole numbers: else some bins can hold more values than others.
    if all(v == round(v) and abs(v) < 1e9 for v in values):
        width = float(max(1, math.ceil((high - low + 1) / bins)))
        low -= 0.5
    else:
        # Where all are the same, one bin that is wide enough for a float to have a width.
        width = max((high - low) / bins, abs(low) * 1e-6, abs(high) * 1e-6) or 1.0
    count = max(1, math.ceil((high - low) / width - 1e-9))
    tallies = {name: [0] * count for name in kept}
    for name, group in kept.items():
        for value in group:
            tallies[name][min(count - 1, int((value - low) / width))] += 1
    top = max(max(tally) for tally in tallies.values())
    frame = _Frame((low, low + count * width), (0.0, top * 1.05))
    parts = []
    share = width * 0.9 / len(kept)
    for i, (name, tally) in enumerate(tallies.items()):
        for j, n in enumerate(tally):
            if n:
                start = low + j * width + width * 0.05 + i * share
                x, y = frame.x(start), frame.y(n)
                told = (
                    f"{name}: {n} from {number(low + j * width)} to {number(low + (j + 1) * width)}"
                )
                parts.append(
                    f'<rect class="f{i % len(DASHES)}" x="{x}" y="{y}" '
                    f'width="{frame.x(start + share) - x:.1f}" '
                    f'height="{HEIGHT - BOTTOM - y:.1f}"><title>{safe(told)}</title></rect>'
                )
    drawn = frame.draw(title, x_name, "replies", parts)
    return drawn + (legend(list(kept), bars=True) if len(kept) > 1 else "")


def intervals(title: str, spans: Sequence[Span], mark: float) -> str:
    """Values with whiskers, one a row, beside the value that they have to be beyond."""
    kept = [s for s in spans if usable(s.value)]
    if not kept:
        return ""
    ends = [e for s in kept for e in (s.low, s.high) if e is not None and usable(e)]
    low, high = _ends([s.value for s in kept], mark, *ends)
    left, row = 170, 26
    right = WIDTH - (150 if any(s.words for s in kept) else RIGHT)
    height = row * len(kept) + 30

    def place(value: float) -> float:
        # An interval without an end, or an infinite one, reaches the edge of the drawing.
        part = (min(high, max(low, value)) - low) / (high - low)
        return round(left + part * (right - left), 1)

    floor = row * len(kept) + 6
    parts = [f'<line class="axis" x1="{left}" x2="{right}" y1="{floor}" y2="{floor}"/>']
    for tick in ticks(low, high, 4):
        x = place(tick)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="4" y2="{floor}"/>')
        parts.append(f'<text x="{x}" y="{floor + 16}" text-anchor="middle">{number(tick)}</text>')
    x = place(mark)
    parts.append(f'<line class="mark" x1="{x}" x2="{x}" y1="4" y2="{floor}"/>')
    for i, span in enumerate(kept):
        y = 4 + row * i + row / 2
        name = safe(one_line(span.name, 26))
        parts.append(f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{name}</text>')
        told = f"{span.name}: {number(span.value)}"
        if span.low is not None and span.high is not None:
            told += f", {number(span.low)} to {number(span.high)}"
            parts.append(
                f'<line class="line t0" x1="{place(span.low)}" x2="{place(span.high)}" '
                f'y1="{y}" y2="{y}"/>'
            )
        parts.append(_dot(place(span.value), y, 0, told, 5))
        if span.words:
            parts.append(f'<text x="{right + 12}" y="{y + 4}">{safe(span.words)}</text>')
    return _svg(title, WIDTH, height, parts)


def reliability(title: str, groups: Mapping[str, Sequence[tuple[float, Span]]]) -> str:
    """Shares over the confidence they were promised, with whiskers; on the diagonal all is well."""
    kept = {name: list(points) for name, points in groups.items() if points}
    if not kept:
        return ""
    spans = [span for points in kept.values() for _, span in points]
    lows = [s.value if s.low is None else s.low for s in spans]
    bottom = max(0.0, min(0.5, *lows) - 0.02)
    frame = _Frame((0.49, 1.0), (bottom, 1.02))
    ends = " ".join(
        f'{n}="{v}"'
        for n, v in zip(
            ("x1", "y1", "x2", "y2"),
            (frame.x(0.5), frame.y(0.5), frame.x(1.0), frame.y(1.0)),
            strict=True,
        )
    )
    parts = [f'<line class="mark" {ends}/>']
    for tone, (name, points) in enumerate(kept.items()):
        shift = 6 * tone  # whiskers of two groups must not hide one another
        placed = [(frame.x(x) + shift, frame.y(span.value)) for x, span in points]
        line = " ".join(f"{x},{y}" for x, y in placed)
        dash = DASHES[tone % len(DASHES)]
        parts.append(
            f'<polyline class="line thin t{tone}" stroke-dasharray="{dash}" points="{line}"/>'
        )
        for (x, span), (px, py) in zip(points, placed, strict=True):
            if span.low is not None and span.high is not None:
                parts.append(
                    f'<line class="whisker t{tone}" x1="{px}" x2="{px}" '
                    f'y1="{frame.y(span.low)}" y2="{frame.y(span.high)}"/>'
                )
            told = f"{name}: sure by {number(x)}, right {number(span.value)} {span.words}"
            parts.append(_dot(px, py, tone, told, 4.5))
    drawn = frame.draw(title, "how sure the model was", "how often it was right", parts)
    return drawn + legend(list(kept))


def strip(title: str, groups: Mapping[str, Sequence[float]], x_name: str) -> str:
    """Every value of each group as a mark on one axis, the middle one drawn tall."""
    kept = {name: sorted(v for v in values if usable(v)) for name, values in groups.items()}
    values = [v for group in kept.values() for v in group]
    if not values:
        return ""
    low, high = _ends(values)
    left, right, row = 58, WIDTH - RIGHT, 30
    floor = row * len(kept) + 4

    def place(value: float) -> float:
        return round(left + (value - low) / (high - low) * (right - left), 1)

    parts = [f'<line class="axis" x1="{left}" x2="{right}" y1="{floor}" y2="{floor}"/>']
    for tick in ticks(low, high, 6):
        x = place(tick)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="2" y2="{floor}"/>')
        parts.append(f'<text x="{x}" y="{floor + 16}" text-anchor="middle">{number(tick)}</text>')
    for i, (name, group) in enumerate(kept.items()):
        tone, y = i % len(DASHES), 4 + row * i + row / 2
        parts.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{safe(name)}</text>')
        for j, value in enumerate(group):
            size = 6 if j == len(group) // 2 else 3.5
            parts.append(_dot(place(value), y, tone, f"{name}: {number(value)}", size))
    name = f'<text x="{right}" y="{floor + 30}" text-anchor="end">{safe(x_name)}</text>'
    return _svg(title, WIDTH, floor + 36, [*parts, name])
