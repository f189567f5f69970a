"""Each estimator's expected gradient, by enumeration of small policies, against the gradient of what it optimises."""

from __future__ import annotations

import pytest
import torch
from algorithm_cases import HISTORY, INDEPENDENT, LONG_HISTORY, ROWS, TOKENS, Row
from algorithms import PAGE, into_page, proof_table
from exact_gradients import Policy
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

EXACT = 1e-10

POLICIES = {
    "independent, n = 2": (INDEPENDENT, 2),
    "independent, n = 4": (INDEPENDENT, 4),
    "history, n = 2": (HISTORY, 2),
    "history, n = 3": (HISTORY, 3),
    "long history, n = 2": (LONG_HISTORY, 2),
    "tokens, n = 3": (TOKENS, 3),
}

# Ratio of each attempt's part, and the total variance, for INDEPENDENT and n = 4.
PINNED = {
    "RLOO": ([1, 1, 1, 1, 1], 0.0213),
    "RLOO by N (n = 1)": ([1, 1, 1, 1, 1], 0.0213),
    "attempt RLOO": ([1, 1, 1, 1, 1], 0.0431),
    "GRPO": ([1.444, 1.444, 1.444, 1.444, 1.444], 0.0432),
    "the same, not counted from the start": ([1, 2, 4, 8, 16], 0.0513),
    "naive attempt level": ([4.165, 2.915, 2.041, 1.429, 1], 0.0667),
    "calibrated, true weights": ([1, 1, 1, 1, 1], 0.0204),
    "calibrated, the group's weights": ([1, 1.052, 1.138, 1.122, 1], 0.0402),
    "MT-GRPO, without deviation": ([3.124, 1.883, 1.070, 0.581, 0.306], 0.0279),
    "MT-GRPO": ([5.896, 3.290, 1.757, 0.913, 0.465], 0.0859),
    "GiGPO, without deviation": ([1.5, 1.396, 1.274, 1.157, 1.056], 0.0487),
    "pass@2, published": ([0.642, 0.642, 0.642, 0.642, 0.642], 0.0062),
}


def names(row: Row) -> str:
    return row.name


UNBIASED = [
    pytest.param(row, policy, id=f"{row.name}; {policy}")
    for row in ROWS
    for policy in POLICIES
    # The true weights of independent attempts are those of no other policy.
    if row.unbiased and (not row.averages or POLICIES[policy][0] is INDEPENDENT)
]


@pytest.mark.parametrize(("row", "policy"), UNBIASED)
def test_the_expected_gradient_is_the_objectives(row: Row, policy: str) -> None:
    assert row.case(*POLICIES[policy]).run().error < EXACT


@pytest.mark.parametrize("row", [row for row in ROWS if not row.unbiased], ids=names)
def test_a_biased_one_is_biased(row: Row) -> None:
    assert row.case(INDEPENDENT, 4).run().error > 0.01


@pytest.mark.parametrize("name", PINNED)
def test_ratios_and_variances_are_those_of_the_page(name: str) -> None:
    (row,) = [row for row in ROWS if row.name == name]
    found = row.case(INDEPENDENT, 4).run()
    ratios, variance = PINNED[name]
    assert found.ratios == pytest.approx(ratios, abs=6e-4)
    assert found.variance == pytest.approx(variance, abs=6e-5)


def test_weights_of_all_questions_are_biased_where_chances_depend_on_what_was_tried() -> None:
    (row,) = [row for row in ROWS if row.averages]
    assert row.case(LONG_HISTORY, 2).run().error > 0.01


def test_the_values_of_a_policy_are_what_is_to_come() -> None:
    from exact_gradients import once_solved, reward_table

    values = INDEPENDENT.values(reward_table(INDEPENDENT, once_solved))
    unsolved = values[-1, :, 0]
    assert unsolved.tolist() == pytest.approx([1 - 0.7**left for left in (5, 4, 3, 2, 1)])


def test_scores_are_gradients_of_log_probabilities() -> None:
    policy = Policy(attempts=2, actions=3, tokens=2, remembers=True)
    logits = policy.logits.clone().requires_grad_()
    log_probabilities = policy.log_probabilities(logits)
    assert float(log_probabilities.detach().exp().sum()) == pytest.approx(1)
    scores = policy.scores().sum((1, 2))
    for number in range(len(policy.plays)):
        (gradient,) = torch.autograd.grad(log_probabilities[number], logits, retain_graph=True)
        torch.testing.assert_close(scores[number], gradient)


def test_the_page_has_the_table() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert into_page("proof", proof_table(), page) == page


def test_every_estimator_is_in_the_table() -> None:
    ours = {name for name in ADV_ESTIMATOR_REGISTRY if name.startswith("multi_attempt_")}
    # Whitened over the batch, which no enumeration of groups holds.
    assert {row.estimator for row in ROWS} == ours - {"multi_attempt_reinforce_plus_plus_baseline"}
