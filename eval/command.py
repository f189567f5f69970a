"""``multi-attempt eval``: accuracy by attempts of one or several models."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from multi_attempt.data import read_evaluation_source
from multi_attempt.evaluation import settings as chosen_settings
from multi_attempt.evaluation.balance import CONCURRENCY, Servers
from multi_attempt.evaluation.engines import Engine, EngineLost, InProcess, Server
from multi_attempt.evaluation.evaluate import Model, Question, Settings, evaluate
from multi_attempt.evaluation.protocols import PROTOCOLS
from multi_attempt.evaluation.replicas import ALL, Replicas, device_groups
from multi_attempt.evaluation.run_files import EPISODES_FILE
from multi_attempt.evaluation.statistics import MACRO
from multi_attempt.evaluation.tables import in_range, interval_of
from multi_attempt.tasks.load import Tasks

FAILED = 1
"""Exit status when the engine was lost, or episodes failed for good: their figures are ranges."""


_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    add(
        "--model",
        action="append",
        required=True,
        metavar="[NAME=]PATH",
        help="a model's folder or hub id, or its name on the server; again to compare models",
    )
    add(
        "--data",
        type=Path,
        action="append",
        nargs="+",
        required=True,
        metavar="FILE",
        help="questions in verl's schema (Parquet or JSON lines), or folders that `multi-attempt data` wrote",
    )
    add("--output", type=Path, default=Path("outputs/eval"), metavar="RUN", help="folder (default outputs/eval)")
    add("--restart", action="store_true", help="throw away what the folder holds of an earlier evaluation")
    add(
        "--protocols",
        nargs="+",
        default=["oracle"],
        choices=[*PROTOCOLS, "all"],
        metavar="NAME",
        help=f"{', '.join(PROTOCOLS)}, or all (default oracle)",
    )
    add("--attempts", type=int, default=5, metavar="K", help="allow 1 to K attempts (default 5)")
    add("--samples", type=int, default=1, metavar="N", help="dialogues of a kind for each question (default 1)")
    add("--seed", type=int, default=0, help="of sampling (default 0)")
    add(
        "--sampling-temperature",
        type=float,
        metavar="T",
        help="of fresh samples (default: that of dialogues, or 1 where they are greedy)",
    )
    add(
        "--concurrency",
        type=int,
        metavar="N",
        help=f"episodes under way at once (default {CONCURRENCY} for each replica or server)",
    )
    add("--max-prompt-length", type=int, help="without effect: a prompt may be as long as the model's context holds")
    chosen_settings.add_arguments(parser)
    process = parser.add_argument_group("vLLM in this process, the default")
    process.add_argument("--dtype", default="auto", help="dtype of the engine (default: the model's)")
    process.add_argument(
        "--engine",
        action="append",
        default=[],
        metavar="KEY=JSON",
        help="a further argument of vLLM's engine, as in tensor_parallel_size=4; max_model_len=N is a shorter context",
    )
    process.add_argument(
        "--replicas",
        metavar="N",
        help=f"so many engines, each in a process and on GPUs of its own, or {ALL}: as many as there are GPUs for; "
        "--engine says how many each has",
    )
    server = parser.add_argument_group("a server that speaks OpenAI's protocol")
    server.add_argument(
        "--server",
        action="extend",
        nargs="+",
        default=[],
        metavar="URL",
        help="its address, as in http://localhost:8000/v1; of several each episode is played on one",
    )
    server.add_argument(
        "--tokenizer",
        default="",
        metavar="PATH",
        help="the model's tokenizer (default: --model; with --messages none, and then prompts are not checked)",
    )
    server.add_argument("--messages", action="store_true", help="send messages, to servers that take no token ids")
    server.add_argument(
        "--plain-messages",
        action="store_true",
        help="the same without what OpenAI's own protocol lacks: end tokens, arguments of the template, top_k and the "
        "like are the server's",
    )
    server.add_argument(
        "--timeout",
        type=float,
        default=600.0,
        metavar="S",
        help="seconds until an attempt is answered whole (default 600)",
    )
    server.add_argument("--retries", type=int, default=8, metavar="N", help="repetitions of a request (default 8)")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate into the folder, and print each model's accuracy by attempts."""
    named = _named(arguments.model)
    chosen = chosen_settings.choose(arguments, {model.name: _own_folder(model, arguments) for model in named})
    settings = Settings(
        dialogue=chosen.dialogue,
        protocols=tuple(PROTOCOLS) if "all" in arguments.protocols else tuple(dict.fromkeys(arguments.protocols)),
        concurrency=CONCURRENCY if arguments.concurrency is None else arguments.concurrency,
        **{name: getattr(arguments, name) for name in ("attempts", "samples", "seed")},
        fresh_temperature=arguments.sampling_temperature,
    )
    models = _checked(named, arguments.server)
    engines = _engines(arguments, chosen)
    tasks = chosen.dialogue.make_tasks()
    rows = [row for files in arguments.data for path in files for row in _read_rows(path, tasks)]
    if arguments.concurrency is None:
        settings = replace(settings, concurrency=CONCURRENCY * engines.number)
    questions = _once(rows)
    copies = [f"{len(rows) - len(questions)} rows repeat a question, which counts once"] * (len(rows) > len(questions))
    print(f"multi-attempt eval: {'; '.join([*_notes(arguments, chosen), *copies])}", file=sys.stderr)
    try:
        figures = evaluate(models, questions, settings, engines.engine, arguments.output, arguments.restart)
    except EngineLost as error:
        print(f"multi-attempt eval: {error}", file=sys.stderr)
        return FAILED
    for model in figures["models"]:
        for protocol, results in model["results"].items():
            found = interval_of(results[MACRO])
            shares = zip(figures["attempts"], found.value, found.most, strict=True)
            line = ", ".join(f"{k}: {in_range(least, most, _percent)}" for k, least, most in shares)
            print(f"{model['name']}, {protocol}: accuracy by attempts {line}")
    return _report_failures(figures["models"], arguments.output)


