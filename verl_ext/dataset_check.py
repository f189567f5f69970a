"""Start-up checks that read the data and the tokenizer: every row must be one that an episode can be run on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
from omegaconf import DictConfig, ListConfig
from transformers import PreTrainedTokenizerBase

from multi_attempt.answers import boxed
from multi_attempt.config import TaskSettings
from multi_attempt.prompts import Message

# With many bad rows, this many are named and the rest counted.
_NAMED_ROWS = 5


def dataset_errors(config: DictConfig, settings: TaskSettings) -> Iterator[str]:
    """What is wrong with the training and validation files, the tokenizer, and what follows from both."""
    tokenizer, error = _tokenizer(config)
    if tokenizer is None:
        yield error
        return
    chat = _Chat(tokenizer, dict(config.data.apply_chat_template_kwargs))
    longest_question = ""
    for name in ("train_files", "val_files"):
        try:
            rows = _load(config.data[name])
        except (OSError, ValueError) as failure:
            yield f"data.{name} = {config.data[name]}: {failure}; name a Parquet or JSON lines file in verl's schema"
            continue
        problems = list(_row_errors(rows, config, settings, chat, validation=name == "val_files"))
        yield from (f"data.{name} = {config.data[name]}: {problem}" for problem in problems[:_NAMED_ROWS])
        if len(problems) > _NAMED_ROWS:
            yield f"data.{name} = {config.data[name]}: {len(problems) - _NAMED_ROWS} more problems of this kind"
        if name == "train_files":
            yield from _step_errors(len(rows), config)
            longest_question = max((_question(row, config) for row in rows), key=len, default="")
    yield from _budget_errors(config, settings, chat, longest_question)


@dataclass(frozen=True)
class _Chat:
    """The lengths of dialogues in tokens."""

    tokenizer: PreTrainedTokenizerBase
    template_kwargs: dict[str, Any]
    _overheads: dict[tuple[str, ...], int] = field(default_factory=dict)

    def length(self, messages: Sequence[Message], generation: bool = True) -> int:
        """Tokens of a dialogue, with the opening of the assistant's next turn or without."""
        ids = self.tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=generation, return_dict=False, **self.template_kwargs
        )
        return len(ids)

    def overhead(self, messages: Sequence[Message]) -> int:
        """Tokens that the template adds to messages of these roles: more than it adds when they have any content."""
        roles = tuple(message["role"] for message in messages)
        if roles not in self._overheads:
            self._overheads[roles] = self.length([{"role": role, "content": "?"} for role in roles])
        return self._overheads[roles]


def _tokenizer(config: DictConfig) -> tuple[PreTrainedTokenizerBase | None, str]:
    from verl.utils import hf_tokenizer
    from verl.utils.fs import copy_to_local

    model = config.actor_rollout_ref.model
    name = "tokenizer_path" if model.tokenizer_path else "path"
    path = model[name]
    try:
        tokenizer = hf_tokenizer(copy_to_local(path), trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError) as error:
        return None, f"actor_rollout_ref.model.{name} = {path}: no tokenizer could be loaded from there: {error}"
    if model.get("custom_chat_template") is None and tokenizer.chat_template is None:
        return None, (
            f"actor_rollout_ref.model.path = {path}: its tokenizer has no chat template, so there is no dialogue; use "
            "a model that has one, or set actor_rollout_ref.model.custom_chat_template"
        )
    if model.get("custom_chat_template") is not None:
        tokenizer.chat_template = model.custom_chat_template
    return tokenizer, ""


def _load(files: Any) -> list[dict[str, Any]]:
    """The rows of one file or several, as verl reads them."""
    rows: list[dict[str, Any]] = []
    for file in files if isinstance(files, ListConfig) else [files]:
        path = os.path.expanduser(file)
        if not os.path.exists(path):
            raise ValueError("there is no such file")
        kind = "parquet" if path.endswith(".parquet") else "json"
        rows.extend(datasets.load_dataset(kind, data_files=path, split="train").to_list())
    return rows


