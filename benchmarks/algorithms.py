"""The tables of docs/algorithms.md: each estimator against the exact gradient, and what it costs.

``python benchmarks/algorithms.py`` prints both; ``--write`` puts them into the page. Needs neither Ray nor an engine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from algorithm_cases import HISTORY, INDEPENDENT, LONG_HISTORY, ROWS, Row
from exact_gradients import Policy
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, get_adv_estimator_fn

from verl_ext.algorithms.batch import Step, step
from verl_ext.names import NAME

PAGE = Path(__file__).parents[1] / "docs" / "algorithms.md"

# The policies whose errors stand in the last columns, each with the episodes of a group.
_OTHERS: Sequence[tuple[Policy, int]] = ((HISTORY, 3), (LONG_HISTORY, 2))
_EPISODES = 4

# Below this two gradients are equal, up to rounding.
_EXACT = 1e-10

# A step of the paper's size.
_BATCH, _LENGTH, _ATTEMPTS, _FEEDBACK, _GROUP, _REPEATS = 1024, 3000, 5, 40, 4, 7


def proof_table() -> list[str]:
    """A line for each case: ratios, variance, and the errors of other policies."""
    head = "| estimator | optimises | attempt 1 | 2 | 3 | 4 | 5 | variance | error | history, n = 3 | history, n = 2 |"
    return [head, "|--|--|" + "--:|" * 9, *map(_proof, ROWS)]


def _proof(row: Row) -> str:
    found = row.case(INDEPENDENT, _EPISODES).run()
    errors = [found.error, *(row.case(policy, n).run().error for policy, n in _OTHERS)]
    ratios = [f"{ratio:.2f}" for ratio in found.ratios]
    cells = [row.name, row.aim, *ratios, f"{found.variance:.3f}", *map(_error, errors)]
    return f"| {' | '.join(cells)} |"


def _error(error: float) -> str:
    return "0" if error < _EXACT else f"{error:.2f}"


def cost_table() -> list[str]:
    """A line for each estimator: milliseconds of one core's time for a step."""
    torch.set_num_threads(1)
    mask, rewards, values = _step()
    names = [*sorted(name for name in ADV_ESTIMATOR_REGISTRY if name.startswith(f"{NAME}_")), *("gae", "rloo")]
    lines = ["| estimator | ms |", "|--|--:|"]
    for name in names:
        lines.append(f"| `{name}` | {_milliseconds(name, mask, rewards, values):.0f} |")
    return lines


def _step() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Episodes of five attempts of equal length, with feedback between; half of them are solved."""
    position = torch.arange(_LENGTH)
    turn = _LENGTH // _ATTEMPTS
    mask = (position % turn < turn - _FEEDBACK).to(torch.int64).repeat(_BATCH, 1)
    rewards = torch.zeros(_BATCH, _LENGTH)
    rewards[:, turn * (_ATTEMPTS - 1) + turn - _FEEDBACK - 1] = torch.arange(_BATCH) % 2 * 1.5 - 0.5
    return mask, rewards, torch.rand(_BATCH, _LENGTH, generator=torch.Generator().manual_seed(0))


def _milliseconds(name: str, mask: torch.Tensor, rewards: torch.Tensor, values: torch.Tensor) -> float:
    function, index = get_adv_estimator_fn(name), np.arange(_BATCH) // _GROUP
    given: dict[str, Any] = {"token_level_rewards": rewards, "response_mask": mask}
    if name == "gae":
        given |= {"values": values, "gamma": 1.0, "lam": 0.95}
    else:
        given |= {"index": index, "config": {"gamma": 1.0, "lam": 0.95}}
    times = []
    for _ in range(_REPEATS):
        with step(Step(values=values, budgets=torch.full((_BATCH,), _ATTEMPTS))):
            began = time.process_time()  # of one thread; others on the machine do not count
            function(**given)
            times.append(time.process_time() - began)
    return statistics.median(times) * 1000


def into_page(name: str, table: Sequence[str], page: str) -> str:
    """The page with a table between the lines that begin and end it."""
    begin, end = f"<!-- {name} -->\n\n", f"\n\n<!-- end of {name} -->"
    before, rest = page.split(begin, 1)
    after = rest.split(end, 1)[1]
    return before + begin + "\n".join(table) + end + after


def main() -> None:
    """Print the tables, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into docs/algorithms.md")
    write = parser.parse_args().write
    for name, table in (("proof", proof_table()), ("cost", cost_table())):
        print("\n".join(table), end="\n\n")
        if write:
            PAGE.write_text(into_page(name, table, PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
