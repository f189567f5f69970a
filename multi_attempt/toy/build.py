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
from multi_attempt.toy.questions import Split, ToyQuestion, draw_questions
from multi_attempt.toy.settings import ToySettings
from multi_attempt.toy.tokenizer import make_tokenizer
from multi_attempt.toy.warm_up import warm_up

DATA_SOURCE = "toy"
PROMPT_SET = "toy"
DEMONSTRATED = (PROMPT_SET, "toy_uncounted", "toy_untold")
"""The prompt sets that the model has seen: it understands each, whichever an experiment trains with."""

VALIDATION_ATTEMPTS = (1, 2, 5)
"""The numbers of attempts that validation allows."""

# Written last, and removed before anything else is written: where it is, the build is whole.
_RECORD = "toy.json"


def build_toy(
    output_dir: Path,
    *,
    seed: int = 0,
    train_questions: int = 4096,
    validation_questions: int = 128,
    heldout_questions: int = 256,
    hard_questions: int = 256,
    settings: ToySettings | None = None,
) -> dict[str, Any]:
    """Write ``train.parquet``, ``validation.parquet``, ``heldout.parquet``, ``hard.parquet``, ``model/``, ``toy.json``.

    The validation file holds its questions once for each number of attempts, with a data source of its own. Held-out
    and hard questions have their kind as their data source, so that each kind is a benchmark.

    A finished build with the same arguments is left as it is; anything else is built anew.

    Args:
        output_dir: where to; created if it does not exist.
        seed: decides questions, initial weights, dialogues and the measurement.
        train_questions: how many questions to train on.
        validation_questions: how many to choose a checkpoint by.
        heldout_questions: how many to hold out, at least 1.
        hard_questions: how many that are harder than any of those.
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
        "validation_questions": validation_questions,
        "heldout_questions": heldout_questions,
        "hard_questions": hard_questions,
        "settings": {**asdict(settings), "moment_decay": list(settings.moment_decay)},  # as it comes back from JSON
    }
    finished = _read_record(output_dir)
    if finished is not None and finished.get("arguments") == arguments:
        print(f"{output_dir}: the toy task is already there, with the same settings")
        return finished

    splits = {
        "train": Split(train_questions),
        "validation": Split(validation_questions),
        "heldout": Split(heldout_questions),
        "hard": Split(hard_questions, hard=True),
    }
    questions = draw_questions(splits, seed)
    train, heldout = questions["train"], questions["heldout"]
    prompts = load_prompt_set(PROMPT_SET)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer, settings, seed)
    start = time.perf_counter()
    demonstrated = [load_prompt_set(name) for name in DEMONSTRATED]
    loss = warm_up(model, tokenizer, train, demonstrated, settings, seed)
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
    write_parquet(
        [_row(question, index, "train") for index, question in enumerate(train)], output_dir / "train.parquet"
    )
    for split, source in (("heldout", "{}"), ("hard", "hard {}")):
        write_parquet(
            [
                _row(question, index, split, source.format(question.kind))
                for index, question in enumerate(questions[split])
            ],
            output_dir / f"{split}.parquet",
        )
    write_parquet(
        [
            _row(question, index, "validation", f"{DATA_SOURCE}_{attempts}_attempts", attempts)
            for attempts in VALIDATION_ATTEMPTS
            for index, question in enumerate(questions["validation"])
        ],
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


def _row(
    question: ToyQuestion, index: int, split: str, source: str = DATA_SOURCE, attempts: int | None = None
) -> dict[str, Any]:
    return make_row(question.question, question.answer, data_source=source, index=index, split=split, attempts=attempts)


def _measure(transcripts: Sequence[Transcript]) -> dict[str, float]:
    """The shares of first attempts that are right and that are complete, and of episodes that end right."""
    first = [transcript.attempts[0] for transcript in transcripts]
    complete = [attempt.well_formed and not attempt.truncated for attempt in first]
    return {
        "first_attempt_accuracy": sum(attempt.correct for attempt in first) / len(first),
        "first_attempt_format_rate": sum(complete) / len(complete),
        "success": sum(transcript.success for transcript in transcripts) / len(transcripts),
    }
