"""The memory plan against what verl's own FSDP engine really holds, on the CPU: within a tenth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from training_memory import CASES, MODELS, config_of, measure, one_rank, plan, write_model


@pytest.fixture(scope="module", autouse=True)
def _one_rank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with one_rank(tmp_path_factory.mktemp("ranks") / "store"):
        yield


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    write_model(path, request.param)
    return path


@pytest.mark.parametrize(("role", "checkpointing"), CASES)
def test_the_plan_is_within_a_tenth_of_what_the_engine_holds(folder: Path, role: str, checkpointing: bool) -> None:
    config = config_of(folder, checkpointing=checkpointing)
    planned, held = plan(config, role), measure(config, role)
    assert planned.weights == held.weights
    assert planned.gradients == held.gradients
    # AdamW counts its steps for each tensor, in a number of its own.
    assert planned.optimizer == pytest.approx(held.optimizer, rel=1e-3)
    assert planned.update == pytest.approx(held.update, rel=0.1)
    assert planned.infer == pytest.approx(held.infer, rel=0.1)
