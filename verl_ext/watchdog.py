"""Ending a run that would wait for ever.

verl's trainer waits without a deadline: for episodes of an agent loop worker that has died (``replay_buffer.py``, line
476), for a queue whose process is gone, for an engine that hangs while it sleeps or takes new weights. A thread of the
trainer's process looks at the parts of the run and at the clock, and raises what it finds in the trainer. Most waits
are interrupted by that; where one is not (a blocking ``ray.get`` in an actor), the process is ended a little later.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError

_SIGNAL = signal.SIGUSR2
_LOOK_SECONDS = 5.0
_HEALTH_SECONDS = 2.0
# What vLLM's /health says when its engine is dead (instrumentator/health.py); nothing else is taken for that.
_ENGINE_DEAD = 503
# What the trainer may take to stop once it knows: to close the loggers and TransferQueue.
_GRACE_SECONDS = 30.0

_REMEDY = "The same command goes on from the last finished checkpoint."

_logger = logging.getLogger(__name__)


class RunFault(RuntimeError):
    """A run that cannot go on."""


class PartDied(RunFault):
    """A process of the run is gone."""


def lost_part(error: RayActorError) -> PartDied:
    """What a call of the trainer to a part of the run has found, before a look did."""
    return PartDied(f"a part of the run died. {_REMEDY} Ray says: {error}")


class RunStalled(RunFault):
    """Nothing moved for longer than it may take."""


class Watchdog:
    """A thread beside the trainer.

    Args:
        look_seconds: between two looks.
        grace_seconds: after which a process whose main thread did not stop is ended.
    """

    def __init__(self, look_seconds: float = _LOOK_SECONDS, grace_seconds: float = _GRACE_SECONDS) -> None:
        self._look_seconds, self._grace_seconds = look_seconds, grace_seconds
        self._parts: dict[str, Any] = {}
        self._answers: dict[str, ray.ObjectRef] = {}
        self._engines: dict[str, str] = {}
        # Past any proxy: the servers are on the cluster's own network.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._expected: tuple[str, float, float] | None = None
        self._fault: RunFault | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to look; only from the main thread, which is the one that will be told."""
        signal.signal(_SIGNAL, self._tell)
        self._thread.start()

    def stop(self) -> None:
        """End it, unless it has told of a fault: then it stays until the process has ended."""
        if self._fault is None:
            self._stopped.set()

    def watch(self, parts: Mapping[str, Any]) -> None:
        """Look at these Ray actors too, given by the names to call them."""
        self._parts = {**self._parts, **parts}

    def watch_engines(self, urls: Mapping[str, str]) -> None:
        """Look at these vLLM engines too, given their ``/health`` by the names to call them.

        A server outlives its engine, and verl waits for ever to hand new weights to a dead one.
        """
        self._engines = {**self._engines, **urls}

    def expect(self, what: str, seconds: float) -> None:
        """From now on the trainer is busy with ``what``, and if the next call of this comes later, it hangs.

        Args:
            what: for the message.
            seconds: that it may take.
        """
        self._expected = (what, time.monotonic(), seconds)

    def _tell(self, *_: Any) -> None:
        if self._fault is not None and not self._stopped.is_set():
            raise self._fault

    def _run(self) -> None:
        while self._fault is None:
            if self._stopped.wait(self._look_seconds):
                return
            try:
                self._fault = self._dead_part() or self._dead_engine() or self._overdue()
            except Exception as error:
                self._fault = RunFault(f"the watchdog itself failed: {type(error).__name__}: {error}")
        _logger.error("The run ends: %s: %s", type(self._fault).__name__, self._fault)
        signal.pthread_kill(threading.main_thread().ident or 0, _SIGNAL)
        time.sleep(self._grace_seconds)
        _logger.error("The trainer did not stop within %s s, and is ended where it stands:", self._grace_seconds)
        faulthandler.dump_traceback()
        os._exit(1)

    def _dead_part(self) -> PartDied | None:
        """The first of the parts that is found dead. A busy one answers later, which is no fault."""
        for name, actor in self._parts.items():
            if name not in self._answers:
                self._answers[name] = actor.__ray_ready__.remote()
            if not ray.wait([self._answers[name]], timeout=0)[0]:
                continue
            try:
                ray.get(self._answers.pop(name))
            except ActorUnavailableError:  # for now; Ray decides whether it is dead
                continue
            except RayActorError as error:
                return PartDied(f"{name} died. {_REMEDY} Ray says: {error}")
        return None

    def _dead_engine(self) -> PartDied | None:
        for name, url in self._engines.items():
            try:
                self._opener.open(url, timeout=_HEALTH_SECONDS).close()
            except urllib.error.HTTPError as error:
                if error.code == _ENGINE_DEAD:
                    return PartDied(f"{name} died. {_REMEDY} Its server's log says why; {url} answers {error.code}.")
            except OSError:  # busy; or the server is gone, which is seen by its actor
                continue
        return None

    def _overdue(self) -> RunStalled | None:
        if self._expected is None:
            return None
        what, since, seconds = self._expected
        if time.monotonic() - since <= seconds:
            return None
        return RunStalled(
            f"{what} has taken more than {seconds:.0f} s, and nothing says that it will end. {_REMEDY} If it only "
            "takes long, raise multi_attempt.stall_timeout (for a rollout, multi_attempt.episode.timeout)."
        )
