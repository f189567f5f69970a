"""The grader: right verdicts, whatever it is given, and never later than its deadline."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import ANY

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

import multi_attempt.grading.grader
import multi_attempt.grading.pool
from multi_attempt.grading import NO_ANSWER, Grader, Verdict, grade, normalize, read_tolerance
from multi_attempt.grading.pool import Reply

# Long enough for an honest first case on a busy machine, short enough to run into a few times.
DEADLINE = 3.0

# Only math-verify reads a sum. Evaluating this one would take longer than anybody waits, holding the interpreter lock.
HOSTILE = r"\sum_{k=1}^{1} 9^{9^{9}}"
GREEDY = r"\prod_{k=1}^{3} 2^{2^{36}}"
STOPPED = ("timeout", "stall")  # on a machine that is busy enough, its time runs out by the clock
SUM = r"\sum_{k=1}^{10} k"


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    grader = Grader(deadline=DEADLINE)
    yield grader
    grader.close()


@pytest.fixture(scope="module")
def patient_grader() -> Iterator[Grader]:
    """Where the verdict is asked for, and not how long it takes."""
    grader = Grader(deadline=10 * DEADLINE)
    yield grader
    grader.close()


def ascii_start(value: object) -> str:
    """A short name for a parameter of any length."""
    return ascii(value)[:20]


def running_worker_pid(grader: Grader) -> int:
    """The worker's process id, after a case that it had to decide."""
    unread = rf"\sum_{{k=1}}^{{10}} (k + {next(_numbers)} - {next(_numbers) - 1})"  # new each time: verdicts are kept
    assert grader.grade(unread, "55").method == "math-verify"
    [pid] = grader.processes()
    return pid


_numbers = itertools.count(1)
_golds = map(str, itertools.count(100))


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until_gone(pid: int) -> bool:
    end = time.monotonic() + 10 * DEADLINE
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not is_running(pid)


@given(st.text(alphabet=r"\lefright frac{}()123., ").filter(lambda answer: not answer.endswith("\\")))
def test_normalisation_leaves_math_marks_and_outer_spaces_out(answer: str) -> None:
    assert normalize(f" ${answer}$ ") == normalize(answer) == normalize(answer).strip()


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("3", "3"),
        (" 3 ", "3"),
        ("3.", "3"),
        ("$3$", "3"),
        (r"\dfrac{1}{2}", r"\frac{1}{2}"),
        (r"\left(1, 2\right)", "(1,2)"),
        (r"\text{blue}", r"\text{blue}"),
    ],
)
def test_same_text_is_decided_without_a_worker(answer: str, gold: str) -> None:
    grader = Grader(deadline=DEADLINE)
    verdict = grader.grade(answer, gold)
    assert (verdict.correct, verdict.method, verdict.reason) == (True, "exact", "")
    assert grader.processes() == []


@pytest.mark.parametrize("answer", [None, "", "  \n"])
def test_no_answer_is_wrong_without_a_worker(answer: str | None) -> None:
    grader = Grader(deadline=DEADLINE)
    verdict = grader.grade(answer, "3")
    assert (verdict.correct, verdict.method, verdict.answer) == (False, "none", answer)
    assert grader.processes() == []


@pytest.mark.parametrize("answer", [".", "$", r"\,", "$.$"])
def test_answer_that_says_nothing_equals_no_gold_answer(grader: Grader, answer: str) -> None:
    assert not grader.grade(answer, "").correct


