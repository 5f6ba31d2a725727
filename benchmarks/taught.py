"""The whole loop on the starter with simulated users, through the public commands only.

A cell is one taught assistant: `hhchat simulate` picks, `hhchat train` learns, and `hhchat simulate
--judge` asks the user's true taste, each in a data folder of its own. Cells are kept as they
finish, so the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.common import (
    Bar,
    Ran,
    Report,
    bars_table,
    chosen,
    command_line,
    hhchat_command,
    parser,
    report_of,
    run_command,
    table,
)

USERS = ("helpful", "harmless", "brief", "curious")
METHODS = ("ppo", "rloo", "best-of-k", "dpo")  # best-of: the preference model alone
PICKS = (50, 100, 200, 300, 600)


class CommandFailed(Exception):
    """A public command did not end as it should; the message is its own last line."""


class Home:
    """One data folder and the commands run in it."""

    def __init__(self, folder: Path, quantization: str, threads: int | None) -> None:
        self.folder = folder
        self.quantization = quantization
        clean = {k: v for k, v in os.environ.items() if not k.startswith("HHCHAT_")}
        self.env = {**clean, "HHCHAT_HOME": str(folder), "HF_HUB_OFFLINE": "1"}
        if threads is not None:
            self.env |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}

    def run(
        self,
        *words: str,
        allowed: Sequence[int] = (0,),
        text: str | None = None,
        model: bool = True,
    ) -> Ran:
        extra = ["--quantization", self.quantization] if model else []
        done = run_command([*hhchat_command(), *words, *extra], self.env, text)
        if done.code not in allowed:
            lines = done.err.strip().splitlines()  # none when it was killed
            raise CommandFailed(f"hhchat {words[0]}: {lines[-1] if lines else f'exit {done.code}'}")
        return done

    def judge(self, user: str, a: str, b: str, prompts: int) -> dict[str, Any]:
        done = self.run(
            *("simulate", "--user", user, "--judge", a, b, "--prompts", str(prompts), "--json")
        )
        return last_object(done.out)

    def facts(self, snapshot: str) -> float:
        """Share of the starter's fact questions answered right, greedily."""
        from hhchat.starter.prompts import facts

        asked = facts()
        lines = "".join(json.dumps({"prompt": question}) + "\n" for question, _ in asked)
        done = self.run(
            *("sample", "--input", "-", "-n", "1", "--temperature", "0", "--snapshot", snapshot),
            text=lines,
        )
        replies = [json.loads(line)["replies"][0]["text"] for line in done.out.splitlines()]
        right = [
            any(answer.lower() in reply.lower() for answer in accepted)
            for reply, (_, accepted) in zip(replies, asked, strict=True)
        ]
        return sum(right) / len(right)


def last_object(text: str) -> dict[str, Any]:
    """The last JSON object that a command printed."""
    found: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
    return found


def cell(
    home: Home,
    picks: int,
    user: str,
    method: str,
    seed: int,
    options: argparse.Namespace,
    known: dict[str, float],
) -> dict[str, Any]:
    """Teach one assistant and measure it; `known` holds the start's facts. Raises CommandFailed."""
    for words in options.sets:
        home.run("config", "set", *words.split("=", 1), model=False)
    how = ["--candidates", str(options.candidates), "--flip", str(options.flip)]
    simulated = home.run(
        *("simulate", "--user", user, "--picks", str(picks), "--seed", str(seed), *how, "--json")
    )
    # 3: the gate refused the candidate, which is a result like any other
    stages = f"pm,{method}"
    trained = home.run(
        *("train", "--stages", stages, "--seed", str(seed), "--json"), allowed=(0, 3)
    )
    run = run_of(trained.out)
    shown = last_object(home.run("runs", "show", run["id"], "--json", model=False).out)
    readings = metrics_of(shown)
    made: dict[str, Any] = {
        "picks": picks,
        "user": user,
        "method": method,
        "seed": seed,
        "state": run["state"],
        "reason": run.get("reason"),
        "wall": trained.wall,
        "cpu": trained.cpu if options.jobs == 1 else None,  # of all that ran meanwhile
        "picks_wall": simulated.wall,
        "pm_accuracy": readings.get("pm_accuracy"),
        "pm_cross_accuracy": readings.get("pm_cross_accuracy"),
        "kl": readings.get("kl"),
        "length": readings.get("length"),
        "unfinished": readings.get("unfinished"),
    }
    if options.facts and not known:
        known["base"] = home.facts("base")  # greedy, so the same in every cell
    made["facts_before"] = known.get("base")
    # A refused candidate is not the assistant: the user is left with the start, a win rate of 50%.
    served = run.get("snapshot") if run["state"] == "promoted" else None
    made["win_rate"] = 0.5
    made["facts_after"] = made["facts_before"]
    if served:
        verdict = home.judge(user, served, "base", options.prompts)
        made |= {"win_rate": verdict["value"], "win_low": verdict["low"]}
        made |= {"win_high": verdict["high"]}
        if options.facts:
            made["facts_after"] = home.facts(served)
    return made


