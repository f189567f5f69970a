"""The grader runs nothing that it is given, and hostile answers leave neither processes nor memory behind.

``GRADER_CASES=10000`` makes the last test a long one: ``make fuzz``.
"""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from test_equality import GOLDS, HOSTILE

from multi_attempt.grading import Grader, grade

# Python that leaves a file behind, if anything evaluates it.
PROBES = [
    "__import__('os').system('touch {file}')",
    "(1,open('{file}','w'))",
    "open('{file}','w').close()",
    "[open('{file}','w') for x in (1,)]",
    "exec(\"open('{file}','w')\")",
    "(lambda: open('{file}','w'))()",
    "Symbol('x', open('{file}','w'))",
    "1 if open('{file}','w') else 2",
    "1\n__import__('pathlib').Path('{file}').touch()",
]

# Where model text may stand: alone, as an answer or as the gold one, and in what only math-verify reads.
WRAPPERS = [
    "{probe}",
    r"\text{{{probe}}}",
    r"\sum_{{k=1}}^{{2}} {probe}",
    r"\sum_{{k=1}}^{{{probe}}} k",
    r"\int_0^1 {probe} dx",
    r"\begin{{vmatrix}} {probe} & 1 \\ 1 & 2 \end{{vmatrix}}",
    r"\operatorname{{{probe}}}(1) + \sum_{{k=1}}^{{2}} k",
    r"x_{{{probe}}} + \sum_{{k=1}}^{{2}} k",
]


@pytest.fixture(scope="module")
def grader() -> Grader:
    return Grader(deadline=10.0)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_nothing_in_an_answer_is_run(wrapper: str, tmp_path: Path, grader: Grader) -> None:
    file = tmp_path / "ran"
    for probe in PROBES:
        text = wrapper.format(probe=probe.format(file=file))
        grader.grade(text, "55")
        grader.grade(r"\sum_{k=1}^{10} k", text)
        grade(rf"\boxed{{{text}}}", text)
        assert not file.exists(), probe
    assert grader.grade(r"\sum_{k=1}^{10} k", "55").correct


@pytest.mark.parametrize("probe", PROBES)
def test_the_probes_work(probe: str, tmp_path: Path) -> None:
    """What they are probes for: evaluating them does leave a file."""
    file = tmp_path / "ran"
    program = f"""
from sympy import Symbol
for run in (eval, exec):
    try:
        run({probe.format(file=file)!r})
    except Exception as error:
        print(error)
"""
    subprocess.run([sys.executable, "-c", program])
    assert file.exists()


@pytest.mark.parametrize(
    "attempt",
    [
        "sympy.sympify(text)",
        "sympy.S(text)",
        "sympy.Number(text)",
        "sympy.Integer(1) + sympy.sympify(text)",
        "sympy.parse_expr(text)",
        "sympy.Symbol('x').subs('x', text)",
        "eval(text)",
        "exec(text)",
        "open(file, 'w')",
        "os.system('touch ' + file)",
        "subprocess.run(['touch', file])",
        "pathlib.Path(file).touch()",
    ],
)
def test_the_worker_could_not_run_a_string_or_write_a_file_if_it_tried(attempt: str, tmp_path: Path) -> None:
    file = tmp_path / "ran"
    program = f"""
import os, pathlib, subprocess, sys, sympy
from sympy.core.sympify import converter
from multi_attempt.grading import worker
converter[str] = worker._number
def attempt(text, file):
    {attempt}
code = attempt
text, file = {PROBES[1].format(file=file)!r}, {str(file)!r}
sys.addaudithook(worker._refuse)
try:
    code(text, file)
except (PermissionError, sympy.SympifyError, ValueError) as error:
    print("refused:", type(error).__name__)
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert finished.stdout.startswith("refused"), finished.stdout + finished.stderr
    assert not file.exists()


def test_sympy_takes_numbers_from_strings_in_the_worker() -> None:
    program = """
import sympy
from sympy.core.sympify import converter
from multi_attempt.grading import worker
converter[str] = worker._number
print(*(float(sympy.Number(text)) for text in ("12", "0.5", ".5", "1e3", "10.")))
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.split() == ["12.0", "0.5", "0.5", "1000.0", "10.0"]


_TOKENS = [
    *r"\frac \sqrt \pi \infty \cup \cap \pm \sin \log \binom \circ \sum_{k=1}^ \int_0^1 \lim_{x\to0} \overline".split(),
    *r"\left( \right) \begin{pmatrix} \end{pmatrix} \text{ \boxed{ \{ \} \\ & $ % ! ^ _ { }".split(),
    *"( ) [ ] | + - * / = < , ; 1 2 9 10^ 9^{9^{9}} 1e9 x n e i f( dx and or \0 \ud800".split(" "),
]  # fmt: skip


def test_hostile_cases_leave_no_process_and_no_memory_behind() -> None:
    count = int(os.environ.get("GRADER_CASES", "600"))
    dice = random.Random(0)
    grader = Grader(deadline=0.2, workers=1, memory_mb=300)
    hostile = list(HOSTILE.values())

    def case() -> tuple[str, str]:
        if dice.random() < 0.2:
            return dice.choice(hostile), dice.choice(GOLDS)
        return "".join(dice.choices(_TOKENS, k=dice.choice([2, 5, 15, 50]))), dice.choice(GOLDS)

    for _ in range(count // 10):  # what is made once: imports, caches
        grader.grade(*case())
    [worker] = grader.processes()
    before = _resident_mb(os.getpid()), _resident_mb(worker)
    for _ in range(count):
        grader.grade(*case())
    assert grader.grade("1/2", "0.5").correct
    [worker] = grader.processes()
    # A case that leaves anything behind leaves it ten thousand times; the allocator's own play is some megabytes.
    assert _resident_mb(os.getpid()) - before[0] < 30
    assert _resident_mb(worker) - before[1] < 30
    assert len(psutil.Process(worker).children()) <= 1
    grader.close()
    assert not psutil.pid_exists(worker)
    assert psutil.Process().children(recursive=True) == _other_children


_other_children: list[psutil.Process] = []


@pytest.fixture(autouse=True)
def _processes_of_other_tests() -> None:
    _other_children[:] = psutil.Process().children(recursive=True)


def _resident_mb(pid: int) -> float:
    gc.collect()
    return float(psutil.Process(pid).memory_info().rss) / 2**20
