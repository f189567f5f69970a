"""Ours against math-verify, on the same cases in the same run: accuracy, time for a case, cases a second, layers.

``python benchmarks/grading.py [FILE ...]``: files of JSON lines with ``prediction``, ``gold`` and ``expected`` (is the
prediction equal to the gold?). Without files, the cases of the project's own rule table. Errors are counted by these
labels, and again after the labels that ``benchmarks/wrong_labels.yaml`` names, with reasons, are turned.
``--json FILE`` writes all figures, ``--disagreements`` lists the cases on which ours and the labels differ.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import logging
import multiprocessing
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from multi_attempt.answers import boxed
from multi_attempt.grading import Grader, grade

_WRONG_LABELS = Path(__file__).parent / "wrong_labels.yaml"
_RULES = Path(__file__).parents[1] / "tests" / "multi_attempt" / "equality_rules.yaml"


@dataclass(frozen=True)
class Case:
    """A labelled case."""

    source: str
    prediction: str
    gold: str
    expected: bool

    @property
    def key(self) -> str:
        """What names the case without its text, which is not ours to give."""
        return hashlib.sha256(json.dumps([self.gold, boxed(self.prediction)]).encode()).hexdigest()[:16]


def corrected(cases: Sequence[Case]) -> list[Case]:
    """The cases with the labels turned that are known to be wrong."""
    verdicts = {
        key: label["equal"] for label in yaml.safe_load(_WRONG_LABELS.read_text("utf-8")) for key in label["cases"]
    }
    return [replace(case, expected=verdicts.get(case.key, case.expected)) for case in cases]


def read_cases(files: Sequence[Path]) -> list[Case]:
    """The cases of all files, or of the rule table if there are none."""
    if not files:
        return [
            Case("rule table", rf"\boxed{{{answer}}}", gold, key != "different")
            for rule in yaml.safe_load(_RULES.read_text(encoding="utf-8"))
            for key in ("equal", "judged", "different")
            for gold, *answers in rule.get(key, [])
            for answer in answers
        ]
    cases = []
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").rstrip("\n").split("\n"), 1):
            try:
                row = json.loads(line)
                cases.append(Case(file.name, row["prediction"], row["gold"], row["expected"]))
            except (ValueError, KeyError) as error:
                sys.exit(f"{file}, line {number}: {error!r}; need prediction, gold and expected")
    return cases


def ours(case: Case) -> bool:
    """Our verdict."""
    return grade(case.prediction, case.gold).correct


def math_verify(case: Case) -> bool:
    """math-verify's, used as its README does: both sides parsed, the gold answer as LaTeX."""
    from math_verify import parse, verify

    gold = case.gold if "$" in case.gold or "boxed" in case.gold else f"${case.gold}$"
    return bool(verify(parse(gold), parse(case.prediction)))


GRADERS: dict[str, Callable[[Case], bool]] = {"ours": ours, "math-verify": math_verify}


def measure(grader: Callable[[Case], bool], cases: Sequence[Case]) -> tuple[list[bool], list[float]]:
    """Each case's verdict, and its seconds."""
    verdicts, seconds = [], []
    for case in cases:
        start = time.perf_counter()
        verdicts.append(grader(case))
        seconds.append(time.perf_counter() - start)
    return verdicts, seconds


def _grade_share(name: str, cases: Sequence[Case], ready: Any, go: Any) -> None:
    logging.disable(logging.CRITICAL)
    grader = GRADERS[name]
    grader(Case("", r"\boxed{\sum_{k=1}^{2} k}", "3", True))  # imports
    ready.release()
    go.wait()
    for case in cases:
        grader(case)


def cases_a_second(name: str, cases: Sequence[Case], processes: int) -> float:
    """Throughput with the cases dealt out to so many processes, all of them warm."""
    context = multiprocessing.get_context("spawn")
    ready, go = context.Semaphore(0), context.Event()
    shares = [cases[number::processes] for number in range(processes)]
    workers = [context.Process(target=_grade_share, args=(name, share, ready, go)) for share in shares]
    for worker in workers:
        worker.start()
    for _ in workers:
        ready.acquire()
    start = time.perf_counter()
    go.set()
    for worker in workers:
        worker.join()
    return len(cases) / (time.perf_counter() - start)


