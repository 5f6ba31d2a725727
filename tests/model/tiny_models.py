"""Small models of every family, made from a config and written to disk with a real tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WORDS = ("the a cat dog sat on mat and ran home again to see you me hello what is why how").split()  # noqa: SIM905
FAMILIES = (
    "llama",
    "llama3-rope",
    "mistral-window",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gpt_neox",
)


def make_tokenizer(folder: Path, vocab: int = 384, template: str | None = CHATML) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|im_end|>"
    )
    fast.chat_template = template
    fast.save_pretrained(str(folder))


def make_model(
    folder: Path, family: str = "llama", *, template: str | None = CHATML, seed: int = 0
) -> Any:
    """Write a tiny random model of `family`; returns the transformers model (the oracle)."""
    import transformers as t

    t.logging.set_verbosity_error()
    t.logging.disable_progress_bar()
    sizes: dict = dict(  # noqa: C408
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=384,
        max_position_embeddings=256,
        initializer_range=0.3,
        eos_token_id=2,
        pad_token_id=0,
        bos_token_id=None,
    )
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    made = {
        "llama": (t.LlamaConfig, {}),
        "llama3-rope": (t.LlamaConfig, {"rope_parameters": rope, "tie_word_embeddings": True}),
        "mistral-window": (t.MistralConfig, {"sliding_window": 8}),
        "qwen2": (t.Qwen2Config, {}),
        "qwen3": (t.Qwen3Config, {"head_dim": 16}),
        "gemma": (t.GemmaConfig, {"head_dim": 16}),
        "gemma2": (t.Gemma2Config, {"head_dim": 16, "sliding_window": 8}),
        "gemma3_text": (
            t.Gemma3TextConfig,
            {
                "head_dim": 16,
                "sliding_window": 8,
                "layer_types": ["sliding_attention"] * 2 + ["full_attention"],
            },
        ),
        "gpt_neox": (t.GPTNeoXConfig, {}),
    }
    config_class, extra = made[family]
    torch.manual_seed(seed)
    config = config_class(**{**sizes, **extra})
    config._attn_implementation = "eager"
    model = t.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.add_(torch.randn_like(p) * 0.1)
            elif name.endswith("bias"):
                p.add_(torch.randn_like(p) * 0.2)
    model.eval()
    model.save_pretrained(str(folder))
    make_tokenizer(folder, 384, template)
    return model
