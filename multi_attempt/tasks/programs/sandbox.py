"""Where programs of models run: in bubblewrap on this machine, or on a SandboxFusion server.

Neither is ours, and nothing of a model runs anywhere else. Both are asked the same: run this program with this input,
and say what it wrote. What that is worth is decided outside, by those who ask (:mod:`multi_attempt.tasks.code`).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import select
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil

PROGRAM = "bwrap"
_REMEDY = (
    "install bubblewrap (apt-get install bubblewrap; 0.8 or newer), or name a SandboxFusion server in "
    "multi_attempt.tasks.code.url (https://github.com/bytedance/SandboxFusion); a "
    "model's programs never run without one"
)


@cache
def inside_text(name: str) -> str:
    """A script that runs in a sandbox, by its name in ``inside/``, of which nothing is ever imported."""
    return files("multi_attempt.tasks.programs").joinpath("inside", f"{name}.py").read_text("utf-8")


@dataclass(frozen=True)
class Limits:
    """What a program may take.

    Attributes:
        seconds: of a processor's time; by the clock four times as many and ten more, so that a busy machine changes no
            verdict.
        memory_mb: address space of each of its processes, in MiB.
        processes: processes and threads.
        output_kb: what it may write to its output, to its errors, and to any file, in KiB.
        files_mb: what its files may hold together, in MiB.
        open_files: files that a process may have open.
    """

    seconds: int
    memory_mb: int
    processes: int
    output_kb: int
    files_mb: int
    open_files: int = 64

    @property
    def patience(self) -> float:
        """Seconds by the clock."""
        return _START_SECONDS + 4 * self.seconds


@dataclass(frozen=True)
class Run:
    """How a program ended.

    Attributes:
        output: what it wrote to its standard output.
        errors: what it wrote to its standard error.
        ended: ``finished`` if it came to its own end, well or badly; else ``timeout``, or ``killed``.
        status: its exit status; 0 if it ended well.
    """

    output: str
    errors: str
    ended: str
    status: int

    @property
    def well(self) -> bool:
        """Whether it came to a good end."""
        return self.ended == "finished" and self.status == 0


class SandboxFailed(RuntimeError):
    """The sandbox itself did not work, so that nothing is known of the program."""


class Sandbox(Protocol):
    """Runs programs."""

    def run(self, program: str, entry: str) -> Run:
        """Run a Python program with this standard input; blocks.

        Raises:
            SandboxFailed: the sandbox did not work.
        """

    def stop(self) -> None:
        """End what runs."""


class Programs:
    """Programs run in a sandbox, some at once.

    Args:
        sandbox: where.
        at_once: how many.
    """

    def __init__(self, sandbox: Sandbox, at_once: int) -> None:
        self._sandbox = sandbox
        # Threads of our own, whatever event loop asks: bubblewrap ends with the thread that started it.
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="sandbox")

    async def run(self, program: str, entry: str = "") -> Run:
        """See :meth:`Sandbox.run`."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._sandbox.run, program, entry)

    def check(self) -> None:
        """Run a program.

        Raises:
            ValueError: that did not work; the message has the remedy.
        """
        try:
            run = self._sandbox.run("print(6 * 7)", "")
        except SandboxFailed as error:
            raise ValueError(str(error)) from error
        if not run.well or run.output != "42\n":
            raise ValueError(f"multi_attempt.tasks.code: print(6 * 7) did not print 42 in the sandbox, but {run}")

    def close(self) -> None:
        """End what runs, and start nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._sandbox.stop()
        self._threads.shutdown()


class Bubblewrap:
    """A fresh interpreter in bubblewrap's namespaces: no network, no other process, an empty environment.

    It sees itself and the system's libraries, read-only, and a folder in memory for files of its own. When its first
    process ends, or the one that started it, the kernel ends all others.

    Args:
        limits: what a program may take.

    Raises:
        ValueError: bubblewrap is not installed.
    """

    # As root a program becomes a user that nobody else is: the kernel limits processes by user, and never root's.
    _USERS = range(20_000, 60_000)

    def __init__(self, limits: Limits) -> None:
        found = shutil.which(PROGRAM)
        if found is None:
            raise ValueError(f"multi_attempt.tasks.code: there is no {PROGRAM} on this machine: {_REMEDY}")
        self._limits = limits
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        self._lock = threading.Lock()
        as_root = ("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
        as_user = ("--unshare-user", "--disable-userns", "--uid", _NOBODY, "--gid", _NOBODY)
        self._is_root = os.geteuid() == 0
        self._command = [
            found, *(as_root if self._is_root else as_user), "--unshare-pid", "--unshare-net", "--unshare-ipc",
            "--unshare-uts", "--unshare-cgroup-try", "--die-with-parent", "--new-session", "--as-pid-1", "--clearenv",
            *_interpreter(), "--dir", "/dev", "--dev-bind", "/dev/null", "/dev/null",
            "--size", str(limits.files_mb << 20), "--perms", "1777", "--tmpfs", "/tmp", "--chdir", "/tmp",
        ]  # fmt: skip

    def run(self, program: str, entry: str) -> Run:
        """See :class:`Sandbox`."""
        with _memory(program) as source, _memory(entry) as given, _memory() as output, _memory() as errors, \
                _memory() as report:  # fmt: skip
            command = [
                *self._command, "--perms", "0444", "--ro-bind-data", str(source), "/program.py", "--remount-ro", "/",
                "--json-status-fd", str(report), *self._interpreter_command(),
            ]  # fmt: skip
            process = self._start(command, stdin=given, stdout=output, stderr=errors, pass_fds=[source, report])
            try:
                in_time = _ends(process, self._limits.patience)
            finally:
                seconds = _end(process)
                with self._lock:
                    self._running.discard(process)
            written, said, reported = (_text(file, self._limits.output_kb) for file in (output, errors, report))
        # By bubblewrap's own word, which no program can write: that of a sandbox that stands ends with a status.
        if in_time and "exit-code" not in reported:
            raise SandboxFailed(f"multi_attempt.tasks.code: {said.strip() or process.returncode}; {_REMEDY}")
        killed = "timeout" if seconds > _NEARLY * self._limits.seconds else "killed"
        ended = "timeout" if not in_time else "finished" if process.returncode != _KILLED else killed
        return Run(written, said, ended, process.returncode)

    def _start(self, command: list[str], **files: Any) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopped:
                raise SandboxFailed("multi_attempt.tasks.code: the sandbox was closed")
            process = subprocess.Popen(command, env={}, start_new_session=True, **files)
            self._running.add(process)
            return process

    def stop(self) -> None:
        """See :class:`Sandbox`. Nothing runs after that."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                _kill(process)

    def _interpreter_command(self) -> list[str]:
        limits = self._limits
        bounds = (limits.seconds, limits.memory_mb << 20, limits.processes, limits.output_kb << 10)
        user = random.SystemRandom().choice(self._USERS) if self._is_root else 0
        arguments = map(str, (user, *bounds, limits.open_files))
        return [_executable(), "-I", "-S", "-c", inside_text("start"), *arguments]


