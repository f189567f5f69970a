"""The watchdog ends a run that waits for something dead, and leaves one alone that only takes its time."""

from __future__ import annotations

import asyncio
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
import zmq
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError, RayTaskError

from verl_ext.training import watchdog as watchdog_module
from verl_ext.training.watchdog import KilledForMemory, PartDied, RunFault, RunStalled, Watchdog, lost_part

LOOK, SOON, LONG = 0.02, 0.3, 60.0


class Actor:
    """A Ray actor that gives each look the next of some answers, the last for ever: True, an error, None for busy."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.looks = list(answers), 0
        self.__ray_ready__ = SimpleNamespace(remote=self._look)

    def _look(self) -> Any:
        self.looks += 1
        return SimpleNamespace(answer=self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])


@pytest.fixture(autouse=True)
def ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(look: Any) -> Any:
        if isinstance(look.answer, Exception):
            raise look.answer
        return look.answer

    def wait(looks: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        assert timeout == 0
        return [look for look in looks if look.answer is not None], []

    monkeypatch.setattr(watchdog_module, "ray", SimpleNamespace(get=get, wait=wait))


@contextmanager
def watching(**parts: Actor) -> Iterator[Watchdog]:
    """A watchdog that never ends the process of the tests."""
    former = signal.getsignal(signal.SIGUSR2)
    watchdog = Watchdog(look_seconds=LOOK, grace_seconds=1e6)
    watchdog.watch(parts)
    watchdog.start()
    try:
        yield watchdog
    finally:
        watchdog._stopped.set()  # nothing is raised after this
        signal.signal(signal.SIGUSR2, former)


def wait_for_ever() -> None:
    time.sleep(LONG)


def test_a_dead_part_is_told_of_wherever_the_trainer_waits() -> None:
    dead = ActorDiedError()
    with watching(healthy=Actor(True), server=Actor(True, True, dead)), pytest.raises(PartDied) as told:
        wait_for_ever()
    for part in ("server died", "died unexpectedly", "goes on from the last finished checkpoint"):
        assert part in str(told.value)


# In the form of Ray 2.60.
OUT_OF_MEMORY = OutOfMemoryError(
    "2 worker(s) were killed. Memory on the node (IP: 127.0.0.1, ID: 00) was 22.45GB used / 23.54GB limit (0.953493)\n"
    "Selected to kill: (Worker with no lease granted: pid=1, actual memory used=0.06GB, worker ID=01)\n"
    "Selected to kill: (Actor(02): job ID=01, task name=vllm_server_0_0:CPUvLLMHttpServer.__init__, pid=2)\n"
    "Selected to kill: (Task: job ID=01, task name=WorkerDict.__init__, required resources={}, pid=3)\n"
    "(Actor(04): job ID=01, task name=TaskRunnerV1.__init__, required resources={}, pid=4)\n"
)


def test_a_part_killed_for_memory_is_told_as_that_with_what_helps() -> None:
    with watching(server=Actor(True, OUT_OF_MEMORY)), pytest.raises(KilledForMemory) as told:
        wait_for_ever()
    begin = "server was killed by Ray, because the memory of its node was nearly full: 22.45GB of 23.54GB were used. "
    assert str(told.value).startswith(begin + "Ray chose CPUvLLMHttpServer, WorkerDict. To hold less")
    for part in (
        *("ppo_max_token_len_per_gpu", "agent.num_workers", "VLLM_CPU_KVCACHE_SPACE", "optimizer_offload"),
        *("RAY_memory_usage_threshold", "goes on from the last finished checkpoint", "Ray says: 2 worker(s)"),
    ):
        assert part in str(told.value)


@pytest.mark.parametrize(
    "error",
    [OUT_OF_MEMORY, RayTaskError("update", "its traceback", OUT_OF_MEMORY).as_instanceof_cause()],
    ids=["the part itself", "one that the part called"],
)
def test_a_kill_for_memory_is_told_where_the_trainer_calls(error: OutOfMemoryError) -> None:
    with watching() as watchdog, pytest.raises(KilledForMemory) as told, watchdog.explaining():
        raise error
    assert "a part of the run was killed by Ray" in str(told.value)
    assert "Ray says: 2 worker(s)" in str(told.value)
    assert told.value.__cause__ is error


def test_other_words_of_ray_leave_the_figures_out() -> None:
    assert "was nearly full. To hold less" in str(lost_part(OutOfMemoryError("other words")))


def test_an_error_that_comes_of_a_dead_part_is_told_by_that_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog_module, "_ANSWER_SECONDS", LOOK)
    watchdog = Watchdog()
    watchdog.watch({"healthy": Actor(True), "rollout server 0": Actor(True, OUT_OF_MEMORY)})  # at the second look
    failed = RuntimeError("16 of 16 episodes failed")
    with pytest.raises(KilledForMemory, match=r"^rollout server 0 was killed") as told, watchdog.explaining():
        raise failed
    assert told.value.__cause__ is failed


@pytest.mark.parametrize(
    "error",
    [
        ValueError("of something else"),
        RunStalled("told already"),
        ActorDiedError.from_task_error(RayTaskError("__init__", "why it did not start", ValueError())),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_another_kind_stays_what_it_is(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(watchdog_module, "_ANSWER_SECONDS", LOOK)
    watchdog = Watchdog()
    watchdog.watch({"healthy": Actor(True), "busy": Actor(None)})
    with pytest.raises(type(error)) as told, watchdog.explaining():
        raise error
    assert told.value is error


RAY_KILLS = """
import time
import ray
from verl_ext.training.watchdog import Watchdog

