"""Large models made from a config alone: memory and speed of rollout, scoring and update.

Weights are random, which costs exactly what trained ones cost; replies run to the limit. Four
roles (reference, policy, value, preference model) share one base, int8 beside bf16, with
transformers' generate on bitsandbytes int8 beside the rollouts. Unverified on a GPU: no result of
this command from one has been kept yet. `--smoke` runs it in seconds on a CPU.
"""

from __future__ import annotations

import gc
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import Bar, Report, bars_table, cache, parser, report_of, resident, table
from benchmarks.inputs import SHAPES, Sizes, llama_config

MODELS: dict[str, Sizes] = {
    "smoke": SHAPES["tiny"],
    "1b": Sizes(vocab=32000, hidden=2048, inter=5632, layers=22, heads=32, kv_heads=4),
    "7b": Sizes(vocab=32000, hidden=4096, inter=11008, layers=32, heads=32, kv_heads=32),
}


def main(arguments: Sequence[str] | None = None) -> int:
    made = parser("gpu", __doc__ or "")
    made.add_argument("--models", default="1b,7b", help=f"of {', '.join(MODELS)}")
    made.add_argument("--quantizations", default="int8,none", help="int8, none (bf16), nf4")
    made.add_argument("--batch", type=int, default=8)
    made.add_argument("--prompt", type=int, default=128, help="tokens of each prompt")
    made.add_argument("--reply", type=int, default=128, help="tokens of each reply")
    made.add_argument("--rank", type=int, default=16)
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--checkpointing", action="store_true", help="recompute layers in backward")
    made.add_argument("--no-peer", action="store_true", help="leave transformers' generate out")
    options = made.parse_args(arguments)
    if options.smoke:
        options.models, options.batch, options.rounds = "smoke", 2, 1
        options.prompt, options.reply, options.rank = 8, 4, 2
    import torch

    if not torch.cuda.is_available() and not options.smoke:
        sys.exit("no CUDA device here; `--smoke` runs the same code on tiny models on the CPU")
    report = report_of("gpu", options)
    if torch.cuda.is_available():
        report.note(f"device: {torch.cuda.get_device_name()}")
    else:
        report.note("run on a CPU: unverified on a GPU")
    for name in options.models.split(","):
        folder = prepare(name, options.prompt + options.reply + 8)
        rows: dict[str, dict[str, float]] = {}
        for how in options.quantizations.split(","):
            rows[how if how != "none" else "bf16"] = attempt(
                report, f"{name} {how}", partial(ours, folder, how, options)
            )
        if not options.no_peer and torch.cuda.is_available():
            rows["generate, int8"] = attempt(
                report, f"{name} generate", partial(generate, folder, options)
            )
        show(report, name, rows)
        report.save()
    return 0