_NOBODY = "65534"
_KILLED = 128 + 9  # what bubblewrap says of a first process that was killed
_NEARLY = 0.9  # of its seconds, after which a program was killed for them and nothing else
_GRACE_SECONDS = 5.0
_START_SECONDS = 10.0  # for a sandbox and an interpreter to begin, where others want the same cores


def _executable() -> str:
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def _interpreter() -> Iterator[str]:
    """What binds this interpreter without its environment, and the system's libraries, where they stand."""
    # Folders that bubblewrap makes by itself are for root alone.
    yield from ("--dir", "/usr", "--ro-bind", "/usr/lib", "/usr/lib", "--ro-bind-try", "/usr/lib64", "/usr/lib64")
    for folder in ("/lib", "/lib64"):
        if os.path.islink(folder):
            yield from ("--symlink", os.readlink(folder), folder)
        else:
            yield from ("--ro-bind-try", folder, folder)
    libraries = Path(sys.base_prefix).resolve() / "lib"
    for place in (libraries, Path(_executable())):
        if not place.is_relative_to("/usr/lib"):
            for parent in reversed(place.parents[:-1]):
                yield from ("--dir", str(parent))
            yield from ("--ro-bind", str(place), str(place))


@contextmanager
def _memory(content: str = "") -> Iterator[int]:
    """A file in memory, without a name, which ends with those who have it open."""
    file = os.memfd_create("sandbox")
    try:
        data = memoryview(content.encode("utf-8", "surrogatepass"))
        while data:
            data = data[os.write(file, data) :]
        os.lseek(file, 0, os.SEEK_SET)
        yield file
    finally:
        os.close(file)


