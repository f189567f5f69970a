"""Files of made-up runs, as training and evaluation write them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from multi_attempt.model_settings import DialogueSettings
from multi_attempt.prompts import load_prompt_set

HOSTILE = "<script>document.title='hacked'</script> </script><img src=x onerror=alert(1)> <!-- & \u2028 {{ 1 }} $x$"
PAPER_BENCHMARKS = {"aime24": 30, "amc23": 40, "math500": 500, "minerva_math": 272, "olympiadbench": 675}
PAPER_ARCHITECTURE = {
    "model_type": "qwen2",
    "hidden_size": 1536,
    "num_hidden_layers": 28,
    "vocab_size": 151936,
    "max_position_embeddings": 4096,
}


def put(content: Any, place: Sequence[Any], value: Any, *, gone: Any) -> Any:
    """The document itself with another value at a place, or with none there where the value is ``gone``."""
    target = content
    for key in place[:-1]:
        target = target[key]
    if value is gone:
        del target[place[-1]]
    else:
        target[place[-1]] = value
    return content


def training_step(step: int, reward: float | None = 0.0) -> dict[str, Any]:
    return {
        "step": step,
        "critic/score/mean": reward,
        "multi_attempt/success": 0.5,
        "multi_attempt/first_attempt_accuracy": 0.4,
        "multi_attempt/retry_success": None,
        "multi_attempt/repeat_rate": 0.1,
        "perf/throughput": 100.0,
    }


def figures(accuracy: Sequence[float | None], failed: int = 0, width: float = 0.05) -> dict[str, Any]:
    """Figures of which the last may be better by ``failed`` questions, as many as failed there."""
    by_attempts = [0] * (len(accuracy) - 1) + [failed]
    most = [value if value is None else value + lost / 30 for value, lost in zip(accuracy, by_attempts, strict=True)]
    return {
        "questions": 30,
        "failed": failed,
        "failed_by_attempts": by_attempts,
        "accuracy_at_most": most,
        "accuracy": list(accuracy),
        "low": [None if value is None else max(0.0, value - width) for value in accuracy],
        "high": [None if value is None else min(1.0, value + width) for value in most],
        "measures": {
            "first_attempt_accuracy": [accuracy[0]] * len(accuracy),
            "wrong_to_right": [None, *([0.25] * (len(accuracy) - 1))],
            "wrong_to_same": [None, *([0.55] * (len(accuracy) - 1))],
            "wrong_to_other": [None, *([0.2] * (len(accuracy) - 1))],
            "right_to_wrong": [None, *([0.1] * (len(accuracy) - 1))],
            "repeat_rate": [None, *([0.5] * (len(accuracy) - 1))],
            "tokens_used": [123.456] * len(accuracy),
        },
    }


def model(
    name: str,
    accuracy: Sequence[float | None],
    benchmarks: Sequence[str] = ("toy",),
    protocols: Sequence[str] = ("oracle",),
    **changes: Any,
) -> dict[str, Any]:
    """A model with the same accuracy on each benchmark, under each protocol."""
    results = {
        "benchmarks": {benchmark: figures(accuracy) for benchmark in benchmarks},
        "macro": figures(accuracy),
        "weighted": figures(accuracy),
    }
    # Ten questions a benchmark, of which so many are solved that the accuracy is about right.
    scores = {
        benchmark: {
            f"q{question}": [None if value is None else float(question < round(10 * value)) for value in accuracy]
            for question in range(10)
        }
        for benchmark in benchmarks
    }
    content = {
        "name": name,
        "path": "/private/place/checkpoint",
        "architecture": None,
        "failed": 0,
        "results": dict.fromkeys(protocols, results),
        "scores": dict.fromkeys(protocols, scores),
        **changes,
    }
    copied: dict[str, Any] = json.loads(json.dumps(content))  # so that a test may change one place
    return copied


def evaluation(
    *models: dict[str, Any],
    attempts: Sequence[int] = (1, 5),
    benchmarks: dict[str, int] | None = None,
    protocols: Sequence[str] = ("oracle",),
    **changes: Any,
) -> dict[str, Any]:
    return {
        "attempts": list(attempts),
        "temperature": 0.0,
        "sampling_temperature": 1.0,
        "samples": 1,
        "benchmarks": [
            {"name": name, "questions": questions} for name, questions in (benchmarks or {"toy": 256}).items()
        ],
        "protocols": {name: f"What the model is told under {name}." for name in protocols},
        "models": list(models) or [model("before", [0.401, 0.613]), model("after", [0.625, 0.93])],
        **changes,
    }


def attempt(answer: str | None = "4", **changes: Any) -> dict[str, Any]:
    grades = {"correct": answer == "6", "well_formed": True, "truncated": False, "repeated": False, "tokens": 12}
    return {"answer": answer, **grades, **changes}


RIGHT = attempt("6")
WRONG = attempt("4")


def episode(*attempts: dict[str, Any], text: str = "I think the answer is", **changes: Any) -> dict[str, Any]:
    """An episode of the question what 2 times 3 is, with these attempts."""
    messages = []
    for number, made in enumerate(attempts):
        told = "What is 2 times 3?" if number == 0 else "That was wrong. Try again."
        messages += [{"role": "user", "content": told}, {"role": "assistant", "content": f"{text} {made['answer']}."}]
    return {
        "model": "before",
        "benchmark": "toy",
        "id": "q0",
        "protocol": "oracle",
        "budget": 3,
        "sample": 0,
        "question": "What is 2 times 3?",
        "gold": "6",
        "stop": "correct" if attempts and attempts[-1]["correct"] else "exhausted",
        "error": "",
        "messages": messages,
        "attempts": [dict(made) for made in attempts],  # so that a test may change one
        **changes,
    }


def write_run(
    run: Path,
    metrics: Sequence[dict[str, Any]] | None = None,
    content: dict[str, Any] | None = None,
    episodes: Sequence[dict[str, Any]] | None = None,
) -> Path:
    run.mkdir(parents=True, exist_ok=True)
    for name, rows in (("metrics.jsonl", metrics), ("episodes.jsonl", episodes)):
        if rows is not None:
            (run / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    if content is not None:
        (run / "eval.json").write_text(json.dumps(content))
    return run


def paper_evaluation() -> dict[str, Any]:
    """An evaluation of the size and kind of the paper's: five benchmarks, five protocols, three models."""
    protocols = ("oracle", "single-run", "blind", "independent", "majority")
    gains = dict(zip(protocols, (0.012, 0.010, 0.002, 0.016, 0.004), strict=True))
    levels = dict(zip(PAPER_BENCHMARKS, (0.12, 0.55, 0.74, 0.29, 0.37), strict=True))
    models = []
    for number, name in enumerate(("Qwen2.5-Math-1.5B", "single-attempt training", "multi-attempt training")):
        entry = model(name, [0.4] * 7, tuple(PAPER_BENCHMARKS), protocols, architecture=PAPER_ARCHITECTURE)
        for protocol in protocols:
            results = entry["results"][protocol]
            rows = {}
            for benchmark, level in levels.items():
                gain = gains[protocol] * (0.4 + 0.7 * number)
                rows[benchmark] = [level + 0.03 * number + gain * k + 0.006 * ((k * 7 + number) % 3) for k in range(7)]
                width = 0.9 / PAPER_BENCHMARKS[benchmark] ** 0.5
                results["benchmarks"][benchmark] = figures(rows[benchmark], width=width)
            mean = [sum(column) / len(rows) for column in zip(*rows.values(), strict=True)]
            results["macro"] = results["weighted"] = figures(mean, width=0.035)
        models.append(entry)
    asked = DialogueSettings(load_prompt_set("paper")).to_dict()
    return evaluation(*models, attempts=range(1, 8), benchmarks=PAPER_BENCHMARKS, protocols=protocols, settings=asked)
