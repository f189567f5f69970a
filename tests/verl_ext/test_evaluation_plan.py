"""The plan of an evaluation: what follows from the roofline, and `multi-attempt check --evaluation`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose
from published_models import PUBLISHED

from multi_attempt import cli
from multi_attempt.evaluation.protocols import PROTOCOLS
from verl_ext.memory.evaluation import TOGETHER, Asked, EvaluationPlan, plan_evaluation
from verl_ext.memory.gpus import custom_gpu, named_gpu
from verl_ext.memory.model_shape import ModelShape, shape_of

H100 = named_gpu("h100")
ONCE = Asked(("single-run",), attempts=1, samples=1, prompt_tokens=100, attempt_tokens=1000, solved=0)
PARAMETERS = 1_543_714_304
CACHE = 28 * 2 * 2 * 128 * 2  # bytes of a token


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    return shape_of(PUBLISHED["qwen2_5_math_1_5b"], "1.5B")


@pytest.fixture
def plan_of(hydra_configs: None, shape: ModelShape) -> Callable[..., EvaluationPlan]:
    def make(*overrides: str, asked: Asked = ONCE, gpu: Any = H100) -> EvaluationPlan:
        return plan_evaluation(compose("multi_attempt", overrides=list(overrides)), shape, gpu, asked)

    return make


def rows(plan: EvaluationPlan) -> dict[str, Any]:
    return {row.benchmark: row for row in plan.rows}


def test_few_episodes_take_as_many_passes_as_the_longest_has_tokens(plan_of: Callable[..., EvaluationPlan]) -> None:
    aime = rows(plan_of("trainer.n_gpus_per_node=2"))["aime24"]
    assert (aime.questions, aime.episodes, aime.tokens, aime.at_once, aime.passes) == (30, 30, 30_000, 15, 1000)
    # Each pass reads the weights, and 15 sequences of a prompt and half a response.
    read = 2 * PARAMETERS + 15 * (100 + 500) * CACHE
    assert aime.seconds == pytest.approx(1000 * read / 3.35e12)


def test_more_episodes_than_have_room_take_turns(plan_of: Callable[..., EvaluationPlan]) -> None:
    together = rows(plan_of("trainer.n_gpus_per_node=1"))[TOGETHER]
    assert together.questions == 30 + 40 + 500 + 272 + 675
    assert (together.at_once, together.passes) == (256, pytest.approx(1517 * 1000 / 256))
    read = 2 * PARAMETERS + 256 * (100 + 500) * CACHE
    assert together.seconds == pytest.approx(together.passes * read / 3.35e12)


def test_a_gpu_of_few_operations_is_bound_by_them(plan_of: Callable[..., EvaluationPlan]) -> None:
    slow = custom_gpu("slow", 80, 1, 3350)
    together = rows(plan_of("trainer.n_gpus_per_node=1", gpu=slow))[TOGETHER]
    # All prompts and all that is generated, once.
    assert together.seconds == pytest.approx(2 * PARAMETERS * 1517 * (100 + 1000) / 1e12)


def test_the_room_in_the_cache_bounds_how_many_are_under_way(plan_of: Callable[..., EvaluationPlan]) -> None:
    small = custom_gpu("small", 8, 989, 3350)
    plan = plan_of("trainer.n_gpus_per_node=1", gpu=small)
    room = plan.rollout.cached_tokens // 608  # a prompt and half a response, in blocks of 16
    assert 1 < room < 256
    assert rows(plan)[TOGETHER].at_once == room


def test_a_replica_of_two_gpus_reads_half_on_each(plan_of: Callable[..., EvaluationPlan]) -> None:
    overrides = ("trainer.n_gpus_per_node=4", "actor_rollout_ref.rollout.tensor_model_parallel_size=2")
    plan = plan_of(*overrides)
    assert plan.rollout.replicas == 2
    two = rows(plan)["aime24"].seconds
    assert two == pytest.approx(rows(plan_of("trainer.n_gpus_per_node=2"))["aime24"].seconds / 2)


def test_nodes_are_no_matter(plan_of: Callable[..., EvaluationPlan]) -> None:
    assert plan_of("cluster=4x8").rows == plan_of("cluster=1x8").rows


@pytest.mark.parametrize(
    ("protocol", "solved", "tokens"),
    [
        # With 1, 2 and 3 attempts of 1000 tokens.
        ("oracle", 0.0, 1000 + 2000 + 3000),
        ("oracle", 1.0, 3000),
        ("oracle", 0.5, 1000 + 1500 + 2000),
        ("single-run", 0.5, 2000),
        ("blind", 0.5, 6000),
        ("independent", 0.5, 3000),
    ],
)
def test_episodes_are_those_of_the_protocols(
    plan_of: Callable[..., EvaluationPlan], protocol: str, solved: float, tokens: float
) -> None:
    asked = replace(ONCE, protocols=(protocol,), attempts=3, solved=solved)
    assert rows(plan_of(asked=asked))["amc23"].tokens == pytest.approx(40 * tokens)


def test_a_dialogue_has_no_more_tokens_than_its_context(plan_of: Callable[..., EvaluationPlan]) -> None:
    assert rows(plan_of(asked=replace(ONCE, attempts=7)))["amc23"].tokens == 40 * (4096 - 100)


def test_protocols_share_their_episodes(plan_of: Callable[..., EvaluationPlan]) -> None:
    asked = replace(ONCE, protocols=tuple(PROTOCOLS), attempts=7)
    assert rows(plan_of(asked=asked))["amc23"].episodes == 40 * (7 + 7 + 6 + 7)  # shuffled begins with two attempts


# ---- The command ----


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    PUBLISHED["qwen2_5_math_1_5b"].save_pretrained(tmp_path)
    return tmp_path


def check(folder: Path, *arguments: str) -> int:
    return cli.main(["check", "--evaluation", "--model-config", str(folder), *arguments])


@pytest.mark.usefixtures("hydra_configs")
def test_the_command_prints_each_benchmark_and_what_it_rests_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(folder) == 0
    text = capsys.readouterr().out
    assert "on 8 x h100: 8 replicas of 1.\nA plan: a lower bound by the roofline, and no measurement." in text
    table = [line.split() for line in text.splitlines() if line.startswith(("aime24", "olympiadbench", TOGETHER))]
    assert [line[-5] for line in table] == ["30", "675", "1,517"]
    assert "Assumed: oracle with 1 to 7 attempts" in text
    assert "45.6% of dialogues are right at their first attempt" in text
    assert "Left out: the engine's start" in text


@pytest.mark.usefixtures("hydra_configs")
def test_the_command_takes_what_is_assumed_and_gives_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--protocols", "oracle", "blind", "--attempts", "2", "--samples", "3", "--solved", "0.25", "--json")
    assert check(folder, "--prompt-tokens", "100", "--attempt-tokens", "300", *given, "--gpu", "l40s") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["assumptions"] == {
        "protocols": ["oracle", "blind"],
        "attempts": 2,
        "samples": 3,
        "prompt_tokens": 100,
        "attempt_tokens": 300,
        "solved": 0.25,
    }
    assert (plan["gpu"], plan["replicas"]) == ("l40s", 8)
    assert plan["benchmarks"]["aime24"]["episodes"] == 30 * 2 * 2 * 3
    assert plan["benchmarks"]["aime24"]["tokens"] == pytest.approx(30 * 3 * 300 * (1 + 1.75 + 1 + 2))


TENSOR = "actor_rollout_ref.rollout.tensor_model_parallel_size"


@pytest.mark.usefixtures("hydra_configs")
@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("--attempts 2.5", ["--attempts = 2.5", "whole number"]),
        ("--samples 0", ["--samples = 0"]),
        ("--solved 1.5", ["--solved = 1.5"]),
        ("--attempt-tokens 0", ["--attempt-tokens = 0.0"]),
        ("--prompt-tokens 5000", ["--prompt-tokens = 5000", "4096"]),
        ("--mfu 0.4", ["--mfu = 0.4 has no part", "--evaluation"]),
        (f"{TENSOR}=4 trainer.n_gpus_per_node=2", [f"{TENSOR} = 4", "trainer.n_gpus_per_node = 2"]),
        (
            "--gpu-memory 3 --gpu-tflops 100 --gpu-bandwidth 900",
            ["no room for a dialogue of 4096 tokens", f"{TENSOR}=N"],
        ),
        ("trainer.device=cpu", ["--evaluation with trainer.device = 'cpu'"]),
    ],
)
def test_what_cannot_be_planned_is_named(
    folder: Path, arguments: str, parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(folder, *arguments.split()) == 2
    message = capsys.readouterr().err
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.usefixtures("hydra_configs")
def test_what_only_an_evaluation_has_is_refused_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--solved", "0.5"]) == 2
    assert "--solved = 0.5 is of the plan of an evaluation; give --evaluation too" in capsys.readouterr().err
