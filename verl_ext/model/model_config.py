"""The ``config.json`` of a run's model: all that is known of it before its weights are loaded."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf
from transformers import AutoConfig, PretrainedConfig

ACTOR_MODEL, CRITIC_MODEL = "actor_rollout_ref.model", "critic.model"
"""The fields of a run's config that say what its models are."""


def load_model_config(config: DictConfig, field: str) -> PretrainedConfig:
    """The configuration of a model, from where verl takes it (``workers/config/model.py``, line 151).

    Args:
        config: the composed config of a run.
        field: the model's.

    Raises:
        ValueError: there is none.
    """
    model = OmegaConf.select(config, field)
    name = "hf_config_path" if model.get("hf_config_path") else "path"
    try:
        return AutoConfig.from_pretrained(model[name], trust_remote_code=bool(model.get("trust_remote_code")))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{field}.{name} = {model[name]}: no config.json could be loaded from it ({reason}); name a model's folder "
            "or its name on the hub (multi-attempt check also takes a config.json alone, by --model-config)"
        ) from error
