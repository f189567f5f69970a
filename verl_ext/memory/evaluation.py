"""How long an evaluation takes at the least: a plan by the roofline, of the paper's five benchmarks."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from multi_attempt.evaluation.balance import CONCURRENCY
from multi_attempt.evaluation.paper import paper_evaluation
from multi_attempt.evaluation.protocols import PROTOCOLS, Kind, Rules
from verl_ext.memory.cost import default_assumptions
from verl_ext.memory.gpus import GPU
from verl_ext.memory.model_shape import ModelShape
from verl_ext.memory.report import aligned
from verl_ext.memory.rollout import Rollout, make_rollout
from verl_ext.memory.roofline import Roofline

TOGETHER = "all together"
"""The row of all benchmarks in one evaluation, which fill the GPUs better than each alone."""

# vLLM's own share of a GPU, which an evaluation leaves as it is: 0.9, or 0.92 in later versions.
_UTILIZATION = 0.9


@dataclass(frozen=True)
class Asked:
    """What an evaluation asks for, and what nobody knows before.

    Attributes:
        protocols: by name.
        attempts: the greatest number of attempts, K.
        samples: dialogues of a kind for each question.
        prompt_tokens: mean of a question with its instructions.
        attempt_tokens: mean of an attempt with its feedback.
        solved: share of dialogues that are right at their first attempt; the others are taken to make all of theirs.

    Raises:
        ValueError: one of them cannot be; the message names it.
    """

    protocols: tuple[str, ...]
    attempts: int
    samples: int
    prompt_tokens: float
    attempt_tokens: float
    solved: float

    def __post_init__(self) -> None:
        for name in ("attempts", "samples"):
            value = getattr(self, name)
            if value != int(value) or value < 1:
                raise ValueError(f"--{name} = {value:g} must be a whole number of at least 1, of an evaluation")
        for name in ("prompt_tokens", "attempt_tokens"):
            if not getattr(self, name) > 0:
                raise ValueError(f"--{name.replace('_', '-')} = {getattr(self, name)} must be positive")
        if not 0 <= self.solved <= 1:
            raise ValueError(f"--solved = {self.solved} must be a share, from 0 to 1")

    @property
    def kinds(self) -> list[Kind]:
        """The kinds of episode that are played about each question."""
        rules = Rules(int(self.attempts), int(self.samples), lambda one, other: one == other)
        return list(dict.fromkeys(kind for name in self.protocols for kind in PROTOCOLS[name].kinds(rules)))

    def responses(self, kind: Kind, room: float) -> list[tuple[float, float]]:
        """The tokens that a kind's episodes have, of so many as there is room for: shares, and tokens."""
        once, all_of_them = (min(number * self.attempt_tokens, room) for number in (1, kind.budget))
        if kind.protocol in ("oracle", "shuffled"):
            return [(self.solved, once), (1 - self.solved, all_of_them)]
        return [(1.0, all_of_them)]


def default_asked(config: DictConfig, given: Mapping[str, Any]) -> Asked:
    """As the paper evaluates, with the lengths that a run's cost is planned with, but for what is given."""
    paper, assumed = paper_evaluation(), default_assumptions(config)
    default = {
        "protocols": (paper.protocol,),
        "attempts": paper.attempts,
        "samples": 1,
        "prompt_tokens": assumed.prompt_tokens,
        "attempt_tokens": assumed.attempt_tokens,
        "solved": paper.first_attempt,
    }
    return Asked(**{**default, **given})


@dataclass(frozen=True)
class _Load:
    """The mean question's share of the work.

    Attributes:
        episodes: about it.
        prompt: tokens of its different prompts: the prefix cache has the others.
        generated: tokens of all episodes.
        context: tokens that are in the cache for a sequence when it gets one more, in the mean.
        longest: tokens of the longest episode.
    """

    episodes: int
    prompt: float
    generated: float
    context: float
    longest: float


@dataclass(frozen=True)
class Row:
    """The plan of one benchmark, or of all.

    Attributes:
        benchmark: its name.
        questions: that it has.
        episodes: about them.
        tokens: that are generated.
        at_once: episodes that a replica has under way at once.
        passes: of each replica.
        seconds: of all passes, at the least.
    """

    benchmark: str
    questions: int
    episodes: int
    tokens: float
    at_once: float
    passes: float
    seconds: float


@dataclass(frozen=True)
class EvaluationPlan:
    """An evaluation on the GPUs of a node.

    Attributes:
        rollout: the engines.
        asked: what is evaluated, and assumed.
        rows: each benchmark alone, and all together.
    """

    rollout: Rollout
    asked: Asked
    rows: list[Row]

    def as_dict(self) -> dict[str, Any]:
        """The figures, for JSON."""
        rollout = self.rollout
        return {
            "gpu": rollout.device.name,
            "replicas": rollout.replicas,
            "cached_tokens": rollout.cached_tokens,
            "assumptions": dataclasses.asdict(self.asked),
            "benchmarks": {row.benchmark: dataclasses.asdict(row) for row in self.rows},
        }


