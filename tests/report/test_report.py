"""The page of a run: whole on a whole run, honest on a broken one, and harmless with any text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from hhchat.evaluate import Judged, Typical
from hhchat.evidence import gather
from hhchat.protocols import StageResult
from hhchat.report import page
from hhchat.runfolder import RunFolder
from hhchat.store import Store
from hhchat.types import Measurement, Metric, Report, Run, SampleReport, Snapshot, Verdict

VOID = {"meta", "link", "br", "img", "input"}
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;\x1b[31m\u202etxt\u200b"
TITLES = (
    "Policy: ppo",
    "Score against the square root of KL",
    "Score and gauges",
    "KL from the reference",
    "Reply length",
    "Unfinished replies",
    "Entropy",
    "Preference model",
    "Does it know how sure it is?",
    "Accuracy by kind of pick",
    "What the gate saw",
    "Gains over the incumbent",
    "Score by the preference model",
    "Length",
    "KL reply by reply",
    "Before and after",
)


class Checker(HTMLParser):
    """Every tag closed in order; keeps the tags with their attributes, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"{tag} says an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def checked(text: str) -> Checker:
    """The page, well-formed, with nothing that runs or is fetched."""
    found = Checker()
    found.feed(text)
    found.close()
    assert not found.open
    assert text.count("<!DOCTYPE html>") == 1
    assert not {tag for tag, _ in found.tags} & {"script", "img", "link", "iframe", "object", "a"}
    for tag, attributes in found.tags:
        assert not {"src", "href", "style", "srcset"} & set(attributes), tag
        assert not any(name.startswith("on") for name in attributes), tag
    assert not re.search(r"(?i)https?:|url\(|@import|//\w", re.sub(r"<[/!]", "", text))
    # What is not a number must not be drawn: a browser drops the whole shape.
    assert not re.search(r'="[^"]*\b(nan|inf)\b', re.sub(r'aria-label="[^"]*"', "", text))
    return found


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    with Store() as opened:
        yield opened


def begin(store: Store) -> tuple[Run, RunFolder]:
    run = store.start_run(("pm", "ppo"), 7, "fake@1", {"incumbent": "base", "comparisons": [1, 2]})
    folder = RunFolder(run.id)
    folder.make()
    return run, folder


def readings() -> list[Metric]:
    found = []
    for step in range(30):
        for name, value in (("loss", 0.7 - step / 100), ("accuracy", 0.5 + step / 100)):
            found += [Metric("pm", step, n, value) for n in (name, f"{name}_half_a")]
        kl = -0.01 if step == 0 else step / 10
        found += [
            Metric("ppo", step, "kl", kl),
            Metric("ppo", step, "score", 2 * max(0.0, kl) ** 0.5 + 0.5),
            Metric("ppo", step, "length", 30.0 + step),
            Metric("ppo", step, "entropy", 1.0),
            Metric("ppo", step, "unfinished", float("nan") if step == 3 else 0.0),
        ]
        found += [Metric("ppo", step, f"gauge_{h}", step / n) for h, n in (("a", 20), ("b", 25))]
    return [*found, Metric("pm", 10, "heldout_loss", 0.6), Metric("gate", 0, "kl", 2.0)]


def pair(which: str, i: int, mode: str = "helpful") -> dict[str, object]:
    """Three of four right, surer ones more often."""
    gap = (1 + i % 10) / 4 * (1 if i % 4 else -1)
    told: dict[str, object] = {"set": which, "gap": gap, "turn": 1 + i % 6, "mode": mode}
    return {**told, "source": "model", "strength": None if i % 2 else 3}


