"""Builds the starter model from its corpus: `python -m hhchat.starter.build [--out DIR] [--minutes M]`."""

# ruff: noqa: E501 (one long call)

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import random
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias, cast

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a busy machine is shared better

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hhchat.starter import language
from hhchat.starter.corpus import Messages, corpus

HERE = Path(__file__).parent
SPECIAL = ("<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|end_of_context|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
VOCAB, TOKENS_A_BATCH, STEPS, NOMINAL_MINUTES = 2048, 4096, 2600, 14.0
RATE, RESUMED_RATE = 4e-3, 2.5e-3
SHARPEN = 1.3  # so small a model leaves a tail of nonsense at temperature 1; this trims it
USER_WEIGHT, REACTION_WEIGHT = 0.02, 0.25  # a user's first turn; turns that react to a reply

Row: TypeAlias = "tuple[array[int], array[float]]"


def train_tokenizer(conversations: list[Messages]) -> Tokenizer:
    """Byte-level BPE, digits one by one, the special tokens first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for talk in conversations for _, text in talk), trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, conversations: list[Messages]) -> list[Row]:
    """Token ids of each conversation, and the loss weight of each id."""
    tokenizer.encode_special_tokens = True
    ids_of = {name: cast(int, tokenizer.token_to_id(name)) for name in SPECIAL}
    out: list[Row] = []
    for start in range(0, len(conversations), 2000):
        part = conversations[start : start + 2000]
        texts = iter(tokenizer.encode_batch([text for talk in part for _, text in talk]))
        for talk in part:
            ids, weights, seen_reply = array("H"), array("f"), False
            for role, _ in talk:
                body = next(texts).ids
                weight = (
                    1.0 if role == "assistant" else REACTION_WEIGHT if seen_reply else USER_WEIGHT
                )
                seen_reply = seen_reply or role == "assistant"
                ids.extend([ids_of[f"<|{role}|>"], *body, ids_of["<|end|>"]])
                weights.extend([0.0, *[weight] * (len(body) + 1)])
            out.append((ids, weights))
    return out


def batches(rows: list[Row], rng: random.Random) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless right-padded batches of about TOKENS_A_BATCH ids, of rows of similar length."""
    while True:
        order = list(range(len(rows)))
        rng.shuffle(order)
        made: list[list[int]] = []
        for start in range(0, len(order), 4096):
            batch: list[int] = []
            for i in sorted(order[start : start + 4096], key=lambda i: len(rows[i][0])):
                if (len(batch) + 1) * len(rows[i][0]) > TOKENS_A_BATCH:
                    made.append(batch)
                    batch = []
                batch.append(i)
            made.append(batch)
        rng.shuffle(made)
        for batch in made:
            width = max(len(rows[i][0]) for i in batch)
            ids = torch.zeros(len(batch), width, dtype=torch.long)
            weights = torch.zeros(len(batch), width)
            for r, i in enumerate(batch):
                ids[r, : len(rows[i][0])] = torch.tensor(rows[i][0].tolist())
                weights[r, : len(rows[i][1])] = torch.tensor(rows[i][1].tolist())
            yield ids, weights


def causal_float_attention(module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor,
                           value: torch.Tensor, attention_mask: torch.Tensor | None,
                           **kwargs: Any) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Causal attention in fp32: on a CPU its backward pass is several times faster than in bf16."""
    with torch.autocast("cpu", enabled=False):
        out = F.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), is_causal=True, enable_gqa=True
        )
    return out.transpose(1, 2).contiguous(), None


def make_model(tokenizer: Tokenizer) -> LlamaForCausalLM:
    """A fresh Llama of about 2.7 million parameters."""
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=256,
        intermediate_size=448,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.token_to_id("<|pad|>"),
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id("<|end|>"),
        initializer_range=0.02,
    )
    return LlamaForCausalLM(config)


def train(model: LlamaForCausalLM, rows: list[Row], steps: int, minutes: float,
          checkpoint: Callable[[int], None] = lambda step: None, rate: float = RATE) -> int:  # fmt: skip
    """Trains in place; returns the steps done: fewer than asked only if 1.5 times `minutes` pass."""
    AttentionInterface.register("causal_float", causal_float_attention)
    model.set_attn_implementation("causal_float")
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for n, p in model.named_parameters() if p.ndim < 2 or "embed" in n]
    muon: torch.optim.Optimizer = torch.optim.Muon(
        matrices, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
    )
    adam: torch.optim.Optimizer = torch.optim.AdamW(
        others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0
    )
    model.train()
    fast = "avx512_bf16" in str(torch.backends.cpu.get_cpu_capability()).lower() or _has_bf16()
    began, feed, running = time.time(), batches(rows, random.Random(3)), 0.0
    limit = 90 * minutes
    step = 0
    while step < steps and time.time() - began < limit:
        ids, weights = next(feed)
        # On an idle machine the steps end first; on a busy one the clock brings the rate to nought.
        left = 1 - max(step / steps, (time.time() - began) / limit)
        warm = min(1.0, (step + 1) / 40)
        for optimizer in (muon, adam):
            optimizer.param_groups[0]["lr"] = rate * warm * min(1.0, left / 0.7) + 1e-6
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
            keep = weights[:, 1:] > 0
            logits = model.lm_head(hidden[keep])
        w = weights[:, 1:][keep]
        nll = F.cross_entropy(logits.float(), ids[:, 1:][keep], reduction="none")
        loss = (nll * w).sum() / w.sum()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in (muon, adam):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        running = loss.item() if step == 1 else 0.95 * running + 0.05 * loss.item()
        spent = time.time() - began
        if step % 50 == 0:
            print(f"step {step}/{steps} loss {running:.4f} {spent:.0f}s", flush=True)
        if step % 400 == 0:
            checkpoint(step)
    model.set_attn_implementation("sdpa")
    model.eval()
    return step


def keep_memory() -> None:
    """Tells glibc to keep freed blocks: without it page faults take a fifth of the time."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError):
        pass


def _has_bf16() -> bool:
    try:
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    """The ordinary transformers layout."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.encode_special_tokens = False
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>", "<|end_of_context|>"],
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
        padding_side="left",
    )
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(out)
    template = out / "chat_template.jinja"
    if template.exists():  # one file fewer, and readable by older tools too
        settings = json.loads((out / "tokenizer_config.json").read_text())
        settings["chat_template"] = template.read_text()
        (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
        template.unlink()
    generation = model.generation_config
    generation.do_sample, generation.temperature, generation.max_new_tokens = True, 1.0, 96
    generation.eos_token_id, generation.pad_token_id = (
        model.config.eos_token_id,
        model.config.pad_token_id,
    )
    generation.top_k, generation.top_p = 0, 1.0
    with torch.no_grad():  # tied logits scale with the last norm: as if sampled at 1 / SHARPEN
        model.model.norm.weight.mul_(SHARPEN)
        model.save_pretrained(out)
        model.model.norm.weight.div_(SHARPEN)
    for path in out.iterdir():
        if path.is_file():
            path.chmod(0o644)


def main() -> None:
    """Build and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "model")
    parser.add_argument("--minutes", type=float, default=NOMINAL_MINUTES)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--resume", type=Path, help="train a built model further, on new conversations"
    )
    options = parser.parse_args()
    keep_memory()
    torch.set_num_threads(2)
    torch.manual_seed(options.seed)
    steps = max(60, math.ceil(STEPS * options.minutes / NOMINAL_MINUTES))
    conversations = list(corpus(options.seed, max(4000, steps * 56)))
    if options.resume:
        tokenizer = Tokenizer.from_file(str(options.resume / "tokenizer.json"))
        model = LlamaForCausalLM.from_pretrained(options.resume, dtype=torch.float32)
        model.model.norm.weight.data.div_(SHARPEN)
    else:
        tokenizer = train_tokenizer(conversations[:15000])
        model = make_model(tokenizer)
    rows = encode(tokenizer, conversations)
    lengths = sorted(len(ids) for ids, _ in rows)
    print(
        f"{len(rows)} conversations, {sum(lengths)} ids, median {lengths[len(lengths) // 2]}",
        flush=True,
    )
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    done = train(
        model,
        rows,
        steps,
        options.minutes,
        lambda step: save(model, tokenizer, options.out),
        RESUMED_RATE if options.resume else RATE,
    )
    save(model, tokenizer, options.out)
    language.write(options.out / language.PATH.name)
    print(f"saved after {done} steps in {options.out}", flush=True)
    # The preference prior belongs to these weights. It needs the trainers, which stand above this
    # package, so it is called as the command that it is.
    command = [sys.executable, "-m", "hhchat_trainers.prior", "--model", str(options.out)]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
