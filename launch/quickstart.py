"""From nothing to a trained tiny model: toy task, multi-attempt PPO on CPU, evaluation by attempts, report.

    make quickstart

Every part is what a real run uses, called by its public command; see the printed commands. Run again, it goes on where
it was, or reports what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from multi_attempt.evaluation.report import headline, read_evaluation, read_metrics

BEFORE, AFTER = "before training", "after training"
"""What the evaluation calls the two models."""

_POLL_SECONDS = 0.5
_LOG_TAIL_LINES = 40


def main() -> int:
    """Run all four stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/quickstart"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=36, help="PPO steps (default 36)")
    parser.add_argument("--skip-evaluation", action="store_true", help="train only")
    arguments = parser.parse_args()
    # Threads that wait must not spin, there are more of them than cores; and a first look reports nothing to anyone.
    for name, value in (("OMP_WAIT_POLICY", "PASSIVE"), ("VLLM_NO_USAGE_STATS", "1"), ("RAY_USAGE_STATS_ENABLED", "0")):
        os.environ.setdefault(name, value)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that training is ended too
    started = time.monotonic()
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    toy = output / "toy"

    run([*cli("toy"), "--output", str(toy), "--seed", str(arguments.seed)])
    checkpoint = output / "checkpoints" / f"global_step_{arguments.steps}"
    if not checkpoint.is_dir():
        train(output, toy, arguments.steps, arguments.seed)
    metrics = merge_metrics(output)
    if not arguments.skip_evaluation:
        evaluate(output, toy, checkpoint / "actor" / "huggingface")
        run([*cli("report"), str(output)])
        print()
        for sentence in headline(read_metrics(metrics), read_evaluation(output / "eval.json")):
            print(sentence)
        show_dialogue(output / "episodes.jsonl")
    print(f"\nDone in {(time.monotonic() - started) / 60:.1f} minutes. Look at {output / 'report.html'}")
    return 0


def cli(command: str) -> list[str]:
    """The command line's command, run by this interpreter."""
    return [sys.executable, "-m", "multi_attempt.cli", command]


def train(output: Path, toy: Path, steps: int, seed: int) -> None:
    """Multi-attempt PPO through verl, with a progress bar and a line a step."""
    logs = output / "logs"
    logs.mkdir(exist_ok=True)
    # verl's file logger starts its file anew, so each try writes its own: a resumed run loses no step.
    name = f"train-{len(list(logs.glob('train-*.jsonl')))}"
    steps_file, log = logs / f"{name}.jsonl", logs / f"{name}.log"
    command = [
        *(sys.executable, "-m", "verl.trainer.main_ppo", "--config-name", "multi_attempt_cpu"),
        f"toy={toy.resolve()}",
        f"trainer.default_local_dir={(output / 'checkpoints').resolve()}",
        f"trainer.total_training_steps={steps}",
        "trainer.logger=[console,file]",
        f"multi_attempt.seed={seed}",
        f"data.seed={seed}",
        f"actor_rollout_ref.rollout.seed={seed}",
        f"actor_rollout_ref.actor.data_loader_seed={seed}",
        f"hydra.run.dir={(logs / 'hydra').resolve()}",
    ]
    print(f"$ {shlex.join(command)} > {log}", flush=True)
    environment = {**os.environ, "VERL_FILE_LOGGER_PATH": str(steps_file.resolve())}
    with log.open("w") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, env=environment)
    try:
        with tqdm(total=steps, desc="Training", unit="step") as progress:
            for step in follow(steps_file, process):
                progress.update(step["step"] - progress.n)
                progress.write(step_line(step["data"], step["step"], steps))
    finally:
        process.terminate()
        process.wait()
    if process.returncode != 0:
        tail = log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        sys.exit("\n".join([*tail, f"\nTraining ended with exit status {process.returncode}; all of its log: {log}"]))


def follow(path: Path, process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON lines of a file that a process writes, until the process ends."""
    position = 0
    while True:
        ended = process.poll() is not None
        if path.exists():
            with path.open("rb") as file:
                file.seek(position)
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # half written
                    position += len(line)
                    yield json.loads(line)
        if ended:
            return
        time.sleep(_POLL_SECONDS)


def step_line(data: dict[str, Any], step: int, steps: int) -> str:
    """What one step did, for a person."""
    return (
        f"step {step:>3}/{steps}  reward {data['critic/score/mean']:+.2f}  "
        f"success {data['multi_attempt/success']:.0%}  "
        f"first attempt {data['multi_attempt/first_attempt_accuracy']:.0%}  "
        f"{data['perf/throughput']:,.0f} tokens/s  {data['timing_s/step']:.1f} s"
    )


def merge_metrics(output: Path) -> Path:
    """Write ``metrics.jsonl``: one object a step, from all tries; a step that was run twice counts as last run."""
    steps: dict[int, dict[str, Any]] = {}
    for file in sorted((output / "logs").glob("train-*.jsonl")):
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            steps[entry["step"]] = {"step": entry["step"], **entry["data"]}
    path = output / "metrics.jsonl"
    path.write_text("".join(json.dumps(steps[step]) + "\n" for step in sorted(steps)))
    return path


def evaluate(output: Path, toy: Path, trained: Path) -> None:
    """Accuracy on held-out questions by attempts under all protocols, before and after training."""
    run(
        [
            *cli("eval"),
            *("--model", f"{BEFORE}={toy / 'model'}", "--model", f"{AFTER}={trained}"),
            *("--data", str(toy / "heldout.parquet"), "--attempts", "5", "--protocols", "all"),
            *("--output", str(output)),
            *("--prompts", "toy", "--max-tokens-per-attempt", "48", "--temperature", "1"),
            *("--max-prompt-length", "64", "--max-response-length", "384"),
            *("--dtype", "float32", "--engine", "enforce_eager=true", "--engine", "block_size=32"),
        ],
        VLLM_LOGGING_LEVEL="ERROR",
        VLLM_CPU_KVCACHE_SPACE="1",
    )


def show_dialogue(path: Path) -> None:
    """Print the first dialogue in which the trained model mends its own mistake, if there is one."""
    for line in path.read_text().splitlines():
        episode = json.loads(line)
        told = episode["model"] == AFTER and episode["protocol"] == "oracle"
        if told and episode["stop"] == "correct" and len(episode["attempts"]) > 1:
            print("\nA mistake mended:")
            for message in episode["messages"]:
                print(f"  {message['role']:>9}: {message['content']}")
            return


def run(command: list[str], **environment: str) -> None:
    """Run a command, shown as a person would type it."""
    print(f"$ {shlex.join(command)}", flush=True)
    status = subprocess.run(command, env={**environment, **os.environ}).returncode
    if status != 0:
        sys.exit(status)


if __name__ == "__main__":
    sys.exit(main())
