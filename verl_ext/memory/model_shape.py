"""The sizes of a model that its memory follows from, read from its config: no weights are loaded.

Parameters are counted on the model that transformers builds, on torch's ``meta`` device, which allocates nothing.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, PretrainedConfig

from verl_ext.model.model_config import load_model_config
from verl_ext.model.parallel_sizes import Shape


@dataclass(frozen=True, kw_only=True)
class ModelShape(Shape):
    """A dense decoder; all counts are of numbers, not bytes.

    Attributes:
        name: for the output.
        hidden, head_dim: as in the model's config.json.
        tied: whether the output head is the embedding.
        max_positions: the longest context that the model was made for.
        embedding: parameters of the embedding.
        layer: parameters of one layer.
        layer_vectors: those of them that tensor parallelism does not split (norms).
        final_norm: parameters of the last norm.
        head: parameters of the output head; 0 if it is the embedding.
        value_head: parameters of the head that a critic has instead.
    """

    name: str
    hidden: int
    head_dim: int
    tied: bool
    max_positions: int
    embedding: int
    layer: int
    layer_vectors: int
    final_norm: int
    head: int
    value_head: int

    @property
    def body(self) -> int:
        """Parameters without any head."""
        return self.embedding + self.layers * self.layer + self.final_norm

    @property
    def policy_parameters(self) -> int:
        """Parameters of the language model."""
        return self.body + self.head

    @property
    def critic_parameters(self) -> int:
        """Parameters of the value model: verl's critic is a token classifier with one label
        (``verl/utils/model.py``, ``load_valuehead_model``)."""
        return self.body + self.value_head


def read_shape(config: DictConfig, field: str) -> ModelShape:
    """The shape of a run's model.

    Args:
        config: the composed config of the run.
        field: the model's.

    Raises:
        ValueError: its config cannot be had, or is of a kind of model that the plan does not know.
    """
    return shape_of(load_model_config(config, field), OmegaConf.select(config, field).path, f"{field}.path")


def shape_of(config: PretrainedConfig, name: str, field: str = "actor_rollout_ref.model.path") -> ModelShape:
    """The shape of the model that a config describes.

    Raises:
        ValueError: it is not a dense decoder with rotary attention, such as Qwen2, Qwen3 or Llama.
    """
    missing = [key for key in ("num_key_value_heads", "intermediate_size") if not hasattr(config, key)]
    split = Shape.of(config)
    if missing or split.experts:
        raise ValueError(
            f"{field} = {name!r}: a model of type {config.model_type!r} "
            f"{'has experts' if split.experts else 'has no ' + ', '.join(missing)}; the plan knows dense decoders only "
            "(Qwen2, Qwen3, Llama and alike)"
        )
    critic_config = copy.deepcopy(config)
    critic_config.num_labels = 1
    with torch.device("meta"):
        policy = AutoModelForCausalLM.from_config(config)
        critic = AutoModelForTokenClassification.from_config(critic_config)
    body = policy.base_model
    [*_, layer] = body.layers
    embedding, layer_count = _count(body.get_input_embeddings()), _count(layer)
    final_norm = _count(body) - embedding - config.num_hidden_layers * layer_count
    return ModelShape(
        **asdict(split),
        name=name,
        hidden=config.hidden_size,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        tied=bool(config.tie_word_embeddings),
        max_positions=config.max_position_embeddings,
        embedding=embedding,
        layer=layer_count,
        layer_vectors=sum(p.numel() for name, p in layer.named_parameters() if "norm" in name),
        final_norm=final_norm,
        head=_count(policy) - _count(body),
        value_head=_count(critic) - _count(critic.base_model),
    )


def _count(module: Any) -> int:
    # parameters() names a shared parameter once.
    return sum(parameter.numel() for parameter in module.parameters())
