"""What the quickstart learns, over several seeds: the figures that the README gives.

    .venv/bin/python benchmarks/quickstart_seeds.py

Runs the quickstart for each seed (toy task, warm-up, PPO, evaluation) unless its results are there already, prints the
table in Markdown, and writes it as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from multi_attempt.evaluation.report import read_evaluation, read_metrics
from multi_attempt.evaluation.statistics import MACRO

_ENDS = 5  # steps averaged at the beginning and at the end of training


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("outputs/quickstart_seeds"))
    arguments = parser.parse_args()
    rows = []
    for seed in arguments.seeds:
        run = arguments.output / str(seed)
        if not (run / "report.html").exists():
            command = [sys.executable, "launch/quickstart.py", "--seed", str(seed), "--output", str(run)]
            subprocess.run(command, check=True)
        rows.append({"seed": seed, **measure(run)})
    (arguments.output / "results.json").write_text(json.dumps(rows, indent=2))
    print_table(rows)
    return 0


def measure(run: Path) -> dict[str, float]:
    """The figures of one run."""
    rewards = [step["critic/score/mean"] for step in read_metrics(run / "metrics.jsonl")]
    models = read_evaluation(run / "eval.json")["models"]
    before, after = (model["results"]["oracle"][MACRO]["accuracy"] for model in models)
    return {
        "reward, first 5 steps": statistics.mean(rewards[:_ENDS]),
        "reward, last 5 steps": statistics.mean(rewards[-_ENDS:]),
        "1 attempt, before": before[0],
        "1 attempt, after": after[0],
        "5 attempts, before": before[-1],
        "5 attempts, after": after[-1],
    }


def print_table(rows: list[dict[str, float]]) -> None:
    """A row a seed, and their mean."""
    names = list(rows[0])
    mean = {name: statistics.mean(row[name] for row in rows) for name in names}
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for label, row in [*((f"{row['seed']:.0f}", row) for row in rows), ("mean", mean)]:
        print(f"| {' | '.join([label, *(show(name, row[name]) for name in names[1:])])} |")


def show(name: str, value: float) -> str:
    """A reward with its sign, an accuracy in percent."""
    return f"{value:+.2f}" if name.startswith("reward") else f"{value:.1%}"


if __name__ == "__main__":
    sys.exit(main())
