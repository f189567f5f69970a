"""The plan as text: what each rank holds, each phase of a step, what follows, what helps, and what the run costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from omegaconf import DictConfig

from verl_ext.memory.cost import PAPER_EPISODES, PAPER_GPUS, PAPER_HOURS, PAPER_STEPS, SECONDS_PER_HOUR, Cost
from verl_ext.memory.gpus import GIB
from verl_ext.memory.plan import Plan, greatest_tokens, greatest_utilization, remedies

_MOST_REMEDIES = 5

# The parts of a phase, in the order of their columns.
_PARTS = (
    *("rollout", "actor", "critic", "reference", "gradients", "gathered"),
    *("activations", "logits", "reserve"),
)


def report(
    plan: Plan, cost: Cost, config: DictConfig, plan_of: Callable[[DictConfig], Plan], problems: Sequence[str]
) -> str:
    """The whole text.

    Args:
        plan: of the config.
        cost: of its run.
        config: it.
        plan_of: makes the plan of a changed config.
        problems: what the start-up check says.
    """
    sections = [_head(plan, config), _problems(problems), _models(plan), _phases(plan), _verdict(plan, config, plan_of)]
    sections += [_rollout(plan, cost), _limits(plan), _cost(cost)]
    return "\n\n".join("\n".join(lines) for section in sections if (lines := list(section)))


def _head(plan: Plan, config: DictConfig) -> Iterator[str]:
    rollout, engine = plan.models.rollout, plan.models.actor.role.engine
    yield (
        f"{rollout.shape.name} on {plan.models.world} x {plan.gpu.name} ({_gib(plan.gpu.memory)} GiB): "
        f"{engine.strategy}, {rollout.config.name} with {rollout.replicas} replicas of {rollout.tensor}"
    )


def _problems(problems: Sequence[str]) -> Iterator[str]:
    if problems:
        yield "The start-up check says, here and now:"
        yield from (f"- {problem}" for problem in problems)


def _models(plan: Plan) -> Iterator[str]:
    rows = [["GiB on a rank", "parameters", "weights", "gradients", "optimiser", "stays on the GPU"]]
    for model in (plan.models.actor, plan.models.critic, plan.models.reference):
        if model is not None:
            sizes = (model.weights, model.gradients, model.optimizer, model.resting())
            rows.append([model.role.name, f"{model.role.parameters:,}", *map(_gib, sizes)])
    yield from _table(rows)


def _phases(plan: Plan) -> Iterator[str]:
    parts = [part for part in _PARTS if any(phase.parts.get(part) for phase in plan.phases)]
    rows = [["phase, GiB on a rank", *parts, "total", ""]]
    for phase in plan.phases:
        note = "" if phase.total <= plan.gpu.memory else "does not fit"
        rows.append([phase.name, *(_gib(phase.parts.get(part, 0.0)) for part in parts), _gib(phase.total), note])
    yield from _table(rows)


def _verdict(plan: Plan, config: DictConfig, plan_of: Callable[[DictConfig], Plan]) -> Iterator[str]:
    peak = plan.peak
    moment = f" ({peak.moment})" if peak.moment else ""
    free = plan.gpu.memory - peak.total
    if plan.fits:
        yield f"It fits. Most is held in the {peak.name}{moment}, with {_gib(free)} GiB to spare."
        return
    if not plan.generates:
        yield (
            f"It does not fit: of {_gib(plan.models.rollout.share)} GiB, weights and a forward pass leave the rollout "
            f"no cache for one sequence of {plan.models.rollout.context} tokens."
        )
    if free < 0:
        yield f"It does not fit: the {peak.name}{moment} takes {_gib(-free)} GiB more than there is."
    found = remedies(plan, config, plan_of)
    yield "What helps:" if found else "No single setting that this plan knows helps; take more GPUs, or greater ones."
    for remedy in found[:_MOST_REMEDIES]:
        outcome = "fits" if remedy.plan.fits else "not enough alone"
        yield f"  {' '.join(remedy.overrides)}: {_gib(remedy.plan.peak.total)} GiB, {outcome}"


def _rollout(plan: Plan, cost: Cost) -> Iterator[str]:
    rollout, assumed = plan.models.rollout, cost.assumptions
    episode = assumed.prompt_tokens + assumed.attempts * assumed.attempt_tokens
    cache = f"{_gib(max(0.0, rollout.cache))} GiB of cache"
    yield (
        f"Rollout: of {_gib(rollout.share)} GiB a GPU, {_gib(rollout.weights)} weights, {_gib(rollout.forward)} a "
        f"forward pass and graphs, {cache}: {rollout.cached_tokens:,} tokens of "
        f"{rollout.cache_per_token / 1024:.0f} KiB."
    )
    yield (
        f"A replica has {rollout.at_once(rollout.context)} sequences of the full {rollout.context} tokens at once, or "
        f"{rollout.at_once(episode)} of {episode:,.0f}, and {cost.episodes / rollout.replicas:,.0f} episodes a step "
        f"(at most max_num_seqs = {rollout.config.max_num_seqs} at once)."
    )


def _limits(plan: Plan) -> Iterator[str]:
    rows = [["setting", "now", "greatest that fits"]]
    utilization = plan.models.rollout.config.gpu_memory_utilization
    name = "actor_rollout_ref.rollout.gpu_memory_utilization"
    rows.append([name, f"{utilization:g}", f"{greatest_utilization(plan):.2f}"])
    for phase, bound in plan.models.tokens.items():
        rows.append([f"{bound.field} ({phase})", str(bound.tokens), str(greatest_tokens(plan, phase))])
    yield from _table(rows)


def _cost(cost: Cost) -> Iterator[str]:
    assumed = cost.assumptions
    seconds = sum(cost.seconds.values())
    yield (
        f"Estimate, not a measurement. Assumed: {assumed.prompt_tokens:,.0f} tokens a question, {assumed.attempts:g} "
        f"attempts of {assumed.attempt_tokens:,.0f} tokens, MFU {assumed.mfu:g}, "
        f"{assumed.decode_efficiency:g} of the bandwidth in generation; without validation, checkpoints and waiting."
    )
    yield (
        f"A step: {cost.episodes:,} episodes, {cost.step_tokens / 1e6:.2f}M tokens, {seconds:.0f} s ("
        + ", ".join(f"{name} {each:.0f}" for name, each in cost.seconds.items())
        + ")."
    )
    yield (
        f"{assumed.steps:,} steps: {cost.step_tokens * assumed.steps / 1e9:.2f}G tokens, {cost.hours:.1f} hours. "
        f"(The paper, with 1.5B parameters: {PAPER_STEPS:,} steps of {PAPER_EPISODES:,} episodes in "
        f"{PAPER_HOURS:.0f} hours on {PAPER_GPUS}, {PAPER_HOURS * SECONDS_PER_HOUR / PAPER_STEPS:.0f} s a step.)"
    )


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}"


def _table(rows: list[list[str]]) -> Iterator[str]:
    """Aligned columns: names to the left, figures to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()
