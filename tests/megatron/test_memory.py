"""The memory plan against what Megatron's ranks keep: weights, gradients and the optimiser's arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ranks import Ranks
from work import Kept, Setup, keep


@pytest.mark.parametrize("role", ["actor", "critic"])
@pytest.mark.parametrize("model", ["Qwen2.5-Math-1.5B", "Qwen2.5-Math-7B", "Qwen3-4B"])
@pytest.mark.parametrize(
    ("tensor", "pipeline"),
    [pytest.param(1, 1, id="TP1"), pytest.param(2, 1, id="TP2"), pytest.param(1, 2, id="PP2")],
)
def test_the_plan_is_what_a_rank_keeps(
    ranks: Ranks, models: dict[str, Path], rows: list[dict[str, Any]], role: str, model: str, tensor: int, pipeline: int
) -> None:
    results: list[tuple[Kept, Kept]] = ranks.run(keep, role, Setup("megatron", models[model], tensor, pipeline), rows)
    for measured, planned in results:
        assert measured == planned
