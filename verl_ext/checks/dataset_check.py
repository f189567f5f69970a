"""Start-up checks that read the data and the tokenizer: every row must be one that an episode can be run on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

import datasets
from omegaconf import DictConfig, ListConfig
from verl.workers.rollout.utils import get_max_position_embeddings

from multi_attempt.config import TaskSettings
from multi_attempt.data import read_evaluation_source
from multi_attempt.history import Turn, most_prompt_tokens
from multi_attempt.reflection import longest_messages
from multi_attempt.tasks import Message, Task
from multi_attempt.tasks.load import Asked, Tasks, row_problems
from multi_attempt.turns import ChatTemplate, TemplateError, template_problems
from verl_ext.model.model_config import ACTOR_MODEL, load_model_config
from verl_ext.rollout.chat import chat_template, context_length, load_tokenizer

# With many bad rows, this many are named and the rest counted.
_NAMED_ROWS = 5

# By the ends of their names, as verl tells them (rl_dataset.py, line 173).
_KINDS = {"parquet": (".parquet",), "json": (".json", ".jsonl")}

_CONTEXT = "actor_rollout_ref.rollout.max_model_len"

_MAPPINGS = ("reward_model", "extra_info")


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
        run = _Run(config, settings, settings.make_tasks(), chat_template(config, tokenizer), context_length(config))
        yield from _context_errors(config)
    except ValueError as error:
        yield f"{model}: {error}"
        return
    for name in ("train_files", "val_files"):
        try:
            rows = _load(config.data[name])
        except ValueError as failure:
            yield f"data.{name} = {config.data[name]}: {failure}; name a Parquet or JSON lines file in verl's schema"
            continue
        problems = list(_row_errors(rows, run, validation=name == "val_files"))
        yield from (f"data.{name} = {config.data[name]}: {problem}" for problem in problems[:_NAMED_ROWS])
        if len(problems) > _NAMED_ROWS:
            yield f"data.{name} = {config.data[name]}: {len(problems) - _NAMED_ROWS} more problems of this kind"
        if name == "train_files":
            yield from _step_errors(len(rows), config)
    problems = [problem for words in run.words.values() for problem in words.problems(run)]
    yield from (f"{model}: {problem}" for problem in problems)
    if not problems and run.words:
        yield from _budget_errors(run)
    yield from filter(None, run.missing.values())
    yield from _critic_errors(settings)


@dataclass
class _Words:
    """What a task says of its rows, as far as it decides whether template and lengths will do.

    Attributes:
        task: whose words they are.
        longest: its row of the longest question.
    """

    task: Task[Any]
    longest: Any

    def note(self, row: Any) -> None:
        """Take another row into account."""
        self.longest = max(self.longest, row, key=lambda each: len(self.task.question(each)))

    def problems(self, run: _Run) -> list[str]:
        """Why the template cannot show the task's dialogues."""
        attempts = run.most_attempts
        settings = run.settings
        if problem := self.task.feedback_problem(blind=settings.tell == "blind", reflects=settings.reflect == "self"):
            return [
                f"multi_attempt.feedback = {settings.feedback}, tell = {settings.tell}, reflect = {settings.reflect}: "
                f"{problem}"
            ]
        opening = self.task.opening(self.longest, attempts)
        behind_attempts, behind_reflections = self.messages(settings, attempts)
        return template_problems(run.chat, self.task.wording, opening, [*behind_attempts, *behind_reflections])

    def messages(self, settings: TaskSettings, attempts: int) -> tuple[list[Message], list[Message]]:
        """All that may stand behind an attempt, and behind a reflection."""
        return longest_messages(self.task, self.longest, attempts, settings.reflect, settings.reflection)

    def shortest_opening(self, attempts: int) -> list[Message]:
        """Messages before the first attempt that are not longer than those of any row."""
        row = self.longest
        bare = replace(row, question="?") if isinstance(getattr(row, "question", None), str) else row
        return self.task.opening(bare, attempts)