async def longest_block(cases: Sequence[Case]) -> float:
    """The longest that grading all cases at once held up an event loop, in seconds."""
    grader = Grader()
    grader.grade(r"\sum_{k=1}^{2} k", "3")
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - start)

    async def grade_one(case: Case) -> None:
        await asyncio.sleep(0)
        await grader.grade_async(boxed(case.prediction), case.gold)

    watcher = asyncio.create_task(watch())
    for case in cases:
        await grade_one(case)
    watcher.cancel()
    grader.close()
    return longest


def error_table(cases: Sequence[Case], verdicts: dict[str, list[bool]]) -> list[tuple[str, int, Any, Any]]:
    """Source, cases, and each grader's errors; the last row for all sources."""
    table: list[tuple[str, int, Any, Any]] = []
    for source in [*dict.fromkeys(case.source for case in cases), "all"]:
        chosen = [index for index, case in enumerate(cases) if source in (case.source, "all")]
        shown = [cases[index] for index in chosen]
        mine, theirs = (errors(shown, [found[index] for index in chosen]) for found in verdicts.values())
        table.append((source, len(chosen), mine, theirs))
    return table


def errors(cases: Sequence[Case], verdicts: Sequence[bool]) -> tuple[int, int]:
    """How many are falsely wrong, and how many falsely right."""
    pairs = [(case.expected, verdict) for case, verdict in zip(cases, verdicts, strict=True)]
    return pairs.count((True, False)), pairs.count((False, True))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--disagreements", action="store_true")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    cases = read_cases(arguments.files)
    for grader in GRADERS.values():
        grader(Case("", r"\boxed{\sum_{k=1}^{2} k}", "3", True))  # imports, a worker

    measured = {name: measure(grader, cases) for name, grader in GRADERS.items()}
    verdicts = {name: found for name, (found, _) in measured.items()}
    truth = corrected(cases)
    turned = sum(case != other for case, other in zip(cases, truth, strict=True))
    by_label, by_truth = error_table(cases, verdicts), error_table(truth, verdicts)
    print(f"Errors (false wrong / false right) by label, and with {turned} wrong labels turned\n")
    print(f"{'':32}{'cases':>7}{'ours':>9}{'math-verify':>13}{'ours':>9}{'math-verify':>13}")
    for (source, count, *labelled), (_, _, *true) in zip(by_label, by_truth, strict=True):
        mine, theirs, mine_true, theirs_true = (f"{wrong}/{right}" for wrong, right in (*labelled, *true))
        print(f"{source:32}{count:7}{mine:>9}{theirs:>13}{mine_true:>9}{theirs_true:>13}")

    figures: dict[str, Any] = {"cases": len(cases), "errors_by_label": by_label, "errors": by_truth}
    for name, (_, seconds) in measured.items():
        ordered = sorted(seconds)
        figures[name] = {
            "median_ms": 1e3 * statistics.median(ordered),
            "p99_ms": 1e3 * ordered[int(0.99 * len(ordered))],
            "max_ms": 1e3 * ordered[-1],
            "cases_a_second": {count: cases_a_second(name, cases, count) for count in (1, 2)},
        }
    print(f"\n{'':28}{'ours':>9}{'math-verify':>13}{'ratio':>8}")
    for label, pick in (
        ("ms a case, median", lambda found: found["median_ms"]),
        ("ms a case, p99", lambda found: found["p99_ms"]),
        ("ms a case, longest", lambda found: found["max_ms"]),
        ("cases a second, 1 process", lambda found: found["cases_a_second"][1]),
        ("cases a second, 2 processes", lambda found: found["cases_a_second"][2]),
    ):
        mine, theirs = (pick(figures[name]) for name in GRADERS)
        ratio = theirs / mine if label.startswith("ms") else mine / theirs
        print(f"{label:28}{mine:9.3g}{theirs:13.3g}{ratio:7.0f}x")

    layers = Counter(grade(case.prediction, case.gold).method for case in cases)
    figures["layers"] = {layer: count / len(cases) for layer, count in layers.most_common()}
    print("\nShare decided by each layer\n")
    for layer, share in figures["layers"].items():
        print(f"{layer:28}{share:9.1%}")
    figures["longest_block_ms"] = 1e3 * asyncio.run(longest_block(cases))
    print(f"\nLongest that the event loop was held up: {figures['longest_block_ms']:.1f} ms")

    if arguments.disagreements:
        print("\nWhere ours and the label differ")
        for case, verdict in zip(cases, measured["ours"][0], strict=True):
            if verdict is not case.expected:
                answer = ascii((boxed(case.prediction) or "")[-80:])
                print(f"{case.source}: gold {case.gold[:80]!a}, answer {answer}: ours {verdict}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
