"""The starter's preference prior: what the paper's preference-model pretraining is to a large PM.

A few hundred picks are too few to learn both what a reply is like and which of it the user likes
(Bai et al. 2022, A.2). This teaches the first: replies of the starter itself, each described by
what its own corpus knows of it (right, warm, hedged, a list, a question, a refusal, its length),
read from the end-of-context token. No taste is in it: the head is thrown away, and `hhchat train`
fits a fresh one on the picks.

`python -m hhchat_trainers.prior [--model DIR]` writes DIR/prior, about two minutes on one core.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from hhchat_trainers import state
from torch import nn

from hhchat.model import STARTER, LocalEngine, Model, PreferenceModel, load_model
from hhchat.model.preference import PreferenceRole, judged, pack, reply_ids, size_of
from hhchat.model.rows import by_length
from hhchat.starter import features
from hhchat.starter.prompts import pool
from hhchat.types import Draw, Exchange, Message, Role, Sampling

REPLIES, EPOCHS, RANK, TOKENS = 6000, 2, 16, 2048


def describe(exchange: Exchange) -> list[float]:
    """What a reply is like, one number an attribute."""
    messages = [(m.role, m.content) for m in exchange.messages]
    reply = exchange.reply
    harmful, right = features.is_harmful(messages), features.is_correct(messages, reply)
    refuses = features.refuses(reply)
    found = [
        right,
        right and not harmful,
        harmful,
        refuses,
        refuses and harmful,
        refuses and features.gives_reason(reply),
        features.admits(reply),
        features.is_warm(reply),
        features.warmth(reply),
        features.hedges(reply),
        features.is_list(reply),
        features.follows_up(reply),
        features.is_english(reply),
        features.repeats(reply) > 0,
        math.log2(max(1, features.length(reply))),
    ]
    return [float(x) for x in found]


def exchanges_of(model: Model, count: int, seed: int = 0) -> list[Exchange]:
    """Replies of the bare base to its training prompts, at temperature 1."""
    prompts = [
        tuple(Message(cast(Role, role), text) for role, text in p.messages) for p in pool("train")
    ]
    engine = LocalEngine(model, dtype=model.fast)
    sampling = Sampling(max_new_tokens=96)
    draws = [
        Draw(prompts[i % len(prompts)], state.seed_for(seed, "prior", i), sampling, "base")
        for i in range(count)
    ]
    made = engine.generate(draws)
    return [Exchange(d.messages, g.text) for d, g in zip(draws, made, strict=True)]


def fit(model: Model, exchanges: Sequence[Exchange], epochs: int = EPOCHS) -> PreferenceModel:
    """Regress the attributes (standardised) from the end-of-context token, for a prior."""
    targets = torch.tensor([describe(e) for e in exchanges])
    targets = (targets - targets.mean(0)) / targets.std(0).clamp_min(0.05)
    rows = [judged(model, e.messages, [reply_ids(model, e.reply)]) for e in exchanges]
    role = PreferenceRole(model, RANK, seed=3)
    made = PreferenceModel(model, role)
    torch.manual_seed(3)
    head = nn.Linear(model.spec.hidden, targets.shape[1]).to(model.device)
    rates = {2e-3: list(role.adapter.parameters()), 5e-3: [role.context_end, *head.parameters()]}
    optimiser = torch.optim.AdamW(
        [{"params": p, "lr": r, "peak": r} for r, p in rates.items()],
        betas=(0.9, 0.98),
        fused=True,
    )
    sizes = [size_of(r) for r in rows]
    batches = [b for epoch in range(epochs) for b in batches_of(sizes, epoch)]
    for step, batch in enumerate(batches):
        factor = min(1.0, (step + 1) / 40) * (1 - step / len(batches))
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * factor
        packed = pack([rows[i] for i in batch]).to(model.device)
        hidden = model.trunk.hidden(
            packed, (role.adapter,), dtype=model.fast, context_end=role.context_end.unsqueeze(0)
        )
        loss = ((head(hidden[0][:, 0]) - targets[batch].to(model.device)) ** 2).mean()
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(list(role.adapter.parameters()), 1.0)
        optimiser.step()
        if step % 50 == 0:
            print(f"step {step}/{len(batches)} loss {float(loss.detach()):.3f}", flush=True)
    with torch.no_grad():
        role.head.weight.zero_()
    return made


def batches_of(sizes: Sequence[int], epoch: int) -> list[list[int]]:
    """Batches of like lengths in random order."""
    rng = random.Random(epoch)
    order = list(range(len(sizes)))
    rng.shuffle(order)
    batches = []
    for at in range(0, len(order), 1024):
        some = order[at : at + 1024]
        batches += [[some[i] for i in b] for b in by_length([sizes[i] for i in some], TOKENS)]
    rng.shuffle(batches)
    return batches


def main() -> None:
    """Build the prior of a starter model and put it beside its weights."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=STARTER)
    parser.add_argument("--replies", type=int, default=REPLIES)
    options = parser.parse_args()
    model = load_model(str(options.model), quantization="none")
    model.name = "starter"  # what its files call their base, wherever it was built
    made = fit(model, exchanges_of(model, options.replies))
    made.info = {"replies": options.replies}
    made.save(options.model / "prior", dtype=torch.float16)
    print(f"wrote {options.model / 'prior'}")


if __name__ == "__main__":
    main()
