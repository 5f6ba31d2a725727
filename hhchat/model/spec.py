"""What one decoder-only transformer is, read from a Hugging Face config.json.

One table covers the Llama, Mistral, Qwen, Gemma and GPT-NeoX families: they differ in norms, gates,
biases, rotary span, windows and the names of their weights, and in nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hhchat.types import ModelError, nearest

Linear = Literal["qkv", "o", "up", "down"]
LINEARS: tuple[Linear, ...] = ("qkv", "o", "up", "down")


@dataclass(frozen=True)
class Part:
    """One checkpoint matrix inside a fused linear: its name below the layer and its output rows.

    `heads` > 0 marks GPT-NeoX's layout, where q, k and v of a head stand next to each other.
    """

    name: str
    rows: int
    heads: int = 0


@dataclass(frozen=True)
class Rotary:
    """Rotary embedding of one layer type: `dim` rotated channels, base and scaling."""

    dim: int
    inv_freq: tuple[float, ...]
    scaling: float = 1.0


@dataclass(frozen=True)
class Spec:
    model_type: str
    vocab: int
    hidden: int
    inter: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    norm: Literal["rms", "rms+1", "layer"]
    act: Literal["silu", "gelu", "gelu_tanh"]
    gated: bool
    tied: bool
    max_positions: int
    rotary: tuple[Rotary, ...]  # one per layer
    windows: tuple[int | None, ...]  # sliding window of each layer, None = full
    parallel: bool = False  # GPT-NeoX: attention and MLP both read the layer's input
    qk_norm: bool = False
    post_norms: bool = False  # Gemma 2 and 3: a norm after each sub-layer as well
    embed_scale: float = 1.0
    attn_scale: float = 0.0
    attn_softcap: float | None = None
    logit_softcap: float | None = None
    prefix: str = "model."
    embed_name: str = "model.embed_tokens.weight"
    norm_name: str = "model.norm"
    head_name: str = "lm_head.weight"
    parts: Mapping[str, tuple[Part, ...]] | None = None

    def parts_of(self, linear: Linear) -> tuple[Part, ...]:
        assert self.parts is not None
        return self.parts[linear]

    @property
    def parameters(self) -> int:
        """Number of weights of the base (embedding counted once when tied)."""
        per_layer = (
            self.hidden * self.head_dim * (self.heads + 2 * self.kv_heads)
            + self.heads * self.head_dim * self.hidden
            + self.hidden * self.inter * (3 if self.gated else 2)
        )
        return self.layers * per_layer + self.vocab * self.hidden * (1 if self.tied else 2)


_ACTS: dict[str, Literal["silu", "gelu", "gelu_tanh"]] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
SUPPORTED = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gpt_neox",
)


def read_spec(config: Mapping[str, Any]) -> Spec:
    """Spec of a config.json's content. Raises ModelError for a family that is not known."""
    kind = config.get("model_type")
    if kind == "gemma3" and isinstance(config.get("text_config"), Mapping):
        raise ModelError("gemma3 with vision is not supported; use its text-only checkpoint")
    if kind not in SUPPORTED:
        raise ModelError(f"model type {kind!r} is not supported; {nearest(str(kind), SUPPORTED)}")
    try:
        return _gpt_neox(config) if kind == "gpt_neox" else _llama_like(str(kind), config)
    except KeyError as missing:
        raise ModelError(f"config.json lacks {missing}") from None


def _activation(config: Mapping[str, Any], default: str) -> Literal["silu", "gelu", "gelu_tanh"]:
    name = config.get("hidden_activation") or config.get("hidden_act") or default
    if config["model_type"].startswith("gemma") and not config.get("hidden_activation"):
        name = "gelu_pytorch_tanh"  # what transformers uses for old Gemma configs
    if name not in _ACTS:
        raise ModelError(f"activation {name!r} is not supported; {nearest(name, list(_ACTS))}")
    return _ACTS[name]


def _rotary(config: Mapping[str, Any], head_dim: int, rope: Mapping[str, Any]) -> Rotary:
    dim = int(head_dim * float(rope.get("partial_rotary_factor", 1.0)))
    kind = rope.get("rope_type") or rope.get("type") or "default"
    theta = float(rope.get("rope_theta", config.get("rope_theta", 10000.0)))
    if kind == "default":
        return Rotary(dim, tuple(theta ** (-i / dim) for i in range(0, dim, 2)))
    # The scaled variants (llama3, yarn, linear, ...) are transformers' own arithmetic.
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    if kind not in ROPE_INIT_FUNCTIONS:
        raise ModelError(f"rope type {kind!r} is not supported")
    made = AutoConfig.for_model(**config)
    inv_freq, scaling = ROPE_INIT_FUNCTIONS[kind](made, "cpu")
    return Rotary(dim, tuple(float(x) for x in inv_freq), float(scaling))


