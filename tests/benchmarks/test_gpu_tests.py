"""What of the tests on a GPU can be seen without one: their settings make sound runs, and their page is in step."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import memory_watch
import pytest
import test_faults_on_gpu
import test_models_on_gpu
import test_training_on_gpu
from gpu_figures import PAGE, ROOT, Figure, read, table
from gpu_machine import Machine
from random_model import QWEN2_5_MATH_1_5B, SMALL, write_random_model
from training_run import TrainingRun
from transformers import AutoTokenizer, Qwen2Config

from multi_attempt import cli
from multi_attempt.toy.build import build_toy
from multi_attempt.toy.settings import ToySettings
from multi_attempt.toy.tokenizer import make_tokenizer
from multi_attempt.word_problems.build import build_word_problems

SMOLLM2 = Path(sys.prefix, "vocabularies", "smollm2_135m")
GPU = Machine("a GPU", rehearsal=False)

RUNS: dict[str, Callable[[Path], TrainingRun]] = {
    "toy, bf16": lambda toy: GPU.run(toy, toy, test_training_on_gpu.settings(GPU, "bfloat16"), toy=toy),
    "toy, fp32": lambda toy: GPU.run(toy, toy, test_training_on_gpu.settings(GPU, "float32"), toy=toy),
    "faults": lambda toy: GPU.long_run(toy, toy, test_faults_on_gpu.settings(GPU), toy=toy),
    "smollm2": lambda toy: GPU.run(
        toy, toy, test_models_on_gpu.smollm2_settings(GPU, str(SMOLLM2), toy / "word_problems")
    ),
    "random model": lambda toy: GPU.run(toy, toy, test_models_on_gpu.random_model_settings(GPU, toy / "large", toy)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy task, and a model of the real shape without its weights."""
    folder = tmp_path_factory.mktemp("toy")
    build_toy(
        folder,
        train_questions=128,
        validation_questions=8,
        heldout_questions=1,
        hard_questions=1,
        settings=ToySettings(steps=0),
    )
    build_word_problems(folder / "word_problems", test_models_on_gpu.WORD_PROBLEMS)
    write_random_model(folder / "large", SMALL | {"vocab_size": QWEN2_5_MATH_1_5B["vocab_size"]}, "cpu")
    shape = Qwen2Config(**QWEN2_5_MATH_1_5B, tie_word_embeddings=True, architectures=["Qwen2ForCausalLM"])
    shape.save_pretrained(folder / "large")
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_each_run_passes_the_start_up_check_and_fits_an_h100(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RUNS[name](folder) as run:
        command = ["check", "--config-name", GPU.config, "--gpu", "h100", "--json", *run.overrides]
    assert cli.main(command) == 0, capsys.readouterr().out
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["problems"] == []
    # What the memory is compared with names each phase as the plan does.
    assert set(found["phases"]) == set(test_models_on_gpu._PHASES)


def test_the_random_models_tokenizer_has_a_token_for_each_of_its_numbers(tmp_path: Path) -> None:
    write_random_model(tmp_path, SMALL, "cpu")
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path)
    toy: Any = make_tokenizer()
    assert len(tokenizer) == SMALL["vocab_size"]
    assert len(set(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))) == len(tokenizer)
    messages = [{"role": "user", "content": "12+3=? <300>"}]
    ids, toys = (
        each.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        for each in (tokenizer, toy)
    )
    assert ids == toys
    assert max(ids) < len(toy)


def test_every_test_on_a_gpu_is_named_on_its_page_and_no_other() -> None:
    written = {
        f"tests/gpu/{file.name}::{node.name}"
        for file in (ROOT / "tests" / "gpu").glob("test_*.py")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    assert set(re.findall(r"`(tests/gpu/\w+\.py::\w+)`", PAGE.read_text())) == written


def test_the_page_takes_the_last_figures_of_each_test(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "figures.jsonl"
    for value in (1.0, 2.0):
        Figure("2026-01-02", "test_one[a]", "a GPU", "speed", value, "tokens/s").write(file)
    Figure("2026-01-02", "test_one[b]", "a GPU", "share", 0.5, "").write(file)
    page = "# A page\n\n| | where | figures |\n|---|---|---|\n"
    one, other = (f"| what | `tests/gpu/test_it.py::{name}` | not run |" for name in ("test_one", "test_two"))
    found = table(f"{page}{one}\n{other}\n| more | none | not run |\n", read(file.read_text().splitlines()))
    assert found == [one.replace("not run", "a GPU, 2026-01-02: speed 2 tokens/s; share 0.5"), other]


@pytest.mark.parametrize(
    ("title", "method"),
    [
        ("ray::WorkerDict.actor_rollout_ref_update_actor()", "actor_rollout_ref_update_actor"),
        ("ray::WorkerDict", ""),
        ("ray::AgentLoopWorker", None),
    ],
)
def test_a_workers_title_says_which_method_runs(title: str, method: str | None) -> None:
    assert memory_watch.method_of(title) == method


def test_peaks_are_the_most_of_all_runs_of_a_method(tmp_path: Path) -> None:
    for name, sizes in (("1", (3, 1)), ("2", (2, 5))):
        lines = [{"method": "update", "allocated": size, "reserved": size, "device": 10 - size} for size in sizes]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert memory_watch.peaks(tmp_path) == {"update": {"allocated": 5, "reserved": 5, "device": 9}}
