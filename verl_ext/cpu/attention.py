"""Attention on CPU for episodes that stand in one row, without padding: each by itself.

Without flash attention, transformers masks what a packed row's episodes may not see of each other, and computes it all
the same. Here torch's scaled dot product attention is asked for each episode alone. Padded batches get what they would
have had.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_by_sequence"
"""Its name, as ``attn_implementation``."""


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **arguments: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each sequence of a row.

    Args:
        module: the layer.
        query: shape [batch, heads, tokens, width].
        key: shape [batch, key and value heads, tokens, width].
        value: as ``key``.
        attention_mask: of a padded batch; None for a packed row.
        position_ids: shape [batch, tokens]; a sequence begins where they are 0.
        sliding_window: how far back a token may look; None for all of its sequence.
        **arguments: of transformers' own function.

    Returns:
        Shape [batch, tokens, heads, width], and no weights.

    Raises:
        NotImplementedError: a sequence of a packed row is longer than the sliding window.
    """
    if attention_mask is not None or position_ids is None or query.shape[0] != 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **arguments)
    lengths = _lengths(position_ids[0])
    if sliding_window is not None and max(lengths) > sliding_window:
        raise NotImplementedError(
            f"cpu.packed = true: a sequence of {max(lengths)} tokens is longer than the model's sliding window of "
            f"{sliding_window}, which packed rows do not have on CPU; set cpu.packed=false"
        )
    rows = zip(*(states.split(lengths, dim=2) for states in (query, key, value)), strict=True)
    outputs = [sdpa_attention_forward(module, q, k, v, None, **arguments)[0] for q, k, v in rows]
    return torch.cat(outputs, dim=1), None


def _lengths(positions: torch.Tensor) -> list[int]:
    """Tokens of each sequence of a row, whose positions begin at 0 anew."""
    starts = [0, *((positions[1:] == 0).nonzero().flatten() + 1).tolist()]
    return [stop - start for start, stop in zip(starts, [*starts[1:], len(positions)], strict=True)]


def mask(*, attention_mask: torch.Tensor | None = None, **arguments: Any) -> torch.Tensor | None:
    """The mask of a padded batch, as transformers makes it; a packed row needs none."""
    return None if attention_mask is None else sdpa_mask(attention_mask=attention_mask, **arguments)


def register() -> None:
    """Make it known to transformers, under its name."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, mask)
