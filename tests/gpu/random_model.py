"""A model of a published one's shape with random weights, made without a network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from multi_attempt.toy.tokenizer import make_tokenizer

QWEN2_5_MATH_1_5B: Mapping[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
}
"""The shape of Qwen2.5-Math-1.5B; its embedding is its output head too."""

SMALL: Mapping[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
"""What stands for it in a rehearsal."""

# Long enough for the longest episode of the benchmarks.
_POSITIONS = 32768


def write_random_model(folder: Path, shape: Mapping[str, Any], device: str) -> None:
    """Write a Qwen2 model with random weights in bf16, and the toy's tokenizer with as many tokens as the model has."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = Qwen2Config(
        **shape,
        max_position_embeddings=_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _fill_vocabulary(folder / "tokenizer.json", config.vocab_size)
    del model
    if device == "cuda":
        torch.cuda.empty_cache()  # others need the memory that this process would keep


def _fill_vocabulary(path: Path, size: int) -> None:
    """Give a tokenizer so many tokens, of which text makes none that it did not make before.

    verl's rollout never samples a token that is the model's but not the tokenizer's, while the actor gives it some
    probability: the two would differ.
    """
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary |= {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    vocabulary |= {f"<{number}>": number for number in range(len(vocabulary), size)}
    path.write_text(json.dumps(tokenizer, ensure_ascii=False))
