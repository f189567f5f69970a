"""verl's Megatron engine trains on the plugin's episodes, feedback masked, as FSDP does.

Both in bf16, from the same weights and on the same batch: PPO with the KL loss for the actor, the clipped value loss
for the critic. Two ranks, which share Megatron's work in three ways, and FSDP's in one.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from ranks import Ranks
from safetensors.torch import load_file, save_file
from transformers import AutoConfig
from work import Setup, Training, optimizer_settings, train

from multi_attempt.toy.tokenizer import make_tokenizer

LAYOUTS = [pytest.param(1, 1, id="TP1"), pytest.param(2, 1, id="TP2"), pytest.param(1, 2, id="PP2")]

STEPS = 4

EPSILON = torch.finfo(torch.bfloat16).eps
"""The distance of two neighbouring numbers in bf16, relative to them: 2**-7."""

Rows = list[dict[str, Any]]
Run = Callable[..., Training]


@pytest.fixture(scope="module")
def folders(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model for each role; the critic's has a value head, by the names that Megatron and FSDP have for it."""
    source, folder = models["Qwen2.5-Math-1.5B"], tmp_path_factory.mktemp("critic")
    weights = load_file(source / "model.safetensors")
    head = 0.02 * torch.randn(
        1, AutoConfig.from_pretrained(source).hidden_size, generator=torch.Generator().manual_seed(0)
    )
    weights["lm_head.weight"] = head.to(torch.bfloat16)
    weights["score.weight"] = weights["lm_head.weight"].clone()
    weights["score.bias"] = torch.zeros(1, dtype=torch.bfloat16)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    AutoConfig.from_pretrained(source).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return {"actor": source, "critic": folder}


@pytest.fixture(scope="module")
def run(ranks: Ranks, folders: dict[str, Path]) -> Run:
    """Trains on rows, and puts together what the ranks saw."""

    def run(role: str, rows: Rows, *setup: Any) -> Training:
        engine, *sizes = setup
        results = ranks.run(train, role, Setup(engine, folders[role], *sizes), rows, STEPS)
        [metrics, *others] = [result.metrics for result in results if result.metrics]
        assert all(other["loss"] == metrics["loss"] for other in others)
        return Training(list(chain.from_iterable(result.output for result in results)), metrics)

    return run


@pytest.fixture(scope="module")
def fsdp(run: Run, rows: Rows) -> Callable[[str], Training]:
    """FSDP's training of a role, once."""
    trained: dict[str, Training] = {}

    def fsdp(role: str) -> Training:
        if role not in trained:
            trained[role] = run(role, rows, "fsdp")
        return trained[role]

    return fsdp


def flat(lists: list[list[float]]) -> NDArray[np.float64]:
    return np.fromiter(chain.from_iterable(lists), dtype=np.float64)


def generated(rows: Rows, field: str) -> NDArray[np.float64]:
    """A field at the generated tokens of all rows."""
    return flat([row[field] for row in rows])[flat([row["response_mask"] for row in rows]) == 1]


def with_feedback(rows: Rows, **values: float) -> Rows:
    """The rows with other values at the feedback tokens."""

    def changed(row: dict[str, Any], field: str) -> list[float]:
        return [
            old if generated else values[field] for old, generated in zip(row[field], row["response_mask"], strict=True)
        ]

    return [{**row, **{field: changed(row, field) for field in values}} for row in rows]


def test_the_episodes_have_feedback_and_what_stands_there_is_not_zero(rows: Rows) -> None:
    masked = flat([row["response_mask"] for row in rows]) == 0
    assert 0.2 < masked.mean() < 0.8
    for field in ("old_log_probs", "ref_log_prob", "advantages", "values", "returns"):
        assert np.abs(flat([row[field] for row in rows])[masked]).mean() > 0.1, field