@pytest.mark.parametrize(
    ("answer", "gold", "correct"),
    [
        (SUM, "55", True),
        (SUM, "54", False),
        (r"\int_0^1 x dx", r"\frac12", True),
        (r"\lim_{x \to 0} \frac{\sin x}{x}", "1", True),
        (r"\begin{vmatrix} 2 & 1 \\ 1 & 2 \end{vmatrix}", "3", True),
        (
            r"\begin{pmatrix}1\\2\end{pmatrix}+\begin{pmatrix}1\\1\end{pmatrix}",
            r"\begin{pmatrix}2\\3\end{pmatrix}",
            True,
        ),
        (r"\prod_{k=1}^{4} k", "24", True),
        (r"F_n = \sum_{k=0}^{n-1} F_{n-k-1} F_k", r"F_n = \sum_{k=0}^{n-1} F_k F_{n-k-1}", True),
        (r"F_n = \sum_{k=0}^{n-2} F_{n-k-1} F_k", r"F_n = \sum_{k=0}^{n-1} F_k F_{n-k-1}", False),
    ],
)
def test_worker_decides_what_no_layer_reads(patient_grader: Grader, answer: str, gold: str, correct: bool) -> None:
    verdict = patient_grader.grade(answer, gold)
    assert (verdict.correct, verdict.method, verdict.reason) == (correct, "math-verify", "")
    assert verdict.answer == answer


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (r"\leftarrow", r"\rightarrow"),
        (r"5\text{ to }6", "5"),
        (r"5 \zzz 6", "5"),
        (r"\sum_{k=1}^{10} k \text{ or } 5 \text{ to } 6", "55"),
        (r"\sum_{k=1}^{10} k \zzz 3", "55"),
    ],
)
def test_worker_is_not_asked_what_it_does_not_know(answer: str, gold: str) -> None:
    grader = Grader()
    verdict = grader.grade(answer, gold)
    assert (verdict.correct, verdict.reason[:11], grader.processes()) == (False, "cannot read", [])


@pytest.mark.parametrize(("answer", "gold", "method"), [
    ("3", " 3.", "exact"),
    ("0.5", "1/2", "number"),
    ("1,2", "2,1", "structure"),
    ("x>5", r"(5,\infty)", "structure"),
    ("2x + 2", "2(x+1)", "expression"),
    (r"\sqrt{8}", r"2\sqrt{2}", "expression"),
    ("no solution", r"\text{No solution}", "text"),
])  # fmt: skip
def test_verdict_says_which_layer_decided(answer: str, gold: str, method: str) -> None:
    grader = Grader()
    verdict = grader.grade(answer, gold)
    assert (verdict.correct, verdict.method, verdict.reason) == (True, method, "")
    assert grader.processes() == []


@pytest.mark.parametrize("answer", [r"5} \boxed{55", r"\sum} \boxed{55", "55} {", r"\sum_{k=1}^{10} k} + {0"])
def test_answer_that_leaves_its_box_is_wrong(answer: str) -> None:
    grader = Grader()
    assert not grader.grade(answer, "55").correct
    assert grader.processes() == []


