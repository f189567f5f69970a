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
import re
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayActorError

_SIGNAL = signal.SIGUSR2
_LOOK_SECONDS = 5.0
_HEALTH_SECONDS = 2.0
# What vLLM's /health says when its engine is dead (instrumentator/health.py); nothing else is taken for that.
_ENGINE_DEAD = 503
# What the trainer may take to stop once it knows: to close the loggers and TransferQueue.
_GRACE_SECONDS = 30.0
# Within which Ray answers for a dead actor.
_ANSWER_SECONDS = 1.0

_REMEDY = "The same command goes on from the last finished checkpoint."
_LESS_MEMORY = (
    "To hold less, lower the tokens of a pass (ppo_max_token_len_per_gpu of actor and critic, "
    "log_prob_max_token_len_per_gpu of rollout and reference), actor_rollout_ref.rollout.agent.num_workers, or take a "
    "smaller model; with trainer.device=cpu lower VLLM_CPU_KVCACHE_SPACE (ray_kwargs.ray_init.runtime_env.env_vars), "
    "on GPUs what param_offload and optimizer_offload put into the node's memory. multi-attempt check says what each "
    "process of a run on CPU holds. Ray kills at the share RAY_memory_usage_threshold (0.95) of the memory."
)

# In what Ray says of a kill for memory: the node's memory, and each process that it chose.
_USED = re.compile(r"was ([\d.]+ ?GB) used / ([\d.]+ ?GB)")
_CHOSEN = re.compile(r"Selected to kill: \((?:Actor|Task)\b.*?task name=(?:[^,]*:)?(\w+)")

_logger = logging.getLogger(__name__)


class RunFault(RuntimeError):
    """A run that cannot go on."""


class PartDied(RunFault):
    """A process of the run is gone."""


class KilledForMemory(PartDied):
    """Ray has killed a process of the run, because the memory of its node was nearly full."""


def lost_part(error: RayActorError | OutOfMemoryError, name: str = "a part of the run") -> PartDied:
    """What a call to a part of the run has found.

    Args:
        error: of the call; Ray tells a kill for memory apart from all other deaths.
        name: of the part, where it is known.
    """
    if not isinstance(error, OutOfMemoryError):
        return PartDied(f"{name} died. {_REMEDY} Ray says: {error}")
    # In a call from a part to another, Ray wraps the error into the caller's.
    says = str(getattr(error, "cause", error))
    used, chosen = _USED.search(says), _CHOSEN.findall(says)
    memory = f": {used[1]} of {used[2]} were used" if used else ""
    processes = f" Ray chose {', '.join(chosen)}." if chosen else ""
    return KilledForMemory(
        f"{name} was killed by Ray, because the memory of its node was nearly full{memory}.{processes} {_LESS_MEMORY} "
        f"{_REMEDY} Ray says: {says}"
    )


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
        self._looking = threading.Lock()
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

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Tell an error by the part of the run that is gone, where that is why; the error itself is then its cause.

        A dead part shows first in whatever needs it: in a call of the trainer, or in all episodes that fail.

        Raises:
            PartDied: a part is gone.
        """
        try:
            yield
        except RunFault:
            raise
        except (RayActorError, OutOfMemoryError) as error:
            if getattr(error, "actor_init_failed", False):  # its own error says why it did not start
                raise
            raise self._look() or lost_part(error) from error
        except Exception as error:
            if lost := self._look():
                raise lost from error
            raise

    def _look(self) -> PartDied | None:
        """A dead part, with the time that Ray takes to answer for one."""
        if lost := self._dead_part():
            return lost
        time.sleep(_ANSWER_SECONDS)
        return self._dead_part() or self._dead_engine()

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
        with self._looking:
            for name, actor in self._parts.items():
                if name not in self._answers:
                    self._answers[name] = actor.__ray_ready__.remote()
                if not ray.wait([self._answers[name]], timeout=0)[0]:
                    continue
                try:
                    ray.get(self._answers.pop(name))
                except ActorUnavailableError:  # for now; Ray decides whether it is dead
                    continue
                except (RayActorError, OutOfMemoryError) as error:
                    return lost_part(error, name)
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