def attempt(report: Report, what: str, run: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Run one contestant; memory that runs out is a result, and a note."""
    import torch

    try:
        return run()
    except torch.OutOfMemoryError as error:
        report.note(f"{what}: out of memory: {str(error).splitlines()[0]}")
        return {}
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def prepare(name: str, positions: int) -> Path:
    """A model folder with random weights, written a layer at a time; made once."""
    if name not in MODELS:
        sys.exit(f"there is no model {name!r}: choose from {', '.join(MODELS)}")
    folder = cache() / "gpu" / name
    if (folder / "done").is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = llama_config(
        MODELS[name], tie_word_embeddings=False, max_position_embeddings=max(1024, positions)
    )
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(str(folder))
    _write_tokenizer(folder)
    _write_weights(folder, MODELS[name])
    (folder / "done").write_text("")
    return folder


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from benchmarks.inputs import SPECIAL, TEMPLATE

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        ["nothing to learn"],
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<|pad|>", eos_token="<|end|>", padding_side="left"
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(str(folder))


def _write_weights(folder: Path, sizes: Sizes) -> None:
    """Shards of one layer each, so that a 7B model never lies in memory twice."""
    import json

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


def now() -> float:
    """Wall clock once the device has done what it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_gib() -> float:
    """Peak of the device's memory, or of this process on a CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resident() / 1024


def ours(folder: Path, quantization: str, options: Any) -> dict[str, float]:
    """Tokens a second of each phase of one PPO update, with the shipped code."""
    import torch
    from hhchat_trainers.maths import policy_loss, value_loss
    from hhchat_trainers.rollout import Response, logprobs_of, score_roles, tensors

    from hhchat.model import Adapter, LocalEngine, PreferenceModel, load_model
    from hhchat.model.decode import Row
    from hhchat.model.engine import make_decoder
    from hhchat.model.preference import Judged, PreferenceRole, ScalarHead

    model = load_model(str(folder), quantization=quantization)
    model.trunk.checkpointing = options.checkpointing
    spec, device = model.spec, model.device
    policy = Adapter(spec, options.rank, seed=1).to(device)
    value = Adapter(spec, options.rank, seed=2).to(device)
    head = ScalarHead(spec.hidden).to(device)
    judge = PreferenceModel(model, PreferenceRole(model, options.rank).to(device))
    # On the CPU the engine's blocked ids and limits are those of chat; here rows are made by hand.
    engine = LocalEngine(model, dtype=model.fast, rows=options.batch)
    generator = torch.Generator().manual_seed(1)
    optimiser = torch.optim.AdamW(
        [*policy.parameters(), *value.parameters(), *head.parameters()], lr=1e-5
    )
    spent: dict[str, list[float]] = {"rollout": [], "score": [], "update": []}
    for lap in range(options.rounds + 1):
        # ids above the special tokens: a sampled end token would end a reply before its limit
        ids = torch.randint(16, 290, (options.batch, options.prompt), generator=generator)
        marks = [now()]
        decoder = make_decoder(model, policy, model.fast)
        rows = [Row(p, lap * 100 + i, options.reply) for i, p in enumerate(ids.tolist())]
        engine.run(decoder, rows)
        del decoder
        marks.append(now())
        replies = [Response((), r.prompt, r.tokens, r.ended, "") for r in rows]
        scored = score_roles(model, replies, policy, None, (value, head))
        judge.raw([Judged(r.prompt, [r.tokens]) for r in rows])
        marks.append(now())
        packed = tensors(replies)
        old, mask = scored.logprobs_BT.to(device), packed.mask_BT.to(device)
        hidden = model.trunk.hidden(packed.rows.to(device), (policy, value), dtype=model.fast)
        logprobs = logprobs_of(model, hidden[0], packed.tokens_BT.to(device), mask)
        loss, _ = policy_loss(logprobs, old, torch.ones_like(old), mask, 0.2)
        values = head(hidden[1])
        loss = loss + value_loss(values, values.detach(), torch.ones_like(old), mask, 0.2)
        torch.autograd.backward(loss / mask.sum())
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        marks.append(now())
        if lap:
            for name, a, b in zip(spent, marks[:-1], marks[1:], strict=True):
                spent[name].append(b - a)
    made = options.batch * options.reply
    whole = options.batch * (options.prompt + options.reply)
    weights = sum(w.nbytes for layer in model.trunk.layers for w in layer.linears.values())
    return {
        "weights GiB": weights / 2**30,
        "peak GiB": peak_gib(),
        "rollout tokens/s": made / min(spent["rollout"]),
        "scoring tokens/s": whole / min(spent["score"]),
        "update tokens/s": whole / min(spent["update"]),
    }


def generate(folder: Path, options: Any) -> dict[str, float]:
    """transformers' generate on bitsandbytes int8 at threshold 0, the same prompts and lengths."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantised = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)
    model = AutoModelForCausalLM.from_pretrained(
        str(folder), quantization_config=quantised, dtype=torch.bfloat16, device_map={"": 0}
    )
    generator = torch.Generator().manual_seed(1)
    spent = []
    for lap in range(options.rounds + 1):
        ids = torch.randint(16, 290, (options.batch, options.prompt), generator=generator)
        start = now()
        with torch.no_grad():
            model.generate(
                input_ids=ids.to(model.device),
                attention_mask=torch.ones_like(ids).to(model.device),
                max_new_tokens=options.reply,
                min_new_tokens=options.reply,
                do_sample=True,
                top_k=0,
                pad_token_id=0,
            )
        if lap:
            spent.append(now() - start)
    made = options.batch * options.reply
    return {"peak GiB": peak_gib(), "rollout tokens/s": made / min(spent)}


def show(report: Report, name: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    report.data[name] = {k: dict(v) for k, v in rows.items()}
    heads = list(dict.fromkeys(h for r in rows.values() for h in r))
    report.say(f"\n## {name}\n")
    report.say(table(("", *heads), [[k, *(r.get(h) for h in heads)] for k, r in rows.items()]))
    int8, peer = rows.get("int8", {}), rows.get("generate, int8", {})
    bars = []
    if name == "7b":
        peak = int8.get("peak GiB")
        bars.append(Bar("7B PPO, peak", peak, 16.0, at_most=True, unit=" GiB"))
    if name == "1b":
        here, there = int8.get("rollout tokens/s"), peer.get("rollout tokens/s")
        bars.append(
            Bar(
                "1B rollouts over HF generate on int8",
                here / there if here and there else None,
                4.0,
            )
        )
    if bars:
        report.say("\n" + bars_table(bars))


if __name__ == "__main__":
    raise SystemExit(main())
