"""The sizes of a model that its memory follows from, read from its config: no weights are loaded.

Parameters are counted on the model that transformers builds, on torch's ``meta`` device, which allocates nothing.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForTokenClassification, PretrainedConfig


@dataclass(frozen=True)
class ModelShape:
    """A dense decoder; all counts are of numbers, not bytes.

    Attributes:
        name: for the output.
        layers, hidden, intermediate, heads, key_value_heads, head_dim, vocabulary: as in the model's config.json.
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
    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int
    head_dim: int
    vocabulary: int
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


def read_shape(path: str, field: str = "actor_rollout_ref.model.path") -> ModelShape:
    """The shape of the model at a path.

    Args:
        path: a folder with a config.json, that file itself, or a hub id.
        field: where the path comes from, for errors.

    Raises:
        ValueError: the config cannot be had, or is of a kind of model that the plan does not know.
    """
    try:
        config = AutoConfig.from_pretrained(Path(path).expanduser() if Path(path).expanduser().exists() else path)
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{field} = {path!r}: its config.json cannot be read ({first_line}); name a folder that has it, or give "
            "--model-config FOLDER (or a config.json), where there is no network"
        ) from error
    return shape_of(config, name=path, field=field)


def shape_of(config: PretrainedConfig, name: str, field: str = "actor_rollout_ref.model.path") -> ModelShape:
    """The shape of the model that a config describes.

    Raises:
        ValueError: it is not a dense decoder with rotary attention, such as Qwen2, Qwen3 or Llama.
    """
    missing = [key for key in ("num_key_value_heads", "intermediate_size") if not hasattr(config, key)]
    experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
    if missing or experts:
        raise ValueError(
            f"{field} = {name!r}: a model of type {config.model_type!r} "
            f"{'has experts' if experts else 'has no ' + ', '.join(missing)}; the plan knows dense decoders only "
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
        name=name,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        heads=config.num_attention_heads,
        key_value_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        vocabulary=config.vocab_size,
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
