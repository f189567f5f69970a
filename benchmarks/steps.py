"""A PPO step on CPU, taken apart: what it does, what its time grows with, what it costs to start, and its memory.

``PYTHONPATH=$PWD/launch:$PWD/benchmarks python benchmarks/steps.py``: short runs of ``main_ppo`` with the CPU config,
with 16 and 256 episodes a step, 1 to 5 attempts, short and long responses, a small and a larger model. No answer is
ever right, so that every episode makes all of its attempts. Prints tables, and writes ``steps.json``, ``steps.png``.

The first run has ``--memory-steps`` steps, over which the memory of every process is watched.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import matplotlib.pyplot as plt
import psutil
import transfer_spans
from runs import json_lines, prepare_process, train
from safetensors.torch import load_file

from multi_attempt.toy.build import build_toy
from multi_attempt.toy.settings import ToySettings

PARTS = {
    "generate": "timing_s/gen",
    "old log-probs": "timing_s/old_log_prob",
    "reference log-probs": "timing_s/ref",
    "values": "timing_s/values",
    "advantages": "timing_s/adv",
    "update critic": "timing_s/update_critic",
    "update actor": "timing_s/update_actor",
    "sync weights": "timing_s/update_weights",
}
"""What a step does, and verl's name for its time."""

OTHER = "other"
WAITS = {"engine": "generate", "grader": "grade", "tokens and feedback": "tokens"}
"""What an episode waits for while the step generates, and our name for it."""

_WARM_UP_STEPS = 300  # enough to end an attempt with an answer
_LONG_RESPONSE = 384
_MEBIBYTE = 1 << 20
_LEAST_MEBIBYTES = 30  # shells and helpers are of no interest
_POLL_SECONDS = 0.2
_MEMORY_SECONDS = 5.0
_TRAINING = ("TaskRunnerV1", "WorkerDict")


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        number: counted from 1.
        tokens: generated in it.
        seconds: all of it, by its parts.
        waits: seconds of an episode, in the mean, by what it waited for.
        transfer: seconds in which the trainer or its workers talked to TransferQueue, beside generation.
    """

    number: int
    tokens: float
    seconds: Mapping[str, float]
    waits: Mapping[str, float]
    transfer: float


@dataclass(frozen=True)
class Run:
    """A training run.

    Attributes:
        name: what is special about it.
        episodes: in a step.
        start_up: seconds from the command to the first step.
        start_up_work: by process, the CPU seconds that it had used when the first step was over.
        steps: all of them.
        memory: by process, its resident memory in MiB after so many steps.
    """

    name: str
    episodes: int
    start_up: float
    start_up_work: Mapping[str, float]
    steps: Sequence[Step]
    memory: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """Steps that do the same thing, as one: medians.

    Attributes:
        label: what they do.
        episodes: in a step.
        tokens: generated in a step.
        seconds, waits, transfer: as in :class:`Step`.
    """

    label: str
    episodes: int
    tokens: float
    seconds: Mapping[str, float]
    waits: Mapping[str, float]
    transfer: float

    @property
    def total(self) -> float:
        """Seconds of a step."""
        return sum(self.seconds.values())


def point(label: str, run: Run, steps: slice) -> Point:
    """The medians of some steps of a run."""
    chosen = run.steps[steps]

    def medians(by_name: Sequence[Mapping[str, float]]) -> dict[str, float]:
        return {name: statistics.median(each[name] for each in by_name) for name in by_name[0]}

    return Point(
        label,
        run.episodes,
        statistics.median(step.tokens for step in chosen),
        medians([step.seconds for step in chosen]),
        medians([step.waits for step in chosen]),
        statistics.median(step.transfer for step in chosen),
    )


def make_toy(folder: Path, name: str, settings: ToySettings) -> Path:
    """A toy task none of whose answers is ever right."""
    toy = folder / name
    build_toy(
        toy, train_questions=2048, validation_questions=1, heldout_questions=1, hard_questions=1, settings=settings
    )
    return toy


def parameters(toy: Path) -> str:
    """How many the toy's model has, in millions."""
    weights = load_file(toy / "model" / "model.safetensors")
    return f"{sum(weight.numel() for weight in weights.values()) / 1e6:.1f} M"


