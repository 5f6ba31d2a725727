"""What is counted before anything loads is what a training then takes."""

from __future__ import annotations

import pytest
import torch

from hhchat.backend import LocalBackend
from hhchat.config import Config
from hhchat.model import Adapter, load_model
from hhchat.model.locate import STARTER, estimate, read_config
from hhchat.model.rows import Rows


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_training_holds_no_more_than_the_check_before_it_counts(dtype):
    """Bytes that the backward of policy and value keeps, each tensor's memory once."""
    model = load_model("starter", quantization="none", device="cpu", dtype=dtype)
    roles = [Adapter(model.spec, seed=seed) for seed in (1, 2)]
    rows = Rows(torch.randint(5, 500, (4, 128)), torch.arange(127).repeat(4, 1))
    tokens = rows.ids.numel()
    held: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        hidden = model.trunk.hidden(rows, roles, dtype=model.fast)
        flat = hidden[0].flatten(0, 1)
        labels = rows.ids[:, 1:].flatten()
        made = model.trunk.logprobs(flat, labels, None, model.fast, model.fast)
        total = made.sum() + hidden[1].sum()
    counted = estimate(model.spec, "none", tokens=tokens, bf16=dtype == "bf16").activations
    assert total.requires_grad
    assert counted / 2 < sum(held.values()) < counted


def test_ranks_that_a_run_is_set_to_count_in_what_it_is_said_to_need():
    config = Config()
    backend = LocalBackend()

    def needed(**stages):
        return backend.memory(config, stages).needed

    plain = needed(pm={"rank": 16}, ppo={"rank": 16, "micro_tokens": None})
    assert plain == backend.memory(config).needed
    spec = read_config(STARTER)
    lora = sum(p.numel() for p in Adapter(spec, 1).parameters())
    assert needed(ppo={"rank": 1000}) > plain + 4 * lora * 984 * 6
    assert needed(pm={"rank": 1000}) > plain + 4 * lora * 984 * 7
    assert needed(ppo={"micro_tokens": 128}) < plain
    assert needed(ppo={"micro_tokens": 10**7}) == plain  # halved when memory runs out
