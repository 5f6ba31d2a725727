"""Shared by the benchmarks: time and memory, the machine, contestants in turn, tables, results."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
LIBRARIES = ("hhchat", "torch", "transformers", "peft", "bitsandbytes", "textual")


def cache() -> Path:
    """Where prepared inputs live: BENCH_CACHE, else ~/.cache/hhchat-bench."""
    named = os.environ.get("BENCH_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "hhchat-bench"


# -- time and memory


@dataclass
class Clock:
    """Wall and process CPU seconds of one block; CPU is what contestants are compared by."""

    wall: float = 0.0
    cpu: float = 0.0


def now() -> tuple[float, float]:
    """(CPU, wall) seconds, once a GPU that this process uses has done what it was given."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.process_time(), time.perf_counter()


@contextmanager
def clock() -> Iterator[Clock]:
    read, (cpu, wall) = Clock(), now()
    yield read
    ended = now()
    read.cpu, read.wall = ended[0] - cpu, ended[1] - wall


def resident(field_name: str = "VmHWM") -> float:
    """MiB resident in this process: the peak (VmHWM) or now (VmRSS); 0 where it is not told."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{field_name}:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else float("nan")


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the readings do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


@dataclass
class Ran:
    """A command that ended: what it printed and what it cost, children included."""

    code: int
    out: str
    err: str
    wall: float
    cpu: float


def run_command(
    command: Sequence[str], env: Mapping[str, str] | None = None, text: str | None = None
) -> Ran:
    """Run it to its end; CPU time is that of the whole process tree it waited for."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(
        list(command), input=text, capture_output=True, text=True, env=env or dict(os.environ)
    )
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Ran(done.returncode, done.stdout, done.stderr, wall, cpu)


def hhchat_command() -> list[str]:
    """What runs hhchat here: the script that is installed beside this Python."""
    script = Path(sys.executable).with_name("hhchat")
    if script.is_file():
        return [str(script)]
    return [sys.executable, "-c", "import sys; from hhchat.cli import main; sys.exit(main())"]


# -- the machine


def cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.split(":", 1)[1].split())
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions(names: Sequence[str] = LIBRARIES) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """What a reader needs to compare: CPU, cores, its fast instructions, the load at the start."""
    flags = ""
    with suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text()
    fast = [f for f in ("avx512_bf16", "amx_bf16", "avx512_vnni") if re.search(rf"\b{f}\b", flags)]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "cores": cores(),
        "instructions": fast,
        "load": load,
        "versions": versions(),
    }


# -- tables and results


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table that also reads well on a terminal."""
    cells = [[shown(c) for c in row] for row in rows]
    widths = [max([len(h), *(len(r[i]) for r in cells)]) for i, h in enumerate(headers)]

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"

    rule = "| " + " | ".join("-" * w for w in widths) + " |"
    return "\n".join([line(list(headers)), rule, *map(line, cells)])


def shown(value: Any) -> str:
    """A cell: three significant digits, a dash for what was not measured."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if value != value:
            return "-"
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


@dataclass(frozen=True)
class Bar:
    """A figure beside the least (or most) it should be."""

    what: str
    value: float | None
    bar: float
    at_most: bool = False
    unit: str = "x"

    @property
    def met(self) -> bool | None:
        if self.value is None or self.value != self.value:
            return None
        return self.value <= self.bar if self.at_most else self.value >= self.bar

    def row(self) -> list[Any]:
        sign = "<=" if self.at_most else ">="
        verdict = {True: "met", False: "NOT met", None: "not measured"}[self.met]
        value = None if self.value is None else f"{shown(float(self.value))}{self.unit}"
        return [self.what, value, f"{sign} {self.bar:g}{self.unit}", verdict]


def bars_table(bars: Sequence[Bar]) -> str:
    return table(("bar", "measured", "wanted", ""), [b.row() for b in bars])