def whole(store: Store, reply: str = "After.", prompt: str = "Ask?", mode: str = "helpful") -> Run:
    """A run that was promoted, with everything a run leaves behind."""
    run, folder = begin(store)
    store.add_metrics(run.id, readings())
    candidate = folder.snapshot_id
    measured = [
        Measurement("pm_accuracy", 0.8, 0.7, 0.9, 100),
        Measurement("score_gain", 1.0, 0.5, 1.5, 40, "sd"),
        Measurement("gauge_gain_a", 0.9, float("-inf"), float("inf"), 1, "sd"),
        Measurement("length", 36.0, 34.0, 38.0, 40, "tokens"),
        Measurement("length_incumbent", 28.0, 26.0, 30.0, 40, "tokens"),
        Measurement("repetition", float("nan")),
    ]
    rows: list[dict[str, object]] = [
        {
            "prompt": prompt,
            "score": i / 7 + 1,
            "score_incumbent": i / 9,
            "length": float(30 + i),
            "length_incumbent": float(20 + i),
        }
        for i in range(40)
    ]
    scores = tuple(i / 5 for i in range(17))
    judged = Judged(
        measured,
        [SampleReport(prompt, "Before.", reply)],
        rows,
        [Typical(prompt, "Was.", reply, scores, tuple(s + 1 for s in scores))],
        [pair("cross", i, mode) for i in range(100)] + [pair("heldout", i) for i in range(30)],
        {"kl": [i / 10 for i in range(40)], "tokens": [30] * 40},
    )
    report = Report(candidate, "base", {m.name: m for m in measured})
    folder.keep_report(report, Verdict(True, ("it is <b>better</b>",)), judged)
    info: dict[str, Any] = {
        "reasons": ["kept in the row"],
        "measurements": {"pm_accuracy": {"name": "pm_accuracy", "value": 0.8}},
    }
    store.add_snapshot(Snapshot(candidate, candidate, run.id, "base", "fake@1", info=info))
    store.promote(candidate, run=run.id, reason="better")
    return store.finish_run(run.id, "promoted", reason="it is <b>better</b>", snapshot=candidate)


def drawing(text: str, name: str) -> str:
    """A drawing of the page, with its legend."""
    [found] = re.findall(rf'aria-label="{re.escape(name)}">(.*?)(?=<h[23]>|</section>)', text, re.S)
    return str(found)


def legend(drawn: str) -> list[str]:
    """The names under a drawing, in the order of their tones."""
    return re.findall(r"</svg>([^<]+)</span>", drawn)


def bars(drawn: str) -> dict[str, list[tuple[int, float]]]:
    """The bars of a histogram by whose they are: how many replies, from where.

    A bar has the tone that the legend gives its name."""
    found: dict[str, list[tuple[int, float]]] = {}
    told = r'<rect class="f(\d)"[^>]*><title>(\w+): (\d+) from (\S+) to'
    for tone, name, n, start in re.findall(told, drawn):
        assert (legend(drawn) or [name])[int(tone)] == name
        found.setdefault(name, []).append((int(n), float(start)))
    return found


def test_lengths_before_and_after_are_not_taken_for_one_another(store: Store) -> None:
    found = bars(drawing(page(gather(store, whole(store))), "Length"))  # 20 to 59, and 30 to 69
    assert {name: sum(n for n, _ in one) for name, one in found.items()} == {
        "after": 40,
        "before": 40,
    }
    first = {name: min(start for _, start in one) for name, one in found.items()}
    last = {name: max(start for _, start in one) for name, one in found.items()}
    assert first["after"] - first["before"] > 6
    assert last["after"] - last["before"] > 6


def test_the_kl_drawn_is_that_of_the_new_replies(store: Store) -> None:
    found = bars(drawing(page(gather(store, whole(store))), "KL reply by reply"))
    assert set(found) == {"after"}
    assert sum(n for n, _ in found["after"]) == 40
    assert min(start for _, start in found["after"]) == 0
    assert 3 < max(start for _, start in found["after"]) < 3.9  # nats, and not 30 tokens


def test_the_median_reply_before_stands_under_before(store: Store) -> None:
    text = page(gather(store, whole(store)))
    sides = re.findall(
        r'<div class="(was|is)"><div class="note">(\w+)</div><div class="said">(.*?)</div>', text
    )
    assert sides == [("was", "before", "Was."), ("is", "after", "After.")]
    marks = re.findall(
        r'class="dot f(\d)"[^>]* r="6"><title>(.*?)</title>',
        drawing(text, "Scores of the 17 replies"),
    )
    assert marks == [("0", "after: 2.6"), ("1", "before: 1.6")]  # tones as in the histograms


def test_each_gauge_has_its_own_line(store: Store) -> None:
    drawn = drawing(page(gather(store, whole(store))), "Score and gauges")
    assert legend(drawn) == ["score", "gauge_a", "gauge_b"]
    lines = re.findall(r'<polyline class="line t(\d)"[^>]* points="([^"]*)"', drawn)
    assert [tone for tone, _ in lines] == ["0", "1", "2"]
    assert len({points for _, points in lines}) == 3
    assert all(len(points.split()) == 30 for _, points in lines)
    ends = [float(points.rpartition(",")[2]) for _, points in lines]
    assert ends == sorted(ends)  # y grows downwards: the score ends highest, gauge_b lowest


