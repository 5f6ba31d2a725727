"""A conversation longer than the server's context: what goes, what stays, what is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hhchat.openai_errors import context_of, is_overlong
from hhchat.openai_wire import ServerError
from hhchat.remote import RemoteEngine
from hhchat.types import Draw, Message, Sampling, TooLong

Make = Callable[..., RemoteEngine]
SERVERS = ("vllm", "vllm-new", "llamacpp", "llamacpp-200", "ollama", "openai")


def talk(turns: int, words: int = 20, new: int = 20, system: str = "be kind") -> Draw:
    """A conversation of so many turns, each question and each reply half of the turn's words."""
    half = " ".join(["word"] * (words // 2 - 1))
    messages = [Message("system", system)] if system else []
    for turn in range(turns):
        messages += [Message("user", f"q{turn} {half}"), Message("assistant", f"a{turn} {half}")]
    return Draw((*messages, Message("user", "the last question")), 1, Sampling(max_new_tokens=new))


def sent(server: Any, model: str) -> list[dict[str, Any]]:
    return [a["body"] for a in server.asked() if a["body"]["model"] == model]


@pytest.mark.parametrize("model", SERVERS)
def test_the_oldest_whole_turns_go_and_the_rest_is_answered(
    engine: Make, server: Any, model: str
) -> None:
    [reply] = engine(model).generate([talk(7)])
    assert reply.finished
    assert reply.text.startswith("one two three")
    heard = sent(server, model)[-1]["messages"]
    assert heard[0] == {"role": "system", "content": "be kind"}
    assert heard[-1]["content"] == "the last question"
    kept = [m["content"].split()[0] for m in heard[1:-1]]
    assert kept[0].startswith("q")  # never a reply without its question
    assert kept[-1] == "a6"  # the newest stay
    assert len(kept) == 2 * (3 if "vllm" in model else 4)  # as many as fit, and no fewer


@pytest.mark.parametrize("model", SERVERS)
def test_a_last_message_that_is_too_long_alone_is_never_cut(
    engine: Make, server: Any, model: str
) -> None:
    draw = Draw((Message("user", "word " * 200),), 1, Sampling(max_new_tokens=20))
    with pytest.raises(TooLong, match=r"^the server at http://127\.0\.0\.1:\d+/v1 reads no more: "):
        list(engine(model).sample([draw, draw]))
    assert {m["content"] for b in sent(server, model)[-2:] for m in b["messages"]} == {
        "word " * 200
    }


def test_the_next_turn_does_not_ask_for_what_was_refused_before(engine: Make, server: Any) -> None:
    made = engine("llamacpp")
    first = talk(30)
    [reply] = made.generate([first])
    before = len(sent(server, "llamacpp"))
    longer = (*first.messages, Message("assistant", reply.text), Message("user", "and then?"))
    made.generate([Draw(longer, 2, first.sampling)])
    assert len(sent(server, "llamacpp")) - before <= 2
    assert sent(server, "llamacpp")[-1]["messages"][-1]["content"] == "and then?"
    assert sent(server, "llamacpp")[-1]["max_tokens"] == 20


def test_a_reply_may_not_take_more_than_a_quarter_of_the_context(engine: Make, server: Any) -> None:
    [reply] = engine("vllm").generate([talk(2, new=5000)])
    assert reply.finished
    heard = sent(server, "vllm")[-1]
    assert heard["max_tokens"] == 25
    assert len(heard["messages"]) == 6  # it all fits, once the reply does
    assert reply.sampling == Sampling(max_new_tokens=5000)  # what was asked for is what is recorded


def test_a_reply_that_has_begun_is_kept_and_not_begun_again(engine: Make, server: Any) -> None:
    stream = engine("bursts").sample([talk(3)])
    made = [next(stream), next(stream)][-1].generation
    with pytest.raises(ServerError) as error:
        next(stream)
    assert not isinstance(error.value, TooLong)
    assert made is not None
    assert (made.text, made.finished) == ("so far ", False)
    assert len(sent(server, "bursts")) == 1


@pytest.mark.parametrize(
    ("told", "limit"),
    [
        ({"error": {"message": "too long", "code": "context_length_exceeded"}}, None),
        ({"error": {"message": "no", "type": "exceed_context_size_error", "n_ctx": 256}}, 256),
        ({"error": "the loaded model has a context length of only 4096 tokens"}, 4096),
        ({"message": "max_tokens must be at least 1, got -186.", "code": 400}, None),
        (
            {"message": "The input (5000 tokens) is longer than the model's context length (4096)"},
            4096,
        ),
        ({"error": "`inputs` tokens + `max_new_tokens` must be <= 2048. Given: 3000"}, None),
        ("maximum model length of 2048", 2048),
    ],
)
def test_other_wordings_of_it(told: Any, limit: int | None) -> None:
    assert is_overlong(told)
    assert context_of(told) == limit


@pytest.mark.parametrize(
    "told",
    [
        {"error": {"message": "temperature must be at most 2", "type": "invalid_request_error"}},
        {"error": {"message": "bad role", "input": "what is the maximum context length is 5?"}},
        {"error": {"message": "Rate limit reached: 30000 tokens per min", "code": "rate_limit"}},
        "",
        [],
        {"error": None},
    ],
)
def test_other_errors_are_not_taken_for_it(told: Any) -> None:
    assert not is_overlong(told)
