"""The arithmetic of preference models and PPO: pure functions on tensors, axes in suffixes.

B responses, T tokens of a response. A mask [B, T] is 1.0 on the response's own tokens (its end
token included) and 0.0 on pads; every mean is over the mask.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_mean(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over the tokens of the mask; 0 when the mask is empty."""
    return (x_BT * mask_BT).sum() / mask_BT.sum().clamp_min(1.0)


def masked_whiten(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Zero mean and unit variance over the mask; zero outside it."""
    mean = masked_mean(x_BT, mask_BT)
    variance = masked_mean((x_BT - mean) ** 2, mask_BT)
    return (x_BT - mean) * torch.rsqrt(variance + 1e-8) * mask_BT


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """log softmax(logits)[tokens]: logits [..., V], tokens [...] -> [...]."""
    return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def preference_loss(chosen_B: Tensor, rejected_B: Tensor, target_B: Tensor | None = None) -> Tensor:
    """-log sigmoid(chosen - rejected), one value a pair (Bai et al. 2022, section 3; Askell 2021).

    target_B is the probability that the pair is labelled right (1 without it): the cross-entropy
    of the Bradley-Terry probability against a soft label.
    """
    gap = chosen_B - rejected_B
    if target_B is None:
        return -F.logsigmoid(gap)
    return -(target_B * F.logsigmoid(gap) + (1 - target_B) * F.logsigmoid(-gap))


def kl_rewards(
    score_B: Tensor, logprobs_BT: Tensor, reference_BT: Tensor, mask_BT: Tensor, beta: float
) -> Tensor:
    """r_t = -beta (log pi - log pi_0), plus the score on the last real token (section 4.1).

    Summed over a response this is score - beta * KL, with KL in nats per response.
    """
    rewards = -beta * (logprobs_BT - reference_BT) * mask_BT
    last_B = mask_BT.long().sum(-1) - 1
    return rewards.scatter_add(1, last_B.unsqueeze(-1), score_B.unsqueeze(-1).to(rewards.dtype))


def gae(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation -> (advantages, returns), zero outside the mask.

    The value after a response's last token is 0: the episode is over.
    """
    values = values_BT * mask_BT
    advantages = torch.zeros_like(values)
    running = torch.zeros_like(values[:, 0])
    length = values.shape[1]
    for t in reversed(range(length)):
        after = values[:, t + 1] if t + 1 < length else torch.zeros_like(running)
        delta = rewards_BT[:, t] + gamma * after - values[:, t]
        running = (delta + gamma * lam * running) * mask_BT[:, t]
        advantages[:, t] = running
    return advantages, (advantages + values) * mask_BT


def policy_loss(
    logprobs_BT: Tensor, old_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """Clipped surrogate summed over the mask, and the number of clipped tokens."""
    ratio = torch.exp((logprobs_BT - old_BT) * mask_BT)
    plain = -advantages_BT * ratio
    clipped = -advantages_BT * ratio.clamp(1 - clip, 1 + clip)
    loss = (torch.maximum(plain, clipped) * mask_BT).sum()
    return loss, ((clipped > plain).to(mask_BT.dtype) * mask_BT).sum().detach()


def value_loss(
    values_BT: Tensor, old_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor, clip: float
) -> Tensor:
    """Half the clipped squared error, summed over the mask."""
    held = old_BT + (values_BT - old_BT).clamp(-clip, clip)
    worst = torch.maximum((values_BT - returns_BT) ** 2, (held - returns_BT) ** 2)
    return 0.5 * (worst * mask_BT).sum()


def explained_variance(values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over the mask: 1 is perfect, 0 a mere mean."""
    mean = masked_mean(returns_BT, mask_BT)
    spread = masked_mean((returns_BT - mean) ** 2, mask_BT)
    error = returns_BT - values_BT
    off = masked_mean(error, mask_BT)
    return 1 - masked_mean((error - off) ** 2, mask_BT) / spread.clamp_min(1e-8)


def response_kl(logprobs_BT: Tensor, reference_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Nats per response [B]: the sum over tokens of log pi - log pi_0 (k1, unbiased)."""
    return ((logprobs_BT - reference_BT) * mask_BT).sum(-1)


def response_k3(logprobs_BT: Tensor, reference_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Nats per response [B] by k3 = e^d - 1 - d with d = log pi_0 - log pi: never negative."""
    d = (reference_BT - logprobs_BT) * mask_BT
    return ((torch.exp(d) - 1 - d) * mask_BT).sum(-1)


def adapt_beta(beta: float, kl: float, target: float, rate: float = 0.1) -> float:
    """Proportional controller (Ziegler et al. 2019): beta grows while KL is above its target.

    kl and target in nats per response; the error is clipped to +-20% so that one odd batch
    cannot throw it. rate is the share of it that one update applies.
    """
    error = max(-0.2, min(0.2, kl / max(target, 1e-6) - 1.0))
    return beta * (1.0 + rate * error / 0.2)


def warm_up(step: int, total: int, share: float, floor: float = 0.1) -> float:
    """Learning-rate factor: linear warm-up over `share` of the run, then linear to `floor`."""
    warm = max(1, round(share * total))
    if step < warm:
        return (step + 1) / warm
    left = (total - step) / max(1, total - warm)
    return floor + (1 - floor) * left


def leave_one_out(rewards_B: Tensor, k: int) -> Tensor:
    """Each reward minus the mean of the other k - 1 of its prompt; B = prompts * k, k adjacent."""
    groups = rewards_B.view(-1, k)
    others = (groups.sum(-1, keepdim=True) - groups) / (k - 1)
    return (groups - others).flatten()
