"""A pair that goes into a file comes out of it the same, and other people's files are survived."""

from __future__ import annotations

import gzip
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hhchat import formats, jsonlines
from hhchat.formats import FORMATS, Pair, parse, read, transcript, write
from hhchat.jsonlines import BadLine
from hhchat.transfer import to_comparison
from hhchat.types import BadInput, Message

TEXT = st.text(max_size=20).filter(lambda t: not formats.MARKER.search("\n\n" + t))
USER, ASSISTANT = "user", "assistant"


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    messages = []
    system = draw(st.none() | TEXT.filter(str.strip))
    if system is not None:
        messages.append(Message("system", system))
    for _ in range(draw(st.integers(0, 2))):
        messages += [Message("user", draw(TEXT)), Message("assistant", draw(TEXT))]
    messages.append(Message("user", draw(TEXT)))
    return Pair(tuple(messages), draw(TEXT), draw(TEXT))


def lines(*items: object) -> io.BytesIO:
    return io.BytesIO("".join(json.dumps(i) + "\n" for i in items).encode())


def only(item: object, format: str = "auto") -> Pair | BadLine:
    ((number, found),) = read(lines(item), format)
    assert number == 1
    return found


def one_line(error: Exception) -> None:
    assert "\n" not in str(error)


def why(item: object, format: str) -> str:
    with pytest.raises(BadLine) as error:
        parse(item, format)
    assert "\n" not in str(error.value)
    return str(error.value)


@given(pair=pairs(), strength=st.none() | st.integers(1, 4), format=st.sampled_from(FORMATS))
def test_a_pair_survives_every_format(pair, strength, format):
    mode = "redteam-worst" if strength == 2 else "helpful"
    pair = Pair(pair.messages, pair.chosen, pair.rejected, strength, mode)
    line = write(to_comparison(pair), format)
    assert "\n" not in line
    back = only(json.loads(line))
    assert isinstance(back, Pair)
    assert (back.messages, back.chosen, back.rejected) == (
        pair.messages,
        pair.chosen,
        pair.rejected,
    )
    assert back.original is None
    if format == "hhchat":
        assert (back.strength, back.mode) == (strength, mode)


@given(pair=pairs())
def test_a_transcript_is_repeated_to_the_byte(pair):
    item = {
        "chosen": transcript(pair.messages, pair.chosen),
        "rejected": transcript(pair.messages, pair.rejected),
    }
    assert json.loads(write(to_comparison(only(item)), "hh-rlhf")) == item


@given(texts=st.tuples(*[st.text(alphabet="a \n:HumanAssistant", max_size=30)] * 2), pair=pairs())
def test_a_transcript_of_any_spelling_is_repeated_to_the_byte_or_named(texts, pair):
    for chosen, rejected in (
        texts,
        tuple("\n\nHuman:" + t + "\n\nAssistant:" + t for t in texts),
        ("Human: a\n\nAssistant:" + texts[0], "Human: a\n\nAssistant:" + texts[1]),
    ):
        try:
            found = parse({"chosen": chosen, "rejected": rejected}, "hh-rlhf")
        except BadLine:
            continue
        line = json.loads(write(to_comparison(found), "hh-rlhf", found.original))
        assert line == {"chosen": chosen, "rejected": rejected}


def test_the_hhchat_format_is_as_documented():
    item = {
        "messages": [{"role": "user", "content": "hi"}],
        "chosen": "a",
        "rejected": "b",
        "strength": 3,
        "mode": "redteam-worst",
    }
    pair = only(item)
    assert pair == Pair((Message("user", "hi"),), "a", "b", 3, "redteam-worst")
    comparison = to_comparison(pair)
    assert (comparison.picked, comparison.preferred, comparison.chosen.text) == (1, 0, "a")
    assert json.loads(write(comparison, "hhchat")) == item
    bare = {key: item[key] for key in ("messages", "chosen", "rejected")}
    assert only(bare) == Pair((Message("user", "hi"),), "a", "b")


def test_a_repeated_assistant_is_part_of_its_reply():
    item = {
        "chosen": "\n\nHuman: q\n\nAssistant: one\n\nAssistant: two",
        "rejected": "\n\nHuman: q\n\nAssistant: one",
    }
    assert only(item) == Pair((Message("user", "q"),), "one\n\nAssistant: two", "one")


@pytest.mark.parametrize(
    "item",
    [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {
            "prompt": [{"role": "user", "content": "q"}],
            "chosen": [{"role": "assistant", "content": "a"}],
            "rejected": [{"role": "assistant", "content": "b"}],
        },
        {
            "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
            "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}],
        },
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
        {"conversations": [{"from": "human", "value": "q"}], "chosen": "a", "rejected": "b"},
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
    ],
)
def test_the_same_pair_is_read_from_each_layout(item):
    assert only(item) == Pair((Message("user", "q"),), "a", "b")


