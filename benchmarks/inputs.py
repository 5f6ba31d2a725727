"""What the contestants work on: a model folder, prompts and pairs of real text, as ids.

Everything is made once, kept in the cache, and handed to ours and to the peers alike, so that no
contestant sees other tokens than another.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

from benchmarks.common import ROOT, cache

Turns = list[tuple[str, str]]  # (role, content)

TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")


class Sizes(TypedDict):
    vocab: int
    hidden: int
    inter: int
    layers: int
    heads: int
    kv_heads: int


SHAPES: dict[str, Sizes] = {
    "tiny": Sizes(vocab=512, hidden=64, inter=128, layers=2, heads=4, kv_heads=2),
    "5m": Sizes(vocab=4096, hidden=256, inter=688, layers=6, heads=8, kv_heads=4),
    "60m": Sizes(vocab=4096, hidden=768, inter=2048, layers=8, heads=12, kv_heads=12),
}


def baselines() -> Path:
    """The folder of baseline scripts beside the repository: HHCHAT_BENCH, else ../shared/bench."""
    named = os.environ.get("HHCHAT_BENCH")
    return Path(named).expanduser() if named else ROOT.parent / "shared" / "bench"


def hh_file() -> Path | None:
    """Anthropic's HH comparisons (JSON lines, gzip): HH_FILE, else what the baselines use."""
    named = os.environ.get("HH_FILE")
    if named:
        return Path(named).expanduser()
    beside = baselines().parent / "data" / "hh-rlhf" / "harmless-base.dev.jsonl.gz"
    return beside if beside.is_file() else None


@dataclass
class Talk:
    """A conversation up to a question, and two replies to it."""

    messages: Turns
    chosen: str
    rejected: str


def talks() -> tuple[str, list[Talk]]:
    """(where from, talks): HH where its file is, else the starter's own world."""
    file = hh_file()
    return ("HH", _hh(file)) if file is not None else ("starter world", _starter())


def _hh(file: Path) -> list[Talk]:
    from hhchat.formats import Pair, read

    raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    found = []
    for _, pair in read(io.BytesIO(raw)):
        if not isinstance(pair, Pair):  # a line that is not a pair
            continue
        turns: Turns = [(m.role, m.content) for m in pair.messages]
        found.append(Talk(turns, pair.chosen, pair.rejected))
    return found


def _starter() -> list[Talk]:
    """The held-in prompts, with replies drawn from the world's own answers to other questions."""
    from hhchat.starter.prompts import pool

    prompts = pool("train", 0, 2000)
    said = [t for p in prompts for role, t in p.messages if role == "assistant"]
    rng = random.Random(0)
    made = []
    for p in prompts:
        one, two = rng.sample(said, 2)
        if one != two:
            made.append(Talk(list(p.messages), one, two))
    return made


def model_folder(shape: str, fit_steps: int) -> Path:
    """A transformers folder of that shape: the starter itself, or a Llama fitted for a moment.

    Fitted only so far that its replies are of the text's words and end as replies do: with random
    weights every reply runs to the limit, which hides what stopping and bucketing are worth.
    """
    if shape == "starter":
        from hhchat.model import STARTER

        return Path(STARTER)
    if shape not in SHAPES:
        folder = Path(shape).expanduser()
        if not (folder / "config.json").is_file():
            raise SystemExit(f"--shape {shape}: not a model folder, nor one of {', '.join(SHAPES)}")
        return folder
    source, found = talks()
    key = json.dumps([SHAPES[shape], source, len(found), fit_steps])
    folder = cache() / "models" / f"{shape}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    if not (folder / "done").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _write_tokenizer(folder, SHAPES[shape]["vocab"], found)
        _write_model(folder, SHAPES[shape], found, fit_steps)
        (folder / "done").write_text("")
    return folder