@dataclass
class Report:
    """One benchmark's results as they grow: printed, and kept as JSON and a short Markdown."""

    name: str
    settings: Mapping[str, Any]
    out: Path | None
    data: dict[str, Any] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    started: dict[str, Any] = field(default_factory=machine)

    def say(self, text: str = "") -> None:
        self.texts.append(text)
        print(text, flush=True)

    def note(self, text: str) -> None:
        """Something a reader of the figures must know, such as a contestant that is missing."""
        self.notes.append(text)
        print(f"note: {text}", flush=True)

    def save(self) -> None:
        """Write what there is; called after every piece, so that a stopped run keeps its own."""
        if self.out is None:
            return
        content = {
            "benchmark": self.name,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": command_line(),
            "machine": self.started,
            "settings": dict(self.settings),
            "notes": self.notes,
            "results": self.data,
        }
        self.out.parent.mkdir(parents=True, exist_ok=True)
        replace_text(self.out, json.dumps(content, indent=1, default=str) + "\n")
        replace_text(self.out.with_suffix(".md"), self._markdown(content))

    def _markdown(self, content: Mapping[str, Any]) -> str:
        info = content["machine"]
        built = ", ".join(f"{k} {v}" for k, v in info["versions"].items())
        fast = ", ".join(info["instructions"]) or "none of the fast ones"
        head = [
            f"# {self.name}, {str(content['date'])[:10]}",
            "",
            f"- command: `{content['command']}`",
            f"- machine: {info['cpu']}, {info['cores']} cores ({fast}), {info['system']};"
            f" load average at the start {shown(info['load'])}",
            f"- versions: {built}",
            *(f"- note: {n}" for n in self.notes),
            "",
        ]
        return "\n".join([*head, *self.texts]).rstrip() + "\n"


def replace_text(path: Path, text: str) -> None:
    aside = path.with_name(path.name + ".new")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def command_line() -> str:
    """The command as a reader would type it, without this machine's paths."""
    name = Path(sys.argv[0]).stem
    words = [Path(w).name if Path(w).is_absolute() else w for w in sys.argv[1:]]
    return " ".join(["python -m", f"benchmarks.{name}", *words])


def parser(name: str, about: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    made.add_argument(
        "--out",
        metavar="FILE",
        help=f"JSON file (a .md goes beside it); default benchmarks/results/{name}-DATE.json, "
        "none with --smoke; '-' for none",
    )
    made.add_argument("--smoke", action="store_true", help="tiny sizes: does it run at all")
    return made


def report_of(name: str, options: argparse.Namespace) -> Report:
    """A report for parsed options; says so when the machine is too busy to be believed."""
    if options.out == "-" or (options.out is None and options.smoke):
        out = None
    elif options.out is None:
        out = RESULTS / f"{name}-{datetime.now(UTC):%Y-%m-%d}.json"
    else:
        out = Path(options.out)
    settings = {k: v for k, v in vars(options).items() if k != "out"}
    report = Report(name, settings, out)
    load = report.started["load"]
    if options.smoke:
        report.note("a smoke run: the figures mean nothing")
    elif load is not None and load > 0.5 * cores():
        report.note(f"the machine was busy (load {load:.1f} on {cores()} cores): trust CPU times")
    return report


def chosen(names: str, known: Sequence[str], what: str) -> list[str]:
    """A comma-separated choice; exits with the names there are when one is unknown."""
    wanted = [n.strip() for n in names.split(",") if n.strip()]
    unknown = [n for n in wanted if n not in known]
    if unknown or not wanted:
        sys.exit(f"unknown {what} {', '.join(unknown)}: choose from {', '.join(known)}")
    return wanted


def timed_rounds(
    work: Mapping[str, Callable[[], Any]], rounds: int, warm: int = 1
) -> dict[str, list[Clock]]:
    """Round-robin in this process, forwards then backwards, so that noise meets all alike."""
    for _ in range(warm):
        for run in work.values():
            run()
    found: dict[str, list[Clock]] = {name: [] for name in work}
    names = list(work)
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else names[::-1]:
            with clock() as read:
                work[name]()
            found[name].append(read)
    return found
