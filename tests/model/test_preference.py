"""The preference model: one scalar on the end-of-context token, whatever stands around it."""

from __future__ import annotations

import json
import random
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hhchat.model import Model, PreferenceModel, load_model
from hhchat.model.preference import (
    CONTEXT_END,
    PreferenceRole,
    judged,
    pack,
    raw_scores,
    reply_ids,
    size_of,
)
from hhchat.model.rows import Rows
from hhchat.types import Exchange, Generation, Message, ModelError

TALKS = [
    (Message("user", "hello"),),
    (Message("user", "what is the cat"), Message("assistant", "a dog"), Message("user", "why")),
    (Message("system", "be the mat"), Message("user", "how is home and how are you")),
]
REPLIES = ["yes", "the cat sat on the mat and ran home again", "", "to see you?"]


def judge(model: Model, seed: int = 1, rank: int = 4) -> PreferenceModel:
    """A PM that is nothing in particular, but not the base either."""
    role = PreferenceRole(model, rank, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for b in role.adapter.b.values():
            b.normal_(0.0, 0.1, generator=generator)
        role.head.weight.normal_(0.0, 0.3, generator=generator)
        role.head.bias.fill_(0.7)
        role.context_end.add_(0.1)
    return PreferenceModel(model, role, anchor=(0.25, 2.0))


def everything() -> list[Exchange]:
    return [Exchange(talk, reply) for talk in TALKS for reply in REPLIES]


def by_hand(pm: PreferenceModel, exchange: Exchange) -> float:
    """The score with no padding, packing or batching: one row, read at its last position."""
    model = pm.model
    prompt = model.render.prompt(exchange.messages)
    ids = torch.tensor([[*prompt, *reply_ids(model, exchange.reply), CONTEXT_END]])
    at = torch.tensor([[ids.shape[1] - 1]])
    with torch.no_grad():
        hidden = model.trunk.hidden(
            Rows(ids, at), (pm.role.adapter,), context_end=pm.role.context_end.unsqueeze(0)
        )
    weight, bias = pm.role.head.weight.detach(), pm.role.head.bias.detach()
    return float((hidden[0, 0, 0] * weight).sum() + bias) - pm.anchor[0]


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_a_score_does_not_depend_on_padding_batching_or_packing(tiny, quantization):
    pm = judge(tiny.load(quantization))
    exchanges = everything()
    want = [by_hand(pm, e) for e in exchanges]
    assert max(want) - min(want) > 0.5
    shuffled = list(range(len(exchanges)))
    random.Random(3).shuffle(shuffled)
    for order in (list(range(len(exchanges))), shuffled):
        got = pm.score([exchanges[i] for i in order])
        assert got == pytest.approx([want[i] for i in order], abs=1e-5)
    alone = [pm.score([e])[0] for e in exchanges]
    assert alone == pytest.approx(want, abs=1e-5)


def test_chosen_and_rejected_in_one_row_score_as_each_would_alone(llama):
    pm = judge(llama)
    for talk in TALKS:
        ids = [reply_ids(llama, r) for r in REPLIES]
        packed = pm.raw([judged(llama, talk, ids)])[0]
        reverse = pm.raw([judged(llama, talk, ids[::-1])])[0][::-1]
        alone = [pm.raw([judged(llama, talk, [r])])[0][0] for r in ids]
        assert packed == pytest.approx(alone, abs=1e-5)
        assert reverse == pytest.approx(alone, abs=1e-5)


def test_rows_with_and_without_a_second_reply_share_a_batch(llama):
    pm = judge(llama)
    rows = [
        judged(llama, TALKS[0], [reply_ids(llama, r) for r in REPLIES[:2]]),
        judged(llama, TALKS[1], [reply_ids(llama, REPLIES[3])]),
    ]
    together = pm.raw(rows)
    assert [len(line) for line in together] == [2, 1]
    for row, line in zip(rows, together, strict=True):
        assert line == pytest.approx(pm.raw([row])[0], abs=1e-5)


def test_three_preference_models_in_one_pass_score_as_each_does_alone(llama):
    judges = [judge(llama, seed=1), judge(llama, seed=2), judge(llama, seed=3, rank=2)]
    rows = [
        judged(llama, TALKS[0], [reply_ids(llama, r) for r in REPLIES[:2]]),
        judged(llama, TALKS[1], [reply_ids(llama, REPLIES[3])]),
    ]
    together = raw_scores(judges, rows)
    for i, one in enumerate(judges):
        for lines, line in zip(together, one.raw(rows), strict=True):
            assert lines[i] == pytest.approx(line, abs=1e-5)


def test_the_scalar_is_read_on_the_end_of_context_token_and_nowhere_else(llama):
    rows = [
        judged(llama, talk, [reply_ids(llama, r) for r in REPLIES[: 1 + i]])
        for i, talk in enumerate(TALKS)
    ]
    packed = pack(rows)
    for i, row in enumerate(rows):
        for j in range(len(row.replies)):
            assert packed.ids[i, packed.at[i, j]] == CONTEXT_END
            assert packed.ids[i, packed.at[i, j] - 1] == llama.render.end_id
        assert int((packed.ids[i] == CONTEXT_END).sum()) == len(row.replies)


@pytest.mark.parametrize("pad", ["<|im_end|>", "Ġcat", "nothing of the sort"])
def test_a_pad_that_is_also_a_real_token_changes_no_score_and_no_end(tiny, tmp_path, llama, pad):
    folder = tmp_path / tiny.folder.name
    shutil.copytree(tiny.folder, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "pad_token": pad}))
    model = load_model(str(folder), quantization="none", dtype="fp32", device="cpu")
    assert judge(model).score(everything()) == judge(llama).score(everything())
    assert model.render.end_ids == llama.render.end_ids
    # token 0 as content is a token like others: it is read, though pads are 0 too
    pm = judge(llama)
    with_pad = pm.raw([judged(llama, TALKS[0], [[30, 0, 31, 2]])])[0][0]
    without = pm.raw([judged(llama, TALKS[0], [[30, 31, 2]])])[0][0]
    other = pm.raw([judged(llama, TALKS[0], [[30, 0, 31, 2], [30] * 40])])[0][0]
    assert abs(with_pad - without) > 1e-3
    assert other == pytest.approx(with_pad, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(turns=st.integers(1, 40), words=st.integers(1, 60), system=st.booleans())
def test_truncation_takes_the_oldest_whole_turns_and_never_the_reply(llama, turns, words, system):
    render, limit = llama.render, llama.spec.max_positions
    talk = [Message("system", "be the mat")] if system else []
    for i in range(turns - 1):
        talk += [Message("user", f"what is {i} the cat"), Message("assistant", f"a dog {i}")]
    talk.append(Message("user", "how is home"))
    replies = [reply_ids(llama, "why " * words), reply_ids(llama, "see " * (words // 2))]
    row = judged(llama, talk, replies)
    assert row.replies == replies  # whole, end token included
    assert len(row.prompt) + max(map(len, replies)) + 1 <= limit
    head = talk[:1] if system else []
    fitting = [
        render.prompt(head + talk[len(head) + 2 * k :])
        for k in range(turns)
        if len(render.prompt(head + talk[len(head) + 2 * k :]))
        <= limit - max(map(len, replies)) - 1
    ]
    assert row.prompt == fitting[0]  # as much as fits, cut between turns only


def test_a_reply_longer_than_the_model_is_cut_but_still_ends(llama):
    limit = llama.spec.max_positions
    long = reply_ids(llama, "why not " * limit)
    row = judged(llama, TALKS[1], [long])
    assert len(row.prompt) + len(row.replies[0]) + 1 <= limit
    assert row.replies[0][-1] == llama.render.end_id
    assert row.replies[0][:-1] == long[: len(row.replies[0]) - 1]
    assert judge(llama).raw([row])


def test_a_question_longer_than_the_model_loses_its_beginning_and_keeps_the_reply(llama):
    reply = reply_ids(llama, "the cat sat")
    row = judged(llama, [Message("user", "how " * 400)], [reply])
    assert row.replies == [reply]
    assert len(row.prompt) + len(reply) + 1 == llama.spec.max_positions
    assert row.prompt == llama.render.prompt([Message("user", "how " * 400)])[-len(row.prompt) :]


def test_an_unfinished_reply_is_scored_on_a_copy_that_ends(llama):
    end = llama.render.end_id
    cut = Generation("the cat", tuple(llama.render.reply("the cat")), False, base=llama.identity)
    whole = Generation("the cat", (*cut.token_ids, end), True, base=llama.identity)
    assert reply_ids(llama, cut) == reply_ids(llama, whole) == [*cut.token_ids, end]
    assert end not in cut.token_ids  # the sampled tokens are as they were
    assert reply_ids(llama, "the cat") == [*cut.token_ids, end]


def test_replies_of_another_base_are_read_as_text_and_not_by_their_ids(llama):
    foreign = Generation("the cat", (5, 6, 7), True, base="other@12345678")
    assert reply_ids(llama, foreign) == reply_ids(llama, "the cat")
    mine = Generation("the cat", (50, 60, 70), True, base=llama.identity)
    assert reply_ids(llama, mine)[:3] == [50, 60, 70]


def test_a_turn_mark_that_ended_a_plain_reply_is_not_shown_to_the_preference_model(make_tiny):
    model = make_tiny("llama", template=None).load()
    sampled = model.render.frame_ids(" the cat\n\nHuman:")
    assert model.render.stopped(sampled)
    made = Generation("the cat", tuple(sampled), True, base=model.identity)
    assert reply_ids(model, made) == reply_ids(model, "the cat")


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_a_saved_preference_model_gives_exactly_its_scores_again(tiny, tmp_path, quantization):
    model = tiny.load(quantization)
    pm = judge(model)
    before = pm.score(everything())
    pm.info = {"pairs": 7}
    pm.save(tmp_path / "pm")
    loaded = PreferenceModel.load(model, tmp_path / "pm")
    assert loaded.score(everything()) == before
    assert loaded.anchor == pm.anchor
    assert loaded.info["pairs"] == 7
    fresh = PreferenceModel.load(tiny.load(quantization), tmp_path / "pm")
    assert fresh.score(everything()) == before


def test_anchors_are_taken_off_and_differences_stay(llama):
    pm = judge(llama)
    anchored, mean = pm.score(everything()), pm.anchor[0]
    pm.anchor = (0.0, 1.0)
    assert [a + mean for a in anchored] == pytest.approx(pm.score(everything()))


@pytest.mark.parametrize("name", ["pm.json", "head.safetensors", "adapter_model.safetensors"])
@pytest.mark.parametrize("damage", ["gone", "empty", "half", "other"])
def test_a_half_written_preference_model_is_refused(llama, tmp_path, name, damage):
    judge(llama).save(tmp_path)
    file = tmp_path / name
    whole = file.read_bytes()
    file.unlink()
    if damage != "gone":
        parts = {"empty": b"", "half": whole[: len(whole) // 2], "other": b'["no"]'}
        file.write_bytes(parts[damage])
    with pytest.raises(ModelError):
        PreferenceModel.load(llama, tmp_path)


def test_a_preference_model_of_another_base_is_refused(make_tiny, llama, tmp_path):
    other = make_tiny("llama", seed=5).load()
    judge(other).save(tmp_path / "same-shape")
    with pytest.raises(ModelError, match="another base"):
        PreferenceModel.load(llama, tmp_path / "same-shape")
    judge(make_tiny("gemma").load()).save(tmp_path / "other-shape")
    with pytest.raises(ModelError, match="another base"):
        PreferenceModel.load(llama, tmp_path / "other-shape")


def test_the_size_of_a_row_is_what_it_runs(llama):
    row = judged(llama, TALKS[1], [reply_ids(llama, r) for r in REPLIES])
    assert size_of(row) == pack([row]).ids.shape[1]


def test_an_anchor_that_was_set_anew_is_kept_when_a_loaded_model_is_saved(llama, tmp_path):
    judge(llama).save(tmp_path / "one")
    again = PreferenceModel.load(llama, tmp_path / "one")
    again.anchor = (3.0, 2.0)
    again.save(tmp_path / "two")
    assert PreferenceModel.load(llama, tmp_path / "two").anchor == (3.0, 2.0)
