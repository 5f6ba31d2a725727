"""The engine over a server: what it sends, what it makes of every way of answering."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hhchat.openai_wire import Server, ServerError
from hhchat.remote import RemoteEngine
from hhchat.types import Delta, Draw, Generation, HhchatError, Message, ModelError, Sampling

Make = Callable[..., RemoteEngine]
Drawn = Callable[..., Draw]
WORDS = "one two three four five six seven eight nine ten "
KEY = "sk-secret-0123456789"


def gathered(deltas: Iterator[Delta]) -> tuple[dict[int, str], dict[int, Generation], str]:
    """Text and generation by row, and the error that it ended with."""
    texts: dict[int, str] = {}
    made: dict[int, Generation] = {}
    try:
        for delta in deltas:
            assert delta.row not in made, "a row goes on after its last delta"
            texts[delta.row] = texts.get(delta.row, "") + delta.text
            if delta.generation is not None:
                made[delta.row] = delta.generation
    except HhchatError as error:
        return texts, made, str(error)
    return texts, made, ""


def failure(engine: RemoteEngine, draw: Drawn) -> str:
    with pytest.raises(ServerError) as caught:
        engine.generate([draw()])
    text = str(caught.value)
    assert "\n" not in text
    assert "\x1b" not in text
    assert f"the server at {engine.server.url} " in text
    return text


# -- what is asked


def test_two_replies_stream_at_once(engine: Make, draw: Drawn) -> None:
    began = time.monotonic()
    rows = [d.row for d in engine("slow").sample([draw(1), draw(2)])]
    assert time.monotonic() - began < 5
    assert set(rows[:8]) == {0, 1}, "one row waited for the other"
    texts, made, error = gathered(engine().sample([draw(1), draw(2)]))
    assert error == ""
    assert texts == {0: WORDS + "1", 1: WORDS + "2"}
    for row, seed in ((0, 1), (1, 2)):
        assert made[row].text == texts[row]
        assert made[row].seed == seed
        assert made[row].finished


def test_a_generation_says_where_it_came_from(engine: Make, draw: Drawn) -> None:
    made = engine()
    [g] = made.generate([draw(3, temperature=0.5, top_p=0.9, max_new_tokens=7)])
    assert made.base == g.base == f"server:127.0.0.1:{made.server.port}/normal"
    assert (g.snapshot, g.token_ids, g.source) == ("remote", (), "model")
    assert g.sampling == Sampling(0.5, 0.9, 7)
    [other] = made.generate([draw(3, snapshot="remote:long")])
    assert other.base == f"server:127.0.0.1:{made.server.port}/long"
    assert other.snapshot == "remote:long"


def test_the_request_carries_the_settings(engine: Make, draw: Drawn, server: Any) -> None:
    talk = (Message("system", "Be kind."), Message("user", "lone \ud800 half"))
    sampling = Sampling(0.25, 0.75, 33)
    engine(key=KEY).generate([Draw(talk, (1 << 40) + 5, sampling)])
    last = server.asked()[-1]
    assert last["body"] == {
        "model": "normal",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "lone ? half"},
        ],
        "stream": True,
        "max_tokens": 33,
        "temperature": 0.25,
        "top_p": 0.75,
        "seed": 5,
    }
    assert last["headers"]["Authorization"] == f"Bearer {KEY}"
    engine().generate([draw()])
    assert "Authorization" not in server.asked()[-1]["headers"]


def test_many_replies_come_back_in_order(engine: Make, draw: Drawn) -> None:
    made = engine().generate([draw(seed) for seed in range(40)])
    assert [g.text for g in made] == [WORDS + str(seed) for seed in range(40)]
    assert engine().generate([]) == []
    assert gathered(engine().sample([])) == ({}, {}, "")


def test_snapshots_of_this_machine_are_not_on_the_server(engine: Make, draw: Drawn) -> None:
    with pytest.raises(ModelError, match="'01ABC' is not on the server"):
        engine().generate([draw(snapshot="01ABC")])
    with pytest.raises(ModelError, match="preference model"):
        engine().generate([draw(best_of=4)])


# -- ways to answer


@pytest.mark.parametrize(
    ("model", "text", "finished"),
    [
        ("long", "cut he", False),
        ("done-only", "whole", True),
        ("whole", "in one piece", True),
        ("odd", "ab", True),
        ("empty", "", True),
        ("unicode", "naïve 日本 👍🏽 😀 end \ufffd\ufffd", True),
        ("escapes", "red \x1b[31m now\x1b]52;c;AAAA\x07 \u202eevil \x9b2J", True),
    ],
)
def test_legal_answers(engine: Make, draw: Drawn, model: str, text: str, finished: bool) -> None:
    [g] = engine(model).generate([draw()])
    assert (g.text, g.finished) == (text, finished)
    texts, made, error = gathered(engine(model).sample([draw(), draw()]))
    assert error == ""
    assert made[0].text == made[1].text == text
    assert text.startswith(texts.get(0, ""))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("fails", ["failed (500)", "out of \\x1b[31mmemory sorry"]),
        ("busy", ["too many requests (429)", "slow down"]),
        ("bad", ["refused the request (400)", "longer than 2048 tokens"]),
        ("nobody", ["(404)", "model nobody not found", "[remote] url and model"]),
        ("garbage", ["OpenAI API", "broken JSON"]),
        ("array", ["OpenAI API", "no objects"]),
        ("nested", ["OpenAI API", "broken JSON"]),
        ("notjson", ["OpenAI API", "broken JSON"]),
        ("html", ["OpenAI API", "text/html"]),
        ("nottp", ["OpenAI API", "not HTTP"]),
        ("huge", ["OpenAI API", "a line of over 1 MiB"]),
    ],
)
def test_what_is_wrong_is_one_line(engine: Make, draw: Drawn, model: str, words: list[str]) -> None:
    told = failure(engine(model), draw)
    for word in words:
        assert word in told
    assert "router login" not in told


@pytest.mark.parametrize(
    ("model", "kept", "words"),
    [
        ("dropped", "half a ", "midway"),
        ("reset", "half a ", "midway"),
        ("ended", "half a ", "midway"),
        ("error", "so far ", "the model crashed"),
        ("stalled", "a start", "said nothing for 1 s"),
    ],
)
def test_a_stream_that_breaks_keeps_what_came(
    engine: Make, draw: Drawn, model: str, kept: str, words: str
) -> None:
    made = engine(model, timeout=1.0 if model == "stalled" else 10.0)
    texts, rows, error = gathered(made.sample([draw(1), draw(2)]))
    assert texts == {0: kept, 1: kept}
    assert {(g.text, g.finished) for g in rows.values()} == {(kept, False)}
    assert words in error
    [g] = made.generate([draw()])
    assert (g.text, g.finished) == (kept, False)


def test_silence_from_the_start(engine: Make, draw: Drawn) -> None:
    began = time.monotonic()
    assert "said nothing for 0.3 s" in failure(engine("silent", timeout=0.3), draw)
    assert time.monotonic() - began < 3


def test_one_row_that_fails_does_not_lose_the_other(engine: Make, draw: Drawn) -> None:
    texts, made, error = gathered(engine("half").sample([draw(1), draw(2)]))
    assert 0 not in made
    assert made[1].text == texts[1] == WORDS
    assert made[1].finished
    assert "failed (500)" in error


def test_generate_asks_again_once(engine: Make, draw: Drawn) -> None:
    made = engine("flaky").generate([draw(seed) for seed in range(500, 506)])
    assert [g.text for g in made] == [WORDS + str(seed) for seed in range(500, 506)]
    _, _, error = gathered(engine("flaky").sample([draw(600)]))
    assert "failed (503): busy" in error


def test_a_server_that_ignores_the_limit_is_cut(engine: Make, draw: Drawn) -> None:
    [g] = engine("deaf").generate([draw(max_new_tokens=4)])
    assert not g.finished
    assert 4096 < len(g.text) < 8192


def test_nobody_there(draw: Drawn) -> None:
    with socket.socket() as taken:  # bound and not listening: refused, and nobody else's
        taken.bind(("127.0.0.1", 0))
        engine = RemoteEngine(Server("http", "127.0.0.1", taken.getsockname()[1], "/v1"), "m")
        engine.retry = 0.01
        told = failure(engine, draw)
    assert "cannot be reached (connection refused): is it running" in told


def test_no_tls_there(server: Any, draw: Drawn) -> None:
    engine = RemoteEngine(Server("https", "127.0.0.1", server.port, "/v1"), "m", retry=0.01)
    assert "offers no TLS connection to trust" in failure(engine, draw)


def test_a_name_that_is_nowhere(draw: Drawn) -> None:
    engine = RemoteEngine(Server("http", "nowhere.invalid", 80, "/v1"), "m", retry=0.01)
    assert "cannot be reached" in failure(engine, draw)


# -- redirects and the key


def test_redirects_stay_on_the_server(engine: Make, draw: Drawn) -> None:
    [g] = engine(path="/moved").generate([draw(9)])
    assert g.text == WORDS + "9"
    assert "elsewhere.example/v1/chat/completions, which is not followed" in failure(
        engine(path="/away"), draw
    )
    assert "in a circle" in failure(engine(path="/circle"), draw)
    assert "which is not followed" in failure(engine(path="/lost"), draw)  # would drop the body


def test_the_key_is_never_told(engine: Make, draw: Drawn) -> None:
    made = engine("key", key=KEY)
    told = failure(made, draw)
    assert "refused the key (401)" in told
    assert "bad key Bearer (key)" in told
    for text in (told, repr(made), repr(made.server), made.base, str(vars(made))):
        assert KEY not in text
    assert "name the variable" in failure(engine("key"), draw)


# -- stopping


@pytest.mark.parametrize("model", ["endless", "stalled", "silent"])
def test_stopping_is_quick_and_keeps_the_text(engine: Make, draw: Drawn, model: str) -> None:
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    texts = {0: "", 1: ""}
    made: dict[int, Generation] = {}
    # Where text is due, both rows have some before the stop counts: the machine may be busy.
    ready = lambda: stop.is_set() and (model == "silent" or all(texts.values()))  # noqa: E731
    for delta in engine(model, timeout=20).sample([draw(1), draw(2)], ready):
        texts[delta.row] += delta.text
        if delta.generation is not None:
            made[delta.row] = delta.generation
    assert set(made) == {0, 1}
    for row, g in made.items():
        assert not g.finished
        assert g.text == texts[row]
    quiet()


def test_what_had_ended_when_it_was_stopped_is_finished(engine: Make, draw: Drawn) -> None:
    deltas = engine("silent").sample([draw(1), draw(2)], lambda: True)
    assert len(list(deltas)) == 2  # stopped before anything came: two empty ends
    seen: list[Delta] = []
    for delta in engine().sample([draw(1), draw(2)], lambda: bool(seen)):
        seen.append(delta)
        if len(seen) == 1:
            time.sleep(0.5)  # both replies arrive while nobody reads
    assert [d.generation.finished for d in seen if d.generation] == [True, True]


def test_a_reader_that_leaves_ends_the_requests(engine: Make, draw: Drawn) -> None:
    deltas = engine("endless").sample([draw(1), draw(2)])
    next(deltas)
    deltas.close()  # type: ignore[attr-defined]
    quiet()


def quiet() -> None:
    """No thread goes on reading."""
    until = time.monotonic() + 3
    while any(t.name == "hhchat-remote" for t in threading.enumerate()):
        assert time.monotonic() < until, "a thread goes on"
        time.sleep(0.01)