@dataclass
class _Run:
    """What every row is held against.

    Attributes:
        config: the run's.
        settings: under ``multi_attempt``.
        tasks: of the rows.
        chat: the model's chat template.
        context: the tokens that prompt and response can have together.
        most_attempts: the most that any episode of the run allows, as far as it is known.
        most_allowed_by: the row that allows them; empty where it is multi_attempt.max_attempts.
        words: of each task that a row is of, by its name.
        missing: what such a task needs and is not there, by its name; empty for nothing.
    """

    config: DictConfig
    settings: TaskSettings
    tasks: Tasks
    chat: ChatTemplate
    context: int
    most_attempts: int = 0
    most_allowed_by: str = ""
    words: dict[str, _Words] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    _overheads: dict[tuple[str, ...], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.most_attempts = self.settings.max_attempts

    def read(self, row: Mapping[str, Any], number: int) -> Asked[Any]:
        """A row with its task.

        Raises:
            ValueError: it has not what its task needs.
        """
        key = self.config.data.prompt_key
        prompt = row.get(key)
        asked = self.tasks.read({**row, "prompt": prompt}, f"row {number}")
        if not isinstance(prompt, list):
            raise ValueError(
                f"row {number}: {key} = {prompt!r} must be a list of messages, if an empty one; verl reads it"
            )
        if asked.task.name not in self.words:
            self.words[asked.task.name] = _Words(asked.task, asked.row)
            self.missing[asked.task.name] = _missing(asked.task)
        self.words[asked.task.name].note(asked.row)
        return asked

    def overhead(self, messages: Sequence[Message]) -> int:
        """Tokens that the template adds to messages of these roles: more than it adds when they have any content."""
        roles = tuple(message["role"] for message in messages)
        if roles not in self._overheads:
            self._overheads[roles] = len(self.chat.opening([{"role": role, "content": "?"} for role in roles]))
        return self._overheads[roles]


def _load(files: Any) -> list[dict[str, Any]]:
    """The rows of one file or several, as verl reads them.

    Raises:
        ValueError: there is none, or one cannot be read.
    """
    names = list(files) if isinstance(files, ListConfig) else [files]
    if not names:
        raise ValueError("this names no file")
    return [row for name in names for row in _load_file(name)]


def _load_file(file: Any) -> list[dict[str, Any]]:
    if not isinstance(file, str):
        raise ValueError(f"{file!r} is no file")
    path = os.path.expanduser(file)
    if not os.path.exists(path):
        raise ValueError("there is no such file")
    if not os.path.isfile(path):
        raise ValueError(f"{file} is no file, but a folder")
    kind = next((kind for kind, endings in _KINDS.items() if path.endswith(endings)), None)
    if kind is None:
        raise ValueError(f"verl knows the kind of a file by its name, and {file} ends otherwise")
    if not os.path.getsize(path):
        raise ValueError(f"{file} is empty")
    try:
        # Made anew in the cache that verl then reads: it knows a file by its path and time alone, and would go on with
        # the old rows where a file was replaced by one of the same time.
        rows = datasets.load_dataset(
            kind, data_files=path, split="train", download_mode=datasets.DownloadMode.FORCE_REDOWNLOAD
        )
    except Exception as error:  # of pyarrow, pandas and datasets, which have no class in common
        raise ValueError(f"{file} cannot be read ({error.__cause__ or error})") from error
    return list(rows.to_list())


def _row_errors(rows: list[dict[str, Any]], run: _Run, validation: bool) -> Iterator[str]:
    config = run.config
    indices: dict[int, int] = {}
    numbered: dict[int, Asked[Any]] = {}
    # Where one row of a validation file has it, verl reads it of every row (trainer_base.py, line 1144).
    read_of_all = validation and any("reward_model" in row for row in rows)
    for number, row in enumerate(rows):
        if badly_made := [name for name in _MAPPINGS if not isinstance(row.get(name) or {}, dict)]:
            for name in badly_made:
                yield f"row {number}: {name} = {row[name]!r} must be a mapping; correct the row"
            continue
        if read_of_all and row.get("reward_model") is None:
            yield (
                f"row {number}: reward_model is null, and verl reads it of every validation row where others have one; "
                "give it a mapping, as {ground_truth: ''}"
            )
        try:
            numbered[number] = asked = run.read(row, number)
        except ValueError as error:
            yield str(error)
            continue
        extra_info = row.get("extra_info") or {}
        index, attempts = extra_info.get("index"), extra_info.get("attempts")
        if not _is_whole(index):
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
        elif attempts is not None and (not _is_whole(attempts) or attempts < 1):
            yield f"row {number}: extra_info.attempts = {attempts!r} must be a whole number of at least 1"
        if validation:
            yield from _source_errors(number, row)
        allowed = attempts if _is_whole(attempts) and attempts > 0 else run.settings.max_attempts
        if allowed > run.most_attempts:
            field = "val_files" if validation else "train_files"
            run.most_attempts, run.most_allowed_by = allowed, f"data.{field} = {config.data[field]}: row {number}"
        yield from _question_errors(number, asked, allowed, run)
    yield from _gold_errors({n: asked for n, asked in numbered.items() if not run.missing[asked.task.name]})


def _critic_errors(settings: TaskSettings) -> Iterator[str]:
    critic = settings.make_critic()
    if critic is None:
        return
    try:
        critic.check()
    except ValueError as error:
        yield str(error)


def _missing(task: Task[Any]) -> str:
    """What a task needs of the machine, and is not there."""
    try:
        task.check()
    except ValueError as error:
        return str(error)
    return ""


def _gold_errors(rows: Mapping[int, Asked[Any]]) -> Iterator[str]:
    """Rows whose task says that they are of no use, or that calls their own gold response wrong."""
    problems = asyncio.run(_problems(rows.values()))
    yield from (f"row {number}: {problem}" for number, problem in zip(rows, problems, strict=True) if problem)


async def _problems(asked: Collection[Asked[Any]]) -> list[str]:
    try:
        return await row_problems(asked)
    finally:
        await asyncio.gather(*(task.close() for task in {each.task for each in asked}))


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _source_errors(number: int, row: dict[str, Any]) -> Iterator[str]:
    """What a validation row is measured as: verl's log has nothing but its ``data_source``."""
    source = row.get("data_source")
    if not isinstance(source, str) or not source:
        yield f"row {number}: data_source = {source!r} must be a text; validation is measured by it"
    elif (row.get("extra_info") or {}).get("split") == "test" and read_evaluation_source(source) is None:
        yield (
            f"row {number}: data_source = {source!r} is not what an evaluation set is called, and extra_info.split = "
            "'test' says that it is of one: it would have a say in which model is the best; use the file that "
            "multi-attempt data --evaluation-attempts writes"
        )


def _question_errors(number: int, asked: Asked[Any], attempts: int, run: _Run) -> Iterator[str]:
    if marks := run.chat.marks_in(asked.task.question(asked.row)):
        yield (
            f"row {number}: the question holds {', '.join(map(repr, marks))}, which the tokenizer takes for a special "
            "token, so that it would open or close turns of its own; write it otherwise, or remove the row"
        )
    messages = asked.task.opening(asked.row, attempts)
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


def _budget_errors(run: _Run) -> Iterator[str]:
    """Whether the last attempt fits when all before it are as long as they may be."""
    if run.settings.kept.apart:
        yield from _sequence_errors(run)
        return
    settings, length = run.settings, run.config.data.max_response_length
    attempts, cap = settings.max_attempts, settings.max_tokens_per_attempt or 1
    prompt = min(len(run.chat.opening(words.shortest_opening(attempts))) for words in run.words.values())
    between = max(_most_between(run, words) for words in run.words.values())
    needed = attempts * cap + (attempts - 1) * between
    reflection = f" and multi_attempt.reflection.max_tokens = {settings.reflection.max_tokens}"
    what = (
        f"multi_attempt.max_attempts = {attempts} attempts of multi_attempt.max_tokens_per_attempt = "
        f"{settings.max_tokens_per_attempt} tokens with {between} tokens of feedback"
        f"{reflection if settings.reflect == 'self' else ''} between them, so the last attempt may not fit"
    )
    if needed > length:
        yield (
            f"data.max_response_length = {length} cannot hold {what}; raise it to at least {needed}, or lower one of "
            "the others"
        )
    elif prompt + needed > run.context:
        yield (
            f"{_CONTEXT} = {run.config.actor_rollout_ref.rollout.max_model_len}: a context of {run.context} tokens "
            f"cannot hold even the shortest prompt and {what}; raise it to at least {prompt + needed} if the model has "
            "so many positions, or lower one of the others"
        )
    # A row's attempts are not those of the settings: it need not be able to use all of each.
    most = min(length, run.context - prompt) // (1 + between) + 1
    if run.most_attempts > max(most, attempts):
        yield (
            f"{run.most_allowed_by}: extra_info.attempts = {run.most_attempts}, and a response has no room for more "
            f"than {most} attempts of a token each with {between} tokens of feedback between them; lower it"
        )


def _sequence_errors(run: _Run) -> Iterator[str]:
    """The same where each attempt is a sequence of its own: its prompt has what stays of those before it."""
    settings, data, kept = run.settings, run.config.data, f"multi_attempt.history = {run.settings.history}"
    cap = settings.max_tokens_per_attempt or data.max_response_length
    needed = (settings.max_tokens_per_attempt or 1) + max(_most_to_reflect(run, words) for words in run.words.values())
    if needed > data.max_response_length:
        yield (
            f"data.max_response_length = {data.max_response_length} cannot hold an attempt of "
            f"multi_attempt.max_tokens_per_attempt = {settings.max_tokens_per_attempt} tokens with its reflection, if "
            f"there is one, which are a response of their own by {kept}; raise it to at least {needed}, or lower the "
            "others"
        )
        return
    prompt = max(_longest_prompt(run, words, cap) for words in run.words.values())
    of_answers = ", multi_attempt.history_answer_bytes or the attempts" if settings.history == "answers" else ""
    remedy = f"multi_attempt.max_tokens_per_attempt = {settings.max_tokens_per_attempt}{of_answers}"
    if prompt > data.max_prompt_length:
        yield (
            f"data.max_prompt_length = {data.max_prompt_length} cannot hold the {prompt} tokens that may stand before "
            f"an attempt by {kept}; raise it to at least {prompt}, or lower {remedy}"
        )
    elif prompt + cap > run.context:
        yield (
            f"{_CONTEXT} = {run.config.actor_rollout_ref.rollout.max_model_len}: a context of {run.context} tokens "
            f"cannot hold the {prompt} tokens that may stand before an attempt by {kept}, and an attempt of {cap}; "
            f"raise it to at least {prompt + cap} if the model has so many positions, or lower {remedy}"
        )


def _longest_prompt(run: _Run, words: _Words, attempt_tokens: int) -> int:
    settings, attempts = run.settings, run.most_attempts
    turn = Turn(*words.messages(settings, attempts), attempt_tokens, settings.reflection.max_tokens)
    return most_prompt_tokens(settings.kept, run.chat, words.task, words.longest, turn, attempts=attempts)


def _most_to_reflect(run: _Run, words: _Words) -> int:
    """The most tokens that may stand behind an attempt in its own sequence: a reflection, and what asks for it."""
    behind_attempts, behind_reflections = _most_behind(run, words)
    return behind_attempts + run.settings.reflection.max_tokens if behind_reflections else 0


def _most_between(run: _Run, words: _Words) -> int:
    """The most tokens that may stand between two attempts at a task."""
    behind_attempts, behind_reflections = _most_behind(run, words)
    reflection = run.settings.reflection.max_tokens if behind_reflections else 0
    return behind_attempts + reflection + behind_reflections


def _most_behind(run: _Run, words: _Words) -> tuple[int, int]:
    """The most tokens that may stand behind an attempt, and behind a reflection."""
    # With one attempt in training, rows may still allow more.
    attempts = max(run.settings.max_attempts, 2)
    opening = words.shortest_opening(attempts)

    def longest(messages: list[Message]) -> int:
        return max(
            len(run.chat.after_attempt([*opening, {"role": "assistant", "content": "?"}, message], end_id))
            for end_id in run.chat.end_ids
            for message in messages
        )

    behind_attempts, behind_reflections = words.messages(run.settings, attempts)
    return longest(behind_attempts), longest(behind_reflections) if behind_reflections else 0


def _context_errors(config: DictConfig) -> Iterator[str]:
    """verl's vLLM server refuses a longer context than the model has positions, minutes later."""
    asked = config.actor_rollout_ref.rollout.max_model_len
    positions = get_max_position_embeddings(load_model_config(config, ACTOR_MODEL))
    if asked is not None and asked > positions:
        yield f"{_CONTEXT} = {asked} is more than the {positions} positions of the model; lower it, or set it to null"
