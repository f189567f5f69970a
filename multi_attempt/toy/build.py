"""Writing the toy task to a directory: questions, tokenizer and warmed-up model."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from multi_attempt.data import make_row, write_parquet
from multi_attempt.episode import Transcript
from multi_attempt.prompts import load_prompt_set
from multi_attempt.toy.model import make_model
from multi_attempt.toy.play import play
from multi_attempt.toy.questions import ToyQuestion, draw_questions
from multi_attempt.toy.settings import ToySettings
from multi_attempt.toy.tokenizer import make_tokenizer
from multi_attempt.toy.warm_up import warm_up

DATA_SOURCE = "toy"
PROMPT_SET = "toy"

# Written last, and removed before anything else is written: where it is, the build is whole.
_RECORD = "toy.json"


def build_toy(
    output_dir: Path,
    *,
    seed: int = 0,
    train_questions: int = 4096,
    heldout_questions: int = 256,
    settings: ToySettings | None = None,
) -> dict[str, Any]:
    """Write ``train.parquet``, ``heldout.parquet``, ``validation.parquet``, ``model/`` and ``toy.json``.

    The validation file holds the held-out questions once for each number of attempts, with a data source of its own.

    A finished build with the same arguments is left as it is; anything else is built anew.

    Args:
        output_dir: where to; created if it does not exist.
        seed: decides questions, initial weights, dialogues and the measurement.
        train_questions: how many questions to train on.
        heldout_questions: how many to hold out, at least 1.
        settings: the model and its warm-up; None for the defaults.

    Returns:
        What ``toy.json`` holds: ``arguments``, and ``measured`` on the held-out questions at temperature 1.

    Raises:
        ValueError: there are not so many questions.
    """
    settings = settings or ToySettings()
    if heldout_questions < 1:
        raise ValueError(f"heldout_questions = {heldout_questions}: the model is measured on at least 1")
    arguments: dict[str, Any] = {
        "seed": seed,
        "train_questions": train_questions,
        "heldout_questions": heldout_questions,
        "settings": {**asdict(settings), "moment_decay": list(settings.moment_decay)},  # as it comes back from JSON
    }
    finished = _read_record(output_dir)
    if finished is not None and finished.get("arguments") == arguments:
        print(f"{output_dir}: the toy task is already there, with the same settings")
        return finished

    train, heldout = draw_questions(train_questions, heldout_questions, seed)
    prompts = load_prompt_set(PROMPT_SET)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer, settings, seed)
    start = time.perf_counter()
    loss = warm_up(model, tokenizer, train, prompts, settings, seed)
    seconds = time.perf_counter() - start
    transcripts = play(
        model,
        tokenizer,
        heldout,
        prompts,
        attempts=settings.max_attempts,
        max_new_tokens=settings.max_new_tokens,
        seed=seed,
    )
    record = {
        "arguments": arguments,
        "measured": {"warm_up_seconds": round(seconds, 1), "warm_up_loss": loss, **_measure(transcripts)},
    }

    output_dir.mkdir(parents=True, exist_ok=True)
    (output_dir / _RECORD).unlink(missing_ok=True)
    write_parquet(_rows(train, "train"), output_dir / "train.parquet")
    write_parquet(_rows(heldout, "heldout"), output_dir / "heldout.parquet")
    write_parquet(
        [row for attempts in range(1, settings.max_attempts + 1) for row in _rows(heldout, "heldout", attempts)],
        output_dir / "validation.parquet",
    )
    model.save_pretrained(output_dir / "model")
    tokenizer.save_pretrained(output_dir / "model")
    unfinished = output_dir / f"{_RECORD}.unfinished"
    unfinished.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(unfinished, output_dir / _RECORD)
    print(f"{output_dir}: wrote the toy task; measured {json.dumps(record['measured'])}")
    return record


def _read_record(output_dir: Path) -> dict[str, Any] | None:
    """What a finished build left, or None where there is none."""
    try:
        record = json.loads((output_dir / _RECORD).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return record if isinstance(record, dict) else None


def _rows(questions: Sequence[ToyQuestion], split: str, attempts: int | None = None) -> list[dict[str, Any]]:
    source = DATA_SOURCE if attempts is None else f"{DATA_SOURCE}_{attempts}_attempts"
    return [
        make_row(question.question, question.answer, data_source=source, index=index, split=split, attempts=attempts)
        for index, question in enumerate(questions)
    ]


def _measure(transcripts: Sequence[Transcript]) -> dict[str, float]:
    """The shares of first attempts that are right and that are complete, and of episodes that end right."""
    first = [transcript.attempts[0] for transcript in transcripts]
    complete = [attempt.well_formed and not attempt.truncated for attempt in first]
    return {
        "first_attempt_accuracy": sum(attempt.correct for attempt in first) / len(first),
        "first_attempt_format_rate": sum(complete) / len(complete),
        "success": sum(transcript.success for transcript in transcripts) / len(transcripts),
    }
