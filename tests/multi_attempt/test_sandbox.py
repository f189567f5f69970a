"""Programs of models in a real sandbox: none gets what it does not deserve, and none leaves anything."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hostile_programs import EXPECTED, PROGRAMS, program
from http_service import Handler, serving

from multi_attempt.tasks.programs.asserts import take_apart
from multi_attempt.tasks.programs.sandbox import (
    Bubblewrap,
    Limits,
    Programs,
    SandboxFailed,
    SandboxFusion,
    make_sandbox,
)
from multi_attempt.tasks.programs.trials import Outcome, Trials

LIMITS = Limits(seconds=1, memory_mb=512, processes=8, output_kb=64, files_mb=2)
NOTE = 60

needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


@pytest.fixture(scope="module")
def programs() -> Iterator[Programs]:
    programs = Programs(Bubblewrap(LIMITS), at_once=8)
    yield programs
    programs.close()


def trying(programs: Programs, code: str, *tests: str, setup: str = "") -> Outcome:
    return asyncio.run(Trials(programs, NOTE).asserts(code, tests, setup))


# ---- Hostile programs ----


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the machine has that no program may reach."""
    folder = tmp_path_factory.mktemp("machine")
    folder.chmod(0o777)
    (folder / "secret").write_text("a secret")
    for place in (folder, *folder.parents):
        if place.owner() == Path.home().owner() and place != Path("/"):
            place.chmod(place.stat().st_mode | 0o011)
    name = f"sandbox-test-{os.getpid()}"
    with socket.create_server(("0.0.0.0", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(f"\0{name}")
        local.listen()
        host = socket.gethostbyname(socket.gethostname())
        port = server.getsockname()[1]
        yield {
            **{"secret": folder / "secret", "folder": folder, "parent": os.getpid(), "port": port, "host": host},
            "abstract": name,
        }


@pytest.fixture(scope="module")
def remains(facts: dict[str, Any]) -> Any:
    """What of the machine a program may have left something in."""

    def look() -> dict[str, Any]:
        children = psutil.Process().children(recursive=True)
        # Others write here as well, but no file of these names, and none as these users.
        places = (facts["folder"], Path("/dev/shm"), Path("/tmp"), Path(os.__file__).parent, Path.home(), Path("/"))
        files = [file for place in places for file in place.iterdir()]
        return {
            "processes": [child for child in children if child.status() != psutil.STATUS_ZOMBIE],
            "users": [process for process in psutil.process_iter(["uids"]) if process.info["uids"].real in _users()],
            "zombies": [child for child in children if child.status() == psutil.STATUS_ZOMBIE],
            "files": [file for file in files if _is_left(file)],
            "open": sorted(os.listdir("/proc/self/fd")),
        }

    return look


def added(before: dict[str, Any], after: dict[str, Any]) -> dict[str, list[Any]]:
    """What is there now and was not; what went is no program's: other tests' workers end when they like."""
    return {kind: new for kind in after if (new := [thing for thing in after[kind] if thing not in before[kind]])}


def _is_left(file: Path) -> bool:
    try:
        return file.name in ("left", "link") or file.lstat().st_uid in _users()
    except FileNotFoundError:  # somebody else's, who removed it
        return False


def _users() -> range:
    return Bubblewrap._USERS


@pytest.fixture(scope="module")
def outcomes(programs: Programs, facts: dict[str, Any], remains: Any) -> dict[str, Outcome]:
    """What became of the hostile programs, and of an honest one, tried at the same time."""
    os.environ["SECRET_OF_THE_TEST"] = "a secret"
    trials = Trials(programs, NOTE)
    codes = {name: program(name, facts) for name in PROGRAMS} | {"honest": f"def f(x): return {EXPECTED}"}

    async def try_all() -> list[Outcome]:
        return await asyncio.gather(*[trials.asserts(code, [f"assert f(2) == {EXPECTED}"]) for code in codes.values()])

    asyncio.run(trials.asserts("", ["assert f(2)"]))  # threads and what they have open are made once
    before = remains()
    found = dict(zip(codes, asyncio.run(try_all()), strict=True))
    assert added(before, remains()) == {}
    del os.environ["SECRET_OF_THE_TEST"]
    return found


@needs_bubblewrap
@pytest.mark.parametrize("name", PROGRAMS)
def test_no_hostile_program_is_right(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    assert outcome.passed == [False]
    assert outcome.note


@needs_bubblewrap
def test_an_honest_one_beside_them_is_right(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["honest"] == Outcome([True])


@needs_bubblewrap
def test_what_the_program_could_see_would_be_found(programs: Programs, facts: dict[str, Any]) -> None:
    # So that the search for the expected value is one that finds.
    seen = f"assert f({EXPECTED}) == {EXPECTED}"
    assert trying(programs, program("looks for the answer", facts), seen).passed == [True]


@needs_bubblewrap
@pytest.mark.parametrize("name", ["reads a secret", "connects", "kills whom it can", "writes files", "becomes root"])
def test_without_root_it_is_the_same(facts: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    alone = Programs(Bubblewrap(LIMITS), at_once=1)
    hostile = trying(alone, program(name, facts), f"assert f(2) == {EXPECTED}")
    honest = trying(alone, f"def f(x): return {EXPECTED}", f"assert f(2) == {EXPECTED}")
    alone.close()
    assert (hostile.passed, honest.passed) == ([False], [True])


@needs_bubblewrap
@pytest.mark.skipif(os.geteuid() != 0, reason="without root, other processes of the user count on old kernels")
def test_processes_and_threads_are_bounded(programs: Programs) -> None:
    code = """
import os, threading, time
def f(start):
    count = 0
    try:
        while True:
            start()
            count += 1
    except (OSError, RuntimeError):
        return count
def forks(): return f(lambda: os.fork() or time.sleep(1000))
def threads(): return f(lambda: threading.Thread(target=time.sleep, args=(1000,), daemon=True).start())
"""
    # The program itself is one.
    assert trying(programs, code, f"assert forks() == {LIMITS.processes - 1}").passed == [True]
    assert trying(programs, code, f"assert threads() == {LIMITS.processes - 1}").passed == [True]


@needs_bubblewrap
def test_a_right_output_counts_only_after_a_good_end(programs: Programs) -> None:
    trials = Trials(programs, NOTE)
    codes = {
        "print(int(input()) * 2)": ([True, True], ""),
        "print(4)": ([True, False], "for the input '3' the output was '4\\n', expected '6\\n'"),
        "print(int(input()) * 2); 1 / 0": (
            [False, False],
            "for the input '2' the program ended with ZeroDivisionError: division by zero",
        ),
        "import sys\nprint(int(input()) * 2); sys.exit(0)": ([True, True], ""),
        "print(int(input()) * 2, flush=True)\nwhile True: pass": (
            [False, False],
            "for the input '2' the program ran out of time",
        ),
    }
    for code, wanted in codes.items():
        outcome = asyncio.run(trials.outputs(code, ["2", "3"], ["4", "6\n"]))
        assert (outcome.passed, outcome.note) == wanted


@needs_bubblewrap
def test_closing_ends_what_runs(remains: Any) -> None:
    alone = Programs(Bubblewrap(Limits(100, 512, 8, 64, 2)), at_once=2)
    before = remains()

    async def close_in_between() -> list[Any]:
        runs = asyncio.gather(*[alone.run("import time; time.sleep(1000)") for _ in range(4)], return_exceptions=True)
        while sum(child.name() == "bwrap" for child in psutil.Process().children()) < 2:
            await asyncio.sleep(0.05)
        await asyncio.to_thread(alone.close)
        return await runs

    first, second, *waiting = asyncio.run(close_in_between())
    assert first.ended == second.ended == "killed"
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in waiting)
    assert "processes" not in added(before, remains())


# ---- No sandbox ----


def test_without_bubblewrap_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        ValueError, match=r"no bwrap on this machine: install bubblewrap \(apt-get install bubblewrap; 0.8"
    ):
        make_sandbox(None, LIMITS, retries=0)


def test_a_bubblewrap_that_does_not_work_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create a new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    alone = Programs(Bubblewrap(LIMITS), at_once=1)
    with pytest.raises(ValueError, match="No permissions to create a new namespace; install bubblewrap"):
        alone.check()
    with pytest.raises(SandboxFailed, match="No permissions"):
        trying(alone, "def f(x): return 4", "assert f(2) == 4")
    alone.close()


# ---- SandboxFusion ----


class Fusion:
    """A server with SandboxFusion's interface, which runs what it is sent in bubblewrap, and has its bad days."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.faults: list[tuple[int, Any]] = []
        self.url = ""

    def answer(self, body: dict[str, Any]) -> tuple[int, Any]:
        self.requests.append(body)
        if self.faults:
            return self.faults.pop(0)
        run = Bubblewrap(LIMITS).run(body["code"], body["stdin"])
        status = {"finished": "Finished", "timeout": "TimeLimitExceeded"}.get(run.ended, "Error")
        result = {"status": status, "execution_time": 0.1, "return_code": run.status}
        result |= {"stdout": run.output, "stderr": run.errors}
        return 200, {"status": "Success" if run.well else "Failed", "message": "", "run_result": result}


@pytest.fixture
def fusion(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fusion]:
    monkeypatch.setattr(SandboxFusion, "_PAUSE_SECONDS", 0.01)
    fusion = Fusion()

    class Answers(Handler):
        def posted(self, body: Any) -> None:
            status, content = fusion.answer(body)
            self.reply(content, status)

    with serving(Answers) as address:
        fusion.url = f"{address}/run_code"
        yield fusion


@needs_bubblewrap
def test_sandbox_fusion_gives_the_same_verdicts(fusion: Fusion) -> None:
    remote = Programs(make_sandbox(fusion.url, LIMITS, retries=0), at_once=1)
    remote.check()
    right = trying(remote, "def f(x): return 2 * x", "assert f(2) == 4", "assert f(3) == 6")
    wrong = trying(remote, "def f(x): return 5", "assert f(2) == 4", "assert f(2) == 5")
    slow = trying(remote, "while True: pass", "assert f(2) == 4")
    outputs = asyncio.run(Trials(remote, NOTE).outputs("print(1 / int(input()))", ["1", "0"], ["1.0", "?"]))
    remote.close()
    assert right == Outcome([True, True])
    assert wrong == Outcome([False, True], "f(2) gave 5, expected 4")
    assert slow == Outcome([False], "the program ran out of time", "timeout")
    assert outputs.passed == [True, False]
    assert outputs.note == "for the input '0' the program ended with ZeroDivisionError: division by zero"
    sent = fusion.requests[0]
    assert (sent["language"], sent["run_timeout"], sent["memory_limit_MB"]) == ("python", 1, 512)


FAILURES = {
    "a gateway that timed out": (504, b"gateway"),
    "a server that fell over": (500, b"{}"),
    "a sandbox that did not work": (200, {"status": "SandboxError", "message": "no container", "run_result": None}),
    "no JSON": (200, b"<html>"),
    "no result": (200, {"status": "Success", "run_result": None}),
    "a list": (200, []),
}


@needs_bubblewrap
@pytest.mark.parametrize("name", FAILURES)
def test_what_a_server_did_not_run_is_repeated_and_then_an_error(fusion: Fusion, name: str) -> None:
    sandbox = SandboxFusion(fusion.url, LIMITS, retries=2)
    fusion.faults = [FAILURES[name]] * 2
    assert sandbox.run("print(4)", "").output == "4\n"
    fusion.faults = [FAILURES[name]] * 3
    with pytest.raises(SandboxFailed, match=rf"url = '{re.escape(fusion.url)}'.*asked 3 times"):
        sandbox.run("print(4)", "")
    assert len(fusion.requests) == 6


def test_a_server_that_is_not_there_is_an_error_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SandboxFusion, "_PAUSE_SECONDS", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    remote = Programs(make_sandbox(f"http://127.0.0.1:{port}/run_code", LIMITS, retries=1), at_once=1)
    with pytest.raises(ValueError, match=rf"multi_attempt.tasks.code.url = 'http://127.0.0.1:{port}.*refused.*2 times"):
        remote.check()
    remote.close()


def test_a_request_that_is_refused_is_not_repeated(fusion: Fusion) -> None:
    fusion.faults = [(404, b"")] * 2
    with pytest.raises(SandboxFailed, match="HTTP 404 Not Found"):
        SandboxFusion(fusion.url, LIMITS, retries=1).run("print(4)", "")
    assert len(fusion.requests) == 1


# ---- Tests taken apart ----


TAKEN_APART = {
    "assert f(2) == 4": ("asked_0 == 4", ["f(2)"], "4"),
    "assert 4 == f(2), 'a message'": ("4 == asked_0", ["f(2)"], "4"),
    "assert abs(f(2) - 4.0) < 0.1": ("abs(asked_0 - 4.0) < 0.1", ["f(2)"], ""),
    "assert math.isclose(f(2), 4.0)": ("math.isclose(asked_0, 4.0)", ["f(2)"], ""),
    "assert sorted(f([3, 1])) == [1, 3]": ("sorted(asked_0) == [1, 3]", ["f([3, 1])"], ""),
    "assert not f(3)": ("not asked_0", ["f(3)"], ""),
    "assert Solution().add(1, 2) == 3": ("asked_0 == 3", ["Solution().add(1, 2)"], "3"),
    "assert f(2)['a'].size == 1": ("asked_0 == 1", ["f(2)['a'].size"], "1"),
    "assert f(1) == g(1)": ("asked_0 == asked_1", ["f(1)", "g(1)"], ""),
    "assert all(x > 0 for x in f(3))": ("all((x > 0 for x in asked_0))", ["f(3)"], ""),
    "assert f(lambda x: x + 1) == 3": ("asked_0 == 3", ["f(lambda x: x + 1)"], "3"),
    "assert str.startswith(f(2), 'a')": ("str.startswith(asked_0, 'a')", ["f(2)"], ""),
    "s = Stack()\ns.push(1)\nassert s.pop() == 1": ("asked_0 == 1", ["s.pop()"], "1"),
    "x = [2, 1]\nsort(x)\nassert x == [1, 2]": ("asked_0 == [1, 2]", ["x"], "[1, 2]"),
}


@pytest.mark.parametrize("test", TAKEN_APART)
def test_only_the_program_is_asked_of_its_sandbox(test: str) -> None:
    (assertion,) = take_apart(test, "import math").asserts
    assert (assertion.check, assertion.asked, assertion.expected) == TAKEN_APART[test]


REFUSED = {
    "assert True": "asks nothing of the program",
    "assert sorted([2, 1]) == [1, 2]": "asks nothing of the program",
    "f(2)": "asserts must stand at the end",
    "assert f(2) == 4\nf(3)": "asserts must stand at the end",
    "for x in range(3):\n    assert f(x) == x": "in no loop or function",
    "assert f(2) == (": "is no Python",
    "assert all(f(x) > 0 for x in [1, 2])": "in which x changes; write an assert for each",
    "assert eval(f(2)) == 4": "eval may not be used in an assert",
    "assert f(2).startswith('a')": "would be the program's own word; write str.startswith",
    "assert f(2).__eq__(4)": "would be the program's own word",
    # What would be worked out where the program can see it, or say what came of it.
    "want = 4\nassert f(2) == want": "write the value into the assert",
    "v = [4]\nassert f(2) in v": "write the value into the assert",
    "v = [4]\nassert v.count(f(2))": "is no call of the program",
    "ok = f(2) == 4\nassert ok": "cannot stand before an assert",
    "ok = abs(f(2) - 4) < 1\nassert ok": "cannot stand before an assert",
    "ok = math.isclose(f(2), 4)\nassert ok": "cannot stand before an assert",
    "def check(x): return x == 4\nassert check(f(2))": "cannot stand before an assert",
    "check = lambda x: x == 4\nassert check(f(2))": "cannot stand before an assert",
    "import numpy\nassert numpy.isclose(f(2), 4)": "what needs no program can stand in `setup`",
}


@pytest.mark.parametrize("test", REFUSED)
def test_other_asserts_are_refused(test: str) -> None:
    with pytest.raises(ValueError, match=re.escape(REFUSED[test])):
        take_apart(test, "import math")


ANSWERS = {
    "4": ("4", True),
    "4.0": ("4", True),
    "True": ("1", True),
    "'4'": ("4", False),
    "[1, (2, {3: {4}})]": ("[1, (2, {3: {4}})]", True),
    "(1, 2)": ("[1, 2]", False),
    "b'ab'": ("b'ab'", True),
    "float('inf')": ("1e999", True),
    "float('nan')": ("0.0", False),
    "2 ** 20000": ("1 << 20000", True),
    "'\\ud800\\n\\0'": ("'\\ud800\\n\\0'", True),
    "collections.Counter('aab')": ("{'a': 2, 'b': 1}", True),
    "collections.namedtuple('P', 'x y')(1, 2)": ("(1, 2)", True),
    "(x for x in [1, 2])": ("[1, 2]", False),
    "object()": ("None", False),
    "f": ("None", False),
    "None": ("None", True),
    "frozenset([1])": ("{1}", True),
    "1 + 2j": ("2j + 1", True),
}


@needs_bubblewrap
def test_values_are_compared_as_python_compares_them(programs: Programs) -> None:
    code = "import collections\nVALUES = [" + ", ".join(f"lambda: {answer}" for answer in ANSWERS) + "]\n"
    code += "def f(n): return VALUES[n]()\n"
    tests = [f"assert f({number}) == {wanted}" for number, (wanted, _) in enumerate(ANSWERS.values())]
    outcome = trying(programs, code, *tests)
    assert dict(zip(ANSWERS, outcome.passed, strict=True)) == {
        answer: is_equal for answer, (_, is_equal) in ANSWERS.items()
    }


NOTES = {
    "def f(x): return 5": "f(2) gave 5, expected 4",
    "def f(x): return 'x' * 99": f"f(2) gave '{'x' * (NOTE - 1)}..., expected 4",
    "def f(x): return 1 / 0": "f(2) raised ZeroDivisionError: division by zero",
    "def f(x) return 4": "the program raised SyntaxError: expected ':' (program.py, line 1)",
    "g = 4": "f(2) raised NameError: name 'f' is not defined",
    "def f(x): return object()": "f(2) raised TypeError: it returned a object, which cannot be compared",
    "def f(x): return iter([1])": "f(2) gave [1], expected 4",
    "def f(x): return 10 ** 5000": "f(2) gave a value that is too long to be shown, expected 4",
}


@needs_bubblewrap
@pytest.mark.parametrize("code", NOTES)
def test_a_note_says_what_failed_first(programs: Programs, code: str) -> None:
    assert trying(programs, code, "assert f(2) == 4", "assert f(3) == 6").note == NOTES[code]


@needs_bubblewrap
def test_tests_have_a_setup_and_a_program_its_own_names(programs: Programs) -> None:
    code = "print('not asked for')\nclass Stack(list):\n    def push(self, x): self.append(x)\n"
    tests = ["s = Stack()\ns.push(round(math.pi))\nassert s.pop() == 3\nassert close(s.count(3), 0)", "assert s == []"]
    setup = "import math\ndef close(a, b): return abs(a - b) < 0.1"
    assert trying(programs, code, *tests, setup=setup) == Outcome([True, True])
