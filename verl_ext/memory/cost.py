"""Tokens and hours of a run, from stated assumptions: an estimate to plan with, and no measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from verl_ext.memory.gpus import GPU
from verl_ext.memory.plan import Plan
from verl_ext.memory.roofline import FORWARD

SECONDS_PER_HOUR = 3600

# The paper's run (arXiv 2503.04808): 160 passes over 8K questions, for Qwen2.5-Math-1.5B on 8 A100.
PAPER_STEPS, PAPER_EPISODES, PAPER_HOURS, PAPER_GPUS = 1280, 1024, 96.0, "8 A100"

# A backward pass has twice the operations of a forward pass. What gradient checkpointing computes again does not count,
# as is usual for the share of a GPU's operations (MFU).
_TRAINING = 3 * FORWARD


@dataclass(frozen=True)
class Assumptions:
    """What nobody knows before the run.

    Attributes:
        steps: of the run.
        prompt_tokens: mean of a question with its instructions.
        attempt_tokens: mean of an attempt with its feedback.
        attempts: mean of an episode.
        mfu: share of the GPU's operations that training reaches.
        decode_efficiency: share of the memory's bandwidth that generation reaches.
    """

    steps: int
    prompt_tokens: float
    attempt_tokens: float
    attempts: float
    mfu: float
    decode_efficiency: float

    def response(self, config: DictConfig) -> float:
        """Mean tokens of all attempts of an episode, with their feedback."""
        return min(self.attempts * self.attempt_tokens, float(config.data.max_response_length))


def default_assumptions(config: DictConfig) -> Assumptions:
    """The response budget shared by the greatest number of attempts, and as many attempts as are drawn in the mean:
    more than a model needs that is ever right before its last one."""
    task = config.multi_attempt
    return Assumptions(
        steps=config.trainer.total_training_steps or PAPER_STEPS,
        prompt_tokens=min(256.0, config.data.max_prompt_length),
        attempt_tokens=config.data.max_response_length / task.max_attempts,
        attempts=(task.min_attempts + task.max_attempts) / 2,
        mfu=0.35,
        decode_efficiency=0.5,
    )


@dataclass(frozen=True)
class Cost:
    """Of one step, in seconds and tokens, and of the run.

    Attributes:
        assumptions: what it rests on.
        episodes: of a step.
        step_tokens: that a step trains on, prompts included.
        seconds: by phase of a step.
    """

    assumptions: Assumptions
    episodes: int
    step_tokens: float
    seconds: dict[str, float]

    @property
    def hours(self) -> float:
        return sum(self.seconds.values()) * self.assumptions.steps / SECONDS_PER_HOUR


def run_cost(plan: Plan, config: DictConfig, assumed: Assumptions) -> Cost:
    """The cost of a run on GPUs.

    Raises:
        ValueError: an assumption is not positive, or a share is above 1.
    """
    check_assumptions(assumed)
    models, gpu = plan.models, _gpu(plan)
    episodes = config.data.train_batch_size * config.actor_rollout_ref.rollout.n
    response = assumed.response(config)
    tokens = episodes * (assumed.prompt_tokens + response)
    rate = models.world * gpu.flops * assumed.mfu
    seconds = {"generation": _generation(plan, episodes, assumed.prompt_tokens, response, assumed)}
    passes: list[tuple[str, Any, int]] = [
        ("old log-probs", models.actor, FORWARD),
        ("reference log-probs", models.reference, FORWARD),
        ("values", models.critic, FORWARD),
        ("critic update", models.critic, _TRAINING * config.critic.ppo_epochs),
        ("actor update", models.actor, _TRAINING * config.actor_rollout_ref.actor.ppo_epochs),
    ]
    seconds |= {
        name: operations * model.role.parameters * tokens / rate
        for name, model, operations in passes
        if model is not None
    }
    return Cost(assumed, episodes, tokens, seconds)


def _generation(plan: Plan, episodes: int, prompt: float, response: float, assumed: Assumptions) -> float:
    """Seconds: each forward pass reads the weights, and the keys and values of all sequences under way.

    The longest episode, of the whole response budget, takes a pass for each of its tokens.
    """
    rollout, gpu = plan.models.rollout, _gpu(plan)
    each = episodes / rollout.replicas
    at_once = max(1, min(each, rollout.at_once(prompt + response)))
    longest = max(1, rollout.context - prompt)
    passes = longest + max(0.0, each - at_once) * response / at_once
    read = passes * rollout.weights + each * response * (prompt + response / 2) * rollout.cache_per_token
    prefill = FORWARD * rollout.shape.policy_parameters * episodes * prompt
    return read / (gpu.bandwidth * assumed.decode_efficiency) + prefill / (plan.models.world * gpu.flops * assumed.mfu)


def _gpu(plan: Plan) -> GPU:
    assert isinstance(plan.device, GPU)
    return plan.device


def check_assumptions(assumed: Assumptions) -> None:
    """Refuse what cannot be.

    Raises:
        ValueError: an assumption is not positive, or a share is above 1.
    """
    for name, value in vars(assumed).items():
        if not value > 0 or (name in ("mfu", "decode_efficiency") and value > 1):
            wanted = "in (0, 1]" if name in ("mfu", "decode_efficiency") else "positive"
            raise ValueError(f"--{name.replace('_', '-')} = {value} must be {wanted}")
