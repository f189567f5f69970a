"""SIMULATION of the rollout on a GPU: vLLM's real scheduler, and a model that only takes the time of its passes.

``python benchmarks/simulated_gpu.py``: on CPU, in some minutes. What is real: vLLM's engine with its scheduler, prefix
cache and processes, and all Python of ours and of lock-step (``benchmarks/rollout.py``). What is not: a pass is a
sleep, as long as the roofline says that Qwen2.5-Math-1.5B takes for it in bf16 on an H100, at the least
(``verl_ext/memory/roofline.py``). So a rollout's time is a time, and Python's share of it is seen, on this machine's
cores. It says nothing of a GPU's own inefficiency.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from engine import BLOCK, Engine, Work, by_agent_loop, cpu_config, draw_work, open_engine
from rollout import Measurements, add_common_arguments, by_engine, by_lock_step, write_figures
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheSpec
from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT, LogprobsLists, ModelRunnerOutput
from vllm.v1.worker.worker_base import CompilationTimes, WorkerBase

from multi_attempt.config import load_settings
from verl_ext.memory.gpus import named_gpu
from verl_ext.memory.roofline import Roofline

# Of Qwen2.5-Math-1.5B.
PARAMETERS, LAYERS, KEY_VALUE_HEADS, HEAD_SIZE = 1.544e9, 28, 2, 128
BYTES = 2  # of a number in bf16

CACHE = 40e9
"""The GPU's room for keys and values, in bytes."""

H100 = Roofline(
    named_gpu("h100"),
    parameters=PARAMETERS,
    weights=BYTES * PARAMETERS,
    cache_per_token=BYTES * LAYERS * 2 * KEY_VALUE_HEADS * HEAD_SIZE,
)

# What every sequence says, whatever it was asked: the letter a, as sure as can be.
_TOKEN = ord("a")


class SimulatedWorker(WorkerBase):
    """A worker of vLLM whose passes are sleeps (``parallel_config.worker_cls``)."""

    def init_device(self) -> None:
        """Nothing is on a device."""
        self._wanted: dict[str, int] = {}  # tokens that are known of a sequence
        self._output = EMPTY_MODEL_RUNNER_OUTPUT
        self._slept, self._passes = 0.0, 0

    def load_model(self, *, load_dummy_weights: bool = False) -> None:
        """There are no weights."""

    def get_supported_tasks(self) -> tuple[str, ...]:
        """Text from text."""
        return ("generate",)

    def get_kv_cache_spec(self) -> dict[str, KVCacheSpec]:
        """The cache of the model that is simulated."""
        spec = FullAttentionSpec(
            block_size=self.cache_config.block_size,
            num_kv_heads=KEY_VALUE_HEADS,
            head_size=HEAD_SIZE,
            dtype=torch.bfloat16,
        )
        return {f"layers.{layer}": spec for layer in range(LAYERS)}

    def determine_available_memory(self) -> int:
        """What the GPU would have for it."""
        return int(CACHE)

    def initialize_from_config(self, kv_cache_config: Any) -> None:
        """Blocks are numbers here."""

    def compile_or_warm_up_model(self) -> CompilationTimes:
        """Nothing to compile."""
        return CompilationTimes(0.0, 0.0)

    def update_max_model_len(self, max_model_len: int) -> None:
        """Any length will do."""

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput | None:
        """Sleep for a pass; a token for each sequence whose known tokens are all computed then."""
        for request in scheduler_output.finished_req_ids:
            self._wanted.pop(request, None)
        if not scheduler_output.total_num_scheduled_tokens:
            return EMPTY_MODEL_RUNNER_OUTPUT
        computed = {}
        for new in scheduler_output.scheduled_new_reqs:
            self._wanted[new.req_id] = len(new.prompt_token_ids or ())
            computed[new.req_id] = new.num_computed_tokens
        cached = scheduler_output.scheduled_cached_reqs
        computed |= dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        for request, count in scheduler_output.num_scheduled_tokens.items():
            computed[request] += count
        seconds = H100.seconds(scheduler_output.total_num_scheduled_tokens, sum(computed.values()))
        time.sleep(seconds)
        self._slept += seconds
        self._passes += 1
        self._output = self._sampled(list(scheduler_output.num_scheduled_tokens), computed)
        return None

    def _sampled(self, requests: list[str], computed: dict[str, int]) -> ModelRunnerOutput:
        tokens: list[list[int]] = []
        for request in requests:
            done = computed[request] >= self._wanted[request]
            tokens.append([_TOKEN] if done else [])
            self._wanted[request] += done
        ids = torch.full((len(requests), 1), _TOKEN, dtype=torch.int32).numpy()
        zeros = torch.zeros(len(requests), 1).numpy()
        return ModelRunnerOutput(
            req_ids=requests,
            req_id_to_index={request: place for place, request in enumerate(requests)},
            sampled_token_ids=tokens,
            logprobs=LogprobsLists(ids, zeros, torch.ones(len(requests), dtype=torch.int32).numpy()),
        )

    def sample_tokens(self, grammar_output: Any) -> ModelRunnerOutput:
        """What the last pass gave."""
        return self._output

    def take_clock(self) -> tuple[float, int]:
        """Seconds slept and passes since the last call."""
        clock = self._slept, self._passes
        self._slept, self._passes = 0.0, 0
        return clock

    def check_health(self) -> None:
        """A sleeper is healthy."""