def plan_evaluation(config: DictConfig, shape: ModelShape, gpu: GPU, asked: Asked) -> EvaluationPlan:
    """Plan the paper's benchmarks on one node of a composed config, with replicas of the rollout's size.

    Raises:
        ValueError: a replica has more GPUs than the node, or their memory has no room for a dialogue.
    """
    rollout = make_rollout(_evaluating(config), shape, gpu)
    if not rollout.replicas:
        raise ValueError(
            f"actor_rollout_ref.rollout.tensor_model_parallel_size = {rollout.tensor} is more than "
            f"trainer.n_gpus_per_node = {rollout.world}"
        )
    load = _load(asked, rollout)
    if not rollout.at_once(shape.max_positions):
        raise ValueError(
            f"{shape.name}: {rollout.share:,.0f} bytes of {gpu.name} leave its cache no room for a dialogue of "
            f"{shape.max_positions} tokens; take a greater GPU, or more for a replica "
            "(actor_rollout_ref.rollout.tensor_model_parallel_size=N)"
        )
    benchmarks = paper_evaluation().benchmarks
    counts = {**benchmarks, TOGETHER: sum(benchmarks.values())}
    return EvaluationPlan(rollout, asked, [_row(name, count, load, rollout, gpu) for name, count in counts.items()])


def _evaluating(config: DictConfig) -> DictConfig:
    """The config with the engines of an evaluation: vLLM's, on one node, with all of their GPUs' memory."""
    changed = copy.deepcopy(config)
    changed.trainer.nnodes = 1
    rollout = changed.actor_rollout_ref.rollout
    rollout.name, rollout.gpu_memory_utilization, rollout.max_num_seqs = "vllm", _UTILIZATION, CONCURRENCY
    return changed


def _load(asked: Asked, rollout: Rollout) -> _Load:
    prompt, kinds = asked.prompt_tokens, asked.kinds
    room = rollout.shape.max_positions - prompt
    if room < 1:
        raise ValueError(f"--prompt-tokens = {prompt:g} fills the context of {rollout.shape.max_positions} tokens")
    responses = [response for kind in kinds for response in asked.responses(kind, room)]
    generated = sum(share * tokens for share, tokens in responses)
    return _Load(
        episodes=len(kinds),
        prompt=prompt * len({kind.budget for kind in kinds}),
        generated=generated,
        context=sum(share * tokens * (prompt + tokens / 2) for share, tokens in responses) / generated,
        longest=max(tokens for _, tokens in responses),
    )


def _row(name: str, questions: int, load: _Load, rollout: Rollout, gpu: GPU) -> Row:
    """A replica's passes: as few as its tokens take with as many episodes at once as there is room for, but never fewer
    than the longest episode has tokens."""
    each = questions / rollout.replicas
    at_once = max(1.0, min(each * load.episodes, rollout.at_once(load.context)))
    generated = each * load.generated
    passes = max(load.longest, generated / at_once)
    tokens, context = (generated + each * load.prompt) / passes, generated / passes * load.context
    seconds = passes * roofline(rollout, gpu).seconds(tokens, context)
    total = questions * load.generated
    return Row(name, questions, questions * load.episodes, total, at_once, passes, seconds)


def roofline(rollout: Rollout, gpu: GPU) -> Roofline:
    """Of one GPU of a replica."""
    shape = rollout.shape
    used = 1.0 if shape.tied else 1 - shape.embedding / shape.policy_parameters  # of an embedding only rows are read
    parameters = used * shape.policy_parameters / rollout.tensor
    return Roofline(gpu, parameters, used * rollout.weights, rollout.cache_per_token)


# ---- In words ----


def evaluation_report(plan: EvaluationPlan) -> str:
    """The whole text."""
    return "\n\n".join("\n".join(section(plan)) for section in (_head, _table, _assumed, _left_out))


def _head(plan: EvaluationPlan) -> Iterator[str]:
    rollout = plan.rollout
    yield (
        f"An evaluation of {rollout.shape.name} on {rollout.world} x {rollout.device.name}: {rollout.replicas} "
        f"replicas of {rollout.tensor}."
    )
    yield "A plan: a lower bound by the roofline, and no measurement."


def _table(plan: EvaluationPlan) -> Iterator[str]:
    rows = [["benchmark", "questions", "episodes", "million tokens", "at once on a replica", "seconds, at least"]]
    for row in plan.rows:
        figures = [f"{row.questions:,}", f"{row.episodes:,}", f"{row.tokens / 1e6:.2f}", f"{row.at_once:.0f}"]
        rows.append([row.benchmark, *figures, f"{row.seconds:,.1f}"])
    yield from aligned(rows)


def _assumed(plan: EvaluationPlan) -> Iterator[str]:
    asked, rollout = plan.asked, plan.rollout
    yield (
        f"Assumed: {', '.join(asked.protocols)} with 1 to {asked.attempts:g} attempts, {asked.samples:g} of each kind "
        f"of dialogue; {asked.prompt_tokens:,.0f} tokens a question, {asked.attempt_tokens:,.0f} an attempt with its "
        f"feedback, in a context of {rollout.shape.max_positions}; {asked.solved:.1%} of dialogues are right at their "
        "first attempt, and the others make all of theirs; all episodes of a row under way from the start, shared out "
        "evenly."
    )
    yield (
        f"A replica's cache has room for {rollout.cached_tokens:,} tokens ({_UTILIZATION:g} of the GPU is vLLM's), and "
        f"takes at most {CONCURRENCY} episodes at once. What an episode has said stays in the prefix cache."
    )


def _left_out(plan: EvaluationPlan) -> Iterator[str]:
    yield (
        "Left out: the engine's start, attention's own products, launches, sampling, Python, communication between the "
        "GPUs of a replica, grading, retries of which the cache has lost the beginning, and that the last episodes "
        "leave GPUs idle. A real evaluation takes longer, a small one many times so."
    )
