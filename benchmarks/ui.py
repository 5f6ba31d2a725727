"""How fast hhchat is to the touch: start-up, first paint, picks, lists, keys, first token."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import peers, terminal
from benchmarks.common import (
    Bar,
    Report,
    bars_table,
    chosen,
    hhchat_command,
    median,
    parser,
    percentile,
    report_of,
    run_command,
    table,
)

PARTS = ("start", "paint", "pick", "lists", "keys", "history")


def main(arguments: Sequence[str] | None = None) -> int:
    made = parser("ui", __doc__ or "")
    made.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    made.add_argument("--rows", type=int, default=1_000_000, help="comparisons in the database")
    made.add_argument("--conversations", type=int, default=100_000)
    made.add_argument("--rounds", type=int, default=9, help="starts of each command and app")
    made.add_argument("--picks", type=int, default=300, help="picks to commit")
    made.add_argument("--keystrokes", type=int, default=300, help="keys typed while panes stream")
    made.add_argument("--shape", default="starter", help="model of `history`: starter, 5m, 60m")
    options = made.parse_args(arguments)
    parts = chosen(options.parts, PARTS, "part")
    if options.smoke:
        options.rows, options.conversations, options.rounds = 200, 50, 1
        options.picks, options.keystrokes = 10, 10
    report = report_of("ui", options)
    for part in parts:
        RUNS[part](options, report)
        report.save()
    return 0


def show(report: Report, part: str, rows: Mapping[str, Mapping[str, float]], unit: str) -> None:
    report.data[part] = {name: dict(r) for name, r in rows.items()}
    heads = list(dict.fromkeys(key for r in rows.values() for key in r))
    report.say(f"\n## {part} ({unit})\n")
    body = [[name, *(r.get(h) for h in heads)] for name, r in rows.items()]
    report.say(table(("what", *heads), body) + "\n")


# -- start-up: commands that load no model


def run_start(options: Any, report: Report) -> None:
    with tempfile.TemporaryDirectory(prefix="hhchat-ui-") as home:
        env = {**os.environ, "HHCHAT_HOME": home}
        commands: dict[str, list[str]] = {
            "hhchat --help": [*hhchat_command(), "--help"],
            "hhchat plugins": [*hhchat_command(), "plugins"],
            "hhchat prefs stats": [*hhchat_command(), "prefs", "stats"],
        }
        llm = llm_command()
        if llm is None:
            report.note("llm is not installed: nothing to compare `hhchat --help` with")
        else:
            commands["llm --help"] = llm
            env["PYTHONPATH"] = os.pathsep.join(map(str, peers.peer_paths()))
            env["LLM_USER_PATH"] = home
        found: dict[str, list[float]] = {name: [] for name in commands}
        cpu: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(options.rounds + 1):
            for name, command in commands.items():
                done = run_command(command, env)
                if done.code:
                    report.note(f"{name} ended with {done.code}: {done.err.strip()[-200:]}")
                elif turn:  # the first fills the disk's cache
                    found[name].append(1000 * done.wall)
                    cpu[name].append(1000 * done.cpu)
    rows = {
        name: {"wall": median(found[name]), "CPU": median(cpu[name])}
        for name in commands
        if found[name]
    }
    show(report, "start", rows, "milliseconds, median")

    def against(name: str) -> float | None:
        if name not in rows or "llm --help" not in rows:
            return None
        return rows[name]["CPU"] / rows["llm --help"]["CPU"]

    limits = {"hhchat --help": 0.4, "hhchat plugins": 0.6, "hhchat prefs stats": 0.6}
    bars = [
        Bar(f"{name} over llm --help", against(name), most, at_most=True)
        for name, most in limits.items()
    ]
    report.say(bars_table(bars))


def llm_command() -> list[str] | None:
    """What runs the peer `llm`, where it is installed."""
    script = Path(sys.executable).with_name("llm")
    if script.is_file():
        return [str(script), "--help"]
    if peers.has("llm"):
        return [sys.executable, "-c", "from llm.cli import cli; cli(['--help'])"]
    found = shutil.which("llm")
    return None if found is None else [found, "--help"]


# -- first paint, in a pseudo-terminal


def run_paint(options: Any, report: Report) -> None:
    from benchmarks.synthetic import database

    rows: dict[str, dict[str, float]] = {}
    source = database(options.rows, options.conversations)
    with tempfile.TemporaryDirectory(prefix="hhchat-ui-", dir=source.parent) as folder:
        full_home = Path(folder) / "home"
        full_home.mkdir()
        full = full_home / "hhchat.db"
        shutil.copy(source, full)
        apps: dict[str, tuple[tuple[str, ...], Path | None]] = {
            "empty Textual app": (("empty",), None),
            "hhchat, new": (("chat", str(Path(folder) / "new.db")), None),
            "hhchat, full database": (("chat", str(full)), None),
            "the command `hhchat chat`, full": (("chat",), full_home),
        }
        found: dict[str, list[terminal.Paint]] = {name: [] for name in apps}
        for turn in range(options.rounds + 1):
            for name, (words, home) in apps.items():
                paint = terminal.first_paint(words, home)
                if turn:
                    found[name].append(paint)
    for name, paints in found.items():
        rows[name] = {
            "ready to type": median([1000 * p.ready for p in paints]),
            "first key echoed": median([1000 * p.echo for p in paints]),
        }
    show(report, "paint", rows, "milliseconds from start to screen, median; the model still loads")
    empty = rows["empty Textual app"]["ready to type"]
    new, old = (rows[f"hhchat, {n}"]["ready to type"] for n in ("new", "full database"))
    command = rows["the command `hhchat chat`, full"]["ready to type"]
    report.say(
        bars_table(
            [
                Bar("first paint over an empty Textual app", new / empty, 2.5, at_most=True),
                Bar("the command over an empty Textual app", command / empty, 2.5, at_most=True),
                Bar("full database over a new one", old / new, 1.1, at_most=True),
            ]
        )
    )


# -- the store under a long history


def run_pick(options: Any, report: Report) -> None:
    """A pick as the chat commits it: the replies are kept, then the comparison with its turn."""
    from benchmarks.synthetic import database
    from hhchat.store import Store
    from hhchat.types import Comparison, Generation

    source = database(options.rows, options.conversations)
    with tempfile.TemporaryDirectory(prefix="hhchat-ui-", dir=source.parent) as folder:
        path = Path(folder) / "hhchat.db"
        shutil.copy(source, path)
        spent: list[float] = []
        cpu: list[float] = []
        flushed: list[float] = []
        with Store(path) as store, (Path(folder) / "flushed").open("wb", buffering=0) as other:
            for i in range(options.picks):
                _, turn = store.start_conversation(f"how do I measure a pick, number {i}?")
                texts = (f"like this, the {i}th time", "by writing down when it began and ended")
                one, two = store.keep_generations(turn.id, [Generation(t) for t in texts])
                pick = Comparison((), (one, two), picked=0, preferred=0, position=2, strength=3)
                start, used = time.perf_counter(), time.thread_time()
                store.record(pick, turn.id)
                spent.append(1000 * (time.perf_counter() - start))
                cpu.append(1000 * (time.thread_time() - used))
                # beside it, what the disk alone takes to keep as much: no commit can be faster
                start = time.perf_counter()
                other.write(bytes(40_960))
                os.fsync(other.fileno())
                flushed.append(1000 * (time.perf_counter() - start))
    rows = {
        name: {"p50": median(v), "p99": percentile(v, 0.99), "most": max(v)}
        for name, v in (
            (f"commit at {options.rows:,} comparisons", spent),
            ("of it, CPU", cpu),
            ("40 KiB written and flushed, alone", flushed),
        )
    }
    show(report, "pick", rows, "milliseconds")
    most = percentile(spent, 0.99)
    report.say(bars_table([Bar("pick committed, p99", most, 5.0, at_most=True, unit=" ms")]))


def run_lists(options: Any, report: Report) -> None:
    from benchmarks.synthetic import database
    from hhchat.store import Store

    source = database(options.rows, options.conversations)
    with tempfile.TemporaryDirectory(prefix="hhchat-ui-", dir=source.parent) as folder:
        path = Path(folder) / "hhchat.db"
        shutil.copy(source, path)
        asked: dict[str, Callable[[Store], Any]] = {
            "first page": lambda store: store.conversations(limit=50),
            "tenth page": lambda store: store.conversations(limit=50, offset=450),
            "a common word": lambda store: store.conversations("water", limit=50),
            "two words": lambda store: store.conversations("small water", limit=50),
            "a beginning": lambda store: store.conversations("wa", limit=50),
            "a rare word": lambda store: store.conversations(str(options.conversations - 3)),
            "not there": lambda store: store.conversations("xylophone", limit=50),
            "stats": lambda store: store.stats(),
        }
        rows: dict[str, dict[str, float]] = {}
        for name, ask in asked.items():
            # each has its own first time: a new connection, and the file not in memory
            cold: list[float] = []
            for _ in range(3):
                forget(path)
                with Store(path) as store:
                    cold.append(timed(lambda: ask(store)))  # noqa: B023
            spent = []
            with Store(path) as store:
                spent = [timed(lambda: ask(store)) for _ in range(max(3, options.rounds))]  # noqa: B023
            rows[name] = {
                "from the disk": median(cold),
                "first": spent[0],
                "median": median(spent),
                "most": max(spent),
            }
    show(report, "lists", rows, "milliseconds")
    what = f"list and search at {options.conversations:,} conversations"
    bars = [
        Bar(
            f"{what}, {when}",
            max(r[key] for n, r in rows.items() if n != "stats"),
            50.0,
            True,
            " ms",
        )
        for key, when in (("median", "usually"), ("from the disk", "the first time, cold"))
    ]
    report.say(bars_table(bars))


def timed(work: Callable[[], Any]) -> float:
    """Milliseconds it takes."""
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


def forget(path: Path) -> None:
    """Have the system drop what it holds of a file in memory, where it lets us ask for that."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# -- typing while both panes stream


