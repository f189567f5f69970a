"""Attention without flash-attn, on any device, and the check of the one that a run asks for.

Of episodes that stand in one row, without padding, transformers masks what they may not see of each other, and computes
it all the same. Here torch's scaled dot product attention is asked for each episode alone. Padded batches get what
they would have had.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForTokenClassification
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from verl.utils import model as verl_model

from verl_ext.model.model_config import ACTOR_MODEL, CRITIC_MODEL

NAME = "sdpa_by_sequence"
"""Its name, as ``attn_implementation``; ``attention=sdpa`` chooses it."""

# verl's choice where a config names none (verl/workers/config/model.py, line 185).
_DEFAULT = "flash_attention_2"

_load_with_flash_attention = verl_model.load_valuehead_model

# What must be importable, and how it is installed.
_PACKAGES = {
    "flash_attention_2": ("flash_attn", "pip install flash-attn==2.8.3 --no-build-isolation"),
    "flash_attention_3": ("flash_attn_interface", "build it from the folder hopper/ of flash-attn's sources"),
}

# Where FSDP splits a sequence over GPUs.
_ULYSSES = "ulysses_sequence_parallel_size"
_SPLITS = {
    ACTOR_MODEL: (f"actor_rollout_ref.actor.fsdp_config.{_ULYSSES}", f"actor_rollout_ref.ref.{_ULYSSES}"),
    CRITIC_MODEL: (f"critic.fsdp.{_ULYSSES}",),
}


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
            f"use_remove_padding = True: a sequence of {max(lengths)} tokens is longer than the model's sliding window "
            f"of {sliding_window}, which packed rows do not have with attention=sdpa; set "
            "actor_rollout_ref.model.use_remove_padding=false critic.model.use_remove_padding=false (on CPU: "
            "cpu.packed=false), or choose attention=flash_attention_2"
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


def load_value_head(local_path: str, torch_dtype: torch.dtype, model_config: Any, trust_remote_code: bool) -> Any:
    """A critic with the attention of its configuration.

    ``verl.utils.model.load_valuehead_model`` (``model.py``, line 649), in whose place this stands, asks for
    ``flash_attention_2`` whatever the configuration says; it is left to do so where that is right.

    Raises:
        OSError, ValueError: transformers cannot load it as a model that classifies tokens.
    """
    asked = model_config._attn_implementation
    if asked == _DEFAULT:
        return _load_with_flash_attention(local_path, torch_dtype, model_config, trust_remote_code)
    return AutoModelForTokenClassification.from_pretrained(
        local_path,
        dtype=torch_dtype,
        config=model_config,
        attn_implementation=asked,
        trust_remote_code=trust_remote_code,
    )


def register() -> None:
    """Make it known to transformers, under its name, and critics with it known to verl. Safe to call twice."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, mask)
    verl_model.load_valuehead_model = load_value_head


def is_flash(implementation: str) -> bool:
    """Whether it is one of the flash-attn packages."""
    return implementation in _PACKAGES


def implementation(model: Any) -> str:
    """The attention of a model's node of a run's config, by its name in transformers."""
    return str(model.override_config.get("attn_implementation") or _DEFAULT)


def attention_errors(config: DictConfig, *, installed_here: bool) -> Iterator[str]:
    """Start-up check: the attention that FSDP's models ask for can be had.

    Args:
        config: the composed config of a run.
        installed_here: whether the run's packages are this machine's, and not another cluster's.
    """
    if config.actor_rollout_ref.actor.strategy == "megatron":
        return  # which has its own
    for field, splits in _SPLITS.items():
        name = implementation(OmegaConf.select(config, field))
        given = f"{field}.override_config.attn_implementation = {name}"
        if is_flash(name):
            yield from _flash_errors(given, name, config.trainer.device, installed_here)
            continue
        for split in splits:
            size = OmegaConf.select(config, split)
            if size is not None and size > 1:
                yield (
                    f"{split} = {size}: verl splits sequences over GPUs in flash attention only, and {given}; set the "
                    "size to 1, or choose attention=flash_attention_2"
                )


def _flash_errors(given: str, name: str, device: str, installed_here: bool) -> Iterator[str]:
    package, remedy = _PACKAGES[name]
    if device == "cpu":
        yield f"{given} needs CUDA, and trainer.device = 'cpu'; choose attention=sdpa"
    elif installed_here and find_spec(package) is None:
        yield (
            f"{given}: the package {package} is not installed; install it ({remedy}), or choose attention=sdpa, which "
            "needs none"
        )
