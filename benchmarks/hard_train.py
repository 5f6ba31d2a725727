"""SIGKILL at random points of `hhchat train`, resumed each time: the same run, bit for bit.

One run is left alone. Others, from a copy of the same home, are killed again and again and go on
with `hhchat train --resume`; their metrics and adapters must be those of the first, byte by byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, Report, hhchat_command, table

PATIENCE = 600.0  # seconds for a run that is left alone
ENDED = (0, 3)  # promoted, refused
SETTINGS = """
[chat]
max_new_tokens = 64
[train]
eval_prompts = 12
[pm]
epochs = 2
[ppo]
updates = {updates}
batch = 16
evaluate = 32
"""


@dataclass
class Attempt:
    """One process: how it ended, and the stage that it was in."""

    code: int | None  # None: killed
    stage: str = "loading"
    span: float = 0.0  # seconds from the start of the run to the end of the process
    words: list[str] = field(default_factory=list)


def attempt(home: Path, resume: bool, after: float | None) -> Attempt:
    """Run `hhchat train`, killed `after` seconds of training; None: left alone."""
    command = [*hhchat_command(), "train", "--json", *(["--resume"] if resume else [])]
    env = {**os.environ, "HHCHAT_HOME": str(home), "HHCHAT_CONFIG": str(home / "config.toml")}
    made = Attempt(None)
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, bufsize=0, env=env)
        assert child.stdout is not None
        os.set_blocking(child.stdout.fileno(), False)
        began: float | None = None
        rest, end = b"", time.monotonic() + PATIENCE
        while True:
            piece = child.stdout.read(1 << 16)
            if piece:
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["event"] == "run":
                        began = time.monotonic()
                    made.stage = event["stage"] or made.stage
                    made.words = [*made.words[-4:], str(event.get("text", ""))]
            elif piece == b"":  # it has closed its output: it ends by itself
                made.code = child.wait()
                break
            now = time.monotonic()
            if (after is not None and began is not None and now - began >= after) or now > end:
                child.kill()
                child.wait()
                break
            time.sleep(0.002)
        made.span = time.monotonic() - began if began is not None else 0.0
        if made.code not in (None, *ENDED):
            errors.seek(0)
            made.words += errors.read().splitlines()[-3:]
    return made


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: everything that must be equal."""

    metrics: dict[tuple[str, int, str], float | None]
    files: dict[str, str]  # path in the snapshot -> sha256, weights and stage records
    state: str
    integrity: str

    def unlike(self, other: Outcome) -> list[str]:
        found = []
        for what in ("metrics", "files"):
            mine, theirs = getattr(self, what), getattr(other, what)
            keys = [k for k in {**mine, **theirs} if mine.get(k, "none") != theirs.get(k, "none")]
            if keys:
                found.append(f"{len(keys)} of {len(mine)} {what} differ, such as {keys[0]}")
        if self.state != other.state:
            found.append(f"it ended {other.state}, the one left alone {self.state}")
        if other.integrity != "ok":
            found.append(f"integrity: {other.integrity}")
        return found


def outcome(home: Path) -> Outcome:
    with closing(sqlite3.connect(home / "hhchat.db")) as conn:
        integrity = conn.execute("PRAGMA integrity_check").fetchone()[0]
        latest = conn.execute("SELECT id, state FROM run ORDER BY id DESC LIMIT 1").fetchone()
        if latest is None:
            return Outcome({}, {}, "not begun", integrity)
        id, state = latest
        rows = conn.execute("SELECT stage, step, name, value FROM metric WHERE run = ?", [id])
        metrics = {(stage, step, name): value for stage, step, name, value in rows}
    folder = home / "snapshots" / f"s-{id}"
    kept = sorted(p for p in folder.rglob("*") if p.suffix == ".safetensors")
    files = {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in kept
    }
    return Outcome(metrics, files, state, integrity)


def run_kills(options: Any, report: Report) -> list[str]:
    """Killed runs until there are enough kills; what went wrong, in words."""
    rng = random.Random(options.seed)
    wrong: list[str] = []
    kills: list[str] = []  # the stage of each
    runs = 0
    code = edited()
    with tempfile.TemporaryDirectory(prefix="hhchat-hard-") as folder:
        start = prepared(Path(folder) / "start", options)
        whole = Path(folder) / "whole"
        shutil.copytree(start, whole)
        alone = attempt(whole, False, None)
        if alone.code not in ENDED:
            return [f"the run left alone ended with {alone.code}: {'; '.join(alone.words)}"]
        expected = outcome(whole)
        print(f"left alone: {alone.span:.0f} s, {expected.state}", flush=True)
        while sum(stage in ("pm", "ppo") for stage in kills) < options.train_kills:
            runs += 1
            home = Path(folder) / f"killed-{runs}"
            shutil.copytree(start, home)
            wrong += killed(home, alone.span, rng, kills, options.train_kills)
            unlike = expected.unlike(outcome(home))
            wrong += [f"killed run {runs}: {x}" for x in unlike]
            shutil.rmtree(home)
            told = "not equal" if unlike else "equal"
            print(f"killed run {runs}: {told}, {len(kills)} kills so far", flush=True)
            if len(wrong) > 20:
                break
    if edited() != code:
        report.note("the code was edited meanwhile: runs of different code need not be equal")
    by = {stage: kills.count(stage) for stage in dict.fromkeys([*("pm", "ppo", "gate"), *kills])}
    report.data["train"] = {"kills": by, "runs": runs, "metrics": len(expected.metrics)}
    report.say("\n## train: killed at random points, resumed with `hhchat train --resume`\n")
    heads = (*(f"kills in {s}" for s in by), "runs", "metrics", "weight files", "unequal runs")
    unequal = len({x.partition(":")[0] for x in wrong if x.startswith("killed run")})
    row = [*by.values(), runs, len(expected.metrics), len(expected.files), unequal]
    report.say(table(heads, [row]) + "\n")
    return wrong


def edited() -> float:
    """When the code that trains was last edited."""
    files = [f for folder in ("hhchat", "trainers") for f in (ROOT / folder).rglob("*.py")]
    return max(f.stat().st_mtime for f in files)


def killed(home: Path, span: float, rng: random.Random, kills: list[str], wanted: int) -> list[str]:
    """One run, killed until it ends by itself or there have been enough kills."""
    resume = False
    while True:
        enough = sum(stage in ("pm", "ppo") for stage in kills) >= wanted
        made = attempt(home, resume, None if enough else rng.uniform(0.01, 0.4) * span)
        if made.code is None:
            if enough:
                return [f"a resumed run was not through in {PATIENCE:.0f} s"]
            kills.append(made.stage)
            if outcome(home).state in ("promoted", "refused"):  # its last act was done already
                return []
        elif made.code in ENDED:
            return []
        else:
            return [f"killed in {kills[-1:]}, it ended with {made.code}: {'; '.join(made.words)}"]
        resume = True


def prepared(home: Path, options: Any) -> Path:
    """A home with simulated picks and the settings of a short real run on the starter."""
    home.mkdir()
    picks, updates = (60, 3) if options.smoke else (100, 12)
    (home / "config.toml").write_text(SETTINGS.format(updates=updates))
    env = {**os.environ, "HHCHAT_HOME": str(home), "HHCHAT_CONFIG": str(home / "config.toml")}
    told = [*hhchat_command(), "simulate", "--user", "helpful", "--picks", str(picks)]
    subprocess.run(told, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return home