async def simulate(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All rollouts on each piece of work."""
    found: list[dict[str, Any]] = []
    for episodes in arguments.episodes:
        work = draw_work(episodes, arguments.attempts, median=arguments.median, seed=arguments.seed)
        room = max(sum(lengths) + 40 * len(lengths) for lengths in work.lengths)
        with tempfile.TemporaryDirectory() as name:
            worker = f"{SimulatedWorker.__module__}.{SimulatedWorker.__name__}"
            async with open_engine(Path(name), at_once=episodes, longest=room + 64, worker=worker) as engine:
                length = f"data.max_response_length={room}"
                config = cpu_config(Path(name), length, "multi_attempt.max_tokens_per_attempt=null")
                found += await _compare(config, engine, work, arguments)
    return found


async def _compare(config: Any, engine: Engine, work: Work, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    measurements = Measurements(engine, batch=arguments.batch, chunk=arguments.chunk)
    grader = load_settings(config.multi_attempt).grader.make()
    few = Work(work.lengths[:2], work.median)
    await by_agent_loop("multi_attempt", config, engine, few)  # imports
    found: list[dict[str, Any]] = []

    async def take(rollout: str, run: Any, *, cached: bool = False) -> None:
        await engine.engine.collective_rpc("take_clock")
        seconds = await measurements.take(rollout, work, run, cached=cached)
        [(slept, passes)] = await engine.engine.collective_rpc("take_clock")
        found.append(
            {"rollout": rollout, "episodes": len(work.lengths), "tokens": work.tokens}
            | {"seconds": seconds, "passes": passes, "slept": slept}
        )

    await engine.reset()
    await take("ours", partial(by_agent_loop, "multi_attempt", config, engine, work))
    requests = list(engine.requests.values())
    for rollout, in_order in (("engine, in order", True), ("engine", False)):
        await take(rollout, partial(by_engine, engine, requests, in_order=in_order))
    batches = {"batch": arguments.batch, "chunk": arguments.chunk}
    by_them = partial(by_lock_step, config, engine, grader, work, **batches, from_cache=True)
    await take("lock-step", by_them)
    return found


def table(found: list[dict[str, Any]]) -> str:
    """In Markdown; a ratio says how many times as fast ours is."""
    lines = [
        "| episodes | rollout | seconds | passes | of it in passes | tokens/s | ours is so many times as fast |",
        "|--:|---|--:|--:|--:|--:|--:|",
    ]
    for row in found:
        [ours] = [each for each in found if (each["rollout"], each["episodes"]) == ("ours", row["episodes"])]
        cells = [f"{row['episodes']}", row["rollout"], f"{row['seconds']:.1f}", f"{row['passes']:,}"]
        cells += [f"{row['slept'] / row['seconds']:.0%}", f"{row['tokens'] / row['seconds']:,.0f}"]
        lines.append(f"| {' | '.join([*cells, f'''{row['seconds'] / ours['seconds']:.2f}'''])} |")
    return "\n".join(lines)


def main() -> None:
    """Simulate, print a table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, nargs="+", default=[256, 1024], help="how many at once")
    parser.add_argument("--attempts", type=int, default=5, help="of each episode")
    parser.add_argument("--median", type=int, default=400, help="tokens of the median attempt")
    add_common_arguments(parser, "simulated_gpu.json")
    arguments = parser.parse_args()
    found = asyncio.run(simulate(arguments))
    print(f"SIMULATION (blocks of {BLOCK} tokens in the prefix cache)\n{table(found)}")
    write_figures(found, arguments.json)


if __name__ == "__main__":
    main()