def test_the_gate_table_has_the_incumbents_own_numbers(store: Store) -> None:
    text = page(gather(store, whole(store)))
    table = text[text.index("What the gate saw") :]
    head = re.findall(r"<th(?: [^>]*)?>(.*?)</th>", table)
    assert head == ["measurement", "value", "95% interval", "n", "unit", "incumbent"]
    rows = [
        re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(<td.*?)</tr>", table)
    ]
    assert ["length", "36", "34 to 38", "40", "tokens", "28"] in rows
    assert ["score_gain", "1", "0.5 to 1.5", "40", "sd", "–"] in rows
    assert not [row for row in rows if row[0] == "length_incumbent"]


def test_a_whole_run_has_every_section(store: Store) -> None:
    text = page(gather(store, whole(store)))
    found = checked(text)
    for title in TITLES:
        assert re.search(rf"<h[23]>{re.escape(title)}</h", text), title
    assert "yes, and it is the assistant now" in found.text
    assert "slope 2 per square root of a nat, intercept 0.5, R² 1.000, 30 updates" in found.text
    assert "it is <b>better</b>" in found.text
    assert "Missing" not in found.text
    assert "prefers-color-scheme: dark" in text
    names = {a["aria-label"] for tag, a in found.tags if tag == "svg" and "aria-label" in a}
    assert len(names) == 16, names
    assert "Was." in found.text
    assert "Before." not in found.text  # one draw a prompt is for runs that kept no medians


def test_accuracy_is_told_apart_by_turn_mode_and_source_with_its_interval(store: Store) -> None:
    found = checked(page(gather(store, whole(store))))
    names = {a["aria-label"] or "" for tag, a in found.tags if tag == "svg" and "aria-label" in a}
    assert {"Reliability of the preference model", "Scores of the 17 replies"} <= names
    for words in (
        "halves, crossed (100)",
        "75% (66% to 82%)",
        "full, held out (30)",
        "73% (56% to 86%)",
        "turn 1 (17)",
        "turn 4 and later (49)",
        "helpful (100)",
        "source model (100)",
        "strength 3 (50)",
    ):
        assert words in found.text, words
    assert "fitted temperature" in found.text


@pytest.mark.parametrize("why", ["12% of the replies do not end", "the gauge is not finite", None])
def test_the_page_says_what_stopped_the_policy(store: Store, why: str | None) -> None:
    run = whole(store)
    folder = RunFolder(run.id)
    folder.out("ppo")
    folder.finish("ppo", StageResult(info={"stop": why, "best_update": 3}))
    text = checked(page(gather(store, run))).text
    assert (f"Stopped early: {why}" in text) == (why is not None)
    assert ("Stopped early" in text) == (why is not None)


def test_a_run_of_an_older_version_shows_what_it_kept_and_says_what_it_did_not(
    store: Store,
) -> None:
    run = whole(store)
    path = RunFolder(run.id).root / "report.json"
    told = json.loads(path.read_text())
    for name in ("schema", "typical", "pairs", "replies"):
        del told[name]
    path.write_text(json.dumps(told))
    found = checked(page(gather(store, run)))
    assert "of an older hhchat" in found.text
    assert "Before." in found.text
    assert "KL reply by reply" not in found.text
    path.write_text(json.dumps(told | {"schema": 99}))
    assert "newer hhchat" in checked(page(gather(store, run))).text


def test_a_resumed_run_names_the_assistant_that_it_was_compared_with(store: Store) -> None:
    run = whole(store)
    path = RunFolder(run.id).root / "report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"incumbent": "s-since"}))
    assert re.search(r"compared with\s*s-since", checked(page(gather(store, run))).text)


def test_hostile_text_is_shown_and_does_nothing(store: Store) -> None:
    run = whole(store, reply=HOSTILE, prompt=HOSTILE, mode=HOSTILE)
    store.add_metrics(run.id, [Metric("<i>stage", s, "score", 1.0 * s) for s in range(3)])
    store.add_metrics(run.id, [Metric("<i>stage", s, "kl", 1.0 * s) for s in range(3)])
    run = store.finish_run(run.id, "failed", reason=HOSTILE)
    text = page(gather(store, run))
    found = checked(text)
    assert found.text.count("<script>alert(1)</script>") == 5
    for character in "\x1b\u202e\u200b":
        assert character not in text
    assert "\\x1b[31m\\u202etxt" in text


