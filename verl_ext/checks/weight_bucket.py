"""Start-up check: the bucket through which new weights go to the rollout holds the model's largest tensor.

Between processes that share no GPU memory (``trainer.device=cpu``) verl sends weights to vLLM through a buffer in
shared memory, and asserts, after minutes of start-up, that each tensor fits it (``bucketed_weight_transfer.py``, line
141). On CUDA a larger tensor is handed over by itself, and to SGLang as a bucket of its own: neither has a bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from omegaconf import DictConfig
from transformers import AutoModelForCausalLM, PretrainedConfig

from verl_ext.model.model_config import ACTOR_MODEL, load_model_config

_FIELD = "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes"

# verl's megabyte (bucketed_weight_transfer.py, line 94).
_MEGABYTE = 1 << 20

# What verl trains in where nothing is said (workers/engine/fsdp/transformer_impl.py, line 262).
_DEFAULT_DTYPE = "fp32"


def weight_bucket_errors(config: DictConfig) -> Iterator[str]:
    """Whether the bucket is too small for the actor's model.

    Args:
        config: the composed config of a run.

    Yields:
        One line, with the field, its value, the tensor, and the least value that holds it.
    """
    hybrid = config.actor_rollout_ref
    if config.trainer.device != "cpu" or hybrid.rollout.name != "vllm":
        return
    try:
        model = load_model_config(config, ACTOR_MODEL)
    except ValueError as error:
        yield str(error)
        return
    name, tensor = largest_sent(model, hybrid.actor.fsdp_config.model_dtype or _DEFAULT_DTYPE)
    bucket = int(hybrid.rollout.checkpoint_engine.update_weights_bucket_megabytes)
    needed = -(-tensor.nbytes // _MEGABYTE)
    if needed > bucket:
        shape, dtype = " x ".join(map(str, tensor.shape)), str(tensor.dtype).removeprefix("torch.")
        yield (
            f"{_FIELD} = {bucket} MB does not hold the model's largest tensor, {name} ({shape} in {dtype}: {needed} "
            f"MB), and the first weight sync would fail; set it to {needed} or more"
        )


def largest_sent(model: PretrainedConfig, dtype: Any) -> tuple[str, torch.Tensor]:
    """The largest tensor of those that verl's FSDP engine sends, on torch's ``meta`` device.

    They are sent in the precision of the master weights, whatever the passes and the rollout compute in
    (``get_per_tensor_param``), and packed experts one by one.

    Args:
        model: of which model; no weights are loaded.
        dtype: of the master weights, by any of verl's names.

    Returns:
        Its name in the checkpoint, and itself.
    """
    from verl.utils.model import get_hf_auto_model_class
    from verl.utils.torch_dtypes import PrecisionType
    from verl.workers.engine.fsdp.utils import unfuse_moe_params

    # verl asks for the architecture by its name, which a config.json need not have.
    auto_class = get_hf_auto_model_class(model) if model.architectures else AutoModelForCausalLM
    with torch.device("meta"):
        weights = auto_class.from_config(model, dtype=PrecisionType.to_dtype(dtype)).state_dict()
    return max(unfuse_moe_params(weights.items(), model.model_type), key=lambda named: named[1].nbytes)
