"""The engine: the same seed is the same reply, whatever else is being said at the time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import pytest
import torch

from hhchat.model import Adapter, LocalEngine, Model, load_model, save_adapter
from hhchat.model.decode import Row
from hhchat.model.decoder import Decoder
from hhchat.model.rows import Rows
from hhchat.types import Draw, Exchange, Message, ModelError, Sampling, TooLong

WORDS = ["the", "cat", "sat", "on", "mat", "and", "ran", "home", "again", "hello", "why", "dog"]


def talk(i: int) -> tuple[Message, ...]:
    """A conversation unlike its neighbours in words and in length."""
    words = [WORDS[(i * 7 + j * 3) % len(WORDS)] for j in range(1 + i % 9)]
    question = Message("user", " ".join(words))
    if i % 3:
        return (question,)
    return (
        question,
        Message("assistant", "the cat"),
        Message("user", f"why {WORDS[i % len(WORDS)]}"),
    )


def draw(i: int, **sampling: object) -> Draw:
    return Draw(talk(i), seed=1000 + i, sampling=Sampling(**{"max_new_tokens": 16, **sampling}))


def crowd() -> list[Draw]:
    """40 rows of every kind: temperatures, nuclei, limits, prompts shared and not."""
    return [
        draw(
            i,
            temperature=(1.0, 0.7, 0.0, 1.3)[i % 4],
            top_p=(1.0, 0.8)[i % 2],
            max_new_tokens=8 + i % 12,
        )
        for i in range(38)
    ] + [replace(draw(3), seed=1), replace(draw(3), seed=2)]


@pytest.fixture(scope="module")
def ending(make_tiny: Callable, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model whose replies often end by themselves: a tenth of its tokens end a turn."""
    folder = tmp_path_factory.mktemp("ending") / "model"
    shutil.copytree(make_tiny("llama").folder, folder)
    content = json.loads((folder / "generation_config.json").read_text())
    content["eos_token_id"] = [2, *range(40, 78)]
    (folder / "generation_config.json").write_text(json.dumps(content))
    return load_model(str(folder), quantization="none", dtype="fp32", device="cpu")


def finals(engine: LocalEngine, draws: list[Draw]) -> list:
    made = {d.row: d.generation for d in engine.sample(draws) if d.generation is not None}
    return [made[i] for i in range(len(draws))]


def test_two_conversations_that_take_turns_on_one_engine_get_the_replies_they_would_have_alone(
    ending,
):
    pairs = [
        [replace(draw(i), seed=s, sampling=Sampling(1.0, 1.0, 24)) for s in (1, 2)] for i in (3, 5)
    ]
    alone = [finals(LocalEngine(ending), pair) for pair in pairs]
    engine = LocalEngine(ending)
    for pair in pairs:  # each turn starts from the cache that some turn before it has left
        assert finals(engine, pair)
    open_ones = [engine.sample(pair) for pair in pairs]
    made: list[dict] = [{}, {}]
    order = []
    while any(open_ones):
        for i, one in enumerate(open_ones):
            if one is None:
                continue
            delta = next(one, None)
            if delta is None:
                open_ones[i] = None
                continue
            order.append(i)
            if delta.generation is not None:
                made[i][delta.row] = delta.generation
    assert order[:6] == [0, 1, 0, 1, 0, 1]
    assert [[m[0], m[1]] for m in made] == alone


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 1.0), (torch.bfloat16, 0.9)])
def test_the_same_seed_gives_the_same_reply_alone_in_a_pair_and_in_a_crowd(ending, dtype, share):
    # in bf16 the pads of other rows can round a sum otherwise, and rarely a token with it
    draws = crowd()
    together = LocalEngine(ending, dtype=dtype).generate(draws)
    same: list[bool] = []
    for other in (
        finals(LocalEngine(ending, dtype=dtype), draws),
        LocalEngine(ending, dtype=dtype, rows=3).generate(draws),
    ):
        same += [a.token_ids == b.token_ids for a, b in zip(together, other, strict=True)]
    for i in range(0, 40, 3):
        alone = LocalEngine(ending, dtype=dtype).generate([draws[i]])[0]
        pair = finals(LocalEngine(ending, dtype=dtype), [draws[(i + 1) % 40], draws[i]])[1]
        same += [alone == together[i], pair == together[i]]
    assert sum(same) >= share * len(same)


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_a_quantised_row_does_not_depend_on_its_batch(tiny, quantization):
    model = tiny.load(quantization)
    draws = crowd()
    together = LocalEngine(model).generate(draws)
    for i in range(0, 40, 4):
        assert LocalEngine(model).generate([draws[i]])[0].token_ids == together[i].token_ids
    # and its numbers agree far below what another row's outliers would change
    ids = torch.tensor([ending_ids(model, talk(1))])
    loud = torch.full_like(ids, 17)
    at = torch.tensor([[ids.shape[1] - 1]])
    with torch.no_grad():
        alone = model.trunk.hidden(Rows(ids, at))[0, 0]
        both = model.trunk.hidden(Rows(torch.cat([loud, ids]), at.repeat(2, 1)))[0, 1]
    torch.testing.assert_close(both, alone, atol=3e-6, rtol=3e-6)


