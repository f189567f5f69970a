"""From nothing to a trained tiny model: toy task, multi-attempt PPO on CPU, evaluation by attempts, report.

    make quickstart

Every part is what a real run uses, called by its public command; see the printed commands. Run again, it goes on where
it was, or reports what is there.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from runs import cli, evaluate, json_lines, prepare_process, run, seeded, train

from multi_attempt.evaluation.report import headline, read_evaluation, read_metrics

BEFORE, AFTER = "before training", "after training"
"""What the evaluation calls the two models."""


def main() -> int:
    """Run all four stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/quickstart"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=24, help="PPO steps (default 24)")
    parser.add_argument("--skip-evaluation", action="store_true", help="train only")
    arguments = parser.parse_args()
    prepare_process()
    started = time.monotonic()
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    toy = output / "toy"

    run([*cli("toy"), "--output", str(toy), "--seed", str(arguments.seed)])
    checkpoints = train(output, arguments.steps, [f"toy={toy.resolve()}", *seeded(arguments.seed)])
    if not arguments.skip_evaluation:
        trained = checkpoints / f"global_step_{arguments.steps}" / "actor" / "huggingface"
        how = [
            *("--data", str(toy / "heldout.parquet"), "--attempts", "5", "--protocols", "all"),
            *("--prompts", "toy", "--max-tokens-per-attempt", "48"),
            *("--max-response-length", "384"),
        ]
        evaluate({BEFORE: toy / "model", AFTER: trained}, how, output)
        run([*cli("report"), str(output)])
        print()
        for sentence in headline(read_metrics(output / "metrics.jsonl"), read_evaluation(output / "eval.json")):
            print(sentence)
        show_dialogue(output / "episodes.jsonl")
    print(f"\nDone in {(time.monotonic() - started) / 60:.1f} minutes. Look at {output / 'report.html'}")
    return 0


def show_dialogue(path: Path) -> None:
    """Print the first dialogue in which the trained model mends its own mistake, if there is one."""
    for episode in json_lines(path):
        told = episode["model"] == AFTER and episode["protocol"] == "oracle"
        if told and episode["stop"] == "correct" and len(episode["attempts"]) > 1:
            print("\nA mistake mended:")
            for message in episode["messages"]:
                print(f"  {message['role']:>9}: {message['content']}")
            return


if __name__ == "__main__":
    sys.exit(main())