def _text(file: int, most_kb: int) -> str:
    return os.pread(file, most_kb << 10, 0).decode("utf-8", "replace")


def _ends(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether a process ends in this time."""
    handle = os.pidfd_open(process.pid)
    try:
        poll = select.poll()  # not select(): a training process has more than 1024 open files
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(handle)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the first process of a sandbox, by which the kernel kills the others; bubblewrap then buries it and ends."""
    try:
        children = psutil.Process(process.pid).children()
        for child in children:
            child.kill()
    except psutil.NoSuchProcess:
        return  # it ended by itself
    if not children:  # it has not begun
        process.kill()


def _end(process: subprocess.Popen[bytes]) -> float:
    """End a sandbox that may still run; gives the seconds of a processor's time that it took."""
    if not _ends(process, 0):
        _kill(process)
        if not _ends(process, _GRACE_SECONDS):
            process.kill()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


@dataclass(frozen=True)
class SandboxFusion:
    """A SandboxFusion server, by its own HTTP interface, ``POST /run_code``, which verl's client speaks as well.

    Attributes:
        url: the address, as in ``http://sandbox:8080/run_code``.
        limits: what a program may take, as far as the server takes limits; processes and network are its own matter.
        retries: how often a request that was not answered, or not served, is repeated.
    """

    url: str
    limits: Limits
    retries: int

    _PAUSE_SECONDS = 1.0
    _MOST_BYTES = 1 << 24

    def run(self, program: str, entry: str) -> Run:
        """See :class:`Sandbox`."""
        for attempt in range(self.retries + 1):
            try:
                return self._read(self._ask(program, entry))
            except HTTPError as error:
                reason = f"HTTP {error.code} {error.reason}"
                if error.code < 500 and error.code not in _LATER:
                    break
            except (OSError, ValueError, KeyError, TypeError) as error:  # no connection, time-out, no such answer
                reason = f"{type(error).__name__}: {error}"
            if attempt < self.retries:
                time.sleep(self._PAUSE_SECONDS * 2**attempt)
        raise SandboxFailed(
            f"multi_attempt.tasks.code.url = {self.url!r}: the SandboxFusion server ran no program ({reason}), asked "
            f"{attempt + 1} times"
        )

    def stop(self) -> None:
        """See :class:`Sandbox`; requests end by their own time limit."""

    def _ask(self, program: str, entry: str) -> Any:
        seconds = self.limits.seconds
        body = {
            "code": program,
            "stdin": entry,
            "language": "python",
            "compile_timeout": seconds,
            "run_timeout": seconds,
            "memory_limit_MB": self.limits.memory_mb,
            "files": {},
            "fetch_files": [],
        }
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        request = Request(self.url, json.dumps(body).encode(), headers)
        with urlopen(request, timeout=seconds + self.limits.patience) as response:
            return json.loads(response.read(self._MOST_BYTES))

    def _read(self, answer: Any) -> Run:
        """What a program did, by the server's answer; ValueError if it did not run."""
        if answer["status"] not in ("Success", "Failed"):
            raise ValueError(f"{answer['status']}: {answer.get('message')}")
        result = answer["run_result"]
        ended = {"Finished": "finished", "TimeLimitExceeded": "timeout"}.get(result["status"], "killed")
        status = result.get("return_code")
        output, errors = (str(result.get(name) or "")[: self.limits.output_kb << 10] for name in ("stdout", "stderr"))
        return Run(output, errors, ended, 1 if status is None else int(status))


_LATER = (408, 409, 425, 429)  # statuses of HTTP after which a request may be repeated


def make_sandbox(url: str | None, limits: Limits, retries: int) -> Sandbox:
    """SandboxFusion by its address, or else bubblewrap.

    Raises:
        ValueError: there is neither.
    """
    return SandboxFusion(url, limits, retries) if url else Bubblewrap(limits)
