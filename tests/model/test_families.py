"""Every family's logits are transformers' own, in scoring and in decoding."""

from __future__ import annotations

import torch

from hhchat.model.decode import Batch, Row
from hhchat.model.decoder import Cache, Decoder
from hhchat.model.rows import Rows


def test_a_model_of_this_family_scores_as_transformers_does(make_tiny, family):
    tiny = make_tiny(family)
    model = tiny.load()
    ids = torch.randint(3, 384, (2, 21), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = tiny.oracle(ids).logits
        rows = Rows(ids, torch.arange(21).expand(2, -1))
        got = model.trunk.logits(model.trunk.hidden(rows)[0])
    torch.testing.assert_close(got, want, atol=2e-4, rtol=2e-4)


def test_decoding_a_padded_batch_gives_the_tokens_of_a_full_forward(make_tiny, family):
    tiny = make_tiny(family)
    model = tiny.load()
    generator = torch.Generator().manual_seed(2)
    prompts = [torch.randint(3, 384, (n,), generator=generator).tolist() for n in (5, 12, 9)]
    # the first is the first to end: the last live row takes its place
    rows = [Row(p, seed=i, max_new=5 + 4 * i, temperature=0.0) for i, p in enumerate(prompts)]
    batch = Batch(Decoder(model.trunk, None), rows, frozenset())
    while not batch.done:
        batch.advance()
        batch.compact()
    for row in rows:
        ids = torch.tensor([row.prompt + row.tokens])
        with torch.no_grad():
            logits = tiny.oracle(ids).logits[0]
        expected = logits[len(row.prompt) - 1 : -1].argmax(-1).tolist()
        assert row.tokens == expected


def test_the_branches_of_a_packed_row_read_what_each_would_read_alone(make_tiny, family):
    # chosen and rejected share their conversation; windows and positions must not notice
    model = make_tiny(family).load()
    generator = torch.Generator().manual_seed(5)
    prompt, one, two = (
        torch.randint(3, 384, (n,), generator=generator).tolist() for n in (13, 7, 10)
    )
    ids = torch.tensor([[*prompt, *one, *two]])
    branch = torch.tensor([[0] * 13 + [1] * 7 + [2] * 10])
    positions = torch.tensor([[*range(13), *range(13, 20), *range(13, 23)]])
    at = torch.tensor([[19, 29]])
    with torch.no_grad():
        packed = model.trunk.hidden(Rows(ids, at, branch, positions))[0, 0]
        for number, reply in enumerate((one, two)):
            alone = torch.tensor([[*prompt, *reply]])
            end = torch.tensor([[alone.shape[1] - 1]])
            want = model.trunk.hidden(Rows(alone, end))[0, 0, 0]
            torch.testing.assert_close(packed[number], want, atol=1e-5, rtol=1e-4)


def test_a_prompt_continues_from_the_cache_of_the_turn_before_to_the_same_logits(llama):
    dec = Decoder(llama.trunk, None)
    ids = torch.randint(3, 384, (1, 20), generator=torch.Generator().manual_seed(3))
    start = torch.zeros(1, dtype=torch.long)
    whole = Cache.make(llama.spec, 1, 20, torch.float32, llama.device)
    parts = Cache.make(llama.spec, 1, 20, torch.float32, llama.device)
    with torch.inference_mode():
        want = dec.prefill(ids, start, whole, 0)
        dec.prefill(ids[:, :11], start, parts, 0)
        got = dec.prefill(ids, start, parts, 11)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
