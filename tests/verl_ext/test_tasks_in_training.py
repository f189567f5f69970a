"""Tasks in training: a mixture in the agent loop and in the checks before a run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from engine import SAMPLING, make_loop
from omegaconf import DictConfig
from transformers import PreTrainedTokenizerFast

from multi_attempt.config import load_settings
from multi_attempt.data import make_row
from verl_ext.checks.dataset_check import dataset_errors
from verl_ext.rollout.agent_loop import MultiAttemptAgentLoop

if TYPE_CHECKING:
    from tests.verl_ext.conftest import FakeServer

EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE = "reverse:Reverse"
END = 258


@pytest.fixture(autouse=True)
def _example_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(MultiAttemptAgentLoop, "_shared", None)


def words() -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (EXAMPLES / "reverse.jsonl").read_text().splitlines()]
    return [{**row, "reward_model": {"ground_truth": ""}} for row in rows]


def sums(count: int) -> list[dict[str, Any]]:
    """Rows of mathematics, which say that they are."""
    rows = [
        make_row(f"{n}+2=?", str(n + 2), data_source="toy", index=10 + n, split="train", attempts=2)
        for n in range(count)
    ]
    return [{**row, "extra_info": {**row["extra_info"], "task": "math"}} for row in rows]


def program() -> dict[str, Any]:
    """A row of a program, with all that its task needs in the row's own columns."""
    row = make_row("f adds 2.", "", data_source="code", index=30, split="train", attempts=2)
    own = {"solution": "def f(x):\n    return x + 2\n", "tests": ["assert f(1) == 3"], "task": "code"}
    return {**row, "extra_info": {**row["extra_info"], **own}}


async def test_each_row_is_played_by_its_own_task(
    config: DictConfig, tokenizer: PreTrainedTokenizerFast, server: FakeServer
) -> None:
    config.multi_attempt.task = EXAMPLE
    server.script = [[*b"ends", END], [*b"enots", END], [*b"\\boxed{3}", END], [*b"\\boxed{2}", END]]
    outputs = []
    for row in (words()[0], sums(1)[0]):
        loop = make_loop("multi_attempt", config, server, tokenizer)
        fields = {**row, "raw_prompt": row["prompt"], "index": 0, "global_steps": 1}
        outputs.append(await loop.run(dict(SAMPLING), **fields))
    transcripts = [output.extra_fields["multi_attempt"] for output in outputs]
    assert [transcript["stop"] for transcript in transcripts] == ["correct", "correct"]
    assert [attempt["answer"] for attempt in transcripts[0]["attempts"]] == ["ends", "enots"]
    assert [attempt["answer"] for attempt in transcripts[1]["attempts"]] == ["3", "2"]
    asked = [bytes(token for token in call.prompt_ids if token < 256).decode() for call in server.calls]
    assert "Write stone backwards (2)." in asked[0]
    assert asked[1].endswith("user\nWrong. (1)\nassistant\n")
    assert "0+2=? (2)" in asked[2]


async def test_a_row_that_its_task_cannot_read_fails_no_more_than_its_episode(
    config: DictConfig, tokenizer: PreTrainedTokenizerFast, server: FakeServer
) -> None:
    config.multi_attempt.task = EXAMPLE
    row = {"raw_prompt": [], "extra_info": {"attempts": 2}, "index": 0, "global_steps": 1}
    output = await make_loop("multi_attempt", config, server, tokenizer).run(dict(SAMPLING), **row)
    transcript = output.extra_fields["multi_attempt"]
    assert (output.response_mask, transcript["stop"], transcript["budget"]) == ([0], "aborted", 2)
    assert "letters is missing" in transcript["error"]


@pytest.fixture
def checked(config: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the check of these rows says."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def check(rows: list[dict[str, Any]], **multi_attempt: Any) -> list[str]:
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        config.data.update(train_files=str(file), val_files=str(file), train_batch_size=1, max_response_length=300)
        config.multi_attempt.update({"task": EXAMPLE, **multi_attempt})
        return list(dataset_errors(config, load_settings(config.multi_attempt)))

    return check


def test_a_mixture_passes_the_checks_before_a_run(checked: Any) -> None:
    assert checked([*words(), *sums(2)]) == []


def test_what_verl_reads_of_every_validation_row_is_missing_in_none(checked: Any) -> None:
    rows = [*words(), *sums(1)]
    del rows[1]["reward_model"]
    (error,) = checked(rows)
    assert re.match(
        r"data.val_files = .*: row 1: reward_model is null, and verl reads it of every validation row", error
    )


def test_each_row_has_what_its_own_task_needs(checked: Any) -> None:
    rows = [*words(), *sums(1), *sums(1)]
    rows[1]["extra_info"].pop("letters")
    rows[2]["reward_model"]["ground_truth"] = "}{"
    rows[3]["extra_info"]["task"] = "maths"
    found = [error.partition(": ")[2] for error in checked(rows) if "train_files" in error]
    assert [error[:7] for error in found] == ["row 1: ", "row 3: ", "row 2: "]
    assert "letters is missing; its task needs it" in found[0]
    assert "extra_info.task = 'maths'" in found[1]
    assert "could stand in a box" in found[2]


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="programs run in bubblewrap")
def test_a_solution_that_fails_its_own_tests_is_named(checked: Any) -> None:
    wrong = program()
    wrong["extra_info"]["tests"] = ["assert f(1) == 4"]
    assert any("row 0: the task 'code' calls the row's own gold response" in error for error in checked([wrong]))
