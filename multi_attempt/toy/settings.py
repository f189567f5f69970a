"""The sizes and rates of the toy model and its warm-up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ToySettings:
    """How the toy model is built and warmed up. The defaults train in two minutes on two CPU cores.

    Attributes:
        hidden_size: width of the model; a multiple of 32 for each head, which vLLM's attention on CPU asks for.
        layers: decoder layers.
        heads: query heads; even, for tensor parallelism over 2 devices.
        key_value_heads: key and value heads; even for the same reason.
        intermediate_size: width of the feed-forward layers.
        max_positions: longest sequence, in tokens.
        tie_word_embeddings: whether the output layer is the input embedding, as in the small Qwen2 models.
        steps: optimizer steps of the warm-up.
        batch_size: dialogues in a step.
        batches_per_pool: dialogues are drawn for so many steps at a time and batched by length, to pad little.
        learning_rate: the highest, reached after the ramp; it then decays to zero along a cosine.
        ramp_fraction: share of the steps in which the learning rate rises linearly.
        moment_decay: AdamW's two rates; the second is below its usual 0.999, since there are only some hundred steps.
        weight_decay: AdamW's, on matrices only.
        max_gradient_norm: gradients are clipped to this norm.
        max_attempts: the budget of a demonstrated dialogue is uniform over {1..max_attempts}.
        slips: share of demonstrated solutions that hold a slip.
        retry_right: share of later attempts that are sure to be right; the others insist on what the first said.
        max_new_tokens: longest attempt when the model is measured, in tokens.
    """

    hidden_size: int = 128
    layers: int = 3
    heads: int = 4
    key_value_heads: int = 2
    intermediate_size: int = 256
    max_positions: int = 1024
    tie_word_embeddings: bool = True

    steps: int = 1600
    batch_size: int = 32
    batches_per_pool: int = 16
    learning_rate: float = 3e-3
    ramp_fraction: float = 0.05
    moment_decay: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.05
    max_gradient_norm: float = 1.0

    max_attempts: int = 5
    slips: float = 0.02
    retry_right: float = 0.35

    max_new_tokens: int = 48
