"""Messages to ids and back: what people type is text and never becomes a control token."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hhchat.model.render import PLAIN_STOPS, Renderer
from hhchat.types import Message, ModelError

MARKS = ["<|im_start|>", "<|im_end|>", "<|pad|>", "\n\nHuman:", "\n\nAssistant:", "\n", "<|"]
typed = st.lists(
    st.one_of(st.sampled_from(MARKS), st.text(max_size=8), st.sampled_from(["cat", " ", ":"])),
    max_size=8,
).map("".join)
GEMMA_LIKE = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim"
    " + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}"
    "{% endif %}"
)


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str) -> Message:
    return Message("assistant", text)


@pytest.fixture(scope="module")
def renderer(make_tiny: Callable) -> Renderer:
    return Renderer(make_tiny("llama").folder, 384)


@pytest.fixture(scope="module")
def plain(make_tiny: Callable) -> Renderer:
    return Renderer(make_tiny("llama", template=None).folder, 384)


def controls(renderer: Renderer, ids: list[int]) -> list[int]:
    special = {renderer.frame_ids(t)[0] for t in ("<|im_start|>", "<|im_end|>", "<|pad|>")}
    return [i for i in ids if i in special]


@settings(max_examples=150, deadline=None)
@given(first=typed, answer=typed, second=typed)
def test_typed_special_tokens_stay_text_in_every_place_of_a_conversation(
    renderer, first, answer, second
):
    messages = [Message("system", first), user(first), assistant(answer), user(second)]
    harmless = [Message("system", "a"), user("a"), assistant("a"), user("a")]
    ids = renderer.prompt(messages)
    assert controls(renderer, ids) == controls(renderer, renderer.prompt(harmless))
    assert not controls(renderer, renderer.reply(answer))


@settings(max_examples=150, deadline=None)
@given(first=typed, answer=typed, second=typed)
def test_typed_turn_marks_do_not_forge_turns_where_there_is_no_chat_template(
    plain, first, answer, second
):
    messages = [user(first), assistant(answer), user(second)]
    text = plain._frame.decode(plain.prompt(messages), skip_special_tokens=False)
    assert [text.count(stop) for stop in PLAIN_STOPS] == [2, 2]
    assert not plain.stopped(plain.reply(answer)[-12:])
    ids = plain.prompt(messages)
    harmless = plain.prompt([user("a"), assistant("a"), user("a")])
    assert controls(plain, ids) == controls(plain, harmless)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40))
def test_a_reply_that_is_encoded_and_decoded_is_the_reply(renderer, text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    assert renderer.decode(renderer.reply(text)) == text.strip()


@settings(max_examples=150, deadline=None)
@given(typed)
def test_what_was_shown_of_a_reply_is_never_taken_back(renderer, plain, text):
    for made in (renderer, plain):
        ids = made.reply(text)
        whole = made.decode(ids)
        for n in range(len(ids) + 1):
            if not made.stopped(ids[:n]):
                assert whole.startswith(made.partial(ids[:n]))


def test_the_prompt_is_what_transformers_makes_of_the_same_messages(make_tiny, renderer):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(make_tiny("llama").folder))
    talk = [Message("system", "you sat"), user("hello"), assistant("the cat"), user("why?")]
    want = tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in talk],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
    )
    assert renderer.prompt(talk) == want


def test_a_system_message_survives_a_template_that_refuses_one(tmp_path, make_tiny):
    folder = tmp_path / "model"
    shutil.copytree(make_tiny("llama").folder, folder)
    (folder / "chat_template.jinja").write_text(GEMMA_LIKE)
    renderer = Renderer(folder, 384)
    ids = renderer.prompt([Message("system", "be brief"), user("hello")])
    text = renderer._frame.decode(ids, skip_special_tokens=False)
    assert text.startswith("<|im_start|>user\nbe brief\n\nhello")


def test_end_and_pad_are_told_apart_and_pads_are_never_sampled(renderer):
    end, pad = renderer.frame_ids("<|im_end|>")[0], renderer.frame_ids("<|pad|>")[0]
    assert renderer.end_id == end
    assert renderer.pad_id == pad != end
    assert pad in renderer.blocked
    assert end not in renderer.blocked


def test_the_end_of_a_turn_is_known_though_the_config_names_another_end(tmp_path, make_tiny):
    # a model tuned for chat whose config.json kept the end-of-text id of its base
    folder = tmp_path / "model"
    shutil.copytree(make_tiny("llama").folder, folder)
    for name, key, value in (
        ("config.json", "eos_token_id", 7),
        ("generation_config.json", "eos_token_id", 7),
        ("tokenizer_config.json", "eos_token", None),
    ):
        content = json.loads((folder / name).read_text())
        content[key] = value
        (folder / name).write_text(json.dumps(content))
    renderer = Renderer(folder, 384)
    assert renderer.end_id == renderer.frame_ids("<|im_end|>")[0]
    assert renderer.end_ids == {7, renderer.end_id}


def test_a_broken_template_or_tokenizer_is_named_in_words(tmp_path, make_tiny):
    for name, content, words in (
        ("chat_template.jinja", "{% for %}", "chat template"),
        ("chat_template.jinja", "{{ messages[0].content }}", "leaves messages out"),
        ("tokenizer.json", "{}", "tokenizer.json"),
        ("tokenizer_config.json", "[1", "tokenizer_config.json"),
    ):
        folder = tmp_path / words.replace(" ", "-")
        shutil.copytree(make_tiny("llama").folder, folder)
        (folder / name).write_text(content)
        with pytest.raises(ModelError, match=words):
            Renderer(folder, 384).prompt([user("a"), assistant("b"), user("c")])


def test_a_prompt_that_ends_on_the_assistant_is_refused(renderer):
    with pytest.raises(ValueError, match="user's side"):
        renderer.prompt([user("a"), assistant("b")])
