"""Weights between Hugging Face's files and Megatron's ranks, and back: bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ranks import Ranks
from work import Resumption, Setup, compare_weights, refusal, resume

# Tensor and pipeline parallel sizes; at 1 and 1 the two ranks are data parallel.
LAYOUTS = [pytest.param(1, 1, id="TP1"), pytest.param(2, 1, id="TP2"), pytest.param(1, 2, id="PP2")]
MODELS = ["Qwen2.5-Math-1.5B", "Qwen2.5-Math-7B", "Qwen3-4B"]
TIED = ["Qwen2.5-Math-1.5B", "Qwen3-4B"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("tensor", "pipeline"), LAYOUTS)
def test_every_weight_comes_back_as_it_was(
    ranks: Ranks, models: dict[str, Path], model: str, tensor: int, pipeline: int
) -> None:
    for weights in ranks.run(compare_weights, "actor", Setup("megatron", models[model], tensor, pipeline)):
        assert (weights.different, weights.missing, weights.unknown) == ([], [], [])
        assert len(weights.equal) > 20


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("tensor", "pipeline"), LAYOUTS)
def test_the_critic_has_every_weight_and_a_head(
    ranks: Ranks, models: dict[str, Path], model: str, tensor: int, pipeline: int
) -> None:
    for weights in ranks.run(compare_weights, "critic", Setup("megatron", models[model], tensor, pipeline)):
        # An output layer in the files is another one than the head, which is new.
        head = weights.unknown if model in TIED else weights.different
        assert head == ["lm_head.weight"]
        assert weights.missing == []
        assert sorted([*weights.unknown, *weights.different]) == head
        assert len(weights.equal) > 20


@pytest.mark.parametrize("model", TIED)
def test_verls_own_critic_still_refuses_a_model_whose_output_layer_is_its_embedding(
    ranks: Ranks, models: dict[str, Path], model: str
) -> None:
    # Where this fails, verl or mbridge has changed, and verl_ext/training/megatron_critic.py may go.
    for error in ranks.run(refusal, "critic", Setup("megatron", models[model], plugin=False)):
        assert "lm_head.weight" in error


@pytest.mark.parametrize("role", ["actor", "critic"])
@pytest.mark.parametrize(
    ("model", "tensor", "pipeline"),
    [
        pytest.param("Qwen2.5-Math-1.5B", 2, 1, id="1.5B-TP2"),
        pytest.param("Qwen2.5-Math-7B", 1, 1, id="7B-TP1"),
        pytest.param("Qwen3-4B", 1, 2, id="4B-PP2"),
    ],
)
def test_a_saved_model_is_loaded_as_it_was(
    ranks: Ranks,
    models: dict[str, Path],
    rows: list[dict[str, Any]],
    tmp_path: Path,
    role: str,
    model: str,
    tensor: int,
    pipeline: int,
) -> None:
    setup = Setup("megatron", models[model], tensor, pipeline)
    results: list[Resumption] = ranks.run(resume, role, setup, rows, tmp_path / "checkpoint")
    for result in results:
        assert result.files == Path("model/huggingface")
        assert (result.weights.different, result.weights.missing, result.weights.unknown) == ([], [], [])
        assert ("lm_head.weight" in result.weights.equal) == (role == "critic" or model not in TIED)
        for name in ("loss", "grad_norm"):
            assert result.after.get(name) == result.before.get(name), name
    assert any(result.before for result in results)
