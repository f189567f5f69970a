"""What the rollout benchmark counts instead of timing it."""

from __future__ import annotations

import pytest
from engine import LONGEST, Work, draw_work
from rollout import passes, passes_in_lock_step

# In chunks of 64: 64 + 6 and 10; 5 and 5; 64 + 64 + 2.
WORK = Work([[70, 10], [5, 5], [130]], median=10)


def test_episodes_on_their_own_take_the_passes_of_the_longest() -> None:
    assert passes(WORK) == 130


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (3, 64 + 64 + 10),
        (2, (64 + 6 + 10) + (64 + 64 + 2)),
        (1, (64 + 6 + 10) + (5 + 5) + (64 + 64 + 2)),
    ],
)
def test_lock_step_waits_for_the_longest_chunk_of_each_round_and_batch(batch: int, expected: int) -> None:
    assert passes_in_lock_step(WORK, batch=batch, chunk=64) == expected


def test_lengths_are_spread_about_the_median_and_the_same_for_the_same_seed() -> None:
    work = draw_work(500, 4, median=20, seed=1)
    lengths = sorted(length for attempts in work.lengths for length in attempts)
    assert len(lengths) == 2000
    assert work.tokens == sum(lengths)
    assert lengths[1000] == pytest.approx(20, abs=2)
    assert lengths[0] >= 1
    assert lengths[-1] == LONGEST * 20
    assert work == draw_work(500, 4, median=20, seed=1)
    assert work != draw_work(500, 4, median=20, seed=2)