settings = {"memory_usage_threshold": 1e-4, "memory_monitor_refresh_ms": 100}
ray.init(address="local", num_cpus=1, include_dashboard=False, _system_config=settings)

@ray.remote
class Part:
    pass

watchdog, part = Watchdog(look_seconds=0.5, grace_seconds=60), Part.remote()
try:
    with watchdog.explaining():
        ray.get(part.__ray_ready__.remote())
        while True:
            ray.get(part.__ray_ready__.remote())
except Exception as error:
    print(f"call: {type(error).__name__}: {error}")
watchdog.watch({"trainer worker 0": part})
watchdog.start()
try:
    time.sleep(60)
except Exception as error:
    print(f"look: {type(error).__name__}: {error}")
"""


@pytest.mark.engine
def test_a_kill_by_rays_own_monitor_is_told() -> None:
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # a short path: Ray's sockets are in it
        environment = {**os.environ, "RAY_TMPDIR": folder}
        command = [sys.executable, "-c", RAY_KILLS]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=2 * LONG)
    told = r"KilledForMemory: {} was killed by Ray, .*nearly full: [\d.]+GB of [\d.]+GB were used\. Ray chose Part\."
    for found, name in (("call", "a part of the run"), ("look", "trainer worker 0")):
        assert re.search(f"{found}: {told.format(name)}", ended.stdout), ended.stdout + ended.stderr


@pytest.mark.parametrize(
    "answers", [(True,), (None,), (ActorUnavailableError("no connection", b"0" * 16), True)], ids=str
)
def test_a_part_that_answers_or_is_busy_or_out_of_reach_for_a_while_is_not_dead(answers: tuple[Any, ...]) -> None:
    actor = Actor(*answers)
    with watching(server=actor):
        time.sleep(SOON)
    assert actor.looks >= 1
    assert (actor.looks == 1) == (answers == (None,))  # a busy one is asked once, and answers when it can


class Server(ThreadingHTTPServer):
    """Answers each request with the next of some status codes, and the last for ever."""

    def __init__(self, *codes: int) -> None:
        super().__init__(("127.0.0.1", 0), Health)
        self.codes, self.looks = list(codes), 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/health"


class Health(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.looks += 1
        codes = self.server.codes
        self.send_response(codes.pop(0) if len(codes) > 1 else codes[0])
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def test_a_dead_engine_of_a_living_server_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # that nobody asks
    with Server(200, 503) as server, watching() as watchdog:
        watchdog.watch_engines({"rollout engine 3": server.url})
        with pytest.raises(PartDied, match=r"rollout engine 3 died.* answers 503"):
            wait_for_ever()
        server.shutdown()


@pytest.mark.parametrize("code", [200, 404, 500, 502])
def test_an_engine_that_is_not_said_to_be_dead_is_left_alone(code: int) -> None:
    with Server(code) as server, watching() as watchdog:
        watchdog.watch_engines({"rollout engine 0": server.url})
        time.sleep(SOON)
        server.shutdown()
    assert server.looks > 1


def test_a_server_out_of_reach_is_left_to_ray() -> None:
    with Server(200) as server:
        url = server.url
        server.shutdown()
    with watching() as watchdog:
        watchdog.watch_engines({"rollout engine 0": url})
        time.sleep(SOON)


def test_what_takes_longer_than_it_may_is_told_of() -> None:
    with watching() as watchdog:
        watchdog.expect("the rollout of step 3", SOON)
        with pytest.raises(RunStalled) as told:
            wait_for_ever()
    for part in ("the rollout of step 3", "more than 0 s", "multi_attempt.stall_timeout", "episode.timeout"):
        assert part in str(told.value)


def test_what_moves_is_left_alone() -> None:
    with watching() as watchdog:
        for step in range(6):
            watchdog.expect(f"step {step}", SOON)
            time.sleep(SOON / 2)


def test_a_stopped_watchdog_tells_nothing() -> None:
    with watching(server=Actor(ActorDiedError())) as watchdog:
        watchdog.stop()
        watchdog.expect("the end", 0)
        time.sleep(SOON)


def test_a_watchdog_that_fails_itself_says_so() -> None:
    with watching(server=Actor(KeyError("a bug"))), pytest.raises(RunFault, match=r"watchdog itself failed.*a bug"):
        wait_for_ever()


DEAF = """
import time
from verl_ext.training.watchdog import RunFault, Watchdog
watchdog = Watchdog(look_seconds=0.05, grace_seconds=0.5)
watchdog.start()
watchdog.expect("a trainer that does not listen", 0.1)
while True:
    try:
        time.sleep(60)
    except RunFault:
        pass
"""


def test_a_trainer_that_does_not_stop_is_ended_with_its_stack() -> None:
    ended = subprocess.run([sys.executable, "-c", DEAF], capture_output=True, text=True, timeout=LONG)
    assert ended.returncode == 1
    for part in (
        "The run ends: RunStalled: a trainer that does not listen",
        "did not stop within 0.5 s",
        'File "<string>", line 9',
    ):
        assert part in ended.stderr


def wait_for_a_lock() -> None:
    queue.Queue[None]().get()


def wait_in_an_event_loop() -> None:
    asyncio.run(asyncio.sleep(LONG))


def wait_for_a_socket() -> None:  # TransferQueue's kind
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        socket.recv()


@pytest.mark.parametrize("wait", [wait_for_ever, wait_for_a_lock, wait_in_an_event_loop, wait_for_a_socket])
def test_every_kind_of_wait_is_interrupted(wait: Callable[[], None]) -> None:
    with watching() as watchdog:
        watchdog.expect("a wait", SOON)
        with pytest.raises(RunStalled):
            wait()