def _report_failures(models: list[dict[str, Any]], output: Path) -> int:
    failed = sum(model["failed"] for model in models)
    if not failed:
        return 0
    print(
        f"{failed} episodes failed; a figure that they are part of is a range, from all of them wrong to all right. "
        f"{output / EPISODES_FILE} says why (error); the same command tries them again.",
        file=sys.stderr,
    )
    return FAILED


def _percent(share: float | None) -> str:
    return "failed" if share is None else f"{share:.1%}"


def _notes(arguments: argparse.Namespace, chosen: chosen_settings.Chosen) -> Iterator[str]:
    """What a person should know of what is asked, and how."""
    words = chosen_settings.in_words(chosen.dialogue.to_dict())
    yield f"settings: {words} (from {chosen.source}, but for what flags say)"
    if arguments.max_prompt_length is not None:
        yield "--max-prompt-length has no effect: a prompt may be as long as the model's context holds"
    if arguments.plain_messages:
        yield (
            "--plain-messages: the server's own defaults hold for top_k, min_p, repetition_penalty, and for the tokens "
            "that end an attempt"
        )
    elif arguments.messages and not arguments.tokenizer:
        yield (
            "--messages without --tokenizer: prompts are not checked, and no end tokens are sent, so that the server "
            "stops where its own files of the model say"
        )


def _named(arguments: list[str]) -> list[Model]:
    models = []
    for argument in arguments:
        name, _, path = argument.rpartition("=")
        models.append(Model(name or Path(path).name, path))
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        raise ValueError(
            f"--model: two are called the same, of {', '.join(names)}; name them, as in --model after=PATH"
        )
    return models


def _own_folder(model: Model, arguments: argparse.Namespace) -> str:
    """Where a model's own settings may lie: a server's model may be called by its folder, or have its tokenizer's."""
    return model.path if Path(model.path).is_dir() else arguments.tokenizer or model.path


def _checked(models: list[Model], servers: list[str]) -> list[Model]:
    for _, path in models:
        if not servers and not (Path(path) / "config.json").is_file() and not _HUB_ID.fullmatch(path):
            raise ValueError(
                f"--model = {path!r} is no model folder in Hugging Face format (it holds no config.json), and no hub "
                "id like Qwen/Qwen2.5-Math-1.5B"
            )
    return models


class _Engines(NamedTuple):
    """Where answers come from, and how many engines or servers that are."""

    engine: Engine
    number: int


def _engines(arguments: argparse.Namespace, chosen: chosen_settings.Chosen) -> _Engines:
    if not arguments.server:
        return _in_process(arguments, chosen.trust_remote_code)
    _check_flags_of_server(arguments, chosen)
    messages = arguments.messages or arguments.plain_messages
    how = (arguments.tokenizer, messages, arguments.plain_messages, arguments.timeout, arguments.retries)
    servers = tuple(Server(url, *how, chosen.trust_remote_code) for url in arguments.server)
    return _Engines(servers[0] if len(servers) == 1 else Servers(servers), len(servers))


def _in_process(arguments: argparse.Namespace, trust_remote_code: bool) -> _Engines:
    options = dict(chosen_settings.json_option("--engine", option) for option in arguments.engine)
    engine = InProcess(arguments.dtype, options, trust_remote_code)
    if arguments.replicas is None:
        return _Engines(engine, 1)
    devices = device_groups(arguments.replicas, options)
    return _Engines(Replicas(engine, devices), len(devices))


