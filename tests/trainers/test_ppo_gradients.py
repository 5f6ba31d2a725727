"""The PPO update against one written apart: transformers in float64, loops, no shared arithmetic.

LoRA is merged by hand into transformers' own Llama and everything after the sampled ids and the
scores of the preference model is computed again: log-probabilities, values, rewards, advantages,
whitening, losses. What autograd makes of that must be the gradients that the trainer used.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import trainer_world as tw
from hhchat_trainers import policy as policy_module
from hhchat_trainers import state
from hhchat_trainers.ppo import Learner
from torch.func import functional_call
from transformers import AutoModelForCausalLM

from hhchat.model import PreferenceModel

BETA, GAMMA, LAM, CLIP, VALUE_CLIP, WEIGHT, PENALTY = 0.3, 0.97, 0.9, 0.02, 0.05, 0.4, 1.5


class Reference64:
    """Transformers' model in float64 with adapters given as leaf tensors."""

    def __init__(self, learner: Learner) -> None:
        model = learner.model
        self.spec = model.spec
        self.blocked = list(model.render.blocked)
        self.oracle = AutoModelForCausalLM.from_pretrained(
            str(model.folder), dtype=torch.float64, attn_implementation="eager"
        ).eval()
        self.base = dict(self.oracle.named_parameters())

    def merged(self, leaves: dict[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
        out = {k: v.detach() for k, v in self.base.items()}
        spec = self.spec
        kv = spec.kv_heads * spec.head_dim
        cuts = {
            "qkv": [("self_attn.q_proj", spec.heads * spec.head_dim)]
            + [(f"self_attn.{n}_proj", kv) for n in "kv"],
            "o": [("self_attn.o_proj", spec.hidden)],
            "up": [("mlp.gate_proj", spec.inter), ("mlp.up_proj", spec.inter)],
            "down": [("mlp.down_proj", spec.hidden)],
        }
        for i in range(spec.layers):
            for linear, parts in cuts.items():
                delta = (leaves[f"a.{linear}{i}"] @ leaves[f"b.{linear}{i}"]).T * scale
                at = 0
                for name, rows in parts:
                    key = f"model.layers.{i}.{name}.weight"
                    piece = delta[at : at + rows]
                    if name[-6:] in ("q_proj", "k_proj"):  # pairs of channels -> halves of a head
                        piece = piece.unflatten(0, (-1, spec.head_dim // 2, 2))
                        piece = piece.transpose(1, 2).flatten(0, 2)
                    out[key] = out[key] + piece
                    at += rows
        return out

    def run(self, weights: dict[str, torch.Tensor], response: Any) -> tuple[Any, torch.Tensor]:
        """(log-probabilities of the sampled tokens, hidden states that predict them)."""
        ids = torch.tensor([[*response.prompt, *response.tokens]])
        made = functional_call(
            self.oracle, weights, (ids,), {"output_hidden_states": True, "use_cache": False}
        )
        where = slice(len(response.prompt) - 1, -1)
        logits = made.logits[0, where].clone()
        logits[:, self.blocked] = -math.inf
        logprobs = logits.log_softmax(-1)
        chosen = [logprobs[t, token] for t, token in enumerate(response.tokens)]
        return chosen, made.hidden_states[-1][0, where]


def leaves_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.detach().double().requires_grad_(True) for n, p in module.named_parameters()}


def moved(learner: Learner) -> None:
    """Roles as they are some way into a run: KL, values and head are not zero."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for b in learner.policy.b.values():
            b.normal_(0.0, 0.05, generator=generator)
        learner.head.weight.normal_(0.0, 0.2, generator=generator)
        learner.head.bias.fill_(0.3)


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("minibatch", ["whole", "micro"])
def test_the_gradients_of_an_update_are_those_of_a_float64_reference(
    world, monkeypatch, epochs, minibatch
):
    hyper = tw.ppo(
        updates=1,
        batch=8,
        minibatches=1,
        epochs=epochs,
        beta=BETA,
        gamma=GAMMA,
        lam=LAM,
        clip=CLIP,
        value_clip=VALUE_CLIP,
        value_weight=WEIGHT,
        unfinished_penalty=PENALTY,
        max_new_tokens=6,
        grad_norm=1e9,
        learning_rate=1e-3,
        micro_tokens=4096 if minibatch == "whole" else 60,
    )
    seen: list[Any] = []
    real = policy_module.roll_out
    monkeypatch.setattr(
        policy_module, "roll_out", lambda *a, **k: seen.append(real(*a, **k)) or seen[-1]
    )
    learner = Learner(hyper, world.context("grads").context)
    moved(learner)
    roles = {"policy": learner.policy, "value": learner.value, "head": learner.head}
    old = {name: leaves_of(m) for name, m in roles.items()}
    if epochs == 2:  # the gradients left behind are those of the second step: where did it stand?
        scout = Learner(tw.ppo(**{**vars(hyper), "epochs": 1}), world.context("scout").context)
        moved(scout)
        scout.run()
        sealed = state.unseal(scout.context.state)
        assert sealed is not None
        now = {
            name: {
                n: sealed[0][f"{name}/{n}"].double().requires_grad_(True)
                for n, _ in m.named_parameters()
            }
            for name, m in roles.items()
        }
        seen.clear()
    else:
        now = {name: leaves_of(m) for name, m in roles.items()}
    learner.run()
    responses = seen[0]
    assert {r.ended for r in responses} == {True, False}  # both kinds of ending are in it
    # a first update starts the value from the mean score
    mean = sum(score_of(world, r) for r in responses) / len(responses)
    for head in (old["head"], now["head"]) if epochs == 1 else (old["head"],):
        head["bias"] = torch.tensor(mean, dtype=torch.float64, requires_grad=True)

    loss = reference_loss(world, learner, responses, old, now)
    for name, module in roles.items():
        wanted = torch.autograd.grad(loss, list(now[name].values()), retain_graph=True)
        for (key, p), want in zip(module.named_parameters(), wanted, strict=True):
            assert p.grad is not None, f"{name} {key}"
            error = float((p.grad.double() - want).norm())
            size = float(want.norm())
            assert error <= 2e-3 * size + 1e-7, f"{name} {key}: {error / max(size, 1e-12):.1e}"
            assert size > 0, f"{name} {key} is never trained"


def score_of(world: tw.World, response: Any) -> float:
    pm = PreferenceModel.load(world.model, world.stages["pm"])
    return pm.score([response.exchange])[0] / pm.anchor[1] - (0.0 if response.ended else PENALTY)


def reference_loss(
    world: tw.World,
    learner: Learner,
    responses: list[Any],
    old: dict[str, dict[str, torch.Tensor]],
    now: dict[str, dict[str, torch.Tensor]],
) -> torch.Tensor:
    reference = Reference64(learner)
    scale_p, scale_v = learner.policy.scale, learner.value.scale
    advantages: list[list[float]] = []
    returns: list[list[float]] = []
    old_logprobs: list[list[float]] = []
    old_values: list[list[float]] = []
    weights_old = reference.merged(old["policy"], scale_p)
    weights_old_value = reference.merged(old["value"], scale_v)
    plain = {k: v.detach() for k, v in reference.base.items()}
    for response in responses:
        with torch.no_grad():
            logprobs = [float(x) for x in reference.run(weights_old, response)[0]]
            base = [float(x) for x in reference.run(plain, response)[0]]
            hidden = reference.run(weights_old_value, response)[1]
            values = (hidden @ old["head"]["weight"] + old["head"]["bias"]).tolist()
        score = score_of(world, response)
        rewards = [-BETA * (p - q) for p, q in zip(logprobs, base, strict=True)]
        rewards[-1] += score
        n = len(rewards)
        delta = [
            rewards[t] + GAMMA * (values[t + 1] if t + 1 < n else 0.0) - values[t] for t in range(n)
        ]
        advantage = [
            sum((GAMMA * LAM) ** (k - t) * delta[k] for k in range(t, n)) for t in range(n)
        ]
        advantages.append(advantage)
        returns.append([a + v for a, v in zip(advantage, values, strict=True)])
        old_logprobs.append(logprobs)
        old_values.append(values)
    every = [a for row in advantages for a in row]
    mean = sum(every) / len(every)
    spread = math.sqrt(sum((a - mean) ** 2 for a in every) / len(every))
    loss = torch.zeros((), dtype=torch.float64)
    weights = reference.merged(now["policy"], scale_p)
    weights_value = reference.merged(now["value"], scale_v)
    for i, response in enumerate(responses):
        logprobs_now = reference.run(weights, response)[0]
        hidden = reference.run(weights_value, response)[1]
        for t in range(len(response.tokens)):
            a = (advantages[i][t] - mean) / spread
            ratio = torch.exp(logprobs_now[t] - old_logprobs[i][t])
            held = min(max(float(ratio.detach()), 1 - CLIP), 1 + CLIP)
            # when clipping binds the surrogate is a constant
            loss = loss + (-a * ratio if -a * float(ratio.detach()) >= -a * held else -a * held)
            value = hidden[t] @ now["head"]["weight"] + now["head"]["bias"]
            before, want = old_values[i][t], returns[i][t]
            now_at = float(value.detach())
            near = before + min(max(now_at - before, -VALUE_CLIP), VALUE_CLIP)
            inside = abs(now_at - before) < VALUE_CLIP
            free = (now_at - want) ** 2 >= (near - want) ** 2
            if free or inside:
                loss = loss + WEIGHT * 0.5 * (value - want) ** 2
            else:
                loss = loss + WEIGHT * 0.5 * (near - want) ** 2
    return loss / len(every)
