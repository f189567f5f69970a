"""What vLLM chooses by environment variables, and by its attention backend: read from a run's config, for its log."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

SECOND_RUNNER = "VLLM_USE_V2_MODEL_RUNNER"
FLASHINFER_SAMPLER = "VLLM_USE_FLASHINFER_SAMPLER"


def uses_second_runner(config: DictConfig) -> bool:
    """Whether vLLM's second model runner generates; true as well where vLLM is left to choose by the model."""
    return config.actor_rollout_ref.rollout.name == "vllm" and _variable(config, SECOND_RUNNER) != "0"


def describe(config: DictConfig) -> str | None:
    """One line on the choices; None where another engine generates."""
    rollout = config.actor_rollout_ref.rollout
    if rollout.name != "vllm":
        return None
    backend = OmegaConf.select(rollout, "engine_kwargs.vllm.attention_backend")
    choices = {
        SECOND_RUNNER: _variable(config, SECOND_RUNNER),
        FLASHINFER_SAMPLER: _variable(config, FLASHINFER_SAMPLER),
        "attention_backend": backend,
    }
    own = "vLLM's own choice"
    return "rollout by vLLM: " + ", ".join(f"{name} = {value or own}" for name, value in choices.items())


def _variable(config: DictConfig, name: str) -> str | None:
    variables = OmegaConf.select(config, "ray_kwargs.ray_init.runtime_env.env_vars") or {}
    value = variables.get(name)
    return None if value is None else str(value)
