"""The grader: right verdicts, whatever it is given, and never later than its deadline."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multi_attempt.grading import NO_ANSWER, Grader, Verdict, grade, normalize

# Long enough for an honest first case on a busy machine, short enough to run into a few times.
DEADLINE = 3.0

# Evaluating it would take longer than anybody waits, while holding the interpreter lock.
HOSTILE = "9^{9^{9}}"


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    grader = Grader(deadline=DEADLINE)
    yield grader
    grader.close()


def ascii_start(value: object) -> str:
    """A short name for a parameter of any length."""
    return ascii(value)[:20]


def worker_pid(grader: Grader) -> int | None:
    process = grader._workers[0]._process
    return None if process is None else process.pid


def running_worker_pid(grader: Grader) -> int:
    """The worker's process id, after a case that it had to decide."""
    assert grader.grade("0.5", "1/2").correct
    pid = worker_pid(grader)
    assert pid is not None
    return pid


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


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("3", "3"),
        (" 3 .", "3"),
        ("$3$", "3"),
        (r"\dfrac{1}{2}", r"\frac{1}{2}"),
        (r"\tfrac 1 2", r"\frac12"),
        (r"\left( 1,\, 2 \right)", "(1,2)"),
        (r"\displaystyle x \; y", "xy"),
        ("0.5", "0.5"),
        # Commands that merely begin like one that is removed.
        (r"\leftarrow", r"\leftarrow"),
        (r"\rightarrow", r"\rightarrow"),
        (r"\dfraction", r"\dfraction"),
    ],
)
def test_normalisation_removes_only_what_has_no_meaning(answer: str, normal: str) -> None:
    assert normalize(answer) == normal


@given(st.text(alphabet=r"\lefright frac{}()123.,$ "))
def test_normalisation_leaves_no_space_and_no_dollar_sign_in_any_text(answer: str) -> None:
    assert not set(normalize(answer)) & {" ", "$"}


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
    assert worker_pid(grader) is None


@pytest.mark.parametrize("answer", [None, "", "  \n"])
def test_no_answer_is_wrong_without_a_worker(answer: str | None) -> None:
    grader = Grader(deadline=DEADLINE)
    verdict = grader.grade(answer, "3")
    assert (verdict.correct, verdict.method, verdict.answer) == (False, "none", answer)
    assert worker_pid(grader) is None


@pytest.mark.parametrize("answer", [".", "$", r"\,", "$.$"])
def test_answer_that_says_nothing_equals_no_gold_answer(grader: Grader, answer: str) -> None:
    assert not grader.grade(answer, "").correct


@pytest.mark.parametrize(
    ("answer", "gold", "correct"),
    [
        ("0.5", r"\frac{1}{2}", True),
        ("1/2", "0.5", True),
        (r"\frac{2}{4}", r"\frac12", True),
        ("x+1", "1+x", True),
        ("2x + 2", "2(x+1)", True),
        (r"\{1, 2\}", r"\{2, 1\}", True),
        ("(1, 2)", "(1,2.0)", True),
        (r"\sqrt{8}", r"2\sqrt{2}", True),
        ("1,000", "1000", True),
        ("4", "5", False),
        ("x+1", "x-1", False),
        ("(1, 2)", "(2, 1)", False),
        (r"\leftarrow", r"\rightarrow", False),
        # Naming many answers, or leaving the box, does not help.
        ("1, 2, 3, 4, 5", "4", False),
        ("4 or 5", "4", False),
        (r"5} \boxed{4", "4", False),
    ],
)
def test_worker_decides_what_differs_in_form(grader: Grader, answer: str, gold: str, correct: bool) -> None:
    verdict = grader.grade(answer, gold)
    assert (verdict.correct, verdict.reason) == (correct, "")
    assert verdict.answer == answer


def test_deadline_kills_the_worker_and_the_next_case_is_right(grader: Grader) -> None:
    killed = running_worker_pid(grader)
    verdict = grader.grade(HOSTILE, "5")
    assert (verdict.correct, verdict.method, verdict.reason) == (False, "math-verify", "timeout")
    # It had the deadline to itself, and killing it took no other deadline.
    assert DEADLINE <= verdict.seconds < 2 * DEADLINE
    assert not is_running(killed)
    assert running_worker_pid(grader) != killed