def _row_errors(
    rows: list[dict[str, Any]], config: DictConfig, settings: TaskSettings, chat: _Chat, validation: bool
) -> Iterator[str]:
    indices: dict[int, int] = {}
    for number, row in enumerate(rows):
        prompt = row.get(config.data.prompt_key)
        if not _question(row, config).strip():
            yield f"row {number}: {config.data.prompt_key} = {prompt!r} holds no question: its last message must be one"
            continue
        gold = (row.get("reward_model") or {}).get("ground_truth")
        if not isinstance(gold, str) or boxed(f"\\boxed{{{gold}}}") != gold.strip():
            yield (
                f"row {number}: reward_model.ground_truth = {gold!r} is no answer that could stand in a box; correct "
                "or remove the row"
            )
        extra_info = row.get("extra_info") or {}
        index, attempts = extra_info.get("index"), extra_info.get("attempts")
        if not isinstance(index, int):
            yield f"row {number}: extra_info.index = {index!r}; number the rows: their attempts are drawn from it"
        elif not validation and index in indices:
            yield f"row {number}: extra_info.index = {index} is row {indices[index]}'s too; number the rows"
        else:
            indices[index] = number
        if attempts is None and validation:
            yield (
                f"row {number}: extra_info.attempts is missing; a validation row says how many attempts it allows, so "
                "that runs can be compared"
            )
        elif attempts is not None and (not isinstance(attempts, int) or attempts < 1):
            yield f"row {number}: extra_info.attempts = {attempts!r} must be a whole number of at least 1"
        allowed = attempts if isinstance(attempts, int) and attempts > 0 else settings.max_attempts
        limit = config.data.max_prompt_length
        yield from _prompt_length_error(number, _question(row, config), allowed, limit, settings, chat)


def _prompt_length_error(
    number: int, question: str, attempts: int, limit: int, settings: TaskSettings, chat: _Chat
) -> Iterator[str]:
    messages = settings.prompt_set.opening(question, attempts)
    # A token has at least a byte, so that most rows need no tokenizer.
    size = sum(len(message["content"].encode(errors="surrogatepass")) for message in messages)
    if size + chat.overhead(messages) <= limit:
        return
    length = chat.length(messages)
    if length > limit:
        yield (
            f"row {number}: the prompt has {length} tokens, more than data.max_prompt_length = {limit}, and verl would "
            "cut its beginning off; raise the limit or remove the row"
        )


def _question(row: dict[str, Any], config: DictConfig) -> str:
    prompt = row.get(config.data.prompt_key) or [{}]
    return str(prompt[-1].get("content") or "")


def _step_errors(rows: int, config: DictConfig) -> Iterator[str]:
    batch, trainer = config.data.train_batch_size, config.trainer
    if rows < batch:
        yield f"data.train_batch_size = {batch} is more than the {rows} training rows; lower it"
        return
    available = rows // batch * trainer.total_epochs
    if trainer.total_training_steps is not None and trainer.total_training_steps > available:
        yield (
            f"trainer.total_training_steps = {trainer.total_training_steps}, but trainer.total_epochs = "
            f"{trainer.total_epochs} passes over {rows} rows make {available} steps, and verl ends at the earlier, "
            "without a last checkpoint; raise total_epochs"
        )


def _budget_errors(config: DictConfig, settings: TaskSettings, chat: _Chat, longest_question: str) -> Iterator[str]:
    """Whether the last attempt fits when all before it are as long as they may be."""
    opening = settings.prompt_set.opening("?", settings.max_attempts)
    feedback = settings.prompt_set.after_wrong(longest_question, settings.max_attempts, settings.repeat_question)
    attempt = {"role": "assistant", "content": "?"}
    # What stands between the token that ends an attempt and the first of the next one.
    between = chat.length([*opening, attempt, feedback]) - chat.length([*opening, attempt], generation=False) + 1
    attempts, cap = settings.max_attempts, settings.max_tokens_per_attempt or 1
    needed = attempts * cap + (attempts - 1) * between
    if needed > config.data.max_response_length:
        yield (
            f"data.max_response_length = {config.data.max_response_length} cannot hold multi_attempt.max_attempts = "
            f"{attempts} attempts of multi_attempt.max_tokens_per_attempt = {settings.max_tokens_per_attempt} tokens "
            f"with {between} tokens of feedback between them, so the last attempt may not fit; raise it to at least "
            f"{needed}, or lower one of the others"
        )
