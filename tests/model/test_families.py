"""Every family's logits are transformers' own, in scoring and in decoding."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from hhchat.model import load_model
from hhchat.model.decode import Batch, Row
from hhchat.model.trunk import Cache, Decoder, Rows

sys.path.insert(0, str(Path(__file__).parent))
from models import FAMILIES, make_model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_this_family_scores_as_transformers_does(tmp_path, family):
    oracle = make_model(tmp_path, family)
    model = load_model(str(tmp_path), quantization="none", dtype="fp32")
    ids = torch.randint(3, 384, (2, 21), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = oracle(ids).logits
        rows = Rows(ids, torch.arange(21).expand(2, -1))
        got = model.trunk.logits(model.trunk.hidden(rows)[0])
    torch.testing.assert_close(got, want, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_a_padded_batch_gives_the_tokens_of_a_full_forward(tmp_path, family):
    oracle = make_model(tmp_path, family)
    model = load_model(str(tmp_path), quantization="none", dtype="fp32")
    generator = torch.Generator().manual_seed(2)
    prompts = [torch.randint(3, 384, (n,), generator=generator).tolist() for n in (5, 12, 9)]
    rows = [Row(p, seed=i, max_new=14, temperature=0.0) for i, p in enumerate(prompts)]
    batch = Batch(Decoder(model.trunk, None), rows, frozenset())
    while not batch.done:
        batch.advance()
        batch.compact()
    for row in rows:
        ids = torch.tensor([row.prompt + row.tokens])
        with torch.no_grad():
            logits = oracle(ids).logits[0]
        expected = logits[len(row.prompt) - 1 : -1].argmax(-1).tolist()
        assert row.tokens == expected


def test_a_prompt_continues_from_the_cache_of_the_turn_before_to_the_same_logits(tmp_path):
    make_model(tmp_path, "llama")
    model = load_model(str(tmp_path), quantization="none", dtype="fp32")
    trunk, dec = model.trunk, Decoder(model.trunk, None)
    ids = torch.randint(3, 384, (1, 20), generator=torch.Generator().manual_seed(3))
    start = torch.zeros(1, dtype=torch.long)
    whole = Cache.make(model.spec, 1, 20, torch.float32, model.device)
    parts = Cache.make(model.spec, 1, 20, torch.float32, model.device)
    with torch.inference_mode():
        want = trunk.prefill(dec, ids, start, whole, 0)
        trunk.prefill(dec, ids[:, :11], start, parts, 0)
        got = trunk.prefill(dec, ids, start, parts, 11)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
