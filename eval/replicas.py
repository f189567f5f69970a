"""vLLM in several processes of one machine, each on GPUs of its own (``multi-attempt eval --replicas``).

Each process has a whole engine, as :class:`multi_attempt.evaluation.engines.InProcess` starts it; tokens go to it and
come back through a pipe. The dialogues are here.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any

from multi_attempt.connection import EngineLost
from multi_attempt.evaluation.balance import opened_together
from multi_attempt.evaluation.engines import Continue, Generated, InProcess, MakeStream, Partner, TokenStream
from multi_attempt.model_settings import DialogueSettings

ALL = "all"
"""As many replicas as there are GPUs for."""

VISIBLE = "CUDA_VISIBLE_DEVICES"

# The options of vLLM's engine by which it takes more than one GPU.
_SIZES = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")

_STARTED = -1  # the number of the first message of a replica; attempts count from 0
_SECONDS_TO_END = 60.0
_SECONDS_BETWEEN_LOOKS = 1.0

# What a replica knows of this process would be of no use to it: CUDA, which may have been touched here, above all.
_PROCESSES = get_context("spawn")


@dataclass(frozen=True)
class Replicas:
    """Several engines of the same model on this machine.

    Attributes:
        engine: what each of them is.
        devices: for each its GPUs, as ``CUDA_VISIBLE_DEVICES`` names them; None on a machine without.
    """

    engine: InProcess
    devices: tuple[str | None, ...]

    def prepare(self, model: str, dialogue: DialogueSettings) -> Partner:
        """As :meth:`InProcess.prepare`."""
        return self.engine.prepare(model, dialogue)

    @asynccontextmanager
    async def open(self, partner: Partner) -> AsyncIterator[MakeStream]:
        """Start all, and end them.

        Raises:
            EngineLost: one does not start.
        """
        replicas: list[_Replica] = []
        engines = {self._name(number): self._opened(number, partner, replicas) for number in range(len(self.devices))}
        async with opened_together(engines) as make_stream:
            try:
                yield make_stream
            finally:
                for replica in replicas:  # which all take their seconds to end at the same time
                    replica.end()

    def _name(self, number: int) -> str:
        devices = self.devices[number]
        return f"replica {number + 1} of {len(self.devices)}" + (f" (GPU {devices})" if devices else "")

    @asynccontextmanager
    async def _opened(self, number: int, partner: Partner, replicas: list[_Replica]) -> AsyncIterator[MakeStream]:
        vocabulary, context = partner.vocabulary, partner.context
        assert vocabulary is not None
        assert context is not None
        arguments = (partner.model, context, frozenset(vocabulary.chat.end_ids))
        replica = _Replica(self.engine, self.devices[number], arguments)
        replicas.append(replica)
        try:
            await replica.started
            yield lambda request: TokenStream(vocabulary, replica.continue_, request, context)
        finally:
            await replica.ended()


def device_groups(replicas: str, options: Mapping[str, Any]) -> tuple[str | None, ...]:
    """The GPUs of each replica.

    Args:
        replicas: how many, or :data:`ALL`.
        options: of vLLM's engine, which say how many GPUs a replica has.

    Raises:
        ValueError: it is neither a number nor all, or there are too few GPUs.
    """
    each = math.prod(_size(name, options) for name in _SIZES)
    gpus = _visible_gpus()
    most = len(gpus) // each
    number = _number(replicas, most, gpus)
    if not gpus:
        return (None,) * number
    if number > most or not most:
        raise ValueError(
            f"--replicas = {replicas} with {each} GPUs for each (--engine {_SIZES[0]}=N): there are {len(gpus)} GPUs, "
            f"enough for {most}"
        )
    return tuple(",".join(gpus[start : start + each]) for start in range(0, number * each, each))


def _size(name: str, options: Mapping[str, Any]) -> int:
    size = options.get(name, 1)
    if type(size) is not int or size < 1:
        raise ValueError(f"--engine {name}={size!r} must be a number of GPUs: where replicas lie follows from it")
    return size


def _number(replicas: str, most: int, gpus: list[str]) -> int:
    if replicas == ALL:
        if not gpus:
            raise ValueError(f"--replicas = {ALL!r}: there are no GPUs to count; say how many engines there shall be")
        return most
    if not replicas.isdecimal() or not int(replicas):
        raise ValueError(f"--replicas = {replicas!r} must be a number of engines, or {ALL}")
    return int(replicas)


def _visible_gpus() -> list[str]:
    import torch

    number = torch.cuda.device_count()  # which starts no CUDA
    named = os.environ.get(VISIBLE)
    return named.split(",")[:number] if named else [str(gpu) for gpu in range(number)]


# ---- Here ----


class _Replica:
    """A process with an engine, as seen from here.

    Attributes:
        started: done when the engine has started, or did not.
    """

    def __init__(self, engine: InProcess, devices: str | None, arguments: tuple[Any, ...]) -> None:
        self._pipe, theirs = _PROCESSES.Pipe()
        self._process = _PROCESSES.Process(target=_work, args=(theirs, engine, devices, arguments))
        self._process.start()
        theirs.close()
        self._numbers = count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._loop = asyncio.get_running_loop()
        self.started = self._answer_to(_STARTED)
        # A thread of its own: asyncio's are too few for many replicas, and shared with others.
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _answer_to(self, number: int) -> asyncio.Future[Any]:
        """What the process will say under a number."""
        self._waiting[number] = self._loop.create_future()
        return self._waiting[number]

    async def continue_(self, ids: list[int], limit: int, temperature: float, seed: int) -> Generated:
        """See :data:`Continue`."""
        number = next(self._numbers)
        answer = self._answer_to(number)
        self._send((number, (ids, limit, temperature, seed)))
        result: Generated = await answer
        return result

    def end(self) -> None:
        """Have the process end."""
        with suppress(EngineLost):
            self._send(None)

    async def ended(self) -> None:
        """End the process, and wait for it."""
        self.end()
        await asyncio.to_thread(self._process.join, _SECONDS_TO_END)
        _kill(self._process)
        await asyncio.to_thread(self._reader.join)
        self._pipe.close()

    def _send(self, message: Any) -> None:
        try:
            self._pipe.send(message)
        except OSError as error:
            raise EngineLost(f"the process of its engine has ended ({error})") from error

    def _read(self) -> None:
        """Take what the process says until it ends, in a thread: it must never wait for what is done here."""
        with suppress(EOFError, OSError):
            while self._has_said():
                self._loop.call_soon_threadsafe(self._take, *self._pipe.recv())
        self._process.join(_SECONDS_BETWEEN_LOOKS)  # after which it has an exit status
        self._loop.call_soon_threadsafe(self._lose)

    def _has_said(self) -> bool:
        """Wait until there is something to take, or nothing any more."""
        # What the process has started may keep its end of the pipe open after it.
        while not self._pipe.poll(_SECONDS_BETWEEN_LOOKS):
            if not self._process.is_alive():
                return False
        return True

    def _take(self, number: int, result: Any) -> None:
        answer = self._waiting.pop(number)
        if answer.done():  # nobody waits for it any more
            return
        if isinstance(result, Exception):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    def _lose(self) -> None:
        for number in list(self._waiting):
            status = self._process.exitcode
            self._take(number, EngineLost(f"the process of its engine has ended, with {status}; it says above why"))


def _kill(process: BaseProcess) -> None:
    """End a process and what it has started, or has left where it was itself killed."""
    assert process.pid is not None
    process.kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


# ---- In the process ----


def _work(pipe: Connection, engine: InProcess, devices: str | None, arguments: tuple[Any, ...]) -> None:
    os.setpgrp()  # a Ctrl-C is for the one that asks, which ends this
    if devices is not None:
        os.environ[VISIBLE] = devices
    asyncio.run(_serve(pipe, engine, arguments))


async def _serve(pipe: Connection, engine: InProcess, arguments: tuple[Any, ...]) -> None:
    try:
        with engine.started(*arguments) as continue_:
            pipe.send((_STARTED, None))
            await _answer_all(pipe, continue_)
    except EngineLost as error:
        pipe.send((_STARTED, error))


async def _answer_all(pipe: Connection, continue_: Continue) -> None:
    """Answer until the one that asks says the end, or is gone."""
    answers: set[asyncio.Task[None]] = set()
    with suppress(EOFError, ConnectionResetError):
        while (message := await asyncio.to_thread(pipe.recv)) is not None:
            number, attempt = message
            answer = asyncio.create_task(_answer(pipe, continue_, number, attempt))
            answers.add(answer)
            answer.add_done_callback(answers.discard)
    for answer in answers:
        answer.cancel()
    await asyncio.gather(*answers, return_exceptions=True)


async def _answer(pipe: Connection, continue_: Continue, number: int, attempt: tuple[Any, ...]) -> None:
    result: Generated | Exception
    try:
        result = await continue_(*attempt)
    except Exception as error:  # which may be of a kind that is not known there
        known = type(error) in (EngineLost, RuntimeError)
        result = error if known else RuntimeError(f"{type(error).__name__}: {error}")
    pipe.send((number, result))
