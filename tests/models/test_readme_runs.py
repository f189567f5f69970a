"""The runs that README and docs give commands for, composed and checked as they stand there, with real tokenizers."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from families import VOCABULARIES, family
from omegaconf import DictConfig
from published_models import PUBLISHED
from transformers import GenerationConfig

from multi_attempt.data import make_row, write_parquet
from verl_ext.checks import startup
from verl_ext.checks.check_command import compose_config
from verl_ext.model import attention

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md")))]

# Which tokenizer, template and stops the models of config/model have.
FAMILIES = {"qwen2_5_math_1_5b": "qwen2_5_math", "qwen2_5_math_7b": "qwen2_5_math", "qwen3_4b": "qwen3"}
DEFAULT_MODEL = "qwen2_5_math_1_5b"

# As long as the longest questions of MATH and of the five benchmarks, in Qwen's tokens.
LONG_QUESTION = "Find the sum of 1 and 2. " * 130


def commands() -> Iterator[str]:
    """The commands of all pages that start a training run, or say what one takes."""
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                command = line.split(" #")[0].strip()
                if re.match(r"python -m verl.trainer.main_ppo|sbatch .*slurm.sbatch|multi-attempt check", command):
                    yield command


# The toy task's own runs are made for real elsewhere.
COMMANDS = sorted(
    {command for command in commands() if not command.endswith("multi_attempt_cpu")}
    | {"multi-attempt check model=qwen3_4b"}
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the models of config/model without their weights."""
    folders = {}
    for name, of_family in FAMILIES.items():
        made, folder = family(of_family), tmp_path_factory.mktemp(name)
        made.tokenizer.save_pretrained(folder)
        PUBLISHED[name].save_pretrained(folder)
        GenerationConfig(eos_token_id=list(made.engine_ends)).save_pretrained(folder)
        folders[name] = folder
    return {**folders, "smollm2_135m": VOCABULARIES / "smollm2_135m"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions enough for a step of the paper's, the longest among them."""
    folder = tmp_path_factory.mktemp("data")
    texts = [LONG_QUESTION, *(f"What is {number} + 1?" for number in range(1023))]
    rows = [make_row(text, "3", data_source="math", index=n, split="train") for n, text in enumerate(texts)]
    write_parquet(rows, folder / "train.parquet")
    for row in rows:
        row["extra_info"]["attempts"] = 5
    write_parquet(rows[:8], folder / "validation.parquet")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_the_run_may_start(command: str, models: dict[str, Path], data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = composed(command, models, data)
    # As on the machines that the command is for.
    monkeypatch.setattr(os, "cpu_count", lambda: 96)
    monkeypatch.setattr(startup, "version", lambda name: "installed")
    monkeypatch.setattr(attention, "find_spec", lambda name: "installed")
    if "cluster=" in command or command.startswith("sbatch"):
        monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    startup.check(config)


def composed(command: str, models: dict[str, Path], data: Path) -> DictConfig:
    words = shlex.split(command)
    name = words[words.index("--config-name") + 1] if "--config-name" in words else "multi_attempt"
    overrides = [word for word in words if re.match(r"[\w.@]+=", word)]
    chosen = dict(word.split("=", 1) for word in overrides).get("model", DEFAULT_MODEL)
    small = chosen == "smollm2_135m"
    overrides += [f"data.train_files={data}/train.parquet", f"data.val_files={data}/validation.parquet"]
    if small:  # whose own questions are short
        overrides += [
            "data.max_prompt_length=2048",
            "actor_rollout_ref.rollout.max_model_len=null",
            "cpu.tokens_per_pass=4096",
        ]
    return compose_config(name, [*overrides, f"actor_rollout_ref.model.path={models[chosen]}"])


def test_the_pages_give_such_commands() -> None:
    assert any("--config-name multi_attempt_cpu model=smollm2_135m" in command for command in COMMANDS)
    assert any("slurm.sbatch" in command for command in COMMANDS)
    assert any(command.endswith("--config-name multi_attempt") for command in COMMANDS)