def _ropes(config: Mapping[str, Any], head_dim: int, layers: int, kinds: list[str]) -> list[Rotary]:
    rope = dict(config.get("rope_parameters") or {})
    if not rope:  # the layout before transformers 5
        rope = dict(config.get("rope_scaling") or {})
        rope.setdefault("rope_theta", config.get("rope_theta", 10000.0))
        factor = config.get("rotary_pct", config.get("partial_rotary_factor"))
        if factor is not None:
            rope.setdefault("partial_rotary_factor", factor)
        if config["model_type"] == "gemma3_text":
            local = {"rope_theta": config.get("rope_local_base_freq", 10000.0)}
            rope = {"full_attention": rope, "sliding_attention": local}
    if "full_attention" in rope or "sliding_attention" in rope:
        made = {k: _rotary(config, head_dim, v) for k, v in rope.items() if isinstance(v, Mapping)}
        return [made[k] for k in kinds]
    return [_rotary(config, head_dim, rope)] * layers


def _llama_like(kind: str, c: Mapping[str, Any]) -> Spec:
    heads, hidden, layers = c["num_attention_heads"], c["hidden_size"], c["num_hidden_layers"]
    kv = c.get("num_key_value_heads") or heads
    head_dim = c.get("head_dim") or hidden // heads
    gemma = kind.startswith("gemma")
    kinds = list(c.get("layer_types") or [])
    window = c.get("sliding_window")
    if not kinds:
        if kind == "gemma2":
            kinds = ["sliding_attention" if i % 2 == 0 else "full_attention" for i in range(layers)]
        elif kind == "gemma3_text":
            every = c.get("sliding_window_pattern") or c.get("_sliding_window_pattern") or 6
            kinds = [
                "full_attention" if (i + 1) % every == 0 else "sliding_attention"
                for i in range(layers)
            ]
        else:
            sliding = window is not None and (kind == "mistral" or c.get("use_sliding_window"))
            kinds = ["sliding_attention" if sliding else "full_attention"] * layers
    inter = c["intermediate_size"]
    tied = c.get("tie_word_embeddings", gemma)
    query_scalar = c.get("query_pre_attn_scalar") if kind in ("gemma2", "gemma3_text") else None
    parts: dict[str, tuple[Part, ...]] = {
        "qkv": (
            Part("self_attn.q_proj", heads * head_dim),
            Part("self_attn.k_proj", kv * head_dim),
            Part("self_attn.v_proj", kv * head_dim),
        ),
        "o": (Part("self_attn.o_proj", hidden),),
        "up": (Part("mlp.gate_proj", inter), Part("mlp.up_proj", inter)),
        "down": (Part("mlp.down_proj", hidden),),
    }
    return Spec(
        model_type=kind,
        vocab=c["vocab_size"],
        hidden=hidden,
        inter=inter,
        layers=layers,
        heads=heads,
        kv_heads=kv,
        head_dim=head_dim,
        eps=float(c.get("rms_norm_eps", 1e-6)),
        norm="rms+1" if gemma else "rms",
        act=_activation(c, "silu"),
        gated=True,
        tied=bool(tied),
        max_positions=int(c.get("max_position_embeddings", 2048)),
        rotary=tuple(_ropes(c, head_dim, layers, kinds)),
        windows=tuple(
            int(window) if k == "sliding_attention" and window is not None else None for k in kinds
        ),
        qk_norm=kind in ("qwen3", "gemma3_text"),
        post_norms=kind in ("gemma2", "gemma3_text"),
        embed_scale=math.sqrt(hidden) if gemma else 1.0,
        attn_scale=float(query_scalar or head_dim) ** -0.5,
        attn_softcap=c.get("attn_logit_softcapping") if kind == "gemma2" else None,
        logit_softcap=c.get("final_logit_softcapping"),
        parts=parts,
    )


def _gpt_neox(c: Mapping[str, Any]) -> Spec:
    heads, hidden, layers = c["num_attention_heads"], c["hidden_size"], c["num_hidden_layers"]
    head_dim, inter = hidden // heads, c["intermediate_size"]
    return Spec(
        model_type="gpt_neox",
        vocab=c["vocab_size"],
        hidden=hidden,
        inter=inter,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        eps=float(c.get("layer_norm_eps", 1e-5)),
        norm="layer",
        act=_activation(c, "gelu"),
        gated=False,
        tied=bool(c.get("tie_word_embeddings", False)),
        max_positions=int(c.get("max_position_embeddings", 2048)),
        rotary=tuple(_ropes(c, head_dim, layers, ["full_attention"] * layers)),
        windows=(None,) * layers,
        parallel=bool(c.get("use_parallel_residual", True)),
        attn_scale=head_dim**-0.5,
        prefix="gpt_neox.",
        embed_name="gpt_neox.embed_in.weight",
        norm_name="gpt_neox.final_layer_norm",
        head_name="embed_out.weight",
        parts={
            "qkv": (Part("attention.query_key_value", 3 * hidden, heads=heads),),
            "o": (Part("attention.dense", hidden),),
            "up": (Part("mlp.dense_h_to_4h", inter),),
            "down": (Part("mlp.dense_4h_to_h", hidden),),
        },
    )