def run_of(output: str) -> dict[str, Any]:
    """The run's record from the events that `train --json` prints."""
    found: dict[str, Any] | None = None
    for line in output.splitlines():
        event = json.loads(line)
        if event.get("run"):
            found = event["run"]
    if found is None:
        raise CommandFailed("hhchat train named no run")
    return found


def metrics_of(shown: Mapping[str, Any]) -> dict[str, float]:
    """Last readings by name; the gate's, which are on held-out prompts, win over the stages'."""
    found: dict[str, float] = {}
    stages: Mapping[str, Mapping[str, float]] = shown["metrics"]
    for stage in sorted(stages, key=lambda name: name == "gate"):
        found.update(stages[stage])
    return found


def key_of(made: Mapping[str, Any]) -> str:
    return "/".join(str(made[k]) for k in ("picks", "user", "method", "seed"))


def main(arguments: Sequence[str] | None = None) -> int:
    made = parser("taught", __doc__ or "")
    made.add_argument(
        "--picks", default="300", help=f"numbers, such as {','.join(map(str, PICKS))}"
    )
    made.add_argument("--users", default=",".join(USERS), help=f"of {', '.join(USERS)}")
    made.add_argument("--methods", default=",".join(METHODS), help=f"of {', '.join(METHODS)}")
    made.add_argument("--seeds", default="5", help="how many, or a list such as 0,3")
    made.add_argument("--quantization", default="int8", choices=("int8", "none"))
    made.add_argument("--prompts", type=int, default=400, help="held-out prompts of the verdict")
    made.add_argument("--threads", type=int, help="threads of each command; default: all cores")
    made.add_argument("--jobs", type=int, default=1, help="cells at once; times then mean less")
    made.add_argument("--candidates", type=int, default=2, help="show the two of so many replies")
    made.add_argument("--flip", type=float, default=0.0, help="share of picks turned round")
    made.add_argument("--no-facts", dest="facts", action="store_false", help="ask no facts")
    made.add_argument(
        "--set",
        action="append",
        default=[],
        dest="sets",
        metavar="KEY=VALUE",
        help="a setting of every cell, such as ppo.updates=20 (repeatable)",
    )
    made.add_argument("--fresh", action="store_true", help="measure finished cells again")
    made.add_argument(
        "--kept", action="store_true", help="measure nothing: the tables of all cells kept so far"
    )
    made.add_argument("--keep", metavar="FOLDER", help="keep the data folders here")
    options = made.parse_args(arguments)
    users = chosen(options.users, USERS, "user")
    methods = [m.strip() for m in options.methods.split(",")]  # a plugin's trainer is welcome
    if options.smoke:
        users, methods, options.picks, options.seeds = users[:1], methods[:1], "24", "1"
        options.prompts = 8
        options.sets = [
            *("train.min_comparisons=4", "train.eval_prompts=4"),
            *(f"{methods[0]}.{s}" for s in ("updates=1", "batch=4", "evaluate=8")),
        ]
    seeds = (
        [int(s) for s in options.seeds.split(",") if s.strip()]
        if "," in options.seeds
        else list(range(int(options.seeds)))
    )
    report = report_of("taught", options)
    found = {} if options.fresh else earlier(report, options)
    cells: dict[str, dict[str, Any]] = found.get("cells", {})
    commands: list[str] = found.get("commands", [])
    if not options.kept and command_line() not in commands:
        commands.append(command_line())
    remarks = found.get("remarks", [])  # written into the file by whoever kept it
    report.data |= {"cells": cells, "commands": commands, "remarks": remarks}
    if options.kept:
        fill(report, cells, list(cells))
        print("\n".join(report.texts))
        return 0
    wanted = [
        {"picks": n, "user": u, "method": m, "seed": s}
        for s in seeds
        for n in [int(p) for p in options.picks.split(",")]
        for u in users
        for m in methods
    ]
    todo = [w for w in wanted if "error" in cells.get(key_of(w), {"error": ""})]
    known: dict[str, float] = {}
    with ThreadPoolExecutor(options.jobs) as pool:
        running = [pool.submit(taught, place, options, known) for place in todo]
        for number, done in enumerate(as_completed(running), 1):
            made_now = done.result()
            cells[key_of(made_now)] = made_now
            print(f"[{number}/{len(todo)}] {key_of(made_now)}", file=sys.stderr, flush=True)
            fill(report, cells, [key_of(w) for w in wanted])
    fill(report, cells, [key_of(w) for w in wanted])
    print("\n".join(report.texts))
    return 0


