"""The run's model as a partner in dialogue: its chat template in tokens, and how long a dialogue may get.

What the agent loop uses and what the start-up check looks at.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig
from verl.utils import hf_tokenizer
from verl.utils.fs import copy_to_local
from verl.workers.rollout.utils import get_max_position_embeddings

from multi_attempt.model_settings import from_config
from multi_attempt.turns import ChatTemplate, generation_end_ids
from verl_ext.model.model_config import ACTOR_MODEL, load_model_config
from verl_ext.rollout.sampling import usable_context


def load_tokenizer(config: DictConfig) -> Any:
    """The tokenizer that the run's workers use, with its chat template (``workers/config/model.py``, line 172).

    Raises:
        ValueError: there is none, or it has no chat template.
    """
    model = config.actor_rollout_ref.model
    name = "tokenizer_path" if model.get("tokenizer_path") else "path"
    path = model[name]
    try:
        tokenizer = hf_tokenizer(copy_to_local(path), trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError) as error:
        raise ValueError(f"{ACTOR_MODEL}.{name} = {path}: no tokenizer could be loaded from there: {error}") from error
    if tokenizer.chat_template is None and model.get("custom_chat_template") is None:
        raise ValueError(
            f"{ACTOR_MODEL}.path = {path}: its tokenizer has no chat template, so there is no dialogue; use a model "
            f"that has one, or set {ACTOR_MODEL}.custom_chat_template"
        )
    return tokenizer


def chat_template(config: DictConfig, tokenizer: Any) -> ChatTemplate:
    """The chat template of the run's model, with the run's arguments for it.

    Raises:
        TemplateError: the template does not even render a question and an answer.
    """
    model = config.actor_rollout_ref.model
    end_ids = generation_end_ids(copy_to_local(model.path), trust_remote_code=bool(model.get("trust_remote_code")))
    # With a custom template too: verl gives it to the processor alone, where a model has one (workers/config/model.py,
    # line 171).
    return ChatTemplate(tokenizer, from_config(config).template_arguments, end_ids)


def context_length(config: DictConfig) -> int:
    """Tokens that prompt and response of an episode can have together, whatever ``data`` says of their lengths."""
    rollout = config.actor_rollout_ref.rollout
    positions = rollout.max_model_len or get_max_position_embeddings(load_model_config(config, ACTOR_MODEL))
    return usable_context(rollout.name, int(positions))