@pytest.mark.parametrize(("tensor", "pipeline"), LAYOUTS)
def test_the_actors_losses_are_those_of_fsdp(
    run: Run, fsdp: Callable[[str], Training], rows: Rows, tensor: int, pipeline: int
) -> None:
    expected, got = fsdp("actor"), run("actor", rows, "megatron", tensor, pipeline)
    # A log-probability is rounded to bf16 by either.
    assert np.all(np.abs(flat(got.output) - flat(expected.output)) <= EPSILON * np.abs(flat(expected.output)))
    tolerance = loss_tolerance(rows)
    np.testing.assert_allclose(got.metrics["loss"], expected.metrics["loss"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(got.metrics["actor/pg_loss"], expected.metrics["actor/pg_loss"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(got.metrics["kl_loss"], expected.metrics["kl_loss"], rtol=0.02)
    np.testing.assert_allclose(got.metrics["grad_norm"], expected.metrics["grad_norm"], rtol=0.05)
    # The steps lead somewhere.
    assert got.metrics["loss"][0] - got.metrics["loss"][-1] > 5 * tolerance


def loss_tolerance(rows: Rows) -> float:
    """How far two losses of the actor may be apart in bf16.

    A token's term is its advantage times a ratio of about 1, whose relative error is the absolute error of the
    log-probability. That is at most ``EPSILON * 5.6`` here, of either sign, so that the mean of hundreds has a smaller
    one than EPSILON.
    """
    return EPSILON * float(np.abs(generated(rows, "advantages")).mean())


@pytest.mark.parametrize(("tensor", "pipeline"), LAYOUTS)
def test_the_critics_values_and_first_loss_are_those_of_fsdp(
    run: Run, fsdp: Callable[[str], Training], rows: Rows, tensor: int, pipeline: int
) -> None:
    expected, got = fsdp("critic"), run("critic", rows, "megatron", tensor, pipeline)
    values = flat(expected.output)
    np.testing.assert_allclose(flat(got.output), values, rtol=0, atol=2 * EPSILON * np.abs(values).max())
    name = "critic/vf_loss"
    # Later ones differ by FSDP's head, which has a bias.
    np.testing.assert_allclose(got.metrics[name][0], expected.metrics[name][0], rtol=EPSILON)
    assert got.metrics[name][-1] < 0.9 * got.metrics[name][0]


@pytest.mark.parametrize(("tensor", "pipeline"), LAYOUTS)
@pytest.mark.parametrize(
    ("role", "fields"),
    [
        ("actor", {"old_log_probs": -7.0, "ref_log_prob": -3.0, "advantages": 100.0}),
        ("critic", {"values": 50.0, "returns": -100.0}),
    ],
)
def test_what_stands_at_feedback_tokens_changes_neither_loss_nor_gradient(
    run: Run, rows: Rows, role: str, fields: dict[str, float], tensor: int, pipeline: int
) -> None:
    plain = run(role, rows, "megatron", tensor, pipeline)
    changed = run(role, with_feedback(rows, **fields), "megatron", tensor, pipeline)
    assert changed.metrics["loss"] == plain.metrics["loss"]
    assert changed.metrics["grad_norm"] == plain.metrics["grad_norm"]


@pytest.mark.parametrize("role", ["actor", "critic"])
def test_without_the_mask_the_losses_would_tell(
    run: Run, fsdp: Callable[[str], Training], rows: Rows, role: str
) -> None:
    unmasked = [{**row, "response_mask": [1] * len(row["response_mask"])} for row in rows]
    difference = run(role, unmasked, "megatron").metrics["loss"][0] - fsdp(role).metrics["loss"][0]
    allowed = loss_tolerance(rows) if role == "actor" else EPSILON * fsdp(role).metrics["loss"][0]
    assert abs(difference) > 5 * allowed


@pytest.mark.parametrize("role", ["actor", "critic"])
def test_megatrons_adam_has_the_settings_of_fsdps(role: str, ranks: Ranks, folders: dict[str, Path]) -> None:
    for groups in ranks.run(optimizer_settings, role, Setup("megatron", folders[role])):
        assert groups
        for group in groups:
            assert (tuple(group["betas"]), group["weight_decay"]) == ((0.9, 0.95), 0.0)