def test_a_system_prompt_beside_the_conversation_is_kept():
    item = {"system": "s", "prompt": "q", "chosen": "a", "rejected": "b"}
    assert only(item).messages == (Message("system", "s"), Message("user", "q"))


Q = [{"role": "user", "content": "q"}]


@pytest.mark.parametrize(
    ("format", "item", "says"),
    [
        ("hhchat", [], "list where an object"),
        ("hhchat", 3, "number where an object"),
        ("hhchat", {"messages": Q, "chosen": "a"}, "no 'rejected'"),
        ("hhchat", {"messages": Q, "chosen": 1, "rejected": "b"}, "number, not a text"),
        ("hhchat", {"messages": Q, "chosen": "a", "rejected": "b", "strength": 5}, "strength 5"),
        ("hhchat", {"messages": Q, "chosen": "a", "rejected": "b", "strength": True}, "strength"),
        ("hhchat", {"messages": Q, "chosen": "a", "rejected": "b", "strength": [1]}, "strength"),
        ("hhchat", {"messages": Q, "chosen": "a", "rejected": "b", "mode": 1}, "mode"),
        ("hhchat", {"messages": Q, "chosen": "\ud800", "rejected": "b"}, "surrogate"),
        ("hhchat", {"messages": [], "chosen": "a", "rejected": "b"}, "user's side"),
        ("hhchat", {"messages": "q", "chosen": "a", "rejected": "b"}, "text, not a list"),
        ("hhchat", {"messages": ["q"], "chosen": "a", "rejected": "b"}, "holds a text"),
        ("hhchat", {"messages": [{}], "chosen": "a", "rejected": "b"}, "unknown speaker"),
        (
            "hhchat",
            {"messages": [*Q, *Q], "chosen": "a", "rejected": "b"},
            "do not alternate: turn 2",
        ),
        (
            "hhchat",
            {"messages": [*Q, {"role": "usr", "content": ""}], "chosen": "a", "rejected": "b"},
            "did you mean 'user'",
        ),
        ("dpo", {"prompt": None, "chosen": "a", "rejected": "b"}, "null, not a list"),
        ("dpo", {"prompt": "q", "chosen": Q, "rejected": Q}, "not the assistant's"),
        ("dpo", {"prompt": "q", "chosen": [], "rejected": []}, "not one reply"),
        ("dpo", {"chosen": "a", "rejected": []}, "not a list"),
        ("sharegpt", {"conversations": [{"from": "gpt", "value": "q"}]}, "do not alternate"),
        (
            "sharegpt",
            {"conversations": [{"from": "observation", "value": "q"}]},
            "unknown speaker 'observation'",
        ),
        ("hh-rlhf", {"chosen": "plain", "rejected": "plain"}, "no 'Human:'"),
        ("hh-rlhf", {"chosen": "\n\nAssistant: a", "rejected": "b"}, "do not alternate"),
        (
            "hh-rlhf",
            {"chosen": "\n\nHuman: a\n\nHuman: b\n\nAssistant: c", "rejected": ""},
            "do not alternate: turn 2",
        ),
        ("hh-rlhf", {"chosen": "\n\nHuman: a", "rejected": "\n\nHuman: a"}, "does not end on"),
        (
            "hh-rlhf",
            {"chosen": "\n\nHuman: a\n\nAssistant: c", "rejected": "\n\nHuman: b\n\nAssistant: c"},
            "differ before their last reply",
        ),
    ],
)
def test_a_line_that_holds_no_pair_says_why(format, item, says):
    assert says in why(item, format)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "messages",
                    "chosen",
                    "rejected",
                    "prompt",
                    "conversations",
                    "role",
                    "content",
                    "from",
                    "value",
                    "strength",
                    "mode",
                    "system",
                ]
            ),
            inner | st.sampled_from(["user", "human", "gpt", "\n\nHuman: a\n\nAssistant: b"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(item=JSON, format=st.sampled_from(FORMATS))
def test_no_json_value_gets_past_as_an_exception(item, format):
    try:
        pair = parse(item, format)
    except BadLine as error:
        one_line(error)
    else:
        write(to_comparison(pair), format)


@given(raw=st.binary(max_size=200), packed=st.booleans())
def test_no_file_gets_past_as_an_exception(raw, packed):
    raw = gzip.compress(raw)[: -len(raw) or None] if packed else raw
    for start in (b"", b"[", b"{", b"\xef\xbb\xbf", b"\x1f\x8b"):
        assert isinstance(list(jsonlines.items(io.BytesIO(start + raw))), list)
        try:
            list(read(io.BytesIO(start + raw)))
        except BadInput as error:
            one_line(error)


GOOD = {"prompt": "q", "chosen": "a", "rejected": "b"}


def test_bad_lines_are_named_and_the_rest_is_read():
    good = json.dumps(GOOD).encode()
    raw = b"\n".join(
        [
            b"\xef\xbb\xbf",
            good,
            b"not json",
            b"",
            good + b"\r",
            b'{"prompt": "\xff"}',
            b'{"prompt": "\\ud800", "chosen": "a", "rejected": "b"}',
            b'{"prompt": "\0", "chosen": "a", "rejected": "b"}',
            b"[" * 100_000,
            b"9" * 10_000,
            good,
        ]
    )
    found = list(read(io.BytesIO(raw)))
    assert [n for n, pair in found if isinstance(pair, Pair)] == [2, 5, 11]
    bad = {n: str(error) for n, error in found if isinstance(error, BadLine)}
    assert sorted(bad) == [3, 6, 7, 8, 9, 10]
    assert "UTF-8 at byte 13" in bad[6]
    assert "surrogate" in bad[7]
    assert "control character" in bad[8]


def test_a_nul_that_is_spelled_out_is_text():
    assert only({**GOOD, "chosen": "a\0b"}).chosen == "a\0b"


def test_a_line_too_long_is_skipped_not_held(monkeypatch):
    monkeypatch.setattr(jsonlines, "MAX_LINE", 1000)
    monkeypatch.setattr(jsonlines, "CHUNK", 64)
    raw = lines(GOOD, {**GOOD, "chosen": "x" * 5000}, GOOD).getvalue()
    found = list(read(io.BytesIO(raw)))
    assert [(n, isinstance(p, Pair)) for n, p in found] == [(1, True), (2, False), (3, True)]
    array = b"[" + b",".join(raw.splitlines()) + b"]"
    assert [isinstance(p, Pair) for _, p in read(io.BytesIO(array))] == [True, False]


@pytest.mark.parametrize("chunk", [1, 7, 50, 10_000])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_read_whatever_its_layout(monkeypatch, chunk, indent):
    monkeypatch.setattr(jsonlines, "CHUNK", chunk)
    items = [{**GOOD, "chosen": f"é {i} ] }} \n"} for i in range(20)]
    raw = "\n\n " + json.dumps(items, indent=indent, ensure_ascii=False) + "\n"
    found = list(read(io.BytesIO(raw.encode())))
    assert [p.chosen for _, p in found if isinstance(p, Pair)] == [i["chosen"] for i in items]
    assert len(found) == 20
    if indent:  # an item has the number of the line it begins on
        assert [n for n, _ in found] == [4 + 5 * i for i in range(20)]


@pytest.mark.parametrize("cut", [b"", b"]x", b",", b', {"a": nonsense}, {}]', b"\xff"])
def test_an_array_that_breaks_keeps_what_came_before(cut):
    raw = b"[" + json.dumps(GOOD).encode() + cut
    found = list(read(io.BytesIO(raw)))
    assert isinstance(found[0][1], Pair)
    assert isinstance(found[-1][1], BadLine)


def test_only_the_item_that_is_not_utf8_is_refused_in_an_array():
    good = json.dumps(GOOD).encode()
    raw = b"[" + b",\n".join([good, good.replace(b"q", b"\xff"), good]) + b"]"
    found = list(read(io.BytesIO(raw)))
    assert [(n, isinstance(p, Pair)) for n, p in found] == [(1, True), (2, False), (3, True)]
    assert str(found[1][1]) == "not valid UTF-8"


def test_a_gzip_file_that_ends_early_keeps_what_came_before():
    raw = gzip.compress(b"".join(lines(*[{**GOOD, "chosen": str(i)}]).getvalue() for i in range(9)))
    whole = list(read(io.BytesIO(raw)))
    assert len(whole) == 9
    cut = list(read(io.BytesIO(raw[:-8])))
    assert [isinstance(p, Pair) for _, p in cut] == [True] * 9 + [False]
    assert "ends early" in str(cut[-1][1])
    twice = list(read(io.BytesIO(raw + raw + b"\0" * 9)))
    assert [n for n, _ in twice] == list(range(1, 19))


@pytest.mark.parametrize(
    "raw", [b"\x7fELF\0\0\0\1\2\3" * 50, b"hello\nthere\n", b"{}", b"[1, 2]", b"\x89PNG\r\n\x1a\n"]
)
def test_a_file_of_no_known_format_is_refused_with_the_formats(raw):
    with pytest.raises(BadInput, match="hhchat, hh-rlhf, dpo, sharegpt"):
        list(read(io.BytesIO(raw)))


def test_an_empty_file_has_no_lines():
    assert list(read(io.BytesIO(b""))) == []
    assert list(read(io.BytesIO(b"\n \n"))) == []


def test_a_format_that_does_not_exist_gets_the_nearest_name():
    with pytest.raises(BadInput, match="did you mean 'sharegpt'"):
        list(read(lines(GOOD), "sharegtp"))
    with pytest.raises(BadInput, match="did you mean 'dpo'"):
        write(to_comparison(Pair((Message("user", "q"),), "a", "b")), "dop")