def taught(
    place: Mapping[str, Any], options: argparse.Namespace, known: dict[str, float]
) -> dict[str, Any]:
    """One cell in a data folder of its own, or the words of what went wrong."""
    root = Path(options.keep) if options.keep else Path(tempfile.mkdtemp(prefix="hhchat-taught-"))
    folder = root / key_of(place).replace("/", "-") if options.keep else root
    try:
        return cell(
            Home(folder, options.quantization, options.threads),
            **place,
            options=options,
            known=known,
        )
    except CommandFailed as error:
        return {**place, "error": str(error)}
    finally:
        if not options.keep:
            shutil.rmtree(root, ignore_errors=True)


def earlier(report: Report, options: argparse.Namespace) -> dict[str, Any]:
    """What the same command measured before it was stopped: cells and commands."""
    if report.out is None or not report.out.is_file():
        return {}
    content = json.loads(report.out.read_text())
    same = ("quantization", "prompts", "sets", "candidates", "flip", "facts", "threads", "jobs")
    if any(content["settings"].get(k) != getattr(options, k) for k in same):
        sys.exit(f"{report.out.name} holds cells of other settings: give --fresh or another --out")
    found: dict[str, Any] = content["results"]
    return found


def mean(values: Sequence[Any]) -> float | None:
    there = [float(v) for v in values if v is not None]
    return statistics.fmean(there) if there else None


# Two-sided 95% of Student's t by degrees of freedom: a few seeds are a small sample
STUDENT = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}


def interval(values: Sequence[Any]) -> str:
    """Mean and 95% interval over seeds, in percent."""
    there = [100 * float(v) for v in values if v is not None]
    if not there:
        return "-"
    middle = statistics.fmean(there)
    if len(there) < 2:
        return f"{middle:.1f}"
    t = STUDENT.get(len(there) - 1, 1.96)
    half = t * statistics.stdev(there) / len(there) ** 0.5
    return f"{middle:.1f} ± {half:.1f}"


