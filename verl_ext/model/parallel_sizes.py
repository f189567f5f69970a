"""Start-up check: parallel sizes that fit the model and the GPUs.

A size that does not fit otherwise shows in the workers, after minutes of start-up: as an assertion of Megatron, FSDP or
the rollout engine, or, where the critic's sizes differ from the actor's, not at all. Models are known by their
``config.json`` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil, prod

from omegaconf import DictConfig, OmegaConf
from transformers import PretrainedConfig

from verl_ext.model.model_config import ACTOR_MODEL, CRITIC_MODEL, load_model_config

_ACTOR, _REFERENCE, _CRITIC = "actor_rollout_ref.actor", "actor_rollout_ref.ref", "critic"
_ROLLOUT = "actor_rollout_ref.rollout"

_TENSOR, _PIPELINE, _CONTEXT = (f"{kind}_parallel_size" for kind in ("tensor_model", "pipeline_model", "context"))
_VIRTUAL = "virtual_pipeline_model_parallel_size"
_EXPERT, _EXPERT_TENSOR = "expert_model_parallel_size", "expert_tensor_parallel_size"
_ULYSSES = "ulysses_sequence_parallel_size"

UNEVEN_STAGES = (
    "num_layers_in_first_pipeline_stage",
    "num_layers_in_last_pipeline_stage",
    "account_for_embedding_in_pipeline_split",
    "account_for_loss_in_pipeline_split",
    "pipeline_model_parallel_layout",
)
"""What gives Megatron's pipeline stages different numbers of layers; Megatron then has rules of its own."""

# Where micro-batches are made by their tokens: the role, whether it does so, and at most how many tokens a GPU takes.
_MICRO_BATCHES = (
    (_ACTOR, f"{_ACTOR}.use_dynamic_bsz", f"{_ACTOR}.ppo_max_token_len_per_gpu"),
    (_ACTOR, f"{_ROLLOUT}.log_prob_use_dynamic_bsz", f"{_ROLLOUT}.log_prob_max_token_len_per_gpu"),
    (_REFERENCE, f"{_REFERENCE}.log_prob_use_dynamic_bsz", f"{_REFERENCE}.log_prob_max_token_len_per_gpu"),
    # The only one of the critic's limits that verl 0.9.1 reads (verl/trainer/ppo/v1/trainer_base.py, line 267).
    (_CRITIC, f"{_CRITIC}.use_dynamic_bsz", f"{_CRITIC}.ppo_infer_max_token_len_per_gpu"),
)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What of a model is split over GPUs.

    Attributes:
        heads: attention heads for queries.
        key_value_heads: those for keys and values.
        layers: decoder layers.
        intermediate: width of a feed-forward layer; 0 where the model's config does not say.
        vocabulary: rows of the embedding.
        experts: of a mixture; 0 for a dense model.
    """

    heads: int
    key_value_heads: int
    layers: int
    intermediate: int
    vocabulary: int
    experts: int = 0

    @staticmethod
    def of(config: PretrainedConfig) -> Shape:
        """The shape of the model that a config describes."""
        text = config.get_text_config()
        return Shape(
            heads=text.num_attention_heads,
            key_value_heads=getattr(text, "num_key_value_heads", None) or text.num_attention_heads,
            layers=text.num_hidden_layers,
            intermediate=getattr(text, "intermediate_size", 0),
            vocabulary=text.vocab_size,
            experts=getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None) or 0,
        )

    def attention_splits(self, size: int) -> bool:
        """Whether the heads can be shared out over so many GPUs, keys and values repeated where they are fewer."""
        groups = self.key_value_heads
        return self.heads % size == 0 and (groups % size == 0 or size % groups == 0)

    def splits(self, size: int) -> bool:
        """Whether each layer can be shared out over so many GPUs."""
        return self.attention_splits(size) and self.intermediate % size == 0

    def __str__(self) -> str:
        return f"{self.heads} heads, {self.key_value_heads} for keys and values, feed-forward width {self.intermediate}"


def parallel_size_errors(config: DictConfig) -> Iterator[str]:
    """What of the parallel sizes does not fit the models or the number of GPUs.

    Args:
        config: the composed config of a run.

    Yields:
        One line for each error: the field, its value and the remedy.
    """
    from verl.trainer.ppo.utils import need_critic

    try:
        actor = Shape.of(load_model_config(config, ACTOR_MODEL))
        critic = Shape.of(load_model_config(config, CRITIC_MODEL)) if need_critic(config) else None
    except ValueError as error:
        yield str(error)
        return
    yield from size_errors(config, actor, critic)


def size_errors(config: DictConfig, actor: Shape, critic: Shape | None) -> Iterator[str]:
    """The same for models whose shapes are known; None for the critic of a run that has none."""
    from verl.trainer.ppo.utils import need_reference_policy

    gpus = config.trainer.n_gpus_per_node * config.trainer.nnodes
    roles = {_ACTOR: actor}
    if need_reference_policy(config):
        roles[_REFERENCE] = actor
    if critic is not None:
        roles[_CRITIC] = critic
    for role, shape in roles.items():
        yield from _training(config, role, shape, gpus)
    yield from _shared_groups(config, list(roles))
    yield from _rollout(config, actor, gpus)
    yield from _token_room(config, list(roles))


def _fitting(limit: int, fits: Callable[[int], bool]) -> str:
    """The sizes up to a limit that fit, as a text."""
    *others, last = [str(size) for size in range(1, limit + 1) if fits(size)]
    return f"{', '.join(others)} or {last}" if others else last


def _training(config: DictConfig, role: str, shape: Shape, gpus: int) -> Iterator[str]:
    # The reference policy has no other engine than the actor (verl/trainer/config/ref/*.yaml).
    strategy = OmegaConf.select(config, f"{role}.strategy")
    if strategy == "megatron":
        yield from _megatron(config, f"{role}.megatron", shape, gpus)
    elif str(strategy).startswith("fsdp"):
        yield from _fsdp(config, role, shape, gpus)


# ---- Megatron ----


def _megatron(config: DictConfig, field: str, shape: Shape, gpus: int) -> Iterator[str]:
    """One role's sizes, by what Megatron-Core 0.16.1 asks (``transformer_config.py``, from line 924)."""
    settings = OmegaConf.select(config, field)
    sizes = {name: settings[name] for name in (_TENSOR, _PIPELINE, _CONTEXT)}
    if gpus % prod(sizes.values()):
        yield (
            f"{field}.{{{', '.join(sizes)}}} = {list(sizes.values())} take {prod(sizes.values())} GPUs together, which "
            f"do not divide trainer.n_gpus_per_node * trainer.nnodes = {gpus}; their product may be "
            f"{_fitting(gpus, lambda size: gpus % size == 0)}"
        )
    yield from _megatron_layers(settings, field, shape, gpus)
    yield from _megatron_pipeline(settings, field, shape, gpus)
    yield from _megatron_experts(settings, field, shape, gpus)