def test_worker_serves_many_cases(grader: Grader) -> None:
    pid = running_worker_pid(grader)
    for number in range(2, 20):
        assert grader.grade(f"{number}/2", str(number / 2)).correct
        assert not grader.grade(f"{number}/2", str(number)).correct
    assert worker_pid(grader) == pid


def test_worker_killed_between_cases_is_replaced(grader: Grader) -> None:
    killed = running_worker_pid(grader)
    os.kill(killed, signal.SIGKILL)
    assert wait_until_gone(killed)
    assert running_worker_pid(grader) != killed


def test_worker_killed_during_a_case_is_replaced(grader: Grader) -> None:
    killed = running_worker_pid(grader)
    verdicts: list[Verdict] = []
    thread = threading.Thread(target=lambda: verdicts.append(grader.grade(HOSTILE, "5")))
    thread.start()
    time.sleep(DEADLINE / 10)
    os.kill(killed, signal.SIGKILL)
    thread.join()
    assert [verdict.correct for verdict in verdicts] == [False]
    assert verdicts[0].reason in ("crash", "timeout")
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
        (r"So it is \boxed{0.5}.", True, "math-verify"),
        (r"So it is \boxed{2}.", False, "math-verify"),
        (r"\boxed{0.5} or \boxed{2}", False, "math-verify"),
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


def test_threads_share_a_grader(grader: Grader) -> None:
    verdicts: dict[int, Verdict] = {}

    def work(number: int) -> None:
        verdicts[number] = grader.grade(f"{number}/2", str(number / 2) if number % 2 else "1000")

    running_worker_pid(grader)
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
    verdict = grader.grade("0.25", "1/4")
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
    verdict = await grader.grade_async(HOSTILE, "5")
    ticker.cancel()
    assert (verdict.correct, verdict.reason) == (False, "timeout")
    # A hundred on an idle machine; a blocked loop has one or none.
    assert ticks >= 10


async def test_event_loop_gets_the_same_verdicts(grader: Grader) -> None:
    cases = [("0.5", "1/2"), ("3", "3"), ("4", "5"), (None, "3"), ("1/4", "0.25")]
    verdicts = await asyncio.gather(*(grader.grade_async(answer, gold) for answer, gold in cases))
    assert [verdict.correct for verdict in verdicts] == [True, True, False, False, True]
    assert [verdict.method for verdict in verdicts] == ["math-verify", "exact", "math-verify", "none", "math-verify"]
    assert [verdict.answer for verdict in verdicts] == [answer for answer, _ in cases]


def test_several_workers_serve_at_the_same_time() -> None:
    grader = Grader(deadline=DEADLINE, workers=2)
    grader.warm_up()
    assert len({worker._process.pid for worker in grader._workers if worker._process is not None}) == 2
    for worker in grader._workers:  # wait until both have imported what they need
        assert worker.verify("0.5", "1/2", DEADLINE).correct
    hostile = threading.Thread(target=grader.grade, args=(HOSTILE, "5"))
    hostile.start()
    assert grader.grade("0.5", "1/2").correct
    # The other case has its own worker, and is not done.
    assert hostile.is_alive()
    grader.close()
    hostile.join()


def test_close_leaves_no_process() -> None:
    grader = Grader(deadline=DEADLINE)
    pid = running_worker_pid(grader)
    grader.close()
    assert not is_running(pid)
    assert worker_pid(grader) is None
    grader.close()


@pytest.mark.parametrize("last_words", ["", "os.kill(os.getpid(), signal.SIGKILL)"], ids=["exit", "killed"])
def test_worker_ends_with_its_parent(last_words: str) -> None:
    program = f"""
import os, signal
from multi_attempt.grading import Grader
grader = Grader(deadline={10 * DEADLINE})
assert grader.grade("0.5", "1/2").correct
print(grader._workers[0]._process.pid, flush=True)
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
def test_impossible_grader_is_refused_by_name_and_value(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grader(**arguments)
