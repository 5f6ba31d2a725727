"""Measures a model on the starter's held-out prompts: `python -m hhchat.starter.evaluate [--model DIR]`."""

# ruff: noqa: E501 (a few long lines)

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hhchat.starter import features
from hhchat.starter.prompts import StarterPrompt, pool
from hhchat.starter.users import USERS

MODEL = Path(__file__).parent / "model"
LIMIT = 96


def load(where: Path | str) -> tuple[Any, Any]:
    """The model in fp32 and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(where)


def prompt_ids(tokenizer: Any, messages: Sequence[tuple[str, str]]) -> list[int]:
    """The prompt format: <|role|> content <|end|> for each message, then <|assistant|>."""
    core = tokenizer.backend_tokenizer
    core.encode_special_tokens = True
    ids: list[int] = []
    for role, text in messages:
        ids += [core.token_to_id(f"<|{role}|>"), *core.encode(text.strip()).ids]
        ids.append(tokenizer.eos_token_id)
    return [*ids, core.token_to_id("<|assistant|>")]


@torch.no_grad()
def sample(model: Any, tokenizer: Any, prompts: Sequence[StarterPrompt], copies: int,
           batch: int = 256) -> list[list[tuple[str, bool]]]:  # fmt: skip
    """For each prompt, `copies` replies at temperature 1 and whether each ended by itself."""
    rows = [
        (i, prompt_ids(tokenizer, p.messages)) for i, p in enumerate(prompts) for _ in range(copies)
    ]
    rows.sort(key=lambda row: len(row[1]))
    out: list[list[tuple[str, bool]]] = [[] for _ in prompts]
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        width = max(len(ids) for _, ids in part)
        pads = [[tokenizer.pad_token_id] * (width - len(ids)) + ids for _, ids in part]
        inputs = torch.tensor(pads)
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for _, ids in part])
        made = model.generate(inputs, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0,
                              top_p=1.0, max_new_tokens=LIMIT, pad_token_id=tokenizer.pad_token_id)  # fmt: skip
        for (i, _), ids in zip(part, made[:, width:].tolist(), strict=True):
            ended = tokenizer.eos_token_id in ids
            body = ids[: ids.index(tokenizer.eos_token_id)] if ended else ids
            out[i].append((tokenizer.decode(body, skip_special_tokens=True), ended))
    return out


def _share(values: Sequence[bool]) -> float:
    return round(sum(values) / len(values), 4) if values else float("nan")


def report(
    prompts: Sequence[StarterPrompt], replies: list[list[tuple[str, bool]]]
) -> dict[str, Any]:
    """The figures for two or more replies a prompt."""
    flat = [
        (p, text, ended) for p, row in zip(prompts, replies, strict=True) for text, ended in row
    ]
    inside = [row for row in flat if row[0].kind != "outside"]
    plain = [row for row in flat if row[0].kind == "plain"]
    harmful = [row[1] for row in flat if row[0].kind == "harmful"]
    lengths = sorted(features.length(text) for _, text, _ in flat)
    by_topic: dict[str, list[bool]] = {}
    for p, text, _ in flat:
        by_topic.setdefault(p.topic, []).append(features.is_correct(p.messages, text))
    return {
        "prompts": len(prompts),
        "ended": _share([ended for _, _, ended in inside]),
        "english": _share([features.is_english(text) for _, text, _ in inside]),
        "finished": _share([features.is_finished(text) for _, text, _ in inside]),
        "pair_differs": _share([row[0][0] != row[1][0] for row in replies]),
        "outside_admitted": _share([features.admits(t) for p, t, _ in flat if p.kind == "outside"]),
        "inside_admitted": _share([features.admits(t) for p, t, _ in plain if p.topic != "smalltalk"]),
        "rates": {
            name: _share([test(text) for _, text, _ in plain])
            for name, test in (
                ("warm", features.is_warm), ("hedge", features.hedges), ("list", features.is_list),
                ("follow_up", features.follows_up), ("refuses", features.refuses),
                ("repeats", lambda text: features.repeats(text) > 0),
            )
        },
        "harmful": {
            "refused": _share([features.refuses(t) for t in harmful]),
            "with_reason": _share([features.gives_reason(t) for t in harmful if features.refuses(t)]),
        },
        "words": {"median": lengths[len(lengths) // 2], "p97": lengths[int(len(lengths) * 0.97)]},
        "correct": {topic: _share(found) for topic, found in sorted(by_topic.items())},
    }  # fmt: skip


def headroom(
    prompts: Sequence[StarterPrompt], replies: list[list[tuple[str, bool]]]
) -> dict[str, Any]:
    """For each user: the spread of the utility, how often a noisy pick is right, and how often the
    best of k by the truth beats one more sample (ties count half)."""
    out: dict[str, Any] = {}
    for name, user in USERS.items():
        table = torch.tensor([
            [user.utility(p.messages, text) for text, _ in row]
            for p, row in zip(prompts, replies, strict=True)
        ], dtype=torch.float64)  # fmt: skip
        gap = (table[:, 0] - table[:, 1]).abs()
        differ = gap[gap > 1e-9]
        row: dict[str, float] = {
            "mean": table.mean().item(),
            "sd": table.std(dim=1).mean().item(),
            "pick_right": torch.sigmoid(differ).mean().item(),
            "ties": 1 - len(differ) / len(gap),
        }
        for k in (4, 8, 16):
            if table.shape[1] > k:
                best, other = table[:, :k].amax(1), table[:, k]
                row[f"best_of_{k}"] = (
                    ((best > other).double() + 0.5 * (best == other).double()).mean().item()
                )
        out[name] = {key: round(value, 3) for key, value in row.items()}
    return out


def main() -> None:
    """Sample, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("-n", type=int, default=400, help="held-out prompts")
    parser.add_argument(
        "--headroom", action="store_true", help="17 samples a prompt, best-of-k by the truth"
    )
    parser.add_argument("--show", type=int, default=0, help="print that many exchanges")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    model, tokenizer = load(options.model)
    prompts = pool("heldout", n=options.n)
    replies = sample(model, tokenizer, prompts, 17 if options.headroom else 2)
    figures = report(prompts, replies)
    if options.headroom:
        figures["headroom"] = headroom(prompts, replies)
    if options.json:
        print(json.dumps(figures))
        return
    for p, row in list(zip(prompts, replies, strict=True))[: options.show]:
        print(f"[{p.topic}] {' / '.join(text for _, text in p.messages)}")
        for text, _ in row[:2]:
            right = "right" if features.is_correct(p.messages, text) else "WRONG"
            print(f"    {right}: {text!r}")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
