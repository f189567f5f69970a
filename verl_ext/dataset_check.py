"""Start-up checks that read the data and the tokenizer: every row must be one that an episode can be run on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
from omegaconf import DictConfig, ListConfig

from multi_attempt.answers import boxed
from multi_attempt.config import TaskSettings
from multi_attempt.grading import read_tolerance
from multi_attempt.prompts import Message
from multi_attempt.turns import ChatTemplate, TemplateError, template_problems
from verl_ext.chat import chat_template, context_length, load_tokenizer
from verl_ext.model_config import ACTOR_MODEL

# With many bad rows, this many are named and the rest counted.
_NAMED_ROWS = 5


def dataset_errors(config: DictConfig, settings: TaskSettings) -> Iterator[str]:
    """What is wrong with the training and validation files, the model's dialogues, and what follows from both."""
    model = f"{ACTOR_MODEL}.path = {config.actor_rollout_ref.model.path}"
    try:
        tokenizer = load_tokenizer(config)
    except ValueError as error:
        yield str(error)
        return
    if tokenizer.pad_token_id is None:
        yield f"{model}: its tokenizer has neither a pad token nor an end-of-sequence token to pad with; set one"
    try:
        run = _Run(config, settings, chat_template(config, tokenizer), context_length(config))
    except ValueError as error:
        yield f"{model}: {error}"
        return
    longest_question = ""
    for name in ("train_files", "val_files"):
        try:
            rows = _load(config.data[name])
        except (OSError, ValueError) as failure:
            yield f"data.{name} = {config.data[name]}: {failure}; name a Parquet or JSON lines file in verl's schema"
            continue
        problems = list(_row_errors(rows, run, validation=name == "val_files"))
        yield from (f"data.{name} = {config.data[name]}: {problem}" for problem in problems[:_NAMED_ROWS])
        if len(problems) > _NAMED_ROWS:
            yield f"data.{name} = {config.data[name]}: {len(problems) - _NAMED_ROWS} more problems of this kind"
        if name == "train_files":
            yield from _step_errors(len(rows), config)
        longest_question = max([longest_question, *(_question(row, config) for row in rows)], key=len)
    problems = template_problems(
        run.chat, settings.prompt_set, longest_question, run.most_attempts, settings.repeat_question
    )
    yield from (f"{model}: {problem}" for problem in problems)
    if not problems:
        yield from _budget_errors(run, longest_question)


@dataclass
class _Run:
    """What every row is held against.

    Attributes:
        config: the run's.
        settings: of the task.
        chat: the model's chat template.
        context: the tokens that prompt and response can have together.
        most_attempts: the most that any episode of the run allows, as far as it is known.
    """

    config: DictConfig
    settings: TaskSettings
    chat: ChatTemplate
    context: int
    most_attempts: int = 0
    _overheads: dict[tuple[str, ...], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.most_attempts = self.settings.max_attempts

    def overhead(self, messages: Sequence[Message]) -> int:
        """Tokens that the template adds to messages of these roles: more than it adds when they have any content."""
        roles = tuple(message["role"] for message in messages)
        if roles not in self._overheads:
            self._overheads[roles] = len(self.chat.opening([{"role": role, "content": "?"} for role in roles]))
        return self._overheads[roles]


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


def _row_errors(rows: list[dict[str, Any]], run: _Run, validation: bool) -> Iterator[str]:
    config = run.config
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
        try:
            read_tolerance(str((row.get("reward_model") or {}).get("tolerance") or ""))
        except ValueError as error:
            yield f"row {number}: reward_model.{error}"
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
        allowed = attempts if isinstance(attempts, int) and attempts > 0 else run.settings.max_attempts
        run.most_attempts = max(run.most_attempts, allowed)
        yield from _question_errors(number, _question(row, config), allowed, run)


def _question_errors(number: int, question: str, attempts: int, run: _Run) -> Iterator[str]:
    if marks := run.chat.marks_in(question):
        yield (
            f"row {number}: the question holds {', '.join(map(repr, marks))}, which the tokenizer takes for a special "
            "token, so that it would open or close turns of its own; write it otherwise, or remove the row"
        )
    messages = run.settings.prompt_set.opening(question, attempts)
    configured = run.config.data.max_prompt_length
    limit = min(configured, run.context - 1)
    # A token has at least a byte, so that most rows need no tokenizer.
    size = sum(len(message["content"].encode(errors="surrogatepass")) for message in messages)
    try:
        if size + run.overhead(messages) <= limit or (length := len(run.chat.opening(messages))) <= limit:
            return
    except TemplateError:
        return  # which is not the row's fault, and named once
    if length > configured:
        yield (
            f"row {number}: the prompt has {length} tokens, more than data.max_prompt_length = {configured}; raise the "
            "limit or remove the row"
        )
    else:
        yield (
            f"row {number}: the prompt has {length} tokens, and the model's context has room for {run.context}, which "
            "leaves none for an attempt; remove the row, or raise actor_rollout_ref.rollout.max_model_len if the model "
            "has more positions"
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


def _budget_errors(run: _Run, longest_question: str) -> Iterator[str]:
    """Whether the last attempt fits when all before it are as long as they may be."""
    settings, length = run.settings, run.config.data.max_response_length
    attempts, cap = settings.max_attempts, settings.max_tokens_per_attempt or 1
    opening = settings.prompt_set.opening("?", attempts)
    between = max(
        len(run.chat.after_attempt([*opening, {"role": "assistant", "content": "?"}, feedback], end_id))
        for end_id in run.chat.end_ids
        for feedback in settings.prompt_set.feedbacks(longest_question, attempts, settings.repeat_question)
    )
    needed = attempts * cap + (attempts - 1) * between
    if needed > length:
        yield (
            f"data.max_response_length = {length} cannot hold multi_attempt.max_attempts = "
            f"{attempts} attempts of multi_attempt.max_tokens_per_attempt = {settings.max_tokens_per_attempt} tokens "
            f"with {between} tokens of feedback between them, so the last attempt may not fit; raise it to at least "
            f"{needed}, or lower one of the others"
        )
