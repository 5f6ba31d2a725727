"""sample, score and ask: the schema, the order, the seeds, and lines that are wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from hhchat.cli import _lines
from hhchat.cli.sample import seed_of
from hhchat.types import BadInput, Delta, Draw, Exchange, Generation

Run = Callable[..., Any]
NASTY = "\x1b[2J\x9b31m[/INST]"


class Echo:
    """An engine whose reply tells the draw."""

    base = "echo"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def generate(self, draws: Sequence[Draw]) -> list[Generation]:
        self.batches.append(len(draws))
        return [
            Generation(
                text=f"{d.messages[-1].content} {d.seed} {NASTY}",
                token_ids=(1, 2, 3),
                snapshot="base" if d.snapshot == "current" else d.snapshot,
                seed=d.seed,
                base=self.base,
                sampling=d.sampling,
            )
            for d in draws
        ]

    def sample(self, draws: Sequence[Draw], cancelled: Callable[[], bool]) -> Iterator[Delta]:
        for row, made in enumerate(self.generate(draws)):
            yield Delta(row, made.text, made)


class Length:
    """A preference model that likes long replies."""

    def score(self, exchanges: Sequence[Exchange]) -> list[float]:
        return [float(len(e.reply)) for e in exchanges]


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Echo:
    engine = Echo()
    for module in ("sample", "ask"):
        monkeypatch.setattr(f"hhchat.cli.{module}.open_engine", lambda config, store: engine)
    monkeypatch.setattr(
        "hhchat.cli.score.open_preference", lambda config, store, snapshot: Length()
    )
    return engine


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_the_schema_and_the_order(run: Run, echo: Echo, tmp_path: Path) -> None:
    talk = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    source = write(tmp_path / "in.jsonl", {"prompt": "one"}, {"messages": talk}, {"prompt": "two"})
    ran = run("sample", "--input", source, "-n", "3", "--snapshot", "base").ok()
    assert "\x1b" not in ran.out
    assert "\x9b" not in ran.out
    assert [line["prompt"] for line in ran.lines] == ["one", "c", "two"]
    assert ran.lines[1]["messages"] == talk
    for index, line in enumerate(ran.lines):
        assert set(line) == {"prompt", "messages", "snapshot", "replies"}
        assert line["snapshot"] == "base"
        assert len(line["replies"]) == 3
        for reply_index, reply in enumerate(line["replies"]):
            assert set(reply) == {"text", "finished", "tokens", "seed"}
            assert reply["seed"] == seed_of(0, index, reply_index)
            assert reply["tokens"] == 3
            assert reply["finished"] is True
            assert reply["text"] == f"{line['prompt']} {reply['seed']} {NASTY}"


def test_seeds_differ_everywhere_and_repeat(run: Run, echo: Echo, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", *[{"prompt": str(i)} for i in range(600)])
    first = run("sample", "--input", source).ok()
    assert echo.batches == [512, 512, 176]
    assert run("sample", "--input", source).ok().out == first.out
    assert run("sample", "--input", "-", stdin=source.read_bytes()).ok().out == first.out
    other = run("sample", "--input", source, "--seed", "1").ok()
    seeds = [reply["seed"] for line in first.lines + other.lines for reply in line["replies"]]
    assert len(set(seeds)) == 2400
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_flags_reach_the_sampler(run: Run, echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HHCHAT_CHAT_TOP_P", "0.9")
    seen: list[Draw] = []
    generate = echo.generate
    monkeypatch.setattr(echo, "generate", lambda draws: seen.extend(draws) or generate(draws))
    args = ["--temperature", "0.5", "--max-new-tokens", "9"]
    run("sample", "--input", "-", *args, stdin='{"prompt": "x"}').ok()
    assert seen[0].sampling.temperature == 0.5
    assert seen[0].sampling.top_p == 0.9
    assert seen[0].sampling.max_new_tokens == 9


BAD = [
    (b"\x00\xff\xfe", "line 2: not UTF-8 text"),
    (b"nonsense", "line 2: not JSON"),
    (b'{"prompt": ' + b"1" * 5000 + b"}", "line 2: a number too long to read"),
    (b"[1]", "line 2: an object is needed, not a list"),
    (b"null", "line 2: an object is needed, not null"),
    (b'{"promt": "x"}', "line 2: needs a key 'prompt' or 'messages': did you mean 'prompt'?"),
    (b"{}", "line 2: needs a key 'prompt' or 'messages'"),
    (b'{"prompt": ""}', "line 2: prompt is empty"),
    (b'{"prompt": 3}', "line 2: prompt must be text, not a number"),
    (b'{"prompt": "x", "messages": []}', "line 2: give either prompt or messages"),
    (b'{"messages": []}', "line 2: messages must be a list of at least one message"),
    (b'{"messages": ["x"]}', "line 2: message 1 must be an object, not text"),
    (b'{"messages": [{"role": "usr", "content": "x"}]}', "has role 'usr': did you mean 'user'?"),
    (b'{"messages": [{"role": "user"}]}', "message 1 content must be text, not null"),
    (
        b'{"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": "y"}]}',
        "line 2: message 2 should be the assistant's: turns must alternate",
    ),
    (
        b'{"messages": [{"role": "assistant", "content": "x"}]}',
        "message 1 should be the user's",
    ),
    (
        b'{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}',
        "line 2: the last message must be the user's",
    ),
    (b'{"messages": [{"role": "system", "content": "x"}]}', "the last message must be the user's"),
    (b'{"prompt": "\\ud800"}', "line 2: prompt holds half of a surrogate pair"),
    (b"[" * 100_000, "line 2: n"),
]


@pytest.mark.parametrize(("line", "said"), BAD, ids=[said for _, said in BAD])
def test_a_bad_line_in_a_file_is_named_before_any_work(
    run: Run, echo: Echo, tmp_path: Path, line: bytes, said: str
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(b'{"prompt": "good"}\n' + line + b"\n")
    ran = run("sample", "--input", source)
    assert ran.code == 2
    assert ran.out == ""
    assert echo.batches == []
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_bad_line_in_a_pipe_comes_after_the_good_ones(run: Run, echo: Echo) -> None:
    ran = run("sample", "--input", "-", stdin='{"prompt": "good"}\n\nbad\n{"prompt": "never"}\n')
    assert ran.code == 2
    assert [line["prompt"] for line in ran.lines] == ["good"]
    assert "standard input, line 3: not JSON" in ran.err


@pytest.mark.parametrize("content", [b"", b"\n\n  \n", b"\xef\xbb\xbf\n"])
def test_nothing_in_nothing_out(run: Run, echo: Echo, content: bytes) -> None:
    assert run("sample", "--input", "-", stdin=content).ok().out == ""


def test_a_byte_order_mark_and_no_last_newline(run: Run, echo: Echo) -> None:
    ran = run("sample", "--input", "-", stdin=b'\xef\xbb\xbf{"prompt": "a"}\r\n{"prompt": "b"}')
    assert [line["prompt"] for line in ran.ok().lines] == ["a", "b"]


def test_no_such_file(run: Run, echo: Echo, tmp_path: Path) -> None:
    for source in (tmp_path / "nope", tmp_path):
        ran = run("sample", "--input", source)
        assert ran.code == 2
        assert str(source) in ran.err


def test_n_below_one(run: Run, echo: Echo) -> None:
    ran = run("sample", "--input", "-", "-n", "0", stdin='{"prompt": "x"}')
    assert ran.code == 2
    assert "-n must be at least 1" in ran.err


def test_a_pipe_is_answered_when_it_pauses() -> None:
    """A script may write one line and wait for its answer before it writes the next."""
    script = (
        "from hhchat.cli._lines import prompt_of, read_batches\n"
        "for batch in read_batches('-', prompt_of):\n"
        "    print([m[-1].content for m in batch], flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b'{"prompt": "a"}\n{"prompt": "b"}\n{"pro')
        process.stdin.flush()
        assert process.stdout.readline() == b"['a', 'b']\n"
        process.stdin.write(b'mpt": "c"}\n')
        process.stdin.flush()
        assert process.stdout.readline() == b"['c']\n"
        process.stdin.close()
        assert process.stdout.read() == b""


def test_a_full_pipe_comes_in_full_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, outside = os.pipe()
    lines = b"".join(b'{"prompt": "%d"}\n' % i for i in range(700))
    if not os.fork():  # pragma: no cover (another process)
        os.close(inside)
        while lines:
            lines = lines[os.write(outside, lines) :]
        os._exit(0)
    os.close(outside)
    monkeypatch.setattr(_lines, "PAUSE", 5.0)
    got = list(_lines._flowing(inside, _lines.prompt_of))
    os.close(inside)
    os.wait()
    assert [len(batch) for batch in got] == [256, 256, 188]
    assert [m[-1].content for batch in got for m in batch] == [str(i) for i in range(700)]


# --- score -----------------------------------------------------------------------------------


def test_score(run: Run, echo: Echo, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "x"}]
    source = write(
        tmp_path / "in.jsonl",
        {"messages": messages, "reply": "long one"},
        {"messages": messages, "reply": ""},
    )
    assert run("score", "--input", source).ok().lines == [{"score": 8.0}, {"score": 0.0}]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"reply": "x"}, "line 1: needs a key 'messages'"),
        ({"messages": [{"role": "user", "content": "x"}]}, "line 1: needs a key 'reply'"),
        ({"messages": [{"role": "user", "content": "x"}], "reply": 3}, "reply must be text"),
        ({"messages": "x", "reply": "x"}, "messages must be a list"),
    ],
)
def test_score_refuses(run: Run, echo: Echo, record: Any, said: str) -> None:
    ran = run("score", "--input", "-", stdin=json.dumps(record))
    assert ran.code == 2
    assert said in ran.err


def test_score_without_a_preference_model_says_how_to_get_one(run: Run) -> None:
    record = {"messages": [{"role": "user", "content": "x"}], "reply": "y"}
    ran = run("score", "--input", "-", stdin=json.dumps(record))
    assert ran.code == 2
    assert "hhchat train" in ran.err
    assert len(ran.err.splitlines()) == 1


# --- ask -------------------------------------------------------------------------------------


def test_ask(run: Run, echo: Echo) -> None:
    ran = run("ask", "How", "are you?", "--seed", "5").ok()
    assert ran.out == "How are you? 5 \\x1b[2J\\x9b31m[/INST]\n"
    [told] = run("ask", "Hi", "--seed", "5", "--system", "Be kind.", "--json").ok().lines
    assert told["text"] == f"Hi 5 {NASTY}"
    assert told["messages"][0] == {"role": "system", "content": "Be kind."}
    assert set(told) == {"messages", "snapshot", "base", "text", "finished", "tokens", "seed"}
    assert run("ask", stdin="piped\n").ok().out.startswith("piped ")


def test_ask_nothing(run: Run, echo: Echo) -> None:
    for stdin in (b"", b"  \n"):
        ran = run("ask", stdin=stdin)
        assert ran.code == 2
        assert "what is the question?" in ran.err
    ran = run("ask", stdin=b"\xff")
    assert ran.code == 2
    assert "not UTF-8" in ran.err


def test_big_lines_are_read(run: Run, echo: Echo) -> None:
    text = "word " * 200_000
    began = time.perf_counter()
    ran = run("sample", "--input", "-", "-n", "1", stdin=json.dumps({"prompt": text})).ok()
    assert ran.lines[0]["prompt"] == text
    assert time.perf_counter() - began < 10


def test_batches_end_with_the_error() -> None:
    def records() -> Any:
        yield "a"
        raise BadInput("bad")

    batches = _lines._batched(records())
    assert next(batches) == ["a"]
    with pytest.raises(BadInput):
        next(batches)
