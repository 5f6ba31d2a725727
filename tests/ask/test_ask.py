"""`hhchat ask` on a real server: plain text, JSON, pipes, exit codes, and what a terminal sees."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
WORDS = "one two three four five six seven eight nine ten "
LIGHT = {"torch", "transformers", "textual", "numpy", "rich", "peft"}


def _conftest() -> Any:
    """The server of tests/remote, started the same way."""
    path = Path(__file__).parent.parent / "remote" / "conftest.py"
    spec = importlib.util.spec_from_file_location("remote_conftest", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["remote_conftest"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    yield from _conftest().started()


@pytest.fixture
def ask(run: Run, server: Any) -> Run:
    def ask(*args: str, **more: Any) -> Any:
        return run("ask", "--server", server.url, *args, **more)

    return ask


def test_a_question(ask: Run, server: Any) -> None:
    ran = ask("What is", "rain?", "--seed", "7", "--system", "Be brief.").ok()
    assert ran.out == WORDS + "7\n"
    assert ran.err == ""
    asked = server.asked()[-1]["body"]
    assert asked["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is rain?"},
    ]


def test_json_is_one_object(ask: Run, server: Any) -> None:
    [told] = ask("Hi", "--seed", "7", "--json").ok().lines
    assert told == {
        "messages": [{"role": "user", "content": "Hi"}],
        "snapshot": "remote",
        "base": f"server:127.0.0.1:{server.port}/normal",
        "text": WORDS + "7",
        "finished": True,
        "tokens": 0,
        "seed": 7,
    }
    [told] = ask("Hi", "--n", "3", "--seed", "7", "--json").ok().lines
    assert [r["seed"] for r in told["replies"]] == [7, 8, 9]
    assert [r["text"] for r in told["replies"]] == [WORDS + str(s) for s in (7, 8, 9)]
    assert told["text"] == WORDS + "7"
    assert set(told["replies"][0]) == {"snapshot", "base", "text", "finished", "tokens", "seed"}


def test_several_replies(ask: Run) -> None:
    ran = ask("Hi", "-n", "2", "--seed", "3").ok()
    assert ran.out == f"{WORDS}3\n---\n{WORDS}4\n"


def test_pipes(ask: Run, server: Any) -> None:
    assert ask("--seed", "1", stdin="from a file\n").ok().out == WORDS + "1\n"
    assert server.asked()[-1]["body"]["messages"][-1]["content"] == "from a file"


def test_a_pipe_after_the_question(shell: Run, server: Any) -> None:
    ran = shell("ask", "Summarise:", "--server", server.url, "--seed", "1", stdin="é 日本\n").ok()
    assert ran.out == WORDS + "1\n"
    assert server.asked()[-1]["body"]["messages"][-1]["content"] == "Summarise:\n\né 日本"


@pytest.mark.parametrize("mode", ["escapes", "unicode", "odd", "whole", "empty"])
def test_what_is_printed_is_what_is_safe(ask: Run, mode: str) -> None:
    """Printed piece by piece, the text is the same as when it is made safe as a whole."""
    from hhchat.text import printable

    [told] = ask("Hi", "--model", mode, "--json").ok().lines
    out = ask("Hi", "--model", mode).ok().out
    assert out == printable(told["text"]) + "\n"
    assert "\x1b" not in out
    assert "\x9b" not in out


def test_a_reply_that_breaks_off(ask: Run, server: Any) -> None:
    ran = ask("Hi", "--model", "dropped")
    assert ran.code == 1
    assert ran.out == "half a \n"
    assert ran.err.startswith(f"hhchat: error: the server at {server.url} ended a reply midway")
    assert len(ran.err.splitlines()) == 1


def test_a_script_gets_what_came_of_a_reply_that_broke_off(ask: Run) -> None:
    ran = ask("Hi", "--model", "dropped", "--json", "--seed", "7")
    assert ran.code == 1
    [told] = ran.lines
    assert (told["text"], told["finished"], told["seed"]) == ("half a ", False, 7)
    assert len(ran.err.splitlines()) == 1


def test_of_several_the_good_ones_are_printed(ask: Run) -> None:
    ran = ask("Hi", "--model", "half", "--n", "3", "--seed", "2")
    assert ran.code == 1
    assert ran.out == f"{WORDS}\n---\n{WORDS}\n"
    assert "failed (500)" in ran.err
    ran = ask("Hi", "--model", "half", "--n", "3", "--seed", "2", "--json")
    assert ran.code == 1
    [told] = ran.lines
    assert [(r["text"], r["finished"]) for r in told["replies"]] == [(WORDS, True)] * 2


def test_a_server_that_says_nothing(ask: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HHCHAT_REMOTE_TIMEOUT", "0.3")
    ran = ask("Hi", "--model", "silent")
    assert ran.code == 1
    assert ran.out == ""
    assert "said nothing for 0.3 s" in ran.err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--n", "0"], "--n must be between"),
        (["--n", "65"], "--n must be between"),
        (["--seed", "-1"], "--seed must be"),
        (["--best-of", "0"], "best-of"),
        (["--best-of", "x"], "--best-of"),
        (["--temperature", "-1"], "temperature"),
        (["--server", "nonsense"], "http://"),
        (["--snapshot", "01ABC"], "not on the server"),
        (["--best-of", "4"], "preference model"),
    ],
)
def test_bad_input_is_one_line(ask: Run, args: list[str], words: str) -> None:
    ran = ask("Hi", *args)
    assert ran.code in (1, 2)
    assert ran.out == ""
    assert len(ran.err.splitlines()) == 1
    assert words in ran.err


def test_the_settings_name_the_server(
    run: Run, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("config", "set", "remote.url", server.url).ok()
    assert run("ask", "Hi", "--seed", "5").ok().out == WORDS + "5\n"
    monkeypatch.setenv("MY_KEY", "sk-secret-0123456789")
    run("config", "set", "remote.api_key_env", "MY_KEY").ok()
    ran = run("ask", "Hi", "--model", "key")
    assert ran.code == 1
    assert "refused the key (401)" in ran.err
    assert "sk-secret" not in ran.err + ran.out
    record = Path(os.environ["HHCHAT_HOME"])
    for path in record.rglob("*"):
        assert b"sk-secret" not in (path.read_bytes() if path.is_file() else b""), path


def test_sample_asks_the_server_too(run: Run, server: Any) -> None:
    given = json.dumps({"prompt": "Hi"}) + "\n"
    ran = run("config", "set", "remote.url", server.url).ok()
    ran = run("sample", "--input", "-", "-n", "3", stdin=given).ok()
    [line] = ran.lines
    assert line["snapshot"] == "remote"
    assert [r["text"] for r in line["replies"]] == [WORDS + str(r["seed"]) for r in line["replies"]]


def test_no_model_library_is_loaded(server: Any) -> None:
    script = (
        "import sys\n"
        "from hhchat.cli import main\n"
        "code = main(sys.argv[1:])\n"
        f"heavy = {LIGHT!r} & {{m.split('.')[0] for m in sys.modules}}\n"
        "sys.exit(code or (f'loaded {heavy}' if heavy else 0))"
    )
    for args in (["ask", "Hi", "--server", server.url], ["elo"], ["completion", "zsh"]):
        done = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_ctrl_c_is_quick(server: Any) -> None:
    """Text that has arrived stays, the exit code is 130, and no thread holds the process."""
    import signal

    script = "import sys; from hhchat.cli import main; sys.exit(main(sys.argv[1:]))"
    args = ["ask", "Hi", "--server", server.url, "--model", "endless"]
    with subprocess.Popen(
        [sys.executable, "-c", script, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(6) == b"on and"
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
        assert time.monotonic() - began < 3
        assert process.returncode == 130
        assert b"Traceback" not in err


def test_a_reader_that_leaves_ends_it(server: Any) -> None:
    script = "import sys; from hhchat.cli import main; sys.exit(main(sys.argv[1:]))"
    args = ["ask", "Hi", "--server", server.url, "--model", "endless"]
    with subprocess.Popen(
        [sys.executable, "-c", script, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(6) == b"on and"
        process.stdout.close()
        assert process.wait(timeout=10) in (1, 141)
        assert process.stderr.read() == b""


# -- completion


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_completion_scripts(run: Run, shell_name: str) -> None:
    out = run("completion", shell_name).ok().out
    assert f"_HHCHAT_COMPLETE={shell_name}_complete" in out
    assert "hhchat" in out


def test_completion_of_no_shell(run: Run) -> None:
    ran = run("completion", "zhs")
    assert ran.code == 2
    assert "did you mean 'zsh'?" in ran.err
    assert run("completion").code == 2


@pytest.mark.parametrize(
    ("line", "choices"),
    [
        ("hhchat el", ["plain,elo"]),
        ("hhchat ask --be", ["plain,--best-of"]),
        ("hhchat prefs im", ["plain,import"]),
        ("hhchat nonsense x", []),
        ("hhchat prefs nonsense x", []),
    ],
)
def test_a_line_is_completed(shell: Run, line: str, choices: list[str]) -> None:
    words = line.split()
    ran = shell(_HHCHAT_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    assert ran.out.split() == choices
    assert ran.err == "", "an error would land in the line being typed"