def _check_flags_of_server(arguments: argparse.Namespace, chosen: chosen_settings.Chosen) -> None:
    if arguments.engine:
        raise ValueError("--engine is for vLLM in this process; with --server, the server has its own settings")
    if arguments.replicas is not None:
        raise ValueError(
            f"--replicas = {arguments.replicas} is for vLLM on this machine; to use several servers, start each on "
            "GPUs of its own, and name them all, as in --server URL URL"
        )
    if (arguments.messages or arguments.plain_messages) and getattr(arguments, "chat_template", None):
        raise ValueError(
            "--chat-template is of no use with --messages: the server makes tokens of them by its own template; start "
            "it with this one (vllm serve --chat-template FILE)"
        )
    if arguments.plain_messages and chosen.dialogue.template_kwargs:
        raise ValueError(
            f"--plain-messages cannot say the arguments of the chat template {chosen.dialogue.template_kwargs}; send "
            "--messages, or set them on the server"
        )


def read_questions(path: Path, tasks: Tasks | None = None) -> list[Question]:
    """The questions of a Parquet or JSON lines file in verl's schema, or of a folder with a ``test.parquet``.

    A question counts once, however many rows hold it: a validation set has one for each number of attempts.

    Raises:
        ValueError: the file is missing, empty, or holds a row without question or answer, or different questions of the
            same name.
    """
    return _once(_read_rows(path, tasks or Tasks()))


class _Row(NamedTuple):
    """A row of a file.

    Attributes:
        file: which.
        question: that it holds.
        attempts: how many it allows in training, None where it does not say.
        named: whether it has a name of its own, or is called by its place in the file.
    """

    file: Path
    question: Question
    attempts: int | None
    named: bool

    def repeats(self, other: _Row) -> bool:
        """Whether it holds the question of another row, of the same question and answer.

        It does under the same name and in the same benchmark; and in one file, whatever the rows say of name and
        benchmark, where they allow different numbers of attempts.
        """
        same_name = self.question.id == other.question.id or not (self.named and other.named)
        if self.question.benchmark == other.question.benchmark and same_name:
            return True
        return self.file == other.file and self.attempts != other.attempts


def _read_rows(path: Path, tasks: Tasks) -> list[_Row]:
    import datasets

    file = path / "test.parquet" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"--data = {str(file)!r}: there is no such file")
    kind = "parquet" if file.suffix == ".parquet" else "json"
    try:
        rows = datasets.load_dataset(kind, data_files=str(file), split="train")
    except datasets.exceptions.DatasetGenerationError as error:
        raise ValueError(f"--data = {str(file)!r} is no {kind} file: {error.__cause__ or error}") from error
    questions = [_row(row, tasks, file, number) for number, row in enumerate(rows)]
    if not questions:
        raise ValueError(f"--data = {str(file)!r} holds no questions")
    return questions


def _row(row: dict[str, Any], tasks: Tasks, file: Path, number: int) -> _Row:
    extra_info = row.get("extra_info") or {}
    asked = tasks.read(row, f"{file}: row {number}")
    if problem := asked.task.problem(asked.row):
        raise ValueError(f"{file}: row {number}: {problem}")
    names = [name for name in (extra_info.get("id") or None, extra_info.get("index")) if name is not None]
    attempts = extra_info.get("attempts")
    benchmark = _without_attempts(str(row.get("data_source") or file.stem), attempts)
    question = Question.of(asked, str([*names, number][0]), benchmark, extra_info.get("task") or "")
    return _Row(file, question, attempts, named=bool(names))


def _without_attempts(data_source: str, attempts: Any) -> str:
    """The set that questions are of, which ``multi-attempt data`` calls NAME_K_attempts or test/NAME_K_attempts."""
    evaluation = read_evaluation_source(data_source)
    return evaluation[0] if evaluation else data_source.removesuffix(f"_{attempts}_attempts")


def _once(rows: list[_Row]) -> list[Question]:
    """Each question once.

    Raises:
        ValueError: different questions of a benchmark have the same name.
    """
    kept: dict[tuple[str, str, str], list[_Row]] = {}
    named: dict[tuple[str, str], Question] = {}
    for row in rows:
        question = row.question
        same = kept.setdefault((question.text, question.gold, repr(question.fields)), [])
        if any(row.repeats(other) for other in same):
            continue
        same.append(row)
        if named.setdefault((question.benchmark, question.id), question) is not question:
            raise ValueError(
                f"--data: two questions of {question.benchmark} are called {question.id!r}; give each an extra_info.id "
                "of its own, or evaluate one file after the other"
            )
    return list(named.values())
