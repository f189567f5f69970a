"""How many attempts a question gets."""

from __future__ import annotations

import random


def draw_attempts(low: int, high: int, *, seed: int, step: int, row: int) -> int:
    """N, uniform over {low..high}, as a pure function of (seed, step, row).

    A resumed run therefore draws what the interrupted one drew, on any machine, and all samples of one question in a
    step (a GRPO group) get the same N; without that, their rewards could not be compared.

    Args:
        low: the least number of attempts, at least 1.
        high: the greatest.
        seed: the run's seed, ``multi_attempt.seed``.
        step: the training step.
        row: the row's ``extra_info.index``.
    """
    # A text seeds through SHA-512 (unlike a tuple, whose hash depends on the process), so it is the same everywhere.
    return random.Random(f"attempts {seed} {step} {row}").randint(low, high)