def _megatron_layers(settings: DictConfig, field: str, shape: Shape, gpus: int) -> Iterator[str]:
    # mbridge pads no vocabulary, as verl calls it (transformer_impl.py, line 331); Megatron-Bridge does.
    vocabulary = shape.vocabulary if settings.vanilla_mbridge else 0

    def fits(size: int) -> bool:
        return shape.splits(size) and vocabulary % size == 0

    if not fits(settings[_TENSOR]):
        rows = f", {vocabulary} tokens in the vocabulary" if vocabulary else ""
        yield (
            f"{field}.{_TENSOR} = {settings[_TENSOR]} does not split the model ({shape}{rows}); it may be "
            f"{_fitting(gpus, fits)}"
        )


def _megatron_pipeline(settings: DictConfig, field: str, shape: Shape, gpus: int) -> Iterator[str]:
    stages, virtual = settings[_PIPELINE], settings[_VIRTUAL] or 1
    if virtual > 1 and stages == 1:
        yield f"{field}.{_VIRTUAL} = {virtual} takes a {_PIPELINE} above 1; set it to null"
    if any(settings.override_transformer_config.get(name) for name in UNEVEN_STAGES):
        return
    if shape.layers % stages:
        yield (
            f"{field}.{_PIPELINE} = {stages} does not divide the model's {shape.layers} layers; it may be "
            f"{_fitting(gpus, lambda size: shape.layers % size == 0)}, or give its stages different numbers of layers "
            f"by +{field}.override_transformer_config.{UNEVEN_STAGES[0]}"
        )
    elif stages > 1 and (shape.layers // stages) % virtual:
        layers = shape.layers // stages
        yield (
            f"{field}.{_VIRTUAL} = {virtual} does not divide the {layers} layers of a pipeline stage; it may be null, "
            f"{_fitting(layers, lambda size: layers % size == 0)}"
        )


def _megatron_experts(settings: DictConfig, field: str, shape: Shape, gpus: int) -> Iterator[str]:
    size = settings[_EXPERT]
    if size > 1 and not shape.experts:
        yield f"{field}.{_EXPERT} = {size}, but the model is dense: it has no experts to share out; set it to 1"
    elif shape.experts % size:
        fitting = _fitting(gpus, lambda size: shape.experts % size == 0)
        yield f"{field}.{_EXPERT} = {size} does not divide the model's {shape.experts} experts; it may be {fitting}"
    if size == 1:
        return
    together = size * (settings[_EXPERT_TENSOR] or settings[_TENSOR]) * settings[_PIPELINE]
    if gpus % together:
        yield (
            f"{field}.{_EXPERT} = {size}, with {_EXPERT_TENSOR} and {_PIPELINE}, takes {together} GPUs together, which "
            f"do not divide trainer.n_gpus_per_node * trainer.nnodes = {gpus}; lower one of them"
        )


def _shared_groups(config: DictConfig, roles: list[str]) -> Iterator[str]:
    """Actor, critic and reference policy share their processes, and Megatron's groups with them.

    verl makes the groups once (``verl/workers/engine/megatron/transformer_impl.py``, line 240), by the sizes of the
    role that comes first, the critic. Another role's own sizes are then ignored, in silence.
    """
    roles = [role for role in roles if OmegaConf.select(config, f"{role}.strategy") == "megatron"]
    for name in (_TENSOR, _PIPELINE, _CONTEXT, _VIRTUAL, _EXPERT, _EXPERT_TENSOR):
        sizes = {f"{role}.megatron.{name}": OmegaConf.select(config, f"{role}.megatron.{name}") for role in roles}
        actor = sizes.get(f"{_ACTOR}.megatron.{name}")
        for field, size in sizes.items():
            if size != actor:
                yield (
                    f"{field} = {size}, but {_ACTOR}.megatron.{name} = {actor}, and both run in the same Megatron "
                    "groups, which are made once; set them to the same size"
                )


# ---- FSDP ----


def _fsdp(config: DictConfig, role: str, shape: Shape, gpus: int) -> Iterator[str]:
    field, size = _ulysses(config, role)
    older = f"{role}.{_ULYSSES}"
    if role == _CRITIC and (OmegaConf.select(config, older) or 1) not in (1, size):
        yield f"{older} = {OmegaConf.select(config, older)} has no effect on the critic; set {field} instead"

    def fits(size: int) -> bool:
        return shape.attention_splits(size) and gpus % size == 0

    if not fits(size):
        yield (
            f"{field} = {size} does not split the model ({shape}) or trainer.n_gpus_per_node * trainer.nnodes = "
            f"{gpus}; it may be {_fitting(gpus, fits)}"
        )
    shard_field = f"{_fsdp_engine(role)}.fsdp_size"
    shard = OmegaConf.select(config, shard_field)
    if 0 < shard < gpus and gpus % shard:
        yield (
            f"{shard_field} = {shard} does not divide trainer.n_gpus_per_node * trainer.nnodes = {gpus}; it may "
            f"be -1 (all), {_fitting(gpus, lambda size: gpus % size == 0)}"
        )


def _fsdp_engine(role: str) -> str:
    return f"{role}.{'fsdp' if role == _CRITIC else 'fsdp_config'}"


def _ulysses(config: DictConfig, role: str) -> tuple[str, int]:
    """FSDP's sequence parallel size of a role, and the field that it stands in.

    There is an older field, which wins (``verl/workers/config/actor.py``, line 327); the critic's is ignored by verl.
    """
    older = OmegaConf.select(config, f"{role}.{_ULYSSES}") or 1
    if older > 1 and role != _CRITIC:
        return f"{role}.{_ULYSSES}", older
    field = f"{_fsdp_engine(role)}.{_ULYSSES}"
    return field, OmegaConf.select(config, field)


# ---- Sequences ----


def _token_room(config: DictConfig, roles: list[str]) -> Iterator[str]:
    """A micro-batch has room for the longest sequence; verl asserts it with the first one that has not
    (``verl/utils/seqlen_balancing.py``, line 384), after hours perhaps.
    """
    longest = config.data.max_prompt_length + config.data.max_response_length
    # The rollout makes no longer one.
    longest = min(longest, config.actor_rollout_ref.rollout.max_model_len or longest)
    for role, switch, field in _MICRO_BATCHES:
        if role not in roles or not OmegaConf.select(config, switch):
            continue
        tokens, split = OmegaConf.select(config, field), _sequence_split(config, role)
        if tokens is not None and tokens * split < longest:
            yield (
                f"{field} = {tokens}, with a sequence on {split} GPU{'s' * (split > 1)}, is too few for a sequence of "
                f"{longest} tokens (data.max_prompt_length + data.max_response_length, or "
                f"actor_rollout_ref.rollout.max_model_len where that is less); set it to at least "
                f"{ceil(longest / split)}"
            )


def _sequence_split(config: DictConfig, role: str) -> int:
    """How many GPUs share a sequence."""
    if OmegaConf.select(config, f"{role}.strategy") == "megatron":
        return int(OmegaConf.select(config, f"{role}.megatron.{_CONTEXT}"))
    return _ulysses(config, role)[1]


# ---- The rollout ----


def _rollout(config: DictConfig, shape: Shape, gpus: int) -> Iterator[str]:
    """A replica's sizes, by what vLLM and SGLang ask: heads are shared out, those for keys and values repeated."""
    rollout = OmegaConf.select(config, _ROLLOUT)
    tensor = rollout.tensor_model_parallel_size
    if not shape.splits(tensor):
        yield (
            f"{_ROLLOUT}.{_TENSOR} = {tensor} does not split the model ({shape}); it may be "
            f"{_fitting(gpus, lambda size: shape.splits(size) and gpus % size == 0)}"
        )
    names = (_TENSOR, "data_parallel_size", _PIPELINE)
    replica = prod(rollout[name] for name in names)
    if gpus % replica:
        yield (
            f"{_ROLLOUT}.{{{', '.join(names)}}} = {[rollout[name] for name in names]} make a replica of {replica} "
            f"GPUs, which does not divide trainer.n_gpus_per_node * trainer.nnodes = {gpus}; it may have "
            f"{_fitting(gpus, lambda size: gpus % size == 0)}"
        )