def run_keys(options: Any, report: Report) -> None:
    with tempfile.TemporaryDirectory(prefix="hhchat-ui-") as folder:
        echoes = terminal.key_echo(Path(folder) / "keys.db", options.keystrokes)
        loading = terminal.key_echo(Path(folder) / "load.db", options.keystrokes, loading=True)
    rows = {
        name: {
            "keys": float(len(values)),
            "p50": 1000 * median(values),
            "p99": 1000 * percentile(values, 0.99),
            "most": 1000 * max(values, default=float("nan")),
        }
        for name, values in (("both panes stream", echoes), ("libraries load", loading))
    }
    show(report, "keys", rows, "milliseconds from key to screen")
    stream, load = rows["both panes stream"]["p99"], rows["libraries load"]["most"]
    report.say(
        bars_table(
            [
                Bar("key to screen while streaming, p99", stream, 50, at_most=True, unit=" ms"),
                Bar("longest wait while it loads", load, 200, at_most=True, unit=" ms"),
            ]
        )
    )


# -- the first token against the length of the history


def run_history(options: Any, report: Report) -> None:
    from benchmarks import first_token as ft

    found = ft.first_token(options.shape, 1 if options.smoke else options.rounds)
    rows = {f"{tokens} tokens before": at for tokens, at in sorted(found.items())}
    show(report, "history", rows, f"CPU milliseconds to the first token, {options.shape}")
    report.say(ft.text_plot(found) + "\n")
    if report.out is not None:
        ft.draw(found, report.out.with_name(f"{report.out.stem}-history.svg"))
    ends = [found[min(found)], found[max(found)]]
    kept, anew = (ends[1][name] - ends[0][name] for name in (ft.WITH, ft.WITHOUT))
    report.say(
        f"The longest history takes {ends[1][ft.WITH] / ends[0][ft.WITH]:.2f} times the shortest:"
        " the new tokens look at every older one, and the cache is copied.\n"
    )
    what = "growth with the history, over reading it anew"
    report.say(bars_table([Bar(what, kept / anew, 0.1, at_most=True)]))


RUNS = {
    "start": run_start,
    "paint": run_paint,
    "pick": run_pick,
    "lists": run_lists,
    "keys": run_keys,
    "history": run_history,
}

if __name__ == "__main__":
    raise SystemExit(main())