def fix_attempts(toy: Path, file: Path, attempts: Sequence[int], episodes: int) -> Path:
    """The training rows with a gold answer that no answer equals: in the i-th step each allows ``attempts[i]``."""

    def changed(row: dict[str, Any], index: int) -> dict[str, Any]:
        allowed = attempts[min(index // episodes, len(attempts) - 1)]
        return {
            "reward_model": {**row["reward_model"], "ground_truth": "-1"},
            "extra_info": {**row["extra_info"], "attempts": allowed},
        }

    rows = datasets.load_dataset("parquet", data_files=str(toy / "train.parquet"), split="train")
    rows.map(changed, with_indices=True).to_parquet(str(file))
    return file


def measure(
    folder: Path, name: str, toy: Path, episodes: int, steps: int, attempts: Sequence[int], *overrides: str
) -> Run:
    """Train for some steps, and read what verl and we have written down of them."""
    output = folder / name
    spans = output / "spans"
    spans.mkdir(parents=True, exist_ok=True)
    os.environ["VERL_USE_EXTERNAL_MODULES"] = transfer_spans.__name__
    os.environ[transfer_spans.FOLDER] = str(spans.resolve())
    settings = [
        f"toy={toy.resolve()}",
        f"data.train_files={fix_attempts(toy, output / 'train.parquet', attempts, episodes).resolve()}",
        "data.shuffle=false",
        f"data.train_batch_size={episodes}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={max(8, episodes // 4)}",
        "trainer.critic_warmup=0",
        "trainer.save_freq=-1",
        "trainer.total_epochs=1000",
        # A step more or less is not what is asked here; the model shall stay as it is.
        "actor_rollout_ref.actor.optim.lr=0",
        *overrides,
    ]
    with Watch(output / "logs" / "train-0.jsonl") as watch:
        train(output, steps, settings)
    return watch.run(name, episodes, spans)


class Watch:
    """Notes when the steps of a run are logged, and how much memory its processes have."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._begin = time.time()
        self._logged: list[tuple[float, dict[str, Any]]] = []
        self._memory: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self._work: dict[str, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        looked = 0.0
        while not self._over.wait(_POLL_SECONDS):
            now = time.time()
            text = self._log.read_text() if self._log.exists() else ""
            lines = text.split("\n")[:-1]  # the last one may be half written
            self._logged += [(now, json.loads(line)["data"]) for line in lines[len(self._logged) :]]
            if self._logged and now > looked + _MEMORY_SECONDS:
                looked = now
                self._look()

    def _look(self) -> None:
        first = not self._work
        for process in psutil.Process().children(recursive=True):
            try:
                name = f"{role_of(process)} ({process.pid})"
                memory = process.memory_info().rss / _MEBIBYTE
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            if memory > _LEAST_MEBIBYTES:
                self._memory[name].append((len(self._logged), memory))
                if first:
                    self._work[name] = times.user + times.system

    def run(self, name: str, episodes: int, spans: Path) -> Run:
        """What was seen."""
        calls = [call for file in spans.iterdir() for call in json_lines(file)]
        transfers = [
            (call["start"], call["stop"])
            for call in calls
            if call["process"] in _TRAINING and call["call"] != "async_kv_list"  # the trainer's look at what is done
        ]
        steps = []
        for number, (logged, data) in enumerate(self._logged, 1):
            seconds = {part: data.get(key, 0.0) for part, key in PARTS.items()}
            seconds[OTHER] = data["timing_s/step"] - sum(seconds.values())
            generated = logged - data["timing_s/step"] + seconds["generate"]
            transfer = sum(max(0.0, min(stop, logged) - max(start, generated)) for start, stop in transfers)
            waits = {wait: data[f"multi_attempt/seconds/{key}"] for wait, key in WAITS.items()}
            steps.append(Step(number, data["multi_attempt/generated_tokens"], seconds, waits, transfer))
        first_logged, first = self._logged[0]
        start_up = first_logged - first["timing_s/step"] - self._begin
        return Run(name, episodes, start_up, self._work, steps, dict(self._memory))


def role_of(process: psutil.Process) -> str:
    """What Ray or vLLM calls a process."""
    command = process.cmdline()
    if not command:
        return process.name()
    if command[0].startswith(("ray::", "VLLM::")):
        return transfer_spans.role(command)
    return Path(command[0]).name if len(command) == 1 else f"{Path(command[0]).name} {Path(command[1]).name}"


def growth(samples: Sequence[tuple[int, float]], steps: int) -> tuple[float, float] | None:
    """The peak memory in the second fifth of a run's steps and in the last; None for a process that lived less long."""
    early = [memory for step, memory in samples if steps // 5 <= step < 2 * steps // 5]
    late = [memory for step, memory in samples if step >= steps - steps // 5]
    return (max(early), max(late)) if early and late else None


def memory_table(run: Run) -> str:
    """Peak memory early and late, by process."""
    steps = len(run.steps)
    lines = [
        f"| process | MiB, steps {steps // 5} to {2 * steps // 5} | MiB, last {steps // 5} | growth |",
        "|---|--:|--:|--:|",
    ]
    for process, samples in sorted(run.memory.items(), key=lambda item: -max(memory for _, memory in item[1])):
        if (peaks := growth(samples, steps)) is not None:
            early, late = peaks
            lines.append(f"| {process} | {early:,.0f} | {late:,.0f} | {late / early - 1:+.1%} |")
    return "\n".join(lines)


def start_up_table(run: Run) -> str:
    """What the processes have worked until the end of the first step, the busiest first."""
    lines = ["| process | CPU seconds |", "|---|--:|"]
    busiest = sorted(run.start_up_work.items(), key=lambda item: -item[1])
    lines += [f"| {process} | {seconds:.0f} |" for process, seconds in busiest]
    lines.append(f"| **all** | **{sum(run.start_up_work.values()):.0f}** |")
    return "\n".join(lines)


def parts_table(points: Sequence[Point]) -> str:
    """Seconds of a step, by part and kind of step."""
    rows: list[tuple[str, list[str]]] = [
        ("tokens generated", [f"{point.tokens:,.0f}" for point in points]),
        *((part, [f"{point.seconds[part]:.2f}" for point in points]) for part in (*PARTS, OTHER)),
        ("**step**", [f"**{point.total:.1f}**" for point in points]),
        ("of it TransferQueue, beside generation", [f"{point.transfer:.2f}" for point in points]),
        *((f"an episode's wait: {wait}", [f"{point.waits[wait]:.3f}" for point in points]) for wait in WAITS),
    ]
    lines = [f"| seconds | {' | '.join(point.label for point in points)} |", "|---" + "|--:" * len(points) + "|"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows)])


def plot(panels: Mapping[str, Sequence[Point]], path: Path) -> None:
    """Stacked bars: what a step's time grows with."""
    figure, axes = plt.subplots(1, len(panels), figsize=(3.2 * len(panels), 3.6), layout="constrained")
    for axis, (title, points) in zip(axes, panels.items(), strict=True):
        bottom = [0.0] * len(points)
        for part in (*PARTS, OTHER):
            heights = [point.seconds[part] for point in points]
            axis.bar([point.label for point in points], heights, bottom=bottom, label=part, width=0.7)
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
        axis.set_title(title)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("seconds a step")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right center", frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run, print, plot, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--memory-steps", type=int, default=100, help="steps of the run whose memory is watched")
    arguments = parser.parse_args()
    prepare_process()
    folder = arguments.output / "steps"
    if folder.exists():
        shutil.rmtree(folder)
    toy = make_toy(folder, "toy", ToySettings(steps=_WARM_UP_STEPS))
    small = make_toy(folder, "random", ToySettings(steps=0))
    large = make_toy(
        folder, "larger", ToySettings(steps=0, hidden_size=384, layers=6, heads=12, intermediate_size=1024)
    )
    # A model that has learned nothing seldom ends an attempt.
    long = [
        "multi_attempt.max_tokens_per_attempt=null",
        f"data.max_response_length={_LONG_RESPONSE}",
    ]
    few = measure(folder, "few-episodes", toy, 16, arguments.memory_steps, [1, 1, 1, 2, 2, 2, 5, 5, 5, 1])
    many = measure(folder, "many-episodes", toy, 256, 2, [2])
    tokens = measure(folder, "many-tokens", small, 16, 3, [1], *long)
    larger = measure(folder, "larger-model", large, 16, 3, [1], *long)
    runs = [few, many, tokens, larger]

    one, two, five = (
        point(f"N = {attempts}", few, slice(3 * number + 1, 3 * number + 3))
        for number, attempts in enumerate((1, 2, 5))
    )
    long_responses = point("long", tokens, slice(1, None))
    panels = {
        "attempts, 16 episodes": [one, two, five],
        "episodes, N = 2": [replace(two, label="16"), point("256", many, slice(1, None))],
        "tokens an episode, N = 1": [replace(each, label=f"{each.tokens / 16:.0f}") for each in (one, long_responses)],
        "parameters, long responses": [
            replace(long_responses, label=parameters(small)),
            point(parameters(large), larger, slice(1, None)),
        ],
    }
    print(f"Start-up to the first step: {statistics.median(run.start_up for run in runs):.0f} s\n")
    for title, points in panels.items():
        print(f"{title}\n\n{parts_table(points)}\n")
    print(f"First step: {sum(few.steps[0].seconds.values()):.0f} s\n\n{start_up_table(few)}\n")
    print(memory_table(few))
    plot(panels, arguments.output / "steps.png")
    figures = {"runs": [asdict(run) for run in runs]}
    (arguments.output / "steps.json").write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