def fill(report: Report, cells: Mapping[str, Mapping[str, Any]], wanted: Sequence[str]) -> None:
    """The table over seeds, the bars beside it; saved."""
    there = [cells[k] for k in wanted if k in cells]
    failed = [c for c in there if "error" in c]
    done = [c for c in there if "error" not in c]
    groups: dict[tuple[int, str, str], list[Mapping[str, Any]]] = {}
    for c in done:
        groups.setdefault((c["picks"], c["user"], c["method"]), []).append(c)
    rows = []
    for (picks, user, method), some in sorted(groups.items()):

        def all_of(name: str, of: Sequence[Mapping[str, Any]] = some) -> list[Any]:
            return [c.get(name) for c in of]

        rates = all_of("win_rate")
        rows.append(
            [
                *(picks, user, method, len(some)),
                sum(c["state"] == "promoted" for c in some),
                interval(all_of("pm_accuracy")),
                interval(rates),
                f"{100 * min(rates):.1f}",
                mean(all_of("kl")),
                mean(all_of("length")),
                mean([None if v is None else 100 * v for v in all_of("unfinished")]),
                interval(all_of("facts_before")),
                interval(all_of("facts_after")),
                mean(all_of("wall")),
                mean(all_of("cpu")),
            ]
        )
    heads = ("picks", "user", "method", "seeds", "promoted", "PM acc. %", "win rate %", "worst")
    more = ("KL", "length", "unfin. %", "facts % before", "after", "train s", "CPU s")
    report.texts = [
        "Mean and 95% interval over seeds. Win rate over the start under the user's true taste;"
        " a refused candidate counts as 50%, for the user keeps the start.\n",
        table((*heads, *more), rows),
        *against_ppo(done),
        "",
        bars_table(bars(done)),
        *(f"\nfailed: {key_of(c)}: {c['error']}" for c in failed),
        "\nMeasured by " + ", then ".join(f"`{c}`" for c in report.data["commands"]),
        *(f"\n{remark}." for remark in report.data["remarks"]),
    ]
    report.save()


def against_ppo(done: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each method's win rate less PPO's on the same picks of the same user and seed."""
    by_key = {key_of(c): c for c in done}
    pairs: dict[tuple[int, str], list[float]] = {}
    for c in done:
        other = by_key.get(key_of({**c, "method": "ppo"}))
        if other is not None and c["method"] != "ppo":
            gap = c["win_rate"] - other["win_rate"]
            pairs.setdefault((c["picks"], c["method"]), []).append(gap)
    if not pairs:
        return []
    rows = [[*key, len(gaps), interval(gaps)] for key, gaps in sorted(pairs.items())]
    said = "\nWin rate less PPO's, in points, on the same picks (users and seeds together).\n"
    return [said, table(("picks", "method", "pairs", "less PPO's"), rows)]


def bars(done: Sequence[Mapping[str, Any]]) -> list[Bar]:
    """The bars for PPO at 300 picks."""
    found = []
    for user in USERS:
        some = [c for c in done if (c["picks"], c["user"], c["method"]) == (300, user, "ppo")]
        rates = [c["win_rate"] for c in some]
        value = None if not rates else 100 * statistics.fmean(rates)
        found.append(Bar(f"{user}: mean win rate, ppo, 300 picks", value, 80.0, unit="%"))
        if user in ("helpful", "harmless"):
            worst = None if not rates else 100 * min(rates)
            found.append(Bar(f"{user}: worst seed", worst, 70.0, unit="%"))
    some = [c for c in done if (c["picks"], c["method"]) == (300, "ppo")]
    kls = [c["kl"] for c in some if c["kl"] is not None]
    walls = [c["wall"] for c in some if c["cpu"] is not None]  # beside others they mean little
    lost = [
        100 * statistics.fmean(c["facts_before"] - c["facts_after"] for c in mine)
        for user in USERS
        if (mine := [c for c in some if c["user"] == user and c["facts_before"]])
    ]
    for what, values, most, unit in (
        ("largest KL", kls, 8.0, " nats"),
        ("slowest hhchat train, cells one at a time", walls, 120.0, " s"),
        ("most fact accuracy lost, mean of a user", lost, 2.0, " points"),
    ):
        found.append(Bar(what, max(values) if values else None, most, at_most=True, unit=unit))
    worse = [c for c in done if c["state"] == "promoted" and c["win_rate"] < 0.5]
    share = len(worse) / len(done) if done else None
    found.append(Bar("promoted though truly worse, of all runs", share, 0.1, at_most=True))
    return found


if __name__ == "__main__":
    raise SystemExit(main())
