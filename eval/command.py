"""``multi-attempt eval``: accuracy by attempts of one or several models."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from multi_attempt.config import load_settings
from multi_attempt.evaluation.evaluate import PROTOCOL, EngineSettings, Question, evaluate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="[NAME=]PATH",
        help="a model folder in Hugging Face format; give it again to compare models",
    )
    parser.add_argument("--data", type=Path, required=True, help="questions: Parquet or JSON lines in verl's schema")
    parser.add_argument("--attempts", type=int, default=5, metavar="K", help="allow 1 to K attempts (default 5)")
    parser.add_argument("--output", type=Path, default=Path("eval.json"), help="where to write the result")
    parser.add_argument("--prompts", default="paper", help="prompt set: a built-in name or a YAML file")
    parser.add_argument("--max-tokens-per-attempt", type=int, default=None, help="cut an attempt after so many tokens")
    parser.add_argument("--max-prompt-length", type=int, default=1024, help="tokens of the first prompt (default 1024)")
    parser.add_argument(
        "--max-response-length", type=int, default=3000, help="tokens of all attempts together (default 3000)"
    )
    parser.add_argument("--temperature", type=float, default=0.0, help="of sampling (default 0: greedy)")
    parser.add_argument("--seed", type=int, default=0, help="of sampling (default 0)")
    parser.add_argument("--dtype", default="auto", help="dtype of the engine (default: the model's)")
    parser.add_argument(
        "--engine",
        action="append",
        default=[],
        metavar="KEY=JSON",
        help="a further argument of vllm.LLM, as in enforce_eager=true",
    )


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and write ``eval.json``."""
    if arguments.attempts < 1:
        raise ValueError(f"--attempts = {arguments.attempts} must be at least 1")
    settings = load_settings({"prompts": arguments.prompts, "max_tokens_per_attempt": arguments.max_tokens_per_attempt})
    engine = EngineSettings(
        dtype=arguments.dtype,
        max_prompt_length=arguments.max_prompt_length,
        max_response_length=arguments.max_response_length,
        temperature=arguments.temperature,
        seed=arguments.seed,
        options=dict(_option(option) for option in arguments.engine),
    )
    questions = read_questions(arguments.data)
    attempts = list(range(1, arguments.attempts + 1))
    models = []
    for argument in arguments.model:
        name, _, path = argument.rpartition("=")
        folder = Path(path)
        if not (folder / "config.json").is_file():
            raise ValueError(f"--model = {path!r} is no model folder in Hugging Face format: it holds no config.json")
        models.append(evaluate(folder, questions, attempts, settings, engine, name=name or folder.name))
    result = {
        "protocol": PROTOCOL,
        "data": str(arguments.data),
        "temperature": arguments.temperature,
        "attempts": attempts,
        "questions": len(questions),
        "models": models,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result), encoding="utf-8")
    for model in models:
        line = ", ".join(f"{k}: {share:.1%}" for k, share in zip(attempts, model["accuracy"], strict=True))
        print(f"{model['name']}: accuracy by attempts {line}")
    return 0


def read_questions(path: Path) -> list[Question]:
    """The questions and gold answers of a Parquet or JSON lines file in verl's schema.

    Raises:
        ValueError: the file is missing, empty, or holds a row without question or answer.
    """
    import datasets

    if not path.is_file():
        raise ValueError(f"--data = {str(path)!r}: there is no such file")
    kind = "parquet" if path.suffix == ".parquet" else "json"
    questions = []
    for number, row in enumerate(datasets.load_dataset(kind, data_files=str(path), split="train")):
        try:
            question, gold = row["prompt"][-1]["content"], row["reward_model"]["ground_truth"]
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(
                f"{path}: row {number} is not in verl's schema (prompt, reward_model.ground_truth)"
            ) from error
        questions.append(Question(question, gold))
    if not questions:
        raise ValueError(f"--data = {str(path)!r} holds no questions")
    return questions


def _option(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    try:
        if separator:
            return key, json.loads(value)
    except json.JSONDecodeError:
        pass
    raise ValueError(f"--engine = {text!r}: write KEY=JSON, as in enforce_eager=true or load_format='\"auto\"'")
