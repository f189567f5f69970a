"""The simulated passes take what the roofline says, and give a token to each sequence that is all computed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import simulated_gpu
from simulated_gpu import H100, SimulatedWorker


def test_a_pass_is_bound_by_what_it_reads_or_by_what_it_computes() -> None:
    weights = 2 * H100.parameters
    assert H100.cache_per_token == 28 * 2 * 2 * 128 * 2
    # One token: the weights. With full context, the cache too. A long prompt: its products.
    assert H100.seconds(1, 0) == pytest.approx(weights / 3.35e12)
    assert H100.seconds(256, 10**6) == pytest.approx((weights + 28672e6) / 3.35e12)
    assert H100.seconds(8192, 0) == pytest.approx(2 * H100.parameters * 8192 / 989e12)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> tuple[SimulatedWorker, list[float]]:
    slept: list[float] = []
    monkeypatch.setattr(simulated_gpu.time, "sleep", slept.append)
    worker = object.__new__(SimulatedWorker)
    worker.init_device()
    return worker, slept


def scheduled(
    new: dict[str, tuple[int, int]], cached: dict[str, int], tokens: dict[str, int], finished: tuple[str, ...] = ()
) -> Any:
    """``new``: prompt tokens, and how many of them the prefix cache has; ``cached``: tokens computed so far."""
    return SimpleNamespace(
        scheduled_new_reqs=[
            SimpleNamespace(req_id=name, prompt_token_ids=[1] * length, num_computed_tokens=done)
            for name, (length, done) in new.items()
        ],
        scheduled_cached_reqs=SimpleNamespace(req_ids=list(cached), num_computed_tokens=list(cached.values())),
        num_scheduled_tokens=tokens,
        total_num_scheduled_tokens=sum(tokens.values()),
        finished_req_ids=set(finished),
    )


def sampled(worker: SimulatedWorker, *step: Any, **others: Any) -> list[list[int]]:
    assert worker.execute_model(scheduled(*step, **others)) is None
    return worker.sample_tokens(None).sampled_token_ids


def test_a_sequence_gets_a_token_when_all_that_is_known_of_it_is_computed(
    worker: tuple[SimulatedWorker, list[float]],
) -> None:
    simulated, slept = worker
    # A prompt in two parts, and one of which the cache has all but the last token.
    assert sampled(simulated, {"a": (10, 0), "b": (33, 32)}, {}, {"a": 6, "b": 1}) == [[], [97]]
    assert sampled(simulated, {}, {"a": 6, "b": 33}, {"a": 4, "b": 1}) == [[97], [97]]
    assert sampled(simulated, {}, {"a": 10}, {"a": 1}, finished=("b",)) == [[97]]
    assert slept == [H100.seconds(7, 6 + 33), H100.seconds(5, 10 + 34), H100.seconds(1, 11)]
    assert simulated.take_clock() == (pytest.approx(sum(slept)), 3)
    assert simulated.take_clock() == (0.0, 0)


def test_a_step_without_tokens_is_no_pass(worker: tuple[SimulatedWorker, list[float]]) -> None:
    simulated, slept = worker
    output = simulated.execute_model(scheduled({}, {}, {}))
    assert output is not None
    assert output.req_ids == []
    assert slept == []
