"""Training runs on CPU as a person would start them: shown, logged, and gone on with where they were."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

_POLL_SECONDS = 0.5
_LOG_TAIL_LINES = 40


def prepare_process() -> None:
    """Set what all commands started from here share; end what they started when this process is told to end."""
    # Threads that wait must not spin, there are more of them than cores; and a first look reports nothing to anyone.
    for name, value in (("OMP_WAIT_POLICY", "PASSIVE"), ("VLLM_NO_USAGE_STATS", "1"), ("RAY_USAGE_STATS_ENABLED", "0")):
        os.environ.setdefault(name, value)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def cli(command: str) -> list[str]:
    """The command line's command, run by this interpreter."""
    return [sys.executable, "-m", "multi_attempt.cli", command]


def train(output: Path, steps: int, overrides: Sequence[str], *, config: str = "multi_attempt_cpu") -> Path:
    """Train through verl, with a progress bar and a line a step; goes on where an earlier try was.

    Args:
        output: the run's folder: ``checkpoints/``, ``logs/``, ``metrics.jsonl``.
        steps: PPO steps.
        overrides: of the config.
        config: its name.

    Returns:
        The folder of the checkpoints.
    """
    checkpoints, logs = output / "checkpoints", output / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    if not finished(output, steps):
        _train(output, logs, steps, overrides, config)
    merge_metrics(output)
    return checkpoints


def finished(output: Path, steps: int) -> bool:
    """Whether a run's folder holds a checkpoint of this step, or a later one."""
    latest = output / "checkpoints" / "latest_checkpointed_iteration.txt"  # written when a checkpoint is whole
    return latest.is_file() and int(latest.read_text()) >= steps


def keep_models(checkpoints: Path) -> None:
    """Of all checkpoints but the latest keep nothing but the model in Hugging Face format: no one resumes from them."""
    latest = int((checkpoints / "latest_checkpointed_iteration.txt").read_text())
    for folder in checkpoints.glob("global_step_*"):
        if folder.name == f"global_step_{latest}":
            continue
        for part in [*folder.iterdir(), *(folder / "actor").iterdir()]:
            if part.name in ("actor", "huggingface"):
                continue
            shutil.rmtree(part) if part.is_dir() else part.unlink()


def training_command(output: Path, steps: int, overrides: Sequence[str], config: str) -> list[str]:
    """The command that :func:`train` runs, without the interpreter and what only keeps its logs apart."""
    return [
        *("python", "-m", "verl.trainer.main_ppo", "--config-name", config),
        f"trainer.default_local_dir={output / 'checkpoints'}",
        f"trainer.total_training_steps={steps}",
        *overrides,
    ]


def _train(output: Path, logs: Path, steps: int, overrides: Sequence[str], config: str) -> None:
    # verl's file logger starts its file anew, so each try writes its own: a resumed run loses no step.
    name = f"train-{len(list(logs.glob('train-*.jsonl')))}"
    steps_file, log = logs / f"{name}.jsonl", logs / f"{name}.log"
    logged = ["trainer.logger=[console,file]", f"hydra.run.dir={(logs / 'hydra').resolve()}"]
    command = [sys.executable, *training_command(output.resolve(), steps, overrides, config)[1:], *logged]
    print(f"$ {shlex.join(command)} > {log}", flush=True)
    environment = {**os.environ, "VERL_FILE_LOGGER_PATH": str(steps_file.resolve())}
    with log.open("w") as sink, (logs / "lock").open("w") as lock:
        # Held by the training process too: if only this one is killed, the other goes on.
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"{output}: an earlier try is still training there; wait until it has ended, or end it")
        process = subprocess.Popen(
            command, stdout=sink, stderr=subprocess.STDOUT, env=environment, pass_fds=[lock.fileno()]
        )
    try:
        with tqdm(total=steps, desc="Training", unit="step") as progress:
            for step in follow(steps_file, process):
                progress.update(step["step"] - progress.n)
                if "critic/score/mean" in step["data"]:  # not of a validation alone
                    progress.write(step_line(step["data"], step["step"], steps))
    finally:
        process.terminate()
        process.wait()
    if process.returncode != 0:
        tail = log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        sys.exit("\n".join([*tail, f"\nTraining ended with exit status {process.returncode}; all of its log: {log}"]))


def seeded(seed: int) -> list[str]:
    """The overrides that give a run its seed."""
    return [
        f"multi_attempt.seed={seed}",
        f"data.seed={seed}",
        f"actor_rollout_ref.rollout.seed={seed}",
        f"actor_rollout_ref.actor.data_loader_seed={seed}",
    ]


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


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file of JSON lines, which end in a line feed only: texts of models have U+0085 and U+2028 too."""
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def merge_metrics(output: Path) -> Path:
    """Write ``metrics.jsonl``: one object a step, from all tries; a step that was run twice counts as last run."""
    steps: dict[int, dict[str, Any]] = {}
    for file in sorted((output / "logs").glob("train-*.jsonl")):
        for entry in json_lines(file):
            steps[entry["step"]] = {"step": entry["step"], **entry["data"]}
    path = output / "metrics.jsonl"
    path.write_text("".join(json.dumps(steps[step]) + "\n" for step in sorted(steps)))
    return path


def evaluate(models: Mapping[str, Path], arguments: Sequence[str], output: Path) -> None:
    """Evaluate models, given by the names to call them, on CPU in fp32 unless the arguments say otherwise."""
    run(
        [
            *cli("eval"),
            *(argument for name, model in models.items() for argument in ("--model", f"{name}={model}")),
            *("--dtype", "float32", "--engine", "enforce_eager=true", "--engine", "block_size=32"),
            *arguments,
            *("--output", str(output)),
        ],
        VLLM_LOGGING_LEVEL="ERROR",
        VLLM_CPU_KVCACHE_SPACE="1",
    )


def run(command: list[str], **environment: str) -> None:
    """Run a command, shown as a person would type it."""
    print(f"$ {shlex.join(command)}", flush=True)
    status = subprocess.run(command, env={**environment, **os.environ}).returncode
    if status != 0:
        sys.exit(status)