def test_a_fault_of_the_grader_is_logged_and_counts_as_wrong(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(multi_attempt.grading.grader, "decide", fail)
    verdict = Grader().grade("3\ud800", "4")
    assert (verdict.correct, verdict.method, verdict.reason) == (False, "error", "ZeroDivisionError")
    assert "answer '3\\ud800', gold answer '4'" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.parametrize(
    ("answer", "gold", "tolerance", "correct"),
    [
        ("4.3", "4.2", "1e-1", True),
        (r"\frac{43}{10}", "4.2", "0.1", True),
        ("4", "4.1", "0.1", True),
        (r"\sqrt{17}", "4.2", "0.1", True),
        ("x = 4.15", "4.2", "0.1", True),
        ("4.3", "4.2", "", False),
        ("4.31", "4.2", "1e-1", False),
        ("-4.2", "4.2", "0.1", False),
        ("1.1, 2.1", "1, 2", "0.1", True),
        ("1.1, 2.2", "1, 2", "0.1", False),
        ("1.1, 2.2", "1, 2", "0.2, 0.1", False),
        ("4.2x", "4.3x", "1", False),
        ("1.595", "1.6", "1%", True),
        ("1.58", "1.6", "1%", False),
        ("4.53e33", "4.5e33", "1%", True),
        (r"4.48 \times 10^{33}", "4.5e33", "1%", True),
        ("4.5e34", "4.5e33", "1%", False),
        ("1005", "1000", "1%", False),  # a whole number is not rounded
        ("1005.0", "1000", "1%", False),
        ("0.001", "0.0", "1%", False),
    ],
)
def test_a_tolerance_lets_numbers_differ(answer: str, gold: str, tolerance: str, correct: bool) -> None:
    grader = Grader()
    assert grader.grade(answer, gold, tolerance).correct is correct
    assert grader.processes() == []


def test_a_verdict_is_kept_for_its_own_tolerance() -> None:
    grader = Grader()
    tolerances = ("", "0.1", "", "0.01", "0.1")
    verdicts = [grader.grade("4.3", "4.2", tolerance).correct for tolerance in tolerances]
    assert verdicts == [False, True, False, False, True]


@pytest.mark.parametrize("text", ["some", "-1", "0", "0%", "1e-1000", "1%, 0.1", "inf", "nan", "1/3"])
def test_impossible_tolerance_is_refused_by_its_value(text: str) -> None:
    with pytest.raises(ValueError, match=r"tolerance = .*percentage"):
        read_tolerance(text)


def test_what_is_too_large_is_wrong_and_says_so() -> None:
    verdict = Grader().grade("9^{9^{9}}", "5")
    assert (verdict.correct, verdict.method, verdict.reason) == (False, "number", "too large: bits")


def test_a_worker_is_asked_once_for_the_same_case(patient_grader: Grader) -> None:
    first = patient_grader.grade(SUM + "+1", "56")
    patient_grader.close()
    assert patient_grader.grade(SUM + "+1", "56") == replace(first, seconds=ANY)
    assert patient_grader.processes() == []


def test_deadline_kills_and_the_next_case_is_right(grader: Grader) -> None:
    worker = running_worker_pid(grader)
    verdict = grader.grade(HOSTILE + "+1", "5")
    assert (verdict.correct, verdict.method) == (False, "math-verify")
    assert verdict.reason in STOPPED
    # It had the deadline to itself: of the processor's time, so longer by the clock on a busy machine.
    assert verdict.seconds >= DEADLINE
    # The process that ran it is gone; the one that watched it serves on.
    assert psutil.Process(worker).children() == []
    assert running_worker_pid(grader) == worker


def test_memory_limit_kills_and_the_next_case_is_right() -> None:
    grader = Grader(deadline=10 * DEADLINE, memory_mb=200)
    verdict = grader.grade(GREEDY, "5")
    assert (verdict.correct, verdict.method, verdict.reason) == (False, "math-verify", "memory")
    assert grader.grade(SUM, "55").correct
    grader.close()


def test_worker_serves_many_cases(patient_grader: Grader) -> None:
    pid = running_worker_pid(patient_grader)
    for number in range(2, 12):
        assert patient_grader.grade(rf"\sum_{{k=1}}^{{{number}}} k", str(number * (number + 1) // 2)).correct
        assert not patient_grader.grade(rf"\sum_{{k=1}}^{{{number}}} k", str(number)).correct
    assert running_worker_pid(patient_grader) == pid


def test_worker_whose_child_is_killed_decides_the_case(grader: Grader) -> None:
    [child] = psutil.Process(running_worker_pid(grader)).children()
    child.kill()
    assert grader.grade(SUM + "+2", "57").correct


def test_machine_that_stands_still_changes_no_verdict() -> None:
    grader = Grader(deadline=DEADLINE / 6)
    [child] = psutil.Process(running_worker_pid(grader)).children()
    child.suspend()  # as if its time went to others: it would never answer
    verdict = grader.grade(SUM + "+3", "58")
    grader.close()
    assert (verdict.correct, verdict.reason) == (True, "")


def test_stall_is_told_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    grader = Grader()
    replies = [Reply(False, "stall"), Reply(False, "stall"), Reply(True, "")]
    monkeypatch.setattr(multi_attempt.grading.pool._Worker, "ask", lambda *_: replies.pop(0))
    verdicts = [grader.grade(SUM, "55") for _ in range(3)]
    assert [(verdict.correct, verdict.reason) for verdict in verdicts] == [(False, "stall"), (True, ""), (True, "")]


def test_order_of_questions_changes_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first text, once normalised, is spelt like the second before it is."""
    pair = ("= = " + SUM, "= " + SUM)

    def verdicts(answers: Sequence[str]) -> dict[str, bool]:
        grader = Grader()
        monkeypatch.setattr(grader._pool, "ask", lambda answer, gold: Reply(answer.startswith("="), ""))
        return {answer: grader.grade(answer, "1").correct for answer in answers}

    assert verdicts(pair) == verdicts(pair[::-1]) == {pair[0]: True, pair[1]: False}


def test_worker_killed_between_cases_is_replaced(grader: Grader) -> None:
    killed = running_worker_pid(grader)
    os.kill(killed, signal.SIGKILL)
    assert wait_until_gone(killed)
    assert running_worker_pid(grader) != killed


def test_worker_killed_during_a_case_is_replaced(grader: Grader) -> None:
    killed = running_worker_pid(grader)
    verdicts: list[Verdict] = []
    thread = threading.Thread(target=lambda: verdicts.append(grader.grade(HOSTILE, next(_golds))))
    thread.start()
    time.sleep(DEADLINE / 10)
    os.kill(killed, signal.SIGKILL)
    thread.join()
    assert [verdict.correct for verdict in verdicts] == [False]
    assert verdicts[0].reason in ("crash", *STOPPED)
    assert running_worker_pid(grader) != killed


@pytest.mark.parametrize(
    "answer",
    [
        "\0",
        "3\0",
        "\ud800",
        "\udfff3",
        "\\",
        "{",
        "}",
        "}{",
        "$$$",
        "%",
        "\r\n3\u2028",
        '{"answer": "3"}\n{"answer": "3"}',
        "__import__('os')._exit(1)",
        r"\input{/etc/passwd}",
        r"\begin{pmatrix}1&2\\3",
        r"\frac{1}{0}",
        r"\int_0^\infty",
        "{" * 10_000 + "3" + "}" * 10_000,
        "9" * 1_000_000,
    ],
    ids=ascii_start,
)
def test_odd_answer_is_wrong_and_harmless(grader: Grader, answer: str) -> None:
    verdict = grader.grade(answer, "5")
    assert (verdict.correct, verdict.answer) == (False, answer)
    assert grader.grade("0.5", "1/2").correct


@pytest.mark.parametrize("gold", ["", "\0", "\ud800", "(" * 1_000_000], ids=ascii_start)
def test_odd_gold_answer_is_harmless(grader: Grader, gold: str) -> None:
    assert not grader.grade("5", gold).correct
    assert grader.grade("0.5", "1/2").correct


@pytest.mark.parametrize(
    ("prediction", "correct", "method"),
    [
        (r"So it is \boxed{\frac{1}{2}}.", True, "exact"),
        (r"So it is \boxed{0.5}.", True, "number"),
        (r"So it is \boxed{2}.", False, "number"),
        (r"\boxed{0.5}. No, \boxed{2}", False, "number"),
        (r"\boxed{2}. No, \boxed{0.5}", True, "number"),
        (r"\boxed{2} or \boxed{0.5}", False, "structure"),
        (r"\boxed{0.5} and \boxed{2}", False, "structure"),
        (r"So it is \frac{1}{2}.", False, "none"),
        (r"So it is \boxed{\frac{1}{2}", False, "none"),
        (r"So it is \boxed{}.", False, "none"),
        ("", False, "none"),
        ("\0\ud800", False, "none"),
        ("\\boxed{" * 10_000, False, "none"),
        ("x" * 1_000_000, False, "none"),
    ],
    ids=ascii_start,
)
def test_grade_takes_the_answer_from_the_last_box(prediction: str, correct: bool, method: str) -> None:
    verdict = grade(prediction, r"\frac{1}{2}")
    assert (verdict.correct, verdict.method) == (correct, method)


def test_no_answer_has_the_verdict_of_that_name() -> None:
    verdict = grade("no box", "3")
    assert (verdict.correct, verdict.answer, verdict.method, verdict.reason) == (
        NO_ANSWER.correct,
        NO_ANSWER.answer,
        NO_ANSWER.method,
        NO_ANSWER.reason,
    )


def test_threads_share_a_grader(patient_grader: Grader) -> None:
    verdicts: dict[int, Verdict] = {}

    def work(number: int) -> None:
        verdicts[number] = patient_grader.grade(f"{number}/2", str(number / 2) if number % 2 else "1000")

    running_worker_pid(patient_grader)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(2, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: verdict.correct for number, verdict in verdicts.items()} == {
        number: number % 2 == 1 for number in range(2, 10)
    }


def test_worker_outlives_the_thread_that_started_it() -> None:
    grader = Grader(deadline=DEADLINE)
    thread = threading.Thread(target=running_worker_pid, args=(grader,))
    thread.start()
    thread.join()
    verdict = grader.grade(SUM, "55")
    grader.close()
    assert (verdict.correct, verdict.reason) == (True, "")


async def test_event_loop_runs_on_during_a_hostile_case(grader: Grader) -> None:
    running_worker_pid(grader)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(DEADLINE / 100)
            ticks += 1

    ticker = asyncio.create_task(tick())
    verdict = await grader.grade_async(HOSTILE, next(_golds))
    ticker.cancel()
    assert not verdict.correct
    assert verdict.reason in STOPPED
    # A hundred on an idle machine; a blocked loop has one or none.
    assert ticks >= 10


async def test_event_loop_gets_the_same_verdicts(patient_grader: Grader) -> None:
    cases = [(SUM, "55"), ("3", "3"), ("4", "5"), (None, "3"), ("1/4", "0.25")]
    verdicts = await asyncio.gather(*(patient_grader.grade_async(answer, gold) for answer, gold in cases))
    assert [verdict.correct for verdict in verdicts] == [True, True, False, False, True]
    assert [verdict.method for verdict in verdicts] == ["math-verify", "exact", "number", "none", "number"]
    assert [verdict.answer for verdict in verdicts] == [answer for answer, _ in cases]


def test_several_workers_serve_at_the_same_time() -> None:
    grader = Grader(deadline=10 * DEADLINE, workers=2)
    grader.warm_up()
    assert len(set(grader.processes())) == 2
    hostile = threading.Thread(target=grader.grade, args=(HOSTILE, "5"))
    hostile.start()
    assert grader.grade(SUM, "55").correct
    # The other case has its own worker, and is not done.
    assert hostile.is_alive()
    for pid in grader.processes():
        os.kill(pid, signal.SIGKILL)
    hostile.join()
    grader.close()


def test_close_leaves_no_process() -> None:
    grader = Grader(deadline=DEADLINE)
    pid = running_worker_pid(grader)
    grader.close()
    assert not is_running(pid)
    assert grader.processes() == []
    grader.close()


@pytest.mark.parametrize("last_words", ["", "os.kill(os.getpid(), signal.SIGKILL)"], ids=["exit", "killed"])
def test_worker_ends_with_its_parent(last_words: str) -> None:
    program = f"""
import os, signal
from multi_attempt.grading import Grader
grader = Grader(deadline={10 * DEADLINE})
assert grader.grade(r"{SUM}", "55").correct
print(*grader.processes(), flush=True)
{last_words}
"""
    finished = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert wait_until_gone(int(finished.stdout))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"deadline": 0}, "grader.deadline = 0"),
        ({"deadline": -1.0}, "grader.deadline = -1.0"),
        ({"deadline": float("nan")}, "grader.deadline = nan"),
        ({"deadline": float("inf")}, "grader.deadline = inf"),
        ({"workers": 0}, "grader.workers = 0"),
        ({"memory_mb": 0}, "grader.memory_mb = 0"),
    ],
)
def test_impossible_grader_is_refused_by_name_and_value(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grader(**arguments)
