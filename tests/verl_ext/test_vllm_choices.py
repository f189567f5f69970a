"""vLLM's own choices, named in the config: what reaches the workers, the log and the memory plan."""

from __future__ import annotations

from typing import Any

import pytest
from hydra import compose
from omegaconf import DictConfig, OmegaConf, open_dict
from transformers import Qwen2Config

from verl_ext.checks import startup
from verl_ext.memory.gpus import named_gpu
from verl_ext.memory.model_shape import shape_of
from verl_ext.memory.rollout import make_rollout
from verl_ext.model import vllm_choices
from verl_ext.model.vllm_choices import FLASHINFER_SAMPLER, SECOND_RUNNER

SECOND = f"ray_kwargs.ray_init.runtime_env.env_vars.{SECOND_RUNNER}='1'"

pytestmark = pytest.mark.usefixtures("hydra_configs")


def variables(config: DictConfig) -> Any:
    return config.ray_kwargs.ray_init.runtime_env.env_vars


@pytest.mark.parametrize("name", ["multi_attempt", "multi_attempt_cpu"])
def test_the_first_runner_and_torchs_sampler_are_chosen_for_all_models(name: str) -> None:
    config = compose(name)
    assert (variables(config)[SECOND_RUNNER], variables(config)[FLASHINFER_SAMPLER]) == ("0", "0")
    assert not vllm_choices.uses_second_runner(config)


def test_the_command_line_chooses_the_second_runner() -> None:
    config = compose("multi_attempt", overrides=[SECOND])
    assert variables(config)[SECOND_RUNNER] == "1"
    assert vllm_choices.uses_second_runner(config)


def test_ray_is_given_the_variables_as_they_stand() -> None:
    # verl hands them on without resolving what they refer to (trainer/main_ppo.py, line 64).
    for name in ("multi_attempt", "multi_attempt_cpu"):
        kept = OmegaConf.to_container(variables(compose(name)), resolve=False)
        assert isinstance(kept, dict)
        assert not [value for value in kept.values() if "${" in str(value)]


def test_a_choice_that_is_left_to_vllm_may_be_the_second_runner() -> None:
    config = compose("multi_attempt")
    with open_dict(config):
        variables(config)[SECOND_RUNNER] = None
    assert vllm_choices.uses_second_runner(config)
    told = vllm_choices.describe(config)
    assert told is not None
    assert f"{SECOND_RUNNER} = vLLM's own choice" in told


def test_the_choices_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    backend = "actor_rollout_ref.rollout.engine_kwargs.vllm.attention_backend=FLASH_ATTN"
    with caplog.at_level("INFO", logger=startup.__name__):
        startup._log_engine(compose("multi_attempt", overrides=[backend]))
        startup._log_engine(compose("multi_attempt", overrides=["rollout=sglang"]))
    [record] = caplog.records
    assert record.getMessage() == (
        f"rollout by vLLM: {SECOND_RUNNER} = 0, {FLASHINFER_SAMPLER} = 0, attention_backend = FLASH_ATTN"
    )


def test_sglang_has_none_of_them() -> None:
    config = compose("multi_attempt", overrides=["rollout=sglang"])
    assert vllm_choices.describe(config) is None
    assert not vllm_choices.uses_second_runner(config)


def test_the_second_runners_table_is_in_the_plan() -> None:
    shape, device = shape_of(Qwen2Config(vocab_size=1000), "a model"), named_gpu("h100")
    first = make_rollout(compose("multi_attempt"), shape, device)
    second = make_rollout(compose("multi_attempt", overrides=[SECOND]), shape, device)
    sequences = first.config.max_num_seqs
    # Counts of each token (int32), and one bit for each token of the prompt, in whole words.
    table = sequences * shape.vocabulary * 4 + sequences * -(-shape.vocabulary // 32) * 4
    assert second.forward - first.forward == table
    assert first.cache - second.cache == pytest.approx(table)