def _write_tokenizer(folder: Path, vocab: int, found: Sequence[Talk]) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator((t.chosen for t in found), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        padding_side="left",
        model_max_length=1024,
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(str(folder))


def llama_config(sizes: Sizes, **changes: Any) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=sizes["vocab"],
        hidden_size=sizes["hidden"],
        intermediate_size=sizes["inter"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        num_key_value_heads=sizes["kv_heads"],
        **{
            "max_position_embeddings": 1024,
            "tie_word_embeddings": True,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": None,
            **changes,
        },
    )


def _write_model(folder: Path, sizes: Sizes, found: Sequence[Talk], steps: int) -> None:
    import torch
    from transformers import LlamaForCausalLM

    from hhchat.model.render import Renderer
    from hhchat.types import Message

    torch.manual_seed(0)
    model = LlamaForCausalLM(llama_config(sizes))
    model.save_pretrained(str(folder))
    render = Renderer(folder, sizes["vocab"])
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rng = random.Random(0)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * (1 - 0.9 * step / steps)
        rows: list[tuple[list[int], list[int]]] = []
        for talk in rng.choices(found, k=8):
            prompt = render.prompt([Message("user", talk.messages[-1][1])])[-48:]
            reply = [*render.reply(talk.chosen)[:79], render.end_id]
            rows.append((prompt + reply, [-100] * len(prompt) + reply))
        width = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([i + [0] * (width - len(i)) for i, _ in rows])
        labels = torch.tensor([m + [-100] * (width - len(m)) for _, m in rows])
        loss = model(ids, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.save_pretrained(str(folder))


@dataclass
class Work:
    """What every contestant is given."""

    folder: str
    source: str
    prompts: list[list[int]]  # ids up to where the reply begins
    turns: list[Turns]  # the same prompts as messages
    pairs: list[tuple[list[int], list[int], list[int]]]  # ids: conversation, chosen, rejected
    pad_id: int
    end_id: int

    @classmethod
    def read(cls, file: str) -> Work:
        content = json.loads(Path(file).read_text())
        content["turns"] = [[(a, b) for a, b in t] for t in content["turns"]]
        content["pairs"] = [(a, b, c) for a, b, c in content["pairs"]]
        return cls(**content)


def prepare(
    shape: str, *, prompts: int, longest_prompt: int, pairs: int, longest_pair: int, fit_steps: int
) -> Path:
    """Write the work of one benchmark run to the cache; the file that contestants read.

    Prompts have at least a quarter of `longest_prompt` tokens; of a pair that is too long the
    oldest tokens of the conversation go, for all contestants alike.
    """
    from hhchat.model.render import Renderer
    from hhchat.types import Message

    folder = model_folder(shape, fit_steps)
    config = json.loads((folder / "config.json").read_text())
    render = Renderer(folder, int(config["vocab_size"]))
    source, found = talks()
    rng = random.Random(1)
    rng.shuffle(found)
    work = Work(str(folder), source, [], [], [], render.pad_id, render.end_id)
    for talk in found:
        question = talk.messages[-1:] if talk.messages[-1][0] == "user" else []
        if question and len(work.prompts) < prompts:
            ids = render.prompt([Message("user", question[0][1])])
            if longest_prompt // 4 <= len(ids) <= longest_prompt:
                work.prompts.append(ids)
                work.turns.append(question)
        if len(work.pairs) < pairs:
            before = render.prompt([Message(r, c) for r, c in talk.messages])  # type: ignore[arg-type]
            one, two = ([*render.reply(t), render.end_id] for t in (talk.chosen, talk.rejected))
            room = longest_pair - max(len(one), len(two))
            if one != two and room >= 8:
                work.pairs.append((before[-room:], one, two))
    if len(work.prompts) < prompts or len(work.pairs) < pairs:
        raise SystemExit(f"the text has {len(work.prompts)} prompts and {len(work.pairs)} pairs")
    data = json.dumps(asdict(work))
    file = cache() / "work" / f"{hashlib.sha256(data.encode()).hexdigest()[:12]}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(data)
    return file
