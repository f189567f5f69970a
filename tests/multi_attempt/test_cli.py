"""The command line, from outside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from multi_attempt.cli import COMMANDS, main


def multi_attempt(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "multi_attempt.cli", *arguments]
    return subprocess.run(command, input=given, capture_output=True)


def case(prediction: object, gold: object) -> bytes:
    return json.dumps({"prediction": prediction, "gold": gold}).encode()


# Each line, whether it is right, and what the reason begins with.
LINES: list[tuple[bytes, bool, str]] = [
    (case(r"\boxed{3}", "3"), True, ""),
    (case(r"\boxed{0.5}", "1/2"), True, ""),
    (case(r"\boxed{4}", "3"), False, ""),
    (b"", False, "not a case"),
    (case("no box", "3"), False, ""),
    (b"   ", False, "not a case"),
    (b"garbage", False, "not a case"),
    (b'{"prediction": "\\\\boxed{3}"', False, "not a case"),
    (b'{"prediction": "\\\\boxed{3}"}', False, "not a case"),
    (b'{"gold": "3"}', False, "not a case"),
    (b"[1, 2]", False, "not a case"),
    (b"null", False, "not a case"),
    (b"3", False, "not a case"),
    (case(3, "3"), False, "not a case"),
    (case(r"\boxed{3}", 3), False, "not a case"),
    (case(None, None), False, "not a case"),
    (b"\xff\xfe\x00\x80", False, "not a case"),
    (b"[" * 100_000, False, "not a case"),
    (case("\ud800 \0 \\boxed{\ud800}", "3"), False, "cannot read"),
    (case("\\boxed{" * 100_000, "3"), False, ""),
    (case(r"\boxed{3}", "3"), True, ""),
]


def test_grade_answers_every_line_in_order() -> None:
    finished = multi_attempt("grade", given=b"\n".join(line for line, _, _ in LINES) + b"\n")
    assert finished.returncode == 0, finished.stderr
    verdicts: list[dict[str, Any]] = [json.loads(line) for line in finished.stdout.splitlines()]
    assert [verdict["correct"] for verdict in verdicts] == [correct for _, correct, _ in LINES]
    for verdict, (_, _, reason) in zip(verdicts, LINES, strict=True):
        assert set(verdict) == {"correct", "answer", "method", "reason", "seconds"}
        assert verdict["reason"].startswith(reason)
        assert bool(verdict["reason"]) == bool(reason)


def test_grade_explains_to_a_person_how_it_read_and_who_decided() -> None:
    lines = [case(r"\boxed{x > 5}", r"(5,\infty)"), case("no box \ud800", "3"), b"garbage"]
    finished = multi_attempt("grade", "--explain", given=b"\n".join(lines))
    assert finished.returncode == 0, finished.stderr
    first, second, third = finished.stdout.decode().split("\n\n")
    assert [line.split(maxsplit=1)[0] for line in first.splitlines()] == ["answer", "read", "gold", "read", "verdict"]
    assert ">(x, 5)" in first
    assert "right, by structure" in first
    assert "none where one may stand" in second
    assert "wrong, by none" in second
    assert third.strip() == "not a case: JSONDecodeError"


@pytest.mark.parametrize("answer", ["1e4999", "-1e-4999", "1.5e4999", "10^{4999}"])
def test_grade_explains_a_number_that_python_does_not_write_out(answer: str) -> None:
    lines = [case(rf"\boxed{{{answer}}}", r"\pi"), case(r"\boxed{3}", "3")]
    finished = multi_attempt("grade", "--explain", given=b"\n".join(lines))
    assert finished.returncode == 0, finished.stderr
    first, second = finished.stdout.decode().strip().split("\n\n")
    assert "wrong, by" in first
    assert "error" not in first
    assert "right, by exact" in second


def test_grade_reads_the_answer_where_it_is_told_to() -> None:
    lines = [case("5 * 11 = 55. The answer is 55.", "55"), case("#### 56", "55"), case("55", "55"), b"garbage"]
    finished = multi_attempt("grade", "--answer", "hash_line final_statement", given=b"\n".join(lines))
    verdicts: list[dict[str, Any]] = [json.loads(line) for line in finished.stdout.splitlines()]
    assert [verdict["answer"] for verdict in verdicts] == ["55", "56", None, None]
    assert [verdict["correct"] for verdict in verdicts] == [True, False, False, False]
    explained = multi_attempt("grade", "--explain", "--answer", "last_number", given=case("It is **1/2**.", "0.5"))
    assert b"right, by number" in explained.stdout


def test_grade_takes_a_tolerance() -> None:
    lines = [
        json.dumps({"prediction": r"\boxed{4.3}", "gold": "4.2", "tolerance": tolerance}).encode()
        for tolerance in ("0.1", "", None, "some")
    ]
    finished = multi_attempt("grade", given=b"\n".join(lines))
    verdicts: list[dict[str, Any]] = [json.loads(line) for line in finished.stdout.splitlines()]
    assert [verdict["correct"] for verdict in verdicts] == [True, False, False, False]
    assert "tolerance = 'some'" in verdicts[3]["reason"]


def test_grade_takes_a_last_line_without_an_end() -> None:
    finished = multi_attempt("grade", given=case(r"\boxed{3}", "3") + b"\n" + case(r"\boxed{ 4 }", "4"))
    assert [json.loads(line)["correct"] for line in finished.stdout.splitlines()] == [True, True]


def test_grade_of_nothing_is_nothing() -> None:
    finished = multi_attempt("grade")
    assert (finished.returncode, finished.stdout) == (0, b"")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    finished = multi_attempt(command, "--help")
    assert finished.returncode == 0, finished.stderr
    assert f"usage: multi-attempt {command}".encode() in finished.stdout


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    output = capsys.readouterr().out
    assert all(command in output for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["nonsense"], "nonsense"),
        (["--nonsense"], "required: COMMAND"),
        (["grade", "--nonsense"], "--nonsense"),
        (["grade", "extra"], "extra"),
        (["grade", "--answer", "boxed hashes"], "--answer = 'boxed hashes': unknown 'hashes'"),
        (["report"], "required: RUN"),
        (["report", "/nowhere/at/all"], "/nowhere/at/all"),
        (["eval", "--model", "m"], "required: --data"),
        (["eval", "--model", "m", "--data", "d", "--attempts", "many"], "many"),
        (["eval", "--model", "m", "--data", "d", "--attempts", "0"], "--attempts = 0"),
        (["eval", "--model", "m", "--data", "d", "--prompts", "papers"], "papers"),
        (["eval", "--model", "m", "--server", "http://u", "--data", "/nowhere/d.jsonl"], "/nowhere/d.jsonl"),
    ],
)
def test_bad_argument_ends_with_status_2_and_the_reason(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: object = main(arguments)
    except SystemExit as stopped:  # argparse ends the process itself
        status = stopped.code
    assert status == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "multi-attempt" in captured.err
    assert captured.out == ""


def test_bad_argument_ends_the_process_with_status_2() -> None:
    finished = multi_attempt("grade", "--nonsense")
    assert finished.returncode == 2
    assert b"--nonsense" in finished.stderr
    assert finished.stdout == b""


def test_error_of_a_command_shows_no_traceback(tmp_path: Path) -> None:
    finished = multi_attempt("report", str(tmp_path))
    assert finished.returncode == 2
    assert str(tmp_path).encode() in finished.stderr
    assert b"Traceback" not in finished.stderr
