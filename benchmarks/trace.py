"""Grading beside generation, as a trace: the rollout's event loop never waits for the grader, and the engine goes on.

``python benchmarks/trace.py``: plays episodes in which one answer in eight takes math-verify tens of milliseconds, once
as the plugin does and once, for comparison, with the grader called on the event loop. Writes a trace of the first for
https://ui.perfetto.dev (one row an episode), and prints how long the event loop was held up, and how much of the
graders' time the engine had work in.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from engine import LONGEST, Engine, Work, answer_text, by_agent_loop, cpu_config, draw_work, open_engine
from omegaconf import DictConfig
from verl.workers.rollout.replica import TokenOutput

from multi_attempt.grading import Grader, Verdict

_HEARTBEAT_SECONDS = 0.001
_SLOW_EVERY = 8


@dataclass(frozen=True)
class Span:
    """Something that an episode waited for, in seconds since the beginning."""

    name: str
    episode: str
    start: float
    stop: float


@dataclass
class Trace:
    """What happened when."""

    begin: float = field(default_factory=time.perf_counter)
    spans: list[Span] = field(default_factory=list)
    beats: list[tuple[float, float]] = field(default_factory=list)

    @contextmanager
    def span(self) -> Any:
        """Record what runs inside, under the name that is put into the list it gives."""
        name: list[str] = []
        start = time.perf_counter() - self.begin
        yield name
        task = asyncio.current_task()
        assert task is not None
        self.spans.append(Span(name[0], task.get_name(), start, time.perf_counter() - self.begin))

    async def beat(self) -> None:
        """Note how much later than asked for the event loop comes back, again and again."""
        while True:
            start = time.perf_counter()
            await asyncio.sleep(_HEARTBEAT_SECONDS)
            self.beats.append((start - self.begin, time.perf_counter() - self.begin))

    def write(self, path: Path) -> None:
        """In Chrome's trace event format."""
        events = [
            {
                "name": span.name,
                "ph": "X",
                "pid": 0,
                "tid": int(span.episode.rsplit("-", 1)[-1]),
                "ts": span.start * 1e6,
                "dur": (span.stop - span.start) * 1e6,
            }
            for span in self.spans
        ]
        path.write_text(json.dumps({"traceEvents": events}))


@dataclass(frozen=True)
class Result:
    """What a trace comes to.

    Attributes:
        seconds: the whole rollout.
        math_verify_seconds: with at least one answer at math-verify.
        overlapped: the share of that in which the engine had an attempt to generate.
        late_median, late_longest: how much later than asked for the event loop came back while math-verify was at
            work, in seconds.
    """

    seconds: float
    math_verify_seconds: float
    overlapped: float
    late_median: float
    late_longest: float


def result(trace: Trace) -> Result:
    """The figures of a trace."""
    generated = _union([span for span in trace.spans if span.name == "generate"])
    graded = _union([span for span in trace.spans if span.name == "math-verify"])
    both = sum(_common(one, other) for one in graded for other in generated)
    seconds = sum(stop - start for start, stop in graded)
    late = [beat[1] - beat[0] - _HEARTBEAT_SECONDS for beat in trace.beats if any(_common(beat, one) for one in graded)]
    return Result(max(span.stop for span in trace.spans), seconds, both / seconds, statistics.median(late), max(late))


def _common(one: tuple[float, float], other: tuple[float, float]) -> float:
    return max(0.0, min(one[1], other[1]) - max(one[0], other[0]))


def _union(spans: Sequence[Span]) -> list[tuple[float, float]]:
    """The times in which at least one of the spans was open."""
    merged: list[tuple[float, float]] = []
    for span in sorted(spans, key=lambda span: span.start):
        if merged and span.start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], span.stop))
        else:
            merged.append((span.start, span.stop))
    return merged


async def traced(config: DictConfig, engine: Engine, work: Work, *, on_the_loop: bool) -> Trace:
    """A rollout, watched."""
    trace = Trace()
    generate, grade, grade_async = engine.generate, Grader.grade, Grader.grade_async

    async def watched_generate(*arguments: Any, **keywords: Any) -> TokenOutput:
        with trace.span() as name:
            name.append("generate")
            return await generate(*arguments, **keywords)

    async def watched_grade(grader: Grader, *case: Any) -> Verdict:
        with trace.span() as name:
            verdict = grade(grader, *case) if on_the_loop else await grade_async(grader, *case)
            name.append("math-verify" if verdict.method == "math-verify" else "grade")
            return verdict

    await engine.reset()
    heart = asyncio.create_task(trace.beat())
    with (
        mock.patch.object(engine, "generate", watched_generate),
        mock.patch.object(Grader, "grade_async", watched_grade),
    ):
        await by_agent_loop("multi_attempt", config, engine, work)
    heart.cancel()
    return trace


class SomeSlowAnswers:
    """Every eighth answer is one that the grader's own layers leave to math-verify; no two are the same."""

    def __init__(self) -> None:
        self._given = 0

    def __call__(self, length: int) -> str:
        self._given += 1
        if self._given % _SLOW_EVERY:
            return answer_text(length)
        return rf"\boxed{{\sum_{{k=1}}^{{{self._given}}} \frac{{1}}{{k^2}}}}"


async def run(arguments: argparse.Namespace) -> dict[str, Trace]:
    """Both rollouts, on answers that the grader has not seen before."""
    room = arguments.attempts * (LONGEST * arguments.median + 80)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with open_engine(folder, at_once=arguments.episodes, longest=room + 64) as engine:
            config = cpu_config(folder, f"data.max_response_length={room}", "multi_attempt.max_tokens_per_attempt=null")
            work = draw_work(arguments.episodes, arguments.attempts, median=arguments.median, seed=arguments.seed)
            await by_agent_loop("multi_attempt", config, engine, work)  # compiles for these lengths
            engine.answer = SomeSlowAnswers()
            return {
                "ours": await traced(config, engine, work, on_the_loop=False),
                "graded on the event loop": await traced(config, engine, work, on_the_loop=True),
            }


def main() -> None:
    """Trace, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--attempts", type=int, default=5)
    parser.add_argument("--median", type=int, default=24, help="tokens of the median attempt")
    parser.add_argument("--seed", type=int, default=0, help="of the lengths")
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/bench"), help="folder for trace.json, grading.json"
    )
    arguments = parser.parse_args()
    traces = asyncio.run(run(arguments))
    results = {name: result(trace) for name, trace in traces.items()}
    print("| | rollout, s | math-verify at work, s | of it beside generation | loop late, median ms | longest, ms |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, figures in results.items():
        print(
            f"| {name} | {figures.seconds:.2f} | {figures.math_verify_seconds:.2f} | {figures.overlapped:.0%} "
            f"| {figures.late_median * 1e3:.2f} | {figures.late_longest * 1e3:.1f} |"
        )
    arguments.output.mkdir(parents=True, exist_ok=True)
    traces["ours"].write(arguments.output / "trace.json")
    (arguments.output / "grading.json").write_text(json.dumps({name: asdict(each) for name, each in results.items()}))


if __name__ == "__main__":
    main()