def ending_ids(model: Model, messages: tuple[Message, ...]) -> list[int]:
    return model.render.prompt(messages)


def test_greedy_replies_are_the_most_likely_tokens_of_transformers_own_forward(tiny, llama):
    made = LocalEngine(llama).generate([draw(i, temperature=0.0) for i in range(6)])
    for i, reply in enumerate(made):
        prompt = llama.render.prompt(talk(i))
        ids = torch.tensor([[*prompt, *reply.token_ids]])
        with torch.no_grad():
            logits = tiny.oracle(ids).logits[0, len(prompt) - 1 : -1]
        logits[:, list(llama.render.blocked)] = float("-inf")
        assert logits.argmax(-1).tolist() == list(reply.token_ids)


def test_a_turn_that_goes_on_from_the_cache_is_the_turn_of_a_fresh_engine(llama):
    warm = LocalEngine(llama)
    talked = [Message("user", "hello you")]
    for turn in range(4):
        draws = [
            Draw(tuple(talked), seed=10 * turn + j, sampling=Sampling(max_new_tokens=12))
            for j in range(2)
        ]
        kept = finals(warm, draws)
        fresh = finals(LocalEngine(llama), draws)
        assert [g.token_ids for g in kept] == [g.token_ids for g in fresh]
        talked += [Message("assistant", kept[turn % 2].text), Message("user", f"why {turn}")]


def test_a_cache_left_by_a_stopped_reply_is_not_mistaken_for_a_whole_one(llama):
    warm = LocalEngine(llama)
    asked = iter([False, False, False, True])
    first = [draw(1), replace(draw(1), seed=5)]
    stopped = list(warm.sample(first, lambda: next(asked, True)))
    assert all(not d.generation.finished for d in stopped if d.generation)
    again = replace(draw(1), seed=6)
    assert finals(warm, [again]) == LocalEngine(llama).generate([again])


def test_every_end_token_ends_a_row_and_nothing_follows_it(ending):
    made = LocalEngine(ending).generate([draw(i, max_new_tokens=30) for i in range(40)])
    ends = ending.render.end_ids
    assert len(ends) == 39
    assert sum(g.finished for g in made) > 20
    for reply in made:
        assert not set(reply.token_ids[:-1]) & ends
        assert (reply.token_ids[-1] in ends) == reply.finished
        assert reply.finished or len(reply.token_ids) == 30


def test_a_stopped_reply_is_kept_as_it_is_and_marked_unfinished(llama):
    calls = iter(range(100))
    deltas = list(LocalEngine(llama).sample([draw(1), draw(2)], lambda: next(calls) >= 4))
    last = {d.row: d.generation for d in deltas if d.generation is not None}
    whole = LocalEngine(llama).generate([draw(1), draw(2)])
    for row in (0, 1):
        assert not last[row].finished
        assert last[row].token_ids == whole[row].token_ids[:4]


def test_an_abandoned_stream_leaves_the_engine_free_for_the_next_question(llama):
    engine = LocalEngine(llama)
    stream = engine.sample([draw(1)])
    list(islice(stream, 2))
    stream.close()
    assert engine.generate([draw(2)]) == LocalEngine(llama).generate([draw(2)])


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_what_streams_onto_the_screen_adds_up_to_the_reply_that_is_stored(make_tiny, template):
    made = make_tiny("llama") if template == "chat" else make_tiny("llama", template=None)
    model = made.load()
    draws = [draw(i, max_new_tokens=40, temperature=1.5) for i in range(30)]
    shown = [""] * len(draws)
    final = {}
    for delta in LocalEngine(model).sample(draws):
        shown[delta.row] += delta.text
        if delta.generation is not None:
            final[delta.row] = delta.generation.text
    assert shown == [final[i] for i in range(len(draws))]


def test_a_long_conversation_loses_its_oldest_turns_and_fits_the_model(llama):
    limit = llama.spec.max_positions
    long = [Message("system", "you sat")]
    for i in range(30):
        long += [Message("user", f"what is {i} the cat"), Message("assistant", "the mat")]
    long += [Message("user", "and why")]
    engine = LocalEngine(llama)
    prompt, room = engine.fit(long, 40)
    assert len(prompt) + room <= limit
    assert room == 40
    text = llama.render._frame.decode(prompt, skip_special_tokens=False)
    assert text.startswith("<|im_start|>system\nyou sat<|im_end|>\n<|im_start|>user\nwhat is")
    assert text.endswith("<|im_start|>user\nand why<|im_end|>\n<|im_start|>assistant\n")
    reply = engine.generate([Draw(tuple(long), 1, Sampling(max_new_tokens=10_000))])[0]
    prompt, room = engine.fit(long, 10_000)
    assert len(prompt) + len(reply.token_ids) <= limit
    with pytest.raises(TooLong, match="tokens; this model reads at most"):
        engine.generate([Draw((Message("user", "why " * 400),), 1)])


