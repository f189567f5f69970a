"""The plan as text: what each rank holds, each phase of a step, what follows, what helps, and what the run costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from omegaconf import DictConfig

from verl_ext.memory.cost import (
    PAPER_EPISODES,
    PAPER_GPUS,
    PAPER_HOURS,
    PAPER_STEPS,
    SECONDS_PER_HOUR,
    Assumptions,
    Cost,
)
from verl_ext.memory.gpus import GIB
from verl_ext.memory.machine import CACHE_SPACE, MachinePlan
from verl_ext.memory.plan import Plan, greatest_tokens, greatest_utilization, remedies

_MOST_REMEDIES = 5

# The parts of a phase, in the order of their columns.
_PARTS = (
    *("rollout", "actor", "critic", "reference", "gradients", "gathered"),
    *("activations", "logits", "processes", "reserve"),
)


def report(
    plan: Plan,
    assumed: Assumptions,
    cost: Cost | None,
    config: DictConfig,
    plan_of: Callable[[DictConfig], Plan],
    problems: Sequence[str],
) -> str:
    """The whole text.

    Args:
        plan: of the config.
        assumed: of its episodes.
        cost: of its run; None for one on CPU.
        config: it.
        plan_of: makes the plan of a changed config.
        problems: what the start-up check says.
    """
    sections = [_head(plan), _problems(problems), _models(plan)]
    if isinstance(plan, MachinePlan):
        sections.append(_processes(plan))
    sections += [_phases(plan), _verdict(plan, config, plan_of), _rollout(plan, assumed, config), _limits(plan)]
    if isinstance(plan, MachinePlan):
        sections.append(_padding(plan))
    if cost is not None:
        sections.append(_cost(cost))
    return "\n\n".join("\n".join(lines) for section in sections if (lines := list(section)))


def _head(plan: Plan) -> Iterator[str]:
    rollout, engine, where = plan.models.rollout, plan.models.actor.role.engine, plan.device.name
    if not isinstance(plan, MachinePlan):
        where = f"{plan.models.world} x {where} ({_gib(plan.device.memory)} GiB)"
    yield (
        f"{rollout.shape.name} on {where}: {engine.strategy}, {rollout.config.name} with {rollout.replicas} replicas "
        f"of {rollout.tensor}"
    )


def _problems(problems: Sequence[str]) -> Iterator[str]:
    if problems:
        yield "The start-up check says, here and now:"
        yield from (f"- {problem}" for problem in problems)


def _models(plan: Plan) -> Iterator[str]:
    stays = "kept between passes" if isinstance(plan, MachinePlan) else "stays on the GPU"
    rows = [["GiB on a rank", "parameters", "weights", "gradients", "optimiser", stays]]
    for model in (plan.models.actor, plan.models.critic, plan.models.reference):
        if model is not None:
            sizes = (model.weights, model.gradients, model.optimizer, model.resting())
            rows.append([model.role.name, f"{model.role.parameters:,}", *map(_gib, sizes)])
    yield from aligned(rows)


def _processes(plan: MachinePlan) -> Iterator[str]:
    rows = [["process, GiB without models", "number", "each", "together"]]
    for process in plan.processes:
        rows.append([process.name, str(process.count), _gib(process.size), _gib(process.total)])
    yield from aligned(rows)


def _phases(plan: Plan) -> Iterator[str]:
    parts = [part for part in _PARTS if any(phase.parts.get(part) for phase in plan.phases)]
    where = "on the machine" if isinstance(plan, MachinePlan) else "on a rank"
    rows = [[f"phase, GiB {where}", *parts, "total", ""]]
    for phase in plan.phases:
        note = "" if phase.total <= plan.device.memory else "does not fit"
        rows.append([phase.name, *(_gib(phase.parts.get(part, 0.0)) for part in parts), _gib(phase.total), note])
    yield from aligned(rows)


def _verdict(plan: Plan, config: DictConfig, plan_of: Callable[[DictConfig], Plan]) -> Iterator[str]:
    peak = plan.peak
    moment = f" ({peak.moment})" if peak.moment else ""
    free = plan.device.memory - peak.total
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
    more = "a machine with more memory" if isinstance(plan, MachinePlan) else "more GPUs, or greater ones"
    yield "What helps:" if found else f"No single setting that this plan knows helps; take {more}."
    for remedy in found[:_MOST_REMEDIES]:
        outcome = "fits" if remedy.plan.fits else "not enough alone"
        overrides = " ".join(f'"{override}"' if "'" in override else override for override in remedy.overrides)
        yield f"  {overrides}: {_gib(remedy.plan.peak.total)} GiB, {outcome}"


def _rollout(plan: Plan, assumed: Assumptions, config: DictConfig) -> Iterator[str]:
    rollout = plan.models.rollout
    episode = assumed.prompt_tokens + assumed.attempts * assumed.attempt_tokens
    episodes = config.data.train_batch_size * config.actor_rollout_ref.rollout.n
    share = "each rank's" if isinstance(plan, MachinePlan) else "a GPU"
    yield (
        f"Rollout: of {_gib(rollout.share)} GiB {share}, {_gib(rollout.weights)} weights, {_gib(rollout.forward)} a "
        f"forward pass and graphs, {_gib(max(0.0, rollout.cache))} GiB of cache: {rollout.cached_tokens:,} tokens of "
        f"{rollout.cache_per_token / 1024:.0f} KiB."
    )
    yield (
        f"A replica has {rollout.at_once(rollout.context)} sequences of the full {rollout.context} tokens at once, or "
        f"{rollout.at_once(episode)} of {episode:,.0f}, and {episodes / rollout.replicas:,.0f} episodes a step "
        f"(at most max_num_seqs = {rollout.config.max_num_seqs} at once)."
    )


def _limits(plan: Plan) -> Iterator[str]:
    rows = [["setting", "now", "greatest that fits"]]
    if isinstance(plan, MachinePlan):
        rows.append([f"{CACHE_SPACE}, GiB", _gib(plan.models.rollout.cache), str(plan.greatest_cache)])
    else:
        utilization = plan.models.rollout.config.gpu_memory_utilization
        name = "actor_rollout_ref.rollout.gpu_memory_utilization"
        rows.append([name, f"{utilization:g}", f"{greatest_utilization(plan):.2f}"])
    for phase, bound in plan.models.tokens.items():
        rows.append([f"{bound.field} ({phase})", str(bound.tokens), str(greatest_tokens(plan, phase))])
    yield from aligned(rows)


def _padding(plan: MachinePlan) -> Iterator[str]:
    role = plan.models.actor.role
    if not role.packed:
        yield (
            f"Batches are padded (use_remove_padding = False): a pass is taken to compute {role.padding:.2f} times the "
            f"tokens that it is given, since each of its rows may be as long as the longest, {role.longest}."
        )


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


def aligned(rows: list[list[str]]) -> Iterator[str]:
    """Aligned columns: names to the left, figures to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()
