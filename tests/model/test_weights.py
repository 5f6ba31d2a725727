"""Weights: 8 and 4 bits are bitsandbytes' own, heads stay whole, and only safetensors are read."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import bitsandbytes.functional as bnb
import pytest
import torch
from safetensors.torch import load_file, save_file

from hhchat.model import Adapter, PreferenceModel, load_model
from hhchat.model.base import free_memory
from hhchat.model.preference import PreferenceRole
from hhchat.model.rows import Rows
from hhchat.model.spec import LINEARS
from hhchat.model.weights import Checkpoint, Weight, fold_heads, split_parts, unfold_heads
from hhchat.types import BadInput, ModelError

FUSED = ("llama", "qwen2", "gpt_neox")


def linears_of(oracle: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    return {
        name: m
        for name, m in oracle.named_modules()
        if isinstance(m, torch.nn.Linear) and "lm_head" not in name and "embed_out" not in name
    }


def ids_of(vocab: int = 384) -> torch.Tensor:
    return torch.randint(3, vocab, (2, 17), generator=torch.Generator().manual_seed(4))


def logits_of(model, ids: torch.Tensor) -> torch.Tensor:
    at = torch.arange(ids.shape[1]).expand(len(ids), -1)
    with torch.no_grad():
        return model.trunk.logits(model.trunk.hidden(Rows(ids, at))[0])


def test_a_model_in_8_bits_starts_without_torchs_compiler(make_tiny):
    words = (
        "import sys, torch\n"
        "from hhchat.model import load_model\n"
        f"model = load_model({str(make_tiny('llama').folder)!r}, quantization='int8')\n"
        "assert model.trunk.layers[0].linears['up'].dense(torch.float32).isfinite().all()\n"
        "assert 'torch._dynamo' not in sys.modules, '3 seconds and 116 MiB'\n"
        "assert 'bitsandbytes' not in sys.modules, 'not to be had on macOS'\n"
    )
    subprocess.run([sys.executable, "-c", words], check=True)


def test_a_row_of_zeros_stays_one_in_8_bits():
    dense = torch.eye(3, 5)
    dense[1] = 0.0
    assert Weight(dense, None, "int8").dense(torch.float32).equal(dense)


@pytest.mark.parametrize("family", FUSED)
def test_int8_is_transformers_with_bitsandbytes_own_dequantised_matrices(make_tiny, family):
    tiny = make_tiny(family)
    oracle = copy.deepcopy(tiny.oracle)
    for module in linears_of(oracle).values():
        codes, scales, _ = bnb.int8_vectorwise_quant(module.weight.data)
        module.weight.data = bnb.int8_vectorwise_dequant(codes, scales)
    model = tiny.load("int8")
    spec = model.spec
    named = dict(oracle.named_modules())
    for index, layer in enumerate(model.trunk.layers):
        for linear in LINEARS:
            dense = layer.linears[linear].dense(torch.float32)
            for part, rows in split_parts(spec, linear, index, dense):
                want = named[f"{spec.prefix}layers.{index}.{part.name}"].weight
                torch.testing.assert_close(rows, want, atol=0, rtol=1e-6)
    with torch.no_grad():
        want = oracle(ids_of()).logits
        full = tiny.oracle(ids_of()).logits
    got = logits_of(model, ids_of())
    torch.testing.assert_close(got, want, atol=2e-4, rtol=2e-4)
    assert (got - full).abs().max() > 1e-2  # it was quantised at all


@pytest.mark.parametrize("family", FUSED)
def test_nf4_is_transformers_with_bitsandbytes_own_dequantised_matrices(make_tiny, family):
    tiny = make_tiny(family)
    oracle = copy.deepcopy(tiny.oracle)
    named = dict(oracle.named_modules())
    model = tiny.load("nf4")
    plain, spec = tiny.load(), model.spec
    for index, layer in enumerate(model.trunk.layers):
        for linear in LINEARS:
            fused = plain.trunk.layers[index].linears[linear].dense(torch.float32)
            codes, state = bnb.quantize_4bit(fused, quant_type="nf4", compress_statistics=True)
            want = bnb.dequantize_4bit(codes, state)
            assert layer.linears[linear].dense(torch.float32).equal(want)
            for part, rows in split_parts(spec, linear, index, want):
                named[f"{spec.prefix}layers.{index}.{part.name}"].weight.data = rows.clone()
    with torch.no_grad():
        want = oracle(ids_of()).logits
    torch.testing.assert_close(logits_of(model, ids_of()), want, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_heads_and_adapters_stay_in_fp32_on_a_quantised_base(tiny, quantization):
    model, plain = tiny.load(quantization), tiny.load()
    assert model.trunk.head.quantization == "none"
    assert model.trunk.head.dense(torch.float32).equal(plain.trunk.head.dense(torch.float32))
    assert model.trunk.embed.equal(plain.trunk.embed)
    role = PreferenceRole(model, 4)
    pm = PreferenceModel(model, role)
    assert all(p.dtype == torch.float32 for p in pm.role.parameters())
    assert all(p.dtype == torch.float32 for p in Adapter(model.spec, 4).parameters())


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
@pytest.mark.parametrize("kept", [False, True])
def test_gradients_through_a_frozen_matrix_are_those_of_its_dense_values(quantization, kept):
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(48, 64, generator=generator)
    bias = torch.randn(48, generator=generator)
    weight = Weight(dense, bias, quantization)
    if kept:
        weight.keep(torch.float32)
    x = torch.randn(5, 64, generator=generator, requires_grad=True)
    y = weight(x)
    want = x @ weight.dense(torch.float32).t() + bias
    torch.testing.assert_close(y, want, atol=1e-5, rtol=1e-5)
    up = torch.randn(5, 48, generator=generator)
    (grad,) = torch.autograd.grad(y, x, up)
    torch.testing.assert_close(grad, up @ weight.dense(torch.float32), atol=1e-4, rtol=1e-4)


def test_a_kept_copy_in_lower_precision_is_the_rounded_matrix_and_can_be_let_go():
    weight = Weight(torch.randn(32, 64), None, "int8")
    wide = weight.dense(torch.float32)
    before = weight.nbytes
    weight.keep(torch.bfloat16)
    assert weight.nbytes == before + 2 * 32 * 64
    assert weight.dense(torch.bfloat16).equal(wide.to(torch.bfloat16))
    weight.release()
    assert weight.nbytes == before < wide.numel() * 4


def test_neox_rows_unfold_and_fold_back():
    rows = torch.arange(3 * 4 * 8 * 2).view(-1, 2)
    assert fold_heads(unfold_heads(rows, 4), 4).equal(rows)
    first = unfold_heads(rows, 4)[:8]
    assert first.equal(rows[:8])  # q of the first head stands first either way


def copied(tiny, to: Path) -> Path:
    shutil.copytree(tiny.folder, to)
    return to


def test_pickled_weights_are_refused_and_never_opened(tiny, tmp_path):
    folder = copied(tiny, tmp_path / "pickled")
    (folder / "model.safetensors").unlink()

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    torch.save(Bomb(), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled weights only, which are refused"):
        load_model(str(folder))
    assert not (tmp_path / "exploded").exists()


def test_truncated_weights_are_refused_in_words(tiny, tmp_path):
    folder = copied(tiny, tmp_path / "cut")
    data = (folder / "model.safetensors").read_bytes()
    for size in (0, 5, 300, len(data) // 2, len(data) - 1):
        (folder / "model.safetensors").write_bytes(data[:size])
        with pytest.raises(ModelError, match="not readable safetensors"):
            load_model(str(folder))


def test_a_path_that_is_not_a_model_is_refused_in_words(tmp_path, tiny):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("hello")
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(str(tmp_path / "empty"))
    with pytest.raises(ModelError, match="is a file"):
        load_model(str(tmp_path / "text.txt"))
    with pytest.raises(BadInput, match="no model at"):
        load_model(str(tmp_path / "nothing"))
    for name, content, words in (
        ("json", "{", r"json is not a model: its config\.json"),
        ("no kind", "{}", "no kind is not a model"),
        ("list", "[]", "not a JSON object"),
        ("kind", '{"model_type": "llamma"}', "did you mean 'llama'"),
        ("fields", '{"model_type": "llama"}', "lacks"),
    ):
        folder = copied(tiny, tmp_path / name)
        (folder / "config.json").write_text(content)
        with pytest.raises(ModelError, match=words):
            load_model(str(folder))
    with pytest.raises(BadInput, match="name is empty"):
        load_model("")
    folder = copied(tiny, tmp_path / "wordless")
    for file in folder.glob("*token*"):
        file.unlink()
    with pytest.raises(ModelError, match="wordless has no usable tokenizer"):
        load_model(str(folder))
    folder = copied(tiny, tmp_path / "weightless")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no \.safetensors"):
        load_model(str(folder))


def test_a_missing_tensor_shard_or_shape_is_named(tiny, tmp_path):
    folder = copied(tiny, tmp_path / "lacking")
    tensors = load_file(str(folder / "model.safetensors"))
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({k: v for k, v in tensors.items() if k != name}, str(folder / "model.safetensors"))
    with pytest.raises(ModelError, match=r"lack model\.layers\.1\.mlp\.up_proj"):
        load_model(str(folder))
    save_file({**tensors, name: tensors[name][:-1].clone()}, str(folder / "model.safetensors"))
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight is"):
        load_model(str(folder))
    index = {"weight_map": dict.fromkeys(tensors, "model-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="half there: model-00001"):
        load_model(str(folder))


def test_a_sharded_checkpoint_is_the_same_model(tiny, tmp_path, llama):
    folder = copied(tiny, tmp_path / "sharded")
    tensors = load_file(str(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    where = {n: f"model-{i % 2}.safetensors" for i, n in enumerate(names)}
    for file in set(where.values()):
        some = {n: tensors[n] for n in names if where[n] == file}
        save_file(some, str(folder / file))
    index = json.dumps({"weight_map": where})
    (folder / "model.safetensors.index.json").write_text(index)
    assert set(names) == {n for n in names if n in Checkpoint(folder)}
    model = load_model(str(folder), quantization="none", dtype="fp32", device="cpu")
    assert logits_of(model, ids_of()).equal(logits_of(llama, ids_of()))


def test_misspelt_settings_are_met_with_the_nearest_choice(tiny):
    for wrong, words in (
        ({"quantization": "int9"}, "did you mean 'int8'"),
        ({"dtype": "bf17"}, "did you mean 'bf16'"),
        ({"device": "cpus"}, "did you mean 'cpu'"),
    ):
        with pytest.raises(BadInput, match=words):
            load_model(str(tiny.folder), **wrong)


def test_the_identity_changes_with_the_weights_and_with_the_template(tiny, tmp_path, llama):
    folder = copied(tiny, tmp_path / tiny.folder.name)
    load: Callable = lambda: load_model(str(folder), quantization="none").identity  # noqa: E731
    assert load() == llama.identity
    tensors = load_file(str(folder / "model.safetensors"))
    tensors["model.norm.weight"] += 1e-3
    save_file(tensors, str(folder / "model.safetensors"))
    assert load() != llama.identity


@pytest.mark.parametrize(
    ("free", "share", "reserved", "allocated", "want"),
    [
        (70, 1.0, 0, 0, 70),  # no limit: what the device has
        (70, 0.2, 0, 0, 16),  # a limit under it
        (70, 0.2, 10, 10, 6),  # what this process holds counts against its limit
        (70, 0.2, 10, 4, 12),  # what it has cached does not
        (2, 0.2, 0, 0, 2),  # others hold the rest
        (70, 0.2, 20, 20, 0),  # the limit came after
    ],
)
def test_free_memory_of_a_gpu_heeds_the_limit_of_the_process(
    monkeypatch, free, share, reserved, allocated, want
):
    def gives(value):
        def called(index: int):  # torch wants a number here: a bare "cuda" has none
            assert index == 1
            return value

        return called

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", gives((free, 80)))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", gives(share))
    monkeypatch.setattr(torch.cuda, "memory_reserved", gives(reserved))
    monkeypatch.setattr(torch.cuda, "memory_allocated", gives(allocated))
    assert free_memory(torch.device("cuda")) == want
    assert free_memory(torch.device("cuda:1")) == want
