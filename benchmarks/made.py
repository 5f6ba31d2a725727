"""Models of real size from a config alone, and the work on them: what `benchmarks.gpu` runs."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from dataclasses import asdict
from pathlib import Path

from benchmarks.common import cache
from benchmarks.inputs import SHAPES, SPECIAL, TEMPLATE, Sizes, Work, llama_config

MODELS: dict[str, Sizes] = {
    "smoke": SHAPES["tiny"],
    "1b": Sizes(vocab=32000, hidden=2048, inter=5632, layers=22, heads=32, kv_heads=4),
    "7b": Sizes(vocab=32000, hidden=4096, inter=11008, layers=32, heads=32, kv_heads=32),
}


def prepare(model: str, batch: int, prompt: int, reply: int) -> Path:
    """The work on a model, `batch` prompts of exactly `prompt` tokens: what contestants read."""
    from hhchat.model.render import Renderer
    from hhchat.types import Message

    folder = model_folder(model, prompt + reply + 8)
    render = Renderer(folder, MODELS[model]["vocab"])
    rng = random.Random(1)
    frame = len(render.prompt([Message("user", "w")])) - len(render.text_ids("w"))
    work = Work(str(folder), "random words", [], [], [], render.pad_id, render.end_id)
    for _ in range(batch):
        words = [rng.randrange(len(SPECIAL), MODELS[model]["vocab"]) for _ in range(prompt - frame)]
        text = " ".join(f"w{i}" for i in words)
        work.turns.append([("user", text)])
        work.prompts.append(render.prompt([Message("user", text)]))
        assert len(work.prompts[-1]) == prompt
    data = json.dumps(asdict(work))
    file = cache() / "work" / f"{hashlib.sha256(data.encode()).hexdigest()[:12]}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(data)
    return file


def model_folder(model: str, positions: int) -> Path:
    """A model folder with random weights, written a layer at a time; made once."""
    sizes, positions = MODELS[model], max(1024, positions)
    folder = cache() / "gpu" / f"{model}-{positions}"
    if (folder / "done").is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = llama_config(sizes, tie_word_embeddings=False, max_position_embeddings=positions)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(str(folder))
    _write_tokenizer(folder, sizes["vocab"])
    _write_weights(folder, sizes)
    (folder / "done").write_text("")
    return folder


def _write_tokenizer(folder: Path, vocab: int) -> None:
    """A word an id, so that random ids are the same ids again when their text is encoded: the
    preference model then scores replies of the length that was sampled."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {token: i for i, token in enumerate(SPECIAL)}
    ids |= {f"w{i}": i for i in range(len(SPECIAL), vocab)}
    made = Tokenizer(models.WordLevel(ids, unk_token="<|pad|>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(list(SPECIAL))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<|pad|>", eos_token="<|end|>", padding_side="left"
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(str(folder))


def _write_weights(folder: Path, sizes: Sizes) -> None:
    """Shards of one layer each, so that a 7B model never lies in memory twice."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    hidden, inter = sizes["hidden"], sizes["inter"]
    keys = sizes["kv_heads"] * (hidden // sizes["heads"])

    def draw(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * 0.02).to(torch.bfloat16)

    where: dict[str, str] = {}

    def write(shard: str, tensors: dict[str, torch.Tensor]) -> None:
        save_file(tensors, str(folder / shard), metadata={"format": "pt"})
        where.update(dict.fromkeys(tensors, shard))

    ones = torch.ones(hidden, dtype=torch.bfloat16)
    for i in range(sizes["layers"]):
        base = f"model.layers.{i}."
        write(
            f"layer-{i}.safetensors",
            {
                f"{base}self_attn.q_proj.weight": draw(hidden, hidden),
                f"{base}self_attn.k_proj.weight": draw(keys, hidden),
                f"{base}self_attn.v_proj.weight": draw(keys, hidden),
                f"{base}self_attn.o_proj.weight": draw(hidden, hidden),
                f"{base}mlp.gate_proj.weight": draw(inter, hidden),
                f"{base}mlp.up_proj.weight": draw(inter, hidden),
                f"{base}mlp.down_proj.weight": draw(hidden, inter),
                f"{base}input_layernorm.weight": ones.clone(),
                f"{base}post_attention_layernorm.weight": ones.clone(),
            },
        )
    write(
        "ends.safetensors",
        {
            "model.embed_tokens.weight": draw(sizes["vocab"], hidden),
            "lm_head.weight": draw(sizes["vocab"], hidden),
            "model.norm.weight": ones,
        },
    )
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
