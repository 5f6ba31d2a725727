"""Adapters: peft reads ours, ours reads peft's, and roles that share a base do not mix."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from hhchat.model import Adapter, load_adapter, save_adapter
from hhchat.model.decoder import Cache, Decoder
from hhchat.model.rows import Rows
from hhchat.model.spec import LINEARS
from hhchat.types import ModelError

PEFT = ("llama", "qwen2", "gpt_neox")
TARGETS = {"gpt_neox": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]}
LLAMA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def trained(spec, rank: int = 4, seed: int = 1) -> Adapter:
    """An adapter whose B is not zero, as after training."""
    adapter = Adapter(spec, rank, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for b in adapter.b.values():
            b.normal_(0.0, 0.1, generator=generator)
    return adapter


def ids_of() -> torch.Tensor:
    return torch.randint(3, 384, (2, 15), generator=torch.Generator().manual_seed(9))


def rows_of(ids: torch.Tensor) -> Rows:
    return Rows(ids, torch.arange(ids.shape[1]).expand(len(ids), -1))


def logits_of(model, role, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.trunk.logits(model.trunk.hidden(rows_of(ids), (role,))[0])


@pytest.mark.parametrize("family", PEFT)
def test_peft_loads_what_hhchat_trained_to_the_same_logits(make_tiny, tmp_path, family):
    from peft import PeftModel

    tiny = make_tiny(family)
    model = tiny.load()
    adapter = trained(model.spec)
    save_adapter(adapter, tmp_path, str(tiny.folder))
    theirs = PeftModel.from_pretrained(copy.deepcopy(tiny.oracle), str(tmp_path)).eval()
    with torch.no_grad():
        want = theirs(ids_of()).logits
    got = logits_of(model, adapter, ids_of())
    torch.testing.assert_close(got, want, atol=3e-4, rtol=3e-4)
    assert (got - logits_of(model, None, ids_of())).abs().max() > 0.1
    again = load_adapter(model.spec, tmp_path)
    assert logits_of(model, again, ids_of()).equal(got)


@pytest.mark.parametrize("family", PEFT)
@pytest.mark.parametrize("some", [False, True])
def test_hhchat_loads_what_peft_trained_to_the_same_logits(make_tiny, tmp_path, family, some):
    from peft import LoraConfig, get_peft_model

    tiny = make_tiny(family)
    targets = TARGETS.get(family, LLAMA_TARGETS)
    if some:  # an adapter that leaves some matrices alone
        targets = targets[::2]
    config = LoraConfig(r=3, lora_alpha=5, target_modules=targets, lora_dropout=0.0)
    theirs = get_peft_model(copy.deepcopy(tiny.oracle), config).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if "lora_" in name:
                p.normal_(0.0, 0.2, generator=generator)
        want = theirs(ids_of()).logits
    theirs.save_pretrained(str(tmp_path))
    model = tiny.load()
    adapter = load_adapter(model.spec, tmp_path)
    got = logits_of(model, adapter, ids_of())
    torch.testing.assert_close(got, want, atol=3e-4, rtol=3e-4)
    # and it survives being saved as ours
    save_adapter(adapter, tmp_path / "ours")
    ours = load_adapter(model.spec, tmp_path / "ours")
    torch.testing.assert_close(logits_of(model, ours, ids_of()), got, atol=1e-5, rtol=1e-5)


def test_an_adapter_of_rank_one_is_saved_like_any_other(llama, tmp_path):
    adapter = trained(llama.spec, 1)
    save_adapter(adapter, tmp_path)
    again = load_adapter(llama.spec, tmp_path)
    for one, other in zip(adapter.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_roles_side_by_side_give_what_each_gives_alone(tiny, quantization):
    model = tiny.load(quantization)
    roles = (trained(model.spec, 4, 1), None, trained(model.spec, 2, 3))
    with torch.no_grad():
        together = model.trunk.hidden(rows_of(ids_of()), roles)
        for block, role in zip(together, roles, strict=True):
            alone = model.trunk.hidden(rows_of(ids_of()), (role,))[0]
            torch.testing.assert_close(block, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("merged", [True, False])
def test_a_decoder_says_of_each_role_what_the_scoring_forward_says(make_tiny, family, merged):
    # one after the other through one recording of a step, which must not keep the first one's role
    model = make_tiny(family).load()
    ids = torch.randint(20, 300, (3, 9), generator=torch.Generator().manual_seed(1))
    for role in (trained(model.spec), None, trained(model.spec, 2, 3)):
        decoder = Decoder(model.trunk, role, merged=merged)
        cache = Cache.make(model.spec, 3, 9, torch.float32, model.device)
        with torch.inference_mode():
            got = [decoder.prefill(ids[:, :4], torch.zeros(3, dtype=torch.long), cache, 0)]
            got += [decoder.step(ids[:, at], at, None, cache) for at in range(4, 9)]
            hidden = model.trunk.hidden(rows_of(ids), (role,))[0]
            want = model.trunk.logits(hidden)[:, 3:]
        torch.testing.assert_close(torch.stack(got, 1), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_training_moves_the_adapter_and_never_the_base(tiny, quantization):
    model = tiny.load(quantization)
    frozen = {
        (i, name): layer.linears[name].dense(torch.float32).clone()
        for i, layer in enumerate(model.trunk.layers)
        for name in LINEARS
    }
    embed, head = model.trunk.embed.clone(), model.trunk.head.dense(torch.float32).clone()
    one, two = trained(model.spec, 4, 1), trained(model.spec, 4, 2)
    before = copy.deepcopy(two)
    optimiser = torch.optim.AdamW(one.parameters(), lr=1e-2)
    hidden = model.trunk.hidden(rows_of(ids_of()), (one, two))
    hidden[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in one.parameters())
    assert all(p.grad is None or not p.grad.any() for p in two.parameters())
    optimiser.step()
    assert all(p.equal(q) for p, q in zip(two.parameters(), before.parameters(), strict=True))
    for (i, name), dense in frozen.items():
        assert model.trunk.layers[i].linears[name].dense(torch.float32).equal(dense)
    assert model.trunk.embed.equal(embed)
    assert model.trunk.head.dense(torch.float32).equal(head)
    assert not model.trunk.embed.requires_grad


def test_gradients_are_the_same_when_activations_are_made_again(tiny):
    model = tiny.load()
    grads = []
    for again in (False, True):
        model.trunk.checkpointing = again
        role = trained(model.spec)
        model.trunk.hidden(rows_of(ids_of()), (role,)).square().sum().backward()
        grads.append([p.grad for p in role.parameters()])
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two)


def test_a_fresh_adapter_is_the_base(llama):
    got = logits_of(llama, Adapter(llama.spec, 8, seed=5), ids_of())
    assert got.equal(logits_of(llama, None, ids_of()))


def test_an_adapter_of_another_base_is_refused(make_tiny, tmp_path):
    llama, neox = make_tiny("llama").load(), make_tiny("gpt_neox").load()
    gemma = make_tiny("gemma").load()  # same names, other head size
    save_adapter(trained(gemma.spec), tmp_path / "gemma")
    with pytest.raises(ModelError, match="another base"):
        load_adapter(llama.spec, tmp_path / "gemma")
    save_adapter(trained(neox.spec), tmp_path / "neox")
    with pytest.raises(ModelError, match="another base"):
        load_adapter(llama.spec, tmp_path / "neox")


def test_a_half_written_adapter_is_refused(llama, tmp_path):
    save_adapter(trained(llama.spec), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"adapter \S+ of \S+ is missing or half written"):
        load_adapter(llama.spec, tmp_path)
    file.write_bytes(whole)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match="missing or half written"):
        load_adapter(llama.spec, tmp_path)
    with pytest.raises(ModelError, match="missing or half written"):
        load_adapter(llama.spec, tmp_path / "nowhere")


@pytest.mark.parametrize("change", [{"use_rslora": True}, {"use_dora": True}, {"peft_type": "IA3"}])
def test_an_adapter_whose_arithmetic_is_not_ours_is_refused_and_not_misread(
    llama, tmp_path, change
):
    save_adapter(trained(llama.spec), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError, match=next(iter(change))):
        load_adapter(llama.spec, tmp_path)


def test_an_adapter_with_parts_that_ours_lacks_is_refused_and_not_half_loaded(llama, tmp_path):
    save_adapter(trained(llama.spec), tmp_path)
    file = str(tmp_path / "adapter_model.safetensors")
    extra = {"base_model.model.lm_head.lora_A.weight": torch.zeros(4, 32)}
    save_file({**load_file(file), **extra}, file)
    with pytest.raises(ModelError, match="lm_head"):
        load_adapter(llama.spec, tmp_path)


def test_an_adapter_takes_only_one_of_its_own_rank(llama):
    mine = Adapter(llama.spec, 4)
    with pytest.raises(ModelError, match="rank 8"):
        mine.copy_from(Adapter(llama.spec, 8))
    other = trained(llama.spec, 4, 6)
    other.alpha = 3.0
    mine.copy_from(other)
    assert logits_of(llama, mine, ids_of()).equal(logits_of(llama, other, ids_of()))
    with pytest.raises(ModelError, match="at least 1"):
        Adapter(llama.spec, 0)
