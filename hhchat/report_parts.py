"""The pieces a page is built of: sections, figures, tables, tiles. Text in, escaped HTML out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from hhchat import plots_svg as svg
from hhchat.gate import INCUMBENT
from hhchat.plots_svg import Span, safe
from hhchat.scales import number, usable
from hhchat.types import Measurement

STYLE = """
:root { color-scheme: light dark; --page: #f6f6f3; --text: #1d1d1b; --muted: #62625d;
  --card: #ffffff; --edge: #e4e4de; --good: #14724a; --bad: #a33413; --wait: #7a5b00 }
@media (prefers-color-scheme: dark) {
  :root { --page: #161614; --text: #ecece6; --muted: #a5a59d; --card: #20201d; --edge: #33332f;
    --good: #5ccd99; --bad: #f09a78; --wait: #e3c05c } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2rem 1.2rem 4rem; max-width: 76rem; background: var(--page);
  color: var(--text); font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.6rem; margin: 0; letter-spacing: -.01em }
h1 code { font-size: 1.2rem; font-weight: 500; color: var(--muted) }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .7rem } h3 { font-size: .95rem; margin: 0 0 .5rem }
p { margin: .4rem 0; max-width: 52rem } ul { margin: .4rem 0; padding-left: 1.2rem }
.note { color: var(--muted); font-size: .85rem; margin: .6rem 0 0 }
.promoted { color: var(--good) } .refused, .failed, .interrupted { color: var(--bad) }
.running { color: var(--wait) }
.state { display: inline-block; border: 1.5px solid; border-radius: 2rem; padding: 0 .8rem;
  font-weight: 600; margin: .5rem .6rem .2rem 0 }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .8rem;
  margin: 1.2rem 0 }
.tile, .card { background: var(--card); border: 1px solid var(--edge); border-radius: .6rem;
  padding: .9rem 1rem; min-width: 0 }
.tile b { display: block; font-size: 1.55rem; font-weight: 600; line-height: 1.25;
  font-variant-numeric: tabular-nums }
.tile span { color: var(--muted); font-size: .85rem; display: block }
.grid2 { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr));
  gap: .8rem }
section > * + .card, section > * + .grid2, details > .card { margin-top: .8rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .88rem; width: 100% }
th, td { text-align: left; padding: .28rem 1.1rem .28rem 0; vertical-align: top;
  border-bottom: 1px solid var(--edge); overflow-wrap: anywhere }
tr:last-child td { border-bottom: 0 } th { color: var(--muted); font-weight: 500 }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
th.n { text-align: right } details { margin: .8rem 0 }
summary { cursor: pointer; color: var(--muted); font-size: .9rem }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr));
  gap: .8rem; margin: .7rem 0 } .pair > div { border-left: 3px solid; padding: 0 0 0 .8rem }
.pair > .was { border-color: var(--s1) } .pair > .is { border-color: var(--s0) }
.said { white-space: pre-wrap; overflow-wrap: anywhere } .asked { font-weight: 600 }
@media print { .card, .tile { break-inside: avoid } }
"""


def document(title: str, body: Iterable[str]) -> str:
    """The whole file: no script, and a policy that forbids anything from anywhere."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{safe(title)}</title><style>{STYLE}{svg.STYLE}</style></head>\n"
        "<body>\n" + "\n".join(part for part in body if part) + "\n</body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A titled section; "" when all parts are empty."""
    inside = "\n".join(part for part in parts if part)
    return f"<section><h2>{safe(title)}</h2>\n{inside}</section>" if inside else ""


def note(text: str) -> str:
    return f'<p class="note">{safe(text)}</p>' if text else ""


def card(*parts: str) -> str:
    inside = "\n".join(part for part in parts if part)
    return f'<div class="card">{inside}</div>' if inside else ""


def figure(title: str, drawn: str, *said: str) -> str:
    """A drawing in a card under its title, with a note; "" without a drawing."""
    if not drawn:
        return ""
    return card(f"<h3>{safe(title)}</h3>", drawn, *(note(text) for text in said))


def grid(*cards: str) -> str:
    """Cards side by side where there is room."""
    inside = "\n".join(part for part in cards if part)
    return f'<div class="grid2">{inside}</div>' if inside else ""


def tiles(found: Sequence[tuple[str, str, str]]) -> str:
    """(name, value, what is beside it) as large numbers."""
    inside = "".join(
        f'<div class="tile"><span>{safe(name)}</span><b>{safe(value)}</b>'
        f"<span>{safe(more)}</span></div>"
        for name, value, more in found
    )
    return f'<div class="tiles">{inside}</div>' if inside else ""


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
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


def spans(measured: Sequence[Measurement], form: Callable[[float], str] = number) -> list[Span]:
    """Measurements as rows of an interval plot, said in numbers of a form."""
    return [
        Span(m.name, m.value, m.low, m.high, f"{form(m.value)} ({interval(m, form)})")
        for m in measured
        if usable(m.value)
    ]


def interval(m: Measurement, form: Callable[[float], str] = number) -> str:
    if m.low is None or m.high is None:
        return "–"
    return " to ".join(form(v) if usable(v) else number(v) for v in (m.low, m.high))


def percent(value: float) -> str:
    return f"{value:.0%}"


def hundredths(value: float) -> str:
    return f"{value:.2f}"


def before(measured: Mapping[str, Measurement], name: str) -> float | None:
    """The incumbent's reading of the same name."""
    other = measured.get(name + INCUMBENT)
    return None if other is None else float(other.value)
