"""A newcomer's first ten minutes, played in tmux on the real app and the bundled starter.

    python -m benchmarks.newcomer                          # exits with 1 when a screen is wrong
    python -m benchmarks.newcomer --shots docs/newcomer    # and keeps pictures of the screens

Every key is typed as a person would, every screen is checked for its words, and the database is
looked at in the end. The some hundred picks that a first training wants are made by a simulated
user between two visits. Nothing of the machine's own hhchat is read or written.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.common import ROOT

if TYPE_CHECKING:
    from rich.color import Color

SIZE = (100, 30)
PATIENCE = 60.0  # seconds a screen is waited for, on a busy machine
GROUND, INK = "#15181d", "#d6d9de"  # of the dark theme
CELL = (9, 18)  # pixels of a picture's cell
QUESTION, NEXT = "how do I make tea?", "what is 7 plus 5?"
OWN = "7 plus 5 is 12."


class Wrong(Exception):
    """A screen did not say what it should."""


class Tmux:
    """One terminal on a server of its own, with a shell in it."""

    def __init__(self, home: Path) -> None:
        self._words = ["tmux", "-L", f"hhchat-newcomer-{os.getpid()}", "-f", os.devnull]
        shell = "env -i " + " ".join(
            f"{name}={shlex.quote(value)}"
            for name, value in {
                "HHCHAT_HOME": str(home), "HOME": str(home), "PATH": os.environ["PATH"],
                "TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8",
                "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "PS1": "$ ",
            }.items()
        )  # fmt: skip
        width, height = map(str, SIZE)
        self.run("new-session", "-d", "-x", width, "-y", height, f"{shell} sh")

    def run(self, *words: str) -> str:
        done = subprocess.run([*self._words, *words], capture_output=True, text=True, check=True)
        return done.stdout

    def keys(self, *keys: str) -> None:
        """Names as tmux knows them; what begins with = is typed letter by letter."""
        for key in keys:
            literal = ["-l", key[1:]] if key.startswith("=") else [key]
            self.run("send-keys", *literal)
            time.sleep(0.1)

    def text(self) -> str:
        return self.run("capture-pane", "-p")

    def coloured(self) -> str:
        return self.run("capture-pane", "-p", "-e")

    def close(self) -> None:
        subprocess.run([*self._words, "kill-server"], capture_output=True)


class Newcomer:
    """Plays the keys, checks what is to be read, and keeps pictures."""

    def __init__(self, tmux: Tmux, home: Path, shots: Path | None) -> None:
        self.tmux, self.home, self.shots = tmux, home, shots
        self.began = time.monotonic()

    def see(self, *words: str, without: str = "", patience: float = PATIENCE) -> str:
        """Wait until the screen shows all these words; it as text."""
        deadline = time.monotonic() + patience
        while True:
            text = self.tmux.text()
            flat = " ".join(text.split())
            missing = [w for w in words if w not in text and w not in flat]
            if not missing and not (without and without in text):
                return text
            if time.monotonic() > deadline:
                raise Wrong(f"no {missing or without!r} on this screen:\n{text}")
            time.sleep(0.1)

    def do(self, *keys: str, sees: tuple[str, ...], shot: str = "", patience: float = 60) -> None:
        self.tmux.keys(*keys)
        self.see(*sees, patience=patience)
        typed = " ".join(k[1:] if k.startswith("=") else k for k in keys)
        took = time.monotonic() - self.began
        print(f"{took:6.1f} s  {typed[:40]:<40}  {' · '.join(sees)[:60]}", flush=True)
        if shot:
            self.shoot(shot)

    def shoot(self, name: str) -> None:
        if self.shots is not None:
            time.sleep(0.4)  # the last frame is out
            picture(self.tmux.coloured(), self.shots / f"{name}.svg")

    # The visits -----------------------------------------------------------------------------

    def first_visit(self) -> None:
        go, ready = self.do, ("Say something", "ready")
        go("=hhchat", "Enter", sees=("Welcome to hhchat", "two replies", "enter"), shot="1-welcome")
        go("Enter", sees=("Which model?", "bundled starter", "a folder, or a Hugging Face hub id"))
        go("Down", "Enter", sees=("What fits within", "chat"))
        go("Escape", sees=("You are talking to the bundled starter", "Try:", *ready))
        chosen = ("Which reply is more helpful and honest?", "your pick", "how much", "tie")
        go(f"={QUESTION}", "Enter", sees=chosen, shot="2-two-replies")
        go("6", sees=("✓ saved · 1 comparison stored", "picked right, somewhat (6)", *ready))
        go("C-z", sees=("Taken back: pick again", "your pick"))
        go("c", "=the clearer one", sees=("A comment on this pair", "the clearer one"))
        go("Enter", sees=("Your comment goes with the pick you make now",))
        go("Right", sees=("✓ saved · 1 comparison stored", "both by the base model", *ready))
        go(f"={NEXT}", "Enter", sees=(NEXT, *chosen))
        go("e", f"={OWN}", sees=("Your own reply", OWN, "from left"), shot="3-write-your-own")
        go("Enter", sees=("written by you, preferred over both", "✓ saved · 3 comparisons"))
        go("C-o", "=tea", sees=("Conversations", "«tea»", "rename", "delete"), shot="4-search")
        go("Escape", sees=ready)
        go("C-g", sees=("Progress", "3 comparisons", "more for the next worthwhile training"))
        go("Escape", sees=ready)
        go("?", sees=("Keys", "The left reply is better", "a line to do it"), shot="5-keys")
        go("Escape", sees=ready)
        go("C-q", sees=("$",))

    def training(self, patience: float) -> None:
        """The assistant learns while the newcomer chats on; whether it was promoted."""
        go = self.do
        go("=hhchat", "Enter", sees=(OWN, "ready"))  # where one left
        go("C-t", sees=("Train the assistant now?", "pairs to learn from", "y yes"))
        go("y", sees=("Training · running",))
        self.see("ppo", "score", "now, after update", patience=patience)
        self.shoot("6-training")
        go("Escape", sees=("ready",))
        go("C-n", "=hello", "Enter", sees=("hello", "your pick"))
        go("Left", sees=("✓ saved", "both by the base model"))
        told = self.ended(patience)
        print(f"          {told}", flush=True)
        if "A better assistant is ready" in told:
            go("C-t", sees=("The new assistant is promoted", "Try it blind"), shot="7-offer")
            go("Down", "Enter", sees=("Blind from the next message on",))
            for question in (QUESTION, "what is 9 minus 4?", "how do I sleep better?"):
                go(f"={question}", "Enter", sees=("your pick",))
                go("Right", sees=("✓ saved", "left by", "right by"))
            self.shoot("8-blind-trial")
        go("C-g", sees=("Progress", "last training"), shot="9-progress")
        go("Escape", sees=("ready",))
        go("C-q", sees=("$",))

    def ended(self, patience: float) -> str:
        """What the chat says when the training is over."""
        ways = ("A better assistant is ready", "The training has ended")
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            for line in self.tmux.text().splitlines():
                if any(way in line for way in ways):
                    return line.strip()
            time.sleep(0.5)
        raise Wrong(f"the training did not end in {patience:.0f} s:\n{self.tmux.text()}")

    def last_visit(self) -> None:
        self.do("=hhchat", "Enter", sees=("ready", "Say something"))
        self.do("C-q", sees=("$",))
        rows = [json.loads(line) for line in hhchat(self.home, "prefs", "list", "--json", "--all")]
        mine = [row for row in rows if row["purpose"] != "simulated"]
        if [row["comment"] for row in mine][:1] != ["the clearer one"]:
            raise Wrong(f"the comment was not kept: {mine[:1]}")
        if {r["source"] for row in mine for r in row["replies"]} != {"model", "human"}:
            raise Wrong("the newcomer's own reply was not kept")
        print(f"{len(mine)} comparisons of the newcomer's are in the database")


def hhchat(home: Path, *words: str) -> list[str]:
    """A command's lines."""
    environment = {**os.environ, "HHCHAT_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "hhchat", *words], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise Wrong(f"hhchat {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.splitlines()


def picture(screen: str, path: Path) -> None:
    """What tmux shows, with its colours, as SVG: word by word, each in its place, so that every
    font and every program that draws it keeps the columns."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.style import Style
    from rich.text import Text

    wide, high = CELL
    width, height = SIZE[0] * wide + 2 * wide, SIZE[1] * high + high
    classes: dict[str, str] = {}
    parts: list[str] = []
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for y, line in enumerate(screen.splitlines()):
        x = 0
        for segment in console.render(
            Text.from_ansi(line, end=""), console.options.update(width=999)
        ):
            style, size = segment.style or Style(), cell_len(segment.text)
            ink, ground = _colour(style.color, INK), _colour(style.bgcolor, "")
            if style.reverse:
                ink, ground = ground or GROUND, ink
            if ground and ground != GROUND:
                parts.append(
                    f'<rect x="{x * wide}" y="{y * high}" width="{size * wide}" height="{high}" '
                    f'fill="{ground}"/>'
                )
            for word in re.finditer(r"\S+", segment.text):
                rule = f"fill:{ink}" + (";font-weight:bold" if style.bold else "")
                rule += ";font-style:italic" if style.italic else ""
                name = classes.setdefault(rule, f"c{len(classes)}")
                at = (x + cell_len(segment.text[: word.start()])) * wide
                long = cell_len(word[0]) * wide
                parts.append(
                    f'<text class="{name}" x="{at}" y="{y * high + 14}" textLength="{long}" '
                    f'lengthAdjust="spacingAndGlyphs">{escape(word[0])}</text>'
                )
            x += size
    rules = "".join(f".{name}{{{rule}}}" for rule, name in classes.items())
    font = "font:15px 'DejaVu Sans Mono',Menlo,Consolas,monospace;white-space:pre"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"><style>'
        f"text{{{font}}}{rules}</style>"
        f'<rect width="{width}" height="{height}" rx="8" fill="{GROUND}"/>'
        f'<g transform="translate({wide} {high // 2})">{"".join(parts)}</g></svg>\n',
        encoding="utf-8",
    )


def _colour(color: Color | None, otherwise: str) -> str:
    return otherwise if color is None or color.triplet is None else color.triplet.hex


@contextmanager
def desk() -> Iterator[tuple[Tmux, Path]]:
    with tempfile.TemporaryDirectory(prefix="hhchat-newcomer-") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        tmux = Tmux(home)
        try:
            program = f"{shlex.quote(sys.executable)} -m hhchat"
            tmux.keys(f'=hhchat() {{ {program} "$@"; }}; clear', "Enter")
            yield tmux, home
        finally:
            tmux.close()


def play(
    picks: int, updates: int | None, patience: float, shots: Path | None, training: bool
) -> None:
    with desk() as (tmux, home):
        newcomer = Newcomer(tmux, home, shots)
        parts: list[Callable[[], object]] = [newcomer.first_visit]
        if training:
            if updates is not None:
                hhchat(home, "config", "set", "ppo.updates", str(updates))
                (home / "config.toml").rename(home / "later.toml")  # a newcomer has no settings
            user = ("simulate", "--user", "helpful", "--picks", str(picks))
            parts += [
                lambda: (
                    (home / "later.toml").exists()
                    and (home / "later.toml").rename(home / "config.toml")
                ),
                lambda: print(*hhchat(home, *user), sep="\n", flush=True),
                lambda: newcomer.training(patience),
            ]
        for part in [*parts, newcomer.last_visit]:
            part()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.newcomer", description="A newcomer's first ten minutes, in tmux."
    )
    parser.add_argument("--shots", type=Path, metavar="FOLDER", help="keep pictures (SVG) there")
    parser.add_argument("--picks", type=int, default=300, help="simulated picks before training")
    parser.add_argument("--updates", type=int, help="fewer PPO updates than the default")
    parser.add_argument("--patience", type=float, default=1200, help="seconds a training may take")
    parser.add_argument("--smoke", action="store_true", help="the first and the last visit only")
    given = parser.parse_args(arguments)
    if shutil.which("tmux") is None:
        print("this needs tmux", file=sys.stderr)
        return 2
    try:
        play(given.picks, given.updates, given.patience, given.shots, not given.smoke)
    except Wrong as error:
        print(f"wrong: {error}", file=sys.stderr)
        return 1
    print("everything was as it should be")
    return 0


if __name__ == "__main__":
    sys.exit(main())
