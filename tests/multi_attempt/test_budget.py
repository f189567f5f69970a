"""The draw of N, which resumed runs and GRPO groups rely on."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter

import pytest

from multi_attempt.budget import draw_attempts

ROWS = 10_000

# The 99.9th percentile of chi-square by degrees of freedom (from the usual tables).
CRITICAL = {1: 10.83, 4: 18.47, 7: 24.32}


def draws_over_rows(low: int, high: int, *, seed: int = 0, step: int = 1, rows: int = ROWS) -> list[int]:
    return [draw_attempts(low, high, seed=seed, step=step, row=row) for row in range(rows)]


def chi_square(draws: list[int], low: int, high: int) -> float:
    expected = len(draws) / (high - low + 1)
    counts = Counter(draws)
    return sum((counts[value] - expected) ** 2 / expected for value in range(low, high + 1))


@pytest.mark.parametrize(("low", "high"), [(1, 2), (1, 5), (3, 10)])
def test_draws_are_uniform_over_rows(low: int, high: int) -> None:
    draws = draws_over_rows(low, high)
    assert set(draws) == set(range(low, high + 1))
    assert chi_square(draws, low, high) < CRITICAL[high - low]


def test_draws_are_uniform_over_the_steps_of_one_row() -> None:
    draws = [draw_attempts(1, 5, seed=0, step=step, row=3) for step in range(ROWS)]
    assert set(draws) == {1, 2, 3, 4, 5}
    assert chi_square(draws, 1, 5) < CRITICAL[4]


def test_draws_of_neighbouring_rows_are_independent() -> None:
    draws = draws_over_rows(1, 2)
    pairs = [2 * first + second for first, second in zip(draws[::2], draws[1::2], strict=True)]
    assert chi_square([pair - 2 for pair in pairs], 1, 4) < 16.27  # 3 degrees of freedom


@pytest.mark.parametrize("bounds", [(1, 1), (4, 4)])
def test_range_of_one_number_gives_that_number(bounds: tuple[int, int]) -> None:
    assert set(draws_over_rows(*bounds, rows=100)) == {bounds[0]}


def test_same_arguments_give_the_same_draws() -> None:
    assert draws_over_rows(1, 5, rows=200) == draws_over_rows(1, 5, rows=200)


@pytest.mark.parametrize("hash_seed", ["0", "12345"])
def test_other_processes_draw_the_same(hash_seed: str) -> None:
    program = (
        "from multi_attempt.budget import draw_attempts\n"
        "print([draw_attempts(1, 5, seed=3, step=17, row=row) for row in range(200)])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert finished.stdout.strip() == str(draws_over_rows(1, 5, seed=3, step=17, rows=200)), finished.stderr


def test_draws_leave_other_random_numbers_alone() -> None:
    random.seed(5)
    expected = random.random()
    random.seed(5)
    draws_over_rows(1, 5, rows=10)
    assert random.random() == expected


@pytest.mark.parametrize("argument", ["seed", "step", "row"])
def test_draw_depends_on(argument: str) -> None:
    fixed = {"seed": 1, "step": 1, "row": 1}
    draws = {draw_attempts(1, 5, **{**fixed, argument: value}) for value in range(50)}
    assert draws == {1, 2, 3, 4, 5}


def test_step_and_row_are_kept_apart() -> None:
    # Step 1, row 17 and step 11, row 7 have the same digits in the same order.
    of_step_1 = [draw_attempts(1, 5, seed=0, step=1, row=int(f"1{row}")) for row in range(100)]
    of_step_11 = [draw_attempts(1, 5, seed=0, step=11, row=row) for row in range(100)]
    assert of_step_1 != of_step_11


@pytest.mark.parametrize(
    ("low", "high", "seed", "step", "row", "drawn"),
    [
        (1, 5, 0, 1, 0, 4),
        (1, 5, 0, 1, 1, 1),
        (1, 5, 0, 1, 2, 1),
        (1, 5, 0, 2, 0, 4),
        (1, 5, 0, 160, 7999, 2),
        (1, 5, 1, 1, 0, 2),
        (1, 5, 7, 1, 0, 2),
        (1, 5, 42, 1, 0, 1),
        (2, 10, 0, 3, 12345, 9),
    ],
)
def test_draws_stay_what_they_are(low: int, high: int, seed: int, step: int, row: int, drawn: int) -> None:
    # Another draw would change what a run resumed from an older checkpoint does.
    assert draw_attempts(low, high, seed=seed, step=step, row=row) == drawn
