"""The settings of the task: everything under ``multi_attempt`` in a config, typed and validated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Optional

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from multi_attempt.credit import CreditSettings
from multi_attempt.history import History
from multi_attempt.prompts import FEEDBACK_ROLES, PARTS, PromptSet, load_prompt_set
from multi_attempt.reflection import REFLECT, Critic, ReflectionSettings, critic_of
from multi_attempt.rewards import RewardRule
from multi_attempt.tasks import Words
from multi_attempt.tasks.load import BUILT_IN, DEFAULT, Tasks, read_settings, task_class
from multi_attempt.tasks.math import GraderSettings

TELL = ("oracle", "blind")
"""What the model may be told of how right its attempts are."""


def _built_in_settings() -> dict[str, Any]:
    """The settings of the built-in tasks, by name; those of ``math`` have a place of their own."""
    return {name: asdict(task_class(name).Settings()) for name in BUILT_IN if name != DEFAULT}


# OmegaConf reads the annotations of the classes below on Python 3.10 too, where it does not know "int | None".
@dataclass
class EpisodeSettings:
    """What bounds an episode when something goes wrong.

    Attributes:
        timeout: seconds after which an episode is given up and recorded as an error.
        abort_retries: how often an aborted generation is asked for again before the episode is recorded as aborted.
        max_error_rate: a step with a greater share of failed episodes stops the run.
    """

    timeout: float = 1800.0
    abort_retries: int = 3
    max_error_rate: float = 0.1


@dataclass
class GuardSettings:
    """When a run stops because rollout and training disagree.

    Attributes:
        min_correlation: least Pearson correlation between the probabilities that the rollout engine and the actor
            give to the generated tokens (verl's ``training/rollout_actor_probs_pearson_corr``).
        max_difference: a step in which no two probabilities differ by more than this passes whatever the correlation,
            which means nothing once the policy is sure of all its tokens.
    """

    min_correlation: float = 0.95
    max_difference: float = 1.0e-4


@dataclass
class TaskSettings:
    """All settings under ``multi_attempt``; the config files comment on each field.

    Attributes:
        task: the task of rows that name none: a built-in one's name, or ``module:Class``.
        tasks: the settings of tasks by name, but for those of ``math``, which are ``prompts`` and ``grader``.
        min_attempts: least N drawn in training.
        max_attempts: greatest N drawn in training, M in the paper.
        seed: seed of the draw.
        prompts: name of a built-in prompt set, or path of a YAML file.
        feedback_role: the role that gives feedback, ``user`` or ``system``; null for the prompt set's own.
        tell: ``oracle``, or ``blind``: nothing is said on whether an attempt was right, all attempts are made, and the
            last one counts.
        feedback: the parts of the message between two attempts (:mod:`multi_attempt.feedback`), in order; null for what
            the prompt set says.
        reflect: who says what went wrong before the next attempt: ``none``, ``self``, ``judge``.
        reflection: see :class:`multi_attempt.reflection.ReflectionSettings`.
        ruled_out_length: characters of an answer in the part ``ruled_out``; longer ones are cut.
        max_tokens_per_attempt: tokens that one attempt may have; null for all that are left of the response.
        history: what stays of earlier attempts in the context of the next one: all of them (``full``), the answer of
            each (``answers``), or the last one alone (``last``).
        history_answer_bytes: bytes of an answer that ``answers`` shows.
        reward: see :class:`multi_attempt.rewards.RewardRule`.
        credit: see :class:`multi_attempt.credit.CreditSettings`.
        keep_best: whether the model that validates best is kept beside the checkpoints.
        poll_interval: seconds between the trainer's looks at which episodes are finished.
        stall_timeout: seconds after which a run that does nothing but wait is ended; a rollout has its own time-out.
    """

    task: str = DEFAULT
    tasks: dict[str, Any] = field(default_factory=_built_in_settings)
    min_attempts: int = 1
    max_attempts: int = 5
    seed: int = 0
    prompts: str = "paper"
    feedback_role: Optional[str] = None  # noqa: UP045
    tell: str = "oracle"
    feedback: Optional[list[str]] = None  # noqa: UP045
    ruled_out_length: int = 80
    reflect: str = "none"
    reflection: ReflectionSettings = field(default_factory=ReflectionSettings)
    max_tokens_per_attempt: Optional[int] = None  # noqa: UP045
    history: str = "full"
    history_answer_bytes: int = 256
    reward: RewardRule = field(default_factory=RewardRule)
    credit: CreditSettings = field(default_factory=CreditSettings)
    grader: GraderSettings = field(default_factory=GraderSettings)
    episode: EpisodeSettings = field(default_factory=EpisodeSettings)
    guard: GuardSettings = field(default_factory=GuardSettings)
    keep_best: bool = True
    poll_interval: float = 0.2
    stall_timeout: float = 3600.0

    def __post_init__(self) -> None:
        if not 1 <= self.min_attempts <= self.max_attempts:
            raise ValueError(
                f"multi_attempt.min_attempts = {self.min_attempts}, multi_attempt.max_attempts = {self.max_attempts}: "
                "need 1 <= min_attempts <= max_attempts"
            )
        if self.max_tokens_per_attempt is not None and self.max_tokens_per_attempt < 1:
            raise ValueError(
                f"multi_attempt.max_tokens_per_attempt = {self.max_tokens_per_attempt} must be at least 1, or null"
            )
        for name in ("deadline", "workers", "memory_mb"):
            value = getattr(self.grader, name)
            if not 0 < value < math.inf:
                raise ValueError(f"multi_attempt.grader.{name} = {value} must be positive")
        if not self.episode.timeout > 0 or self.episode.abort_retries < 0 or not 0 <= self.episode.max_error_rate <= 1:
            raise ValueError(
                f"multi_attempt.episode = {self.episode}: need timeout > 0, abort_retries >= 0 and max_error_rate "
                "in [0, 1]"
            )
        if not 0 < self.poll_interval < math.inf:
            raise ValueError(f"multi_attempt.poll_interval = {self.poll_interval} must be a positive number of seconds")
        if not self.stall_timeout > 0:
            raise ValueError(f"multi_attempt.stall_timeout = {self.stall_timeout} must be positive (.inf for never)")
        if not -1 <= self.guard.min_correlation <= 1:
            raise ValueError(f"multi_attempt.guard.min_correlation = {self.guard.min_correlation} must lie in [-1, 1]")
        # Probabilities differ by at most 1: at that, any step would pass.
        if not 0 <= self.guard.max_difference < 1:
            raise ValueError(f"multi_attempt.guard.max_difference = {self.guard.max_difference} must lie in [0, 1)")
        if self.tell not in TELL:
            raise ValueError(f"multi_attempt.tell = {self.tell!r}: use {' or '.join(TELL)}")
        if self.reflect not in REFLECT:
            raise ValueError(f"multi_attempt.reflect = {self.reflect!r}: use one of {', '.join(REFLECT)}")
        if self.ruled_out_length < 1:
            raise ValueError(f"multi_attempt.ruled_out_length = {self.ruled_out_length} must be at least 1")
        if unknown := [part for part in self.feedback or () if part not in PARTS]:
            raise ValueError(
                f"multi_attempt.feedback = {self.feedback}: there is no part {', '.join(map(repr, unknown))}; the "
                f"parts are {', '.join(PARTS)}"
            )
        if self.feedback == []:
            raise ValueError("multi_attempt.feedback = []: name a part, or null for what the prompt set says")
        if self.feedback_role not in (None, *FEEDBACK_ROLES):
            raise ValueError(
                f"multi_attempt.feedback_role = {self.feedback_role!r}: use {' or '.join(FEEDBACK_ROLES)}, or null for "
                "the prompt set's own"
            )
        try:
            self.kept  # noqa: B018 - as the next
        except ValueError as error:
            raise ValueError(f"multi_attempt.{error}") from error
        try:
            self.prompt_set  # noqa: B018 - an unknown or invalid prompt set shows here, not in the first episode
        except (ValueError, OSError) as error:
            raise ValueError(f"multi_attempt.prompts = {self.prompts!r}: {error}") from error
        if DEFAULT in self.tasks:
            raise ValueError(
                f"multi_attempt.tasks.{DEFAULT}: its settings are multi_attempt.prompts and multi_attempt.grader"
            )
        for name in {self.task, *self.tasks} - {DEFAULT}:
            read_settings(name, self.tasks.get(name, {}))

    @property
    def prompt_set(self) -> PromptSet:
        """The prompt set that ``prompts`` names, with the feedback by ``feedback_role`` if that is set."""
        prompts = load_prompt_set(self.prompts)
        return prompts if self.feedback_role is None else replace(prompts, feedback_role=self.feedback_role)

    def make_critic(self) -> Critic | None:
        """The judge that says what is wrong with an attempt, if there is one."""
        return critic_of(self.reflect, self.reflection)

    @property
    def kept(self) -> History:
        """What stays of earlier attempts."""
        return History(self.history, self.history_answer_bytes)

    def make_tasks(self) -> Tasks:
        """The tasks of a run, with these settings."""
        words = Words(self.prompt_set, tuple(self.feedback or ()), self.ruled_out_length, self.feedback_role)
        return Tasks(self.task, {**self.tasks, DEFAULT: asdict(self.grader)}, words)


def load_settings(node: Mapping[str, Any] | None) -> TaskSettings:
    """The settings in the ``multi_attempt`` node of a config.

    Raises:
        ValueError: the node is missing, or a key is unknown, of the wrong type, or out of range; the message names it.
    """
    if node is None:
        raise ValueError("the config has no key 'multi_attempt'; use --config-name multi_attempt, or inherit from it")
    try:
        # Resolved while the node still knows the config that its interpolations refer to.
        values: Any = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node
        if not isinstance(values, Mapping):
            raise ValueError(f"multi_attempt = {values!r} must be a mapping")
        for name in ("tasks", "reward", "credit", "reflection", "grader", "episode", "guard"):
            if not isinstance(values.get(name, {}), Mapping):
                raise ValueError(f"multi_attempt.{name} = {values[name]!r} must be a mapping")
        if not isinstance(values.get("feedback"), list | None):
            raise ValueError(f"multi_attempt.feedback = {values['feedback']!r} must be a list of parts, or null")
        merged = OmegaConf.merge(OmegaConf.structured(TaskSettings), values)
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        key = f"multi_attempt.{error.full_key.removeprefix('multi_attempt.')}" if error.full_key else "multi_attempt"
        reason = str(error).splitlines()[0]
        raise ValueError(f"{key}: {reason}; see the comments in config/multi_attempt.yaml for what it takes") from error
