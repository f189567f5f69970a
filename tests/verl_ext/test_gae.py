"""verl's advantage estimate does what multi-attempt episodes need: it skips the tokens between attempts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from verl.trainer.ppo.core_algos import compute_gae_advantage_return
from verl.utils.torch_functional import masked_whiten


def recursion(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """GAE over the generated tokens of one episode alone, as if nothing stood between them; before whitening.

    With t' the next generated token after t: delta_t = r_t + gamma V_t' - V_t, A_t = delta_t + gamma lam A_t'.
    """
    advantages = torch.zeros_like(rewards)
    next_value, next_advantage = 0.0, 0.0
    for position in reversed(mask.nonzero().flatten().tolist()):
        delta = rewards[position].item() + gamma * next_value - values[position].item()
        next_advantage = delta + gamma * lam * next_advantage
        next_value = values[position].item()
        advantages[position] = next_advantage
    return advantages


def episodes(seed: int, *, sparse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, values and mask of four episodes, each [4, length]; ``sparse`` puts a reward on the last token only."""
    generator = torch.Generator().manual_seed(seed)
    length = int(torch.randint(1, 40, (), generator=generator))
    mask = (torch.rand(4, length, generator=generator) < 0.6).double()
    last = torch.randint(0, length, (4,), generator=generator)
    mask.scatter_(1, last[:, None], 1.0)  # an episode ends on a generated token; padding follows
    mask *= torch.arange(length) <= last[:, None]
    values = torch.randn(4, length, generator=generator, dtype=torch.float64)
    rewards = torch.randn(4, length, generator=generator, dtype=torch.float64) * mask
    if sparse:
        rewards *= torch.arange(length) == last[:, None]
    return rewards, values, mask


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    sparse=st.booleans(),
    gamma=st.just(1.0) | st.floats(0.0, 1.0),
    lam=st.just(0.99) | st.floats(0.0, 1.0),
)
def test_verls_advantages_are_those_of_the_generated_tokens_alone(
    seed: int, sparse: bool, gamma: float, lam: float
) -> None:
    rewards, values, mask = episodes(seed, sparse=sparse)
    advantages, returns = compute_gae_advantage_return(rewards, values, mask, gamma, lam)
    expected = torch.stack([recursion(*episode, gamma, lam) for episode in zip(rewards, values, mask, strict=True)])
    generated = mask.bool()
    torch.testing.assert_close((returns - values)[generated], expected[generated])
    if mask.sum() > 1:
        torch.testing.assert_close(advantages[generated], masked_whiten(expected, mask)[generated])


@pytest.mark.parametrize("seed", range(5))
def test_values_of_masked_tokens_change_nothing(seed: int) -> None:
    rewards, values, mask = episodes(seed, sparse=True)
    other_values = torch.where(mask.bool(), values, 1e3 * torch.randn_like(values))
    assert not torch.equal(values, other_values)
    advantages, returns = compute_gae_advantage_return(rewards, values, mask, 1.0, 0.99)
    again, returns_again = compute_gae_advantage_return(
        rewards,
        other_values,
        mask,
        1.0,
        0.99,
    )
    generated = mask.bool()
    assert torch.equal(advantages[generated], again[generated])
    assert torch.equal(returns[generated], returns_again[generated])


def test_with_gamma_and_lambda_1_every_generated_token_has_the_episodes_reward_as_return() -> None:
    mask = torch.tensor([[1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0]])
    rewards = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, -0.5, 0.0]])
    values = torch.tensor([[0.3, -0.2, 9.0, -9.0, 0.7, 0.1, 5.0]])
    _, returns = compute_gae_advantage_return(rewards, values, mask, 1.0, 1.0)
    torch.testing.assert_close(returns[mask.bool()], torch.full((4,), -0.5))


def test_a_reward_on_a_masked_token_is_lost_which_is_why_episodes_end_on_a_generated_one() -> None:
    # Where this fails, verl has changed, and what the agent loop does about it may go.
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    values = torch.zeros(1, 3)
    _, returns = compute_gae_advantage_return(torch.tensor([[0.0, 0.0, 1.0]]), values, mask, 1.0, 1.0)
    assert returns[0, :2].tolist() == [0.0, 0.0]
    _, returns = compute_gae_advantage_return(torch.tensor([[0.0, 1.0, 0.0]]), values, mask, 1.0, 1.0)
    assert returns[0, :2].tolist() == [1.0, 1.0]