def test_a_run_that_left_nothing_says_so(store: Store) -> None:
    run = store.start_run(("pm", "ppo"), 0, "fake@1", {})
    found = checked(page(gather(store, run)))
    assert "the run has logged no readings" in found.text
    assert "report.json is not there" in found.text
    assert "not yet decided" in found.text
    assert "Policy" not in found.text
    assert not [tag for tag, _ in found.tags if tag == "svg"]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "[" * 100_000,
        '{"measurements": {}, "rows": 3, "samples": [3], "reasons": "no"}',
        '{"measurements": [{"name": 3}, 4, {"name": "x_gain", "value": "y"}], "rows": [[1]]}',
        '{"rows": [{"score": true, "length": null}, {"score": NaN}], "samples": [{"after": null}]}',
        '{"measurements": [{"name": "a_gain", "value": 1' + "0" * 400 + ', "n": []}]}',
        '{"schema": "x", "typical": [3, {"scores_after": 3, "scores_before": ["y", NaN, 1e999]}]}',
        '{"pairs": [1, {"gap": "x"}, {"gap": 1e999}, {"gap": 0.0, "turn": {}, "mode": []}]}',
        '{"schema": -1, "replies": {"kl": [null, "x", 1e400, -3], "tokens": 4}}',
        '{"replies": [1], "pairs": {"gap": 3}, "typical": 1}',
    ],
    ids=range(11),
)
def test_a_damaged_report_does_not_stop_the_page(store: Store, text: str) -> None:
    run, folder = begin(store)
    (folder.root / "report.json").write_text(text)
    (folder.root / "metrics.jsonl").write_text('["ppo", 0, "kl", 1.0]\n["ppo", "x", 1, []]\n5\n')
    found = checked(page(gather(store, run)))
    assert "KL from the reference" in found.text


def test_without_a_report_the_snapshot_still_knows_the_verdict(store: Store) -> None:
    run = whole(store)
    (RunFolder(run.id).root / "report.json").unlink()
    found = checked(page(gather(store, run)))
    assert "kept in the row" in found.text
    assert "Accuracy on unseen picks" in found.text
    assert "Before and after" not in found.text


def test_a_killed_run_still_says_how_well_it_predicts_the_picks(store: Store) -> None:
    run, folder = begin(store)
    accuracies = {"pm_accuracy": 0.81, "pm_cross_accuracy": 0.74}
    store.add_metrics(run.id, [Metric("pm", 9, name, v) for name, v in accuracies.items()])
    text = checked(page(gather(store, run))).text
    assert "predicts your picks74%of unseen picks" in text
    assert "What the gate saw" not in text
    # the finished stage also knows of how many picks, and with what interval
    measured = [Measurement(name, v, v - 0.1, v + 0.1, 50) for name, v in accuracies.items()]
    folder.out("pm")
    folder.finish("pm", StageResult(measured))
    text = checked(page(gather(store, run))).text
    assert "predicts your picks74%of 50 unseen picks, 64% to 84%" in text


def test_the_journal_adds_what_the_database_lacks_and_changes_nothing(store: Store) -> None:
    run, folder = begin(store)
    store.add_metrics(run.id, [Metric("ppo", 0, "kl", 1.0)])
    lines = [["ppo", 0, "kl", 9.0], ["ppo", 1, "kl", 2.0]]
    folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert gather(store, run).stages["ppo"]["kl"] == [(0.0, 1.0), (1.0, 2.0)]


def test_the_command_writes_the_latest_run_into_its_folder(
    store: Store, run: Callable[..., Any], tmp_path: Path
) -> None:
    trained = whole(store)
    store.close()
    target = RunFolder(trained.id).root / "report.html"
    assert run("report").ok().out.strip() == str(target)
    assert target.stat().st_mode & 0o077 == 0
    checked(target.read_text(encoding="utf-8"))
    other = tmp_path / "page.html"
    done = run("report", trained.id[:-2], "--output", other, "--json").ok()
    assert done.lines == [{"run": trained.id, "path": str(other)}]
    assert other.read_bytes() == target.read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"home", "page.html"}
    assert run("report", "--output", tmp_path).code == 2
    assert run("report", "--output", tmp_path / "no" / "page.html").code == 2
    assert run("report", "nosuchrun").code == 2


def test_open_shows_the_file(
    store: Store, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: bool(shown.append(url)))
    trained = whole(store)
    done = run("report", "--open").ok()
    assert shown == [(RunFolder(trained.id).root / "report.html").as_uri()]
    assert "no browser" in done.err


def test_without_runs_it_says_what_makes_one(run: Callable[..., Any]) -> None:
    done = run("report")
    assert done.code == 2
    assert "hhchat train" in done.err
