"""``multi-attempt eval``: accuracy by attempts of one or several models."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from multi_attempt.config import load_settings
from multi_attempt.evaluation.engines import Engine, EngineLost, InProcess, Server
from multi_attempt.evaluation.evaluate import Model, Question, Settings, evaluate
from multi_attempt.evaluation.protocols import PROTOCOLS
from multi_attempt.evaluation.records import SETTINGS_FILE
from multi_attempt.evaluation.run_files import EPISODES_FILE, EVALUATION_FILE
from multi_attempt.evaluation.statistics import MACRO

FAILED = 1
"""Exit status when the engine was lost, or episodes failed for good: their figures leave them out."""


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
    add("--temperature", type=float, default=0.0, help="of dialogues (default 0: greedy; fresh samples then take 1)")
    add("--seed", type=int, default=0, help="of sampling (default 0)")
    add("--prompts", default="paper", help="prompt set: a built-in name or a YAML file")
    add("--max-tokens-per-attempt", type=int, default=None, help="cut an attempt after so many tokens")
    add("--max-prompt-length", type=int, default=1024, help="tokens of the first prompt (default 1024)")
    add("--max-response-length", type=int, default=3000, help="tokens of all attempts together (default 3000)")
    add("--concurrency", type=int, default=256, metavar="N", help="episodes under way at once (default 256)")
    process = parser.add_argument_group("vLLM in this process, the default")
    process.add_argument("--dtype", default="auto", help="dtype of the engine (default: the model's)")
    process.add_argument(
        "--engine",
        action="append",
        default=[],
        metavar="KEY=JSON",
        help="a further argument of vLLM's engine, as in tensor_parallel_size=4",
    )
    server = parser.add_argument_group("a server that speaks OpenAI's protocol")
    server.add_argument("--server", metavar="URL", help="its address, as in http://localhost:8000/v1")
    server.add_argument("--tokenizer", default="", metavar="PATH", help="the model's tokenizer (default: --model)")
    server.add_argument("--messages", action="store_true", help="send messages, to servers that take no token ids")
    server.add_argument(
        "--timeout", type=float, default=600.0, metavar="S", help="seconds for an attempt (default 600)"
    )
    server.add_argument("--retries", type=int, default=8, metavar="N", help="repetitions of a request (default 8)")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate into the folder, and print each model's accuracy by attempts."""
    settings = Settings(
        task=load_settings({"prompts": arguments.prompts, "max_tokens_per_attempt": arguments.max_tokens_per_attempt}),
        protocols=tuple(PROTOCOLS) if "all" in arguments.protocols else tuple(dict.fromkeys(arguments.protocols)),
        **{name: getattr(arguments, name) for name in ("attempts", "samples", "temperature", "seed", "concurrency")},
        max_prompt_length=arguments.max_prompt_length,
        max_response_length=arguments.max_response_length,
    )
    models = _models(arguments.model, arguments.server)
    questions = [question for files in arguments.data for path in files for question in read_questions(path)]
    _check_ids(questions)
    if arguments.restart and arguments.output.is_dir():
        for name in (SETTINGS_FILE, EPISODES_FILE, EVALUATION_FILE):
            (arguments.output / name).unlink(missing_ok=True)
    try:
        figures = evaluate(models, questions, settings, _engine(arguments), arguments.output)
    except EngineLost as error:
        print(f"multi-attempt eval: {error}", file=sys.stderr)
        return FAILED
    for model in figures["models"]:
        for protocol, results in model["results"].items():
            shares = zip(figures["attempts"], results[MACRO]["accuracy"], strict=True)
            line = ", ".join(f"{k}: {'failed' if share is None else format(share, '.1%')}" for k, share in shares)
            print(f"{model['name']}, {protocol}: accuracy by attempts {line}")
    return _report_failures(figures["models"], arguments.output)


def _report_failures(models: list[dict[str, Any]], output: Path) -> int:
    failed = sum(model["failed"] for model in models)
    if not failed:
        return 0
    print(
        f"{failed} episodes failed; they are left out of the figures, not counted as wrong. "
        f"{output / EPISODES_FILE} says why (error); the same command tries them again.",
        file=sys.stderr,
    )
    return FAILED


def _models(arguments: list[str], server: str | None) -> list[Model]:
    models = []
    for argument in arguments:
        name, _, path = argument.rpartition("=")
        if not server and not (Path(path) / "config.json").is_file() and not _HUB_ID.fullmatch(path):
            raise ValueError(
                f"--model = {path!r} is no model folder in Hugging Face format (it holds no config.json), and no hub "
                "id like Qwen/Qwen2.5-Math-1.5B"
            )
        models.append(Model(name or Path(path).name, path))
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        raise ValueError(
            f"--model: two are called the same, of {', '.join(names)}; name them, as in --model after=PATH"
        )
    return models


def _engine(arguments: argparse.Namespace) -> Engine:
    if not arguments.server:
        return InProcess(arguments.dtype, dict(_option(option) for option in arguments.engine))
    if arguments.engine:
        raise ValueError("--engine is for vLLM in this process; with --server, the server has its own settings")
    return Server(arguments.server, arguments.tokenizer, arguments.messages, arguments.timeout, arguments.retries)


def read_questions(path: Path) -> list[Question]:
    """The questions of a Parquet or JSON lines file in verl's schema, or of a folder with a ``test.parquet``.

    Raises:
        ValueError: the file is missing, empty, or holds a row without question or answer.
    """
    import datasets

    file = path / "test.parquet" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"--data = {str(file)!r}: there is no such file")
    kind = "parquet" if file.suffix == ".parquet" else "json"
    try:
        rows = datasets.load_dataset(kind, data_files=str(file), split="train")
    except datasets.exceptions.DatasetGenerationError as error:
        raise ValueError(f"--data = {str(file)!r} is no {kind} file: {error.__cause__ or error}") from error
    questions = [_question(row, file, number) for number, row in enumerate(rows)]
    if not questions:
        raise ValueError(f"--data = {str(file)!r} holds no questions")
    return questions


def _question(row: dict[str, Any], file: Path, number: int) -> Question:
    try:
        text, gold = row["prompt"][-1]["content"], row["reward_model"]["ground_truth"]
        benchmark = row.get("data_source") or file.stem
        extra_info = row.get("extra_info") or {}
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{file}: row {number} is not in verl's schema (prompt, reward_model.ground_truth)") from error
    if not isinstance(text, str) or not isinstance(gold, str):
        raise ValueError(f"{file}: row {number}: question and answer must be texts, not {text!r} and {gold!r}")
    name = extra_info.get("id") or extra_info.get("index", number)
    return Question(str(name), str(benchmark), text, gold)


def _check_ids(questions: list[Question]) -> None:
    seen: set[tuple[str, str]] = set()
    for question in questions:
        if (question.benchmark, question.id) in seen:
            raise ValueError(
                f"--data: two questions of {question.benchmark} are called {question.id!r}; give each an extra_info.id "
                "of its own, and name each file once"
            )
        seen.add((question.benchmark, question.id))


def _option(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    try:
        if separator:
            return key, json.loads(value)
    except json.JSONDecodeError:
        pass
    raise ValueError(f"--engine = {text!r}: write KEY=JSON, as in enforce_eager=true or load_format='\"auto\"'")
