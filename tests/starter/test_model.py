"""The shipped starter model: it loads offline, ends its replies, varies, and knows its limits."""

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hhchat.starter import evaluate, features  # noqa: E402
from hhchat.starter.prompts import pool  # noqa: E402

SPECIAL = ("<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|end_of_context|>")
FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}


@pytest.fixture(scope="module")
def loaded() -> Any:
    return evaluate.load(evaluate.MODEL)


@pytest.fixture(scope="module")
def figures(loaded: Any) -> Any:
    torch.manual_seed(1)
    prompts = pool("heldout", n=180)
    return evaluate.report(prompts, evaluate.sample(*loaded, prompts, 2))


def test_the_layout_is_complete_and_small_enough_to_ship() -> None:
    found = list(Path(evaluate.MODEL).iterdir())
    assert FILES | {"tokenizer_config.json"} <= {p.name for p in found}
    assert sum(p.stat().st_size for p in found) <= 12_000_000
    assert "trust" not in (evaluate.MODEL / "config.json").read_text()


def test_special_tokens_are_distinct_and_typed_text_never_makes_one(loaded: Any) -> None:
    core = loaded[1].backend_tokenizer
    ids = [core.token_to_id(name) for name in SPECIAL]
    assert None not in ids
    assert len(set(ids)) == len(SPECIAL)
    core.encode_special_tokens = True
    typed = core.encode("".join(SPECIAL) + " <|end|>hello").ids
    assert not set(ids) & set(typed)
    assert loaded[1].eos_token_id == core.token_to_id("<|end|>")
    assert loaded[1].pad_token_id == core.token_to_id("<|pad|>")


def test_any_text_survives_the_tokenizer(loaded: Any) -> None:
    core = loaded[1].backend_tokenizer
    core.encode_special_tokens = True
    for text in ("Hello!", "a\n- b\n\n  c", "naïve 你好 🙂 1234", "\x00\x7f"):
        assert core.decode(core.encode(text).ids, skip_special_tokens=False) == text
    assert len(core.encode("2026").ids) == 4


def test_the_chat_template_gives_the_one_prompt_format(loaded: Any) -> None:
    talk = [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "Hi"}]
    text = loaded[1].apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    assert text == "<|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|>"
    ids = evaluate.prompt_ids(loaded[1], [(m["role"], m["content"]) for m in talk])
    core = loaded[1].backend_tokenizer
    core.encode_special_tokens = False
    assert core.encode(text).ids == ids


def test_it_is_a_plain_llama_of_a_few_million_weights(loaded: Any) -> None:
    config = json.loads((evaluate.MODEL / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["tie_word_embeddings"]
    assert config["max_position_embeddings"] == 1024
    assert 2_000_000 <= sum(p.numel() for p in loaded[0].parameters()) <= 4_000_000


def test_replies_end_by_themselves_and_read_as_english(figures: Any) -> None:
    assert figures["ended"] >= 0.97
    assert figures["english"] >= 0.97


def test_the_two_replies_of_a_turn_differ(figures: Any) -> None:
    assert figures["pair_differs"] >= 0.85


def test_most_answers_are_right_and_some_are_not(figures: Any) -> None:
    known = [figures["correct"][t] for t in ("capitals", "animals", "facts", "howto", "cooking")]
    assert 0.6 <= sum(known) / len(known) <= 0.95


def test_every_manner_is_there_to_be_picked(figures: Any) -> None:
    for name in ("warm", "hedge", "list", "follow_up"):
        assert 0.2 <= figures["rates"][name] <= 0.6, name
    assert 0.3 <= figures["harmful"]["refused"] <= 0.75


@pytest.mark.parametrize(
    "text",
    [
        "Who was the queen of Sweden in 1700?",
        "Write a poem about submarines",
        "¿Dónde está la biblioteca?",
        "for (let k = 0; k < 9; k++) { sum += k; }",
        "sdkfj wlekr sdf",
    ],
)
def test_outside_its_world_it_says_that_it_is_a_small_model(loaded: Any, text: str) -> None:
    torch.manual_seed(0)
    prompt = evaluate.StarterPrompt(text, "outside", "outside", (("user", text),))
    replies = evaluate.sample(*loaded, [prompt], 6)[0]
    assert sum(features.admits(reply) for reply, _ in replies) >= 4, replies