def test_each_row_is_sampled_from_the_snapshot_that_it_names(llama, tmp_path):
    adapter = Adapter(llama.spec, 4, seed=3)
    with torch.no_grad():
        for b in adapter.b.values():
            b.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(4))
    save_adapter(adapter, tmp_path / "snap")

    def resolve(name: str):
        return ("base", None) if name == "base" else ("s1", tmp_path / "snap")

    draws = [replace(draw(i), snapshot=("base", "current")[i % 2]) for i in range(8)]
    mixed = LocalEngine(llama, resolve).generate(draws)
    assert [g.snapshot for g in mixed] == ["base", "s1"] * 4
    streamed = finals(LocalEngine(llama, resolve), draws)
    assert streamed == mixed
    for i, made in enumerate(mixed):
        alone = LocalEngine(llama, resolve).generate([draws[i]])[0]
        assert alone == made
        other = replace(draws[i], snapshot=("current", "base")[i % 2])
        assert LocalEngine(llama, resolve).generate([other])[0].token_ids != made.token_ids


def test_best_of_k_keeps_the_judge_s_favourite_of_the_draws_own_candidates(llama):
    class Longest:
        def score(self, exchanges: list[Exchange]) -> list[float]:
            return [len(e.reply) for e in exchanges]

    engine = LocalEngine(llama, judge=lambda snapshot: Longest())
    best = engine.generate([draw(1, best_of=6), draw(2, best_of=6)])
    assert [len(d.generation.text) for d in engine.sample([draw(1, best_of=6)])] == [
        len(best[0].text)
    ]
    for i, chosen in zip((1, 2), best, strict=True):
        assert len(chosen.text) >= len(engine.generate([draw(i)])[0].text)
        assert chosen.sampling.best_of == 6
        assert engine.generate([draw(i, best_of=6)]) == [chosen]
    with pytest.raises(ModelError, match="preference model"):
        LocalEngine(llama).generate([draw(1, best_of=2)])


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_decoding_merged_and_unmerged_is_the_same_policy(tiny, quantization):
    model = tiny.load(quantization)
    role = Adapter(model.spec, 4, seed=1)
    with torch.no_grad():
        for b in role.b.values():
            b.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(2))
    replies = []
    for merged in (True, False):
        rows = [Row(model.render.prompt(talk(i)), seed=i, max_new=12) for i in range(4)]
        with torch.no_grad():
            LocalEngine(model).run(Decoder(model.trunk, role, merged=merged), rows)
        replies.append([r.tokens for r in rows])
    assert replies[0] == replies[1]


def test_a_snapshot_that_serves_the_best_of_k_does_so_wherever_it_speaks(llama):
    class Longest:
        def score(self, exchanges):
            return [float(len(e.reply)) for e in exchanges]

    def serves(name):
        return 5 if name == "current" else 1

    engine = LocalEngine(llama, judge=lambda name: Longest(), best_of=serves)
    [asked] = LocalEngine(llama, judge=lambda name: Longest()).generate([draw(3, best_of=5)])
    assert engine.generate([draw(3)]) == [asked]
    assert [d.generation for d in engine.sample([draw(3)])] == [asked]
    assert asked.sampling.best_of == 5  # the record says how it came to be
    plain = replace(draw(3), snapshot="base")
    assert engine.generate([plain]) == LocalEngine(llama).generate([plain])


def test_replies_for_which_memory_runs_out_are_sampled_fewer_at_once_and_stay_the_same(
    ending: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, tried = LocalEngine.run, []

    def tight(self: LocalEngine, decoder: Decoder, rows: list[Row]) -> None:
        tried.append(len(rows))
        if len(rows) > room:
            rows[0].tokens.append(3)  # it had begun
            raise torch.OutOfMemoryError("CUDA out of memory")
        run(self, decoder, rows)

    ample = LocalEngine(ending, dtype=torch.float32).generate(crowd())
    monkeypatch.setattr(LocalEngine, "run", tight)
    room = 10
    assert LocalEngine(ending, dtype=torch.float32).generate(crowd()) == ample
    assert tried == [40, 32, 16, 8, 8, 8, 8, 8]
    room = 0
    with pytest.raises(ModelError, match="out of memory even one reply at a time"):
        LocalEngine(ending).generate(crowd())
