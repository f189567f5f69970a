"""The rollout: one multi-attempt episode as a verl agent loop.

Token in, token out. The engine's token ids go into the response as they are; what the chat template puts between two
attempts is derived from the template (:mod:`multi_attempt.turns`) and appended, and only a copy of each attempt is
decoded, to be judged. Generated tokens have response mask 1, everything else 0.

An episode that cannot be finished (an exception, a time-out, an aborted generation) is data, not a crash: it is logged
with its row, recorded in its transcript, counted in the metrics, and carries neither reward nor gradient.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar
from uuid import uuid4

from omegaconf import DictConfig
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput, register
from verl.utils.profiler import simple_timer
from verl.workers.rollout.replica import TokenOutput

from multi_attempt.attempt_rewards import attempt_rewards
from multi_attempt.budget import draw_attempts
from multi_attempt.config import TaskSettings, load_settings
from multi_attempt.dialogue import PromptTooLong, Response, play
from multi_attempt.episode import Episode, StopReason, Transcript
from multi_attempt.reflection import Critic
from multi_attempt.tasks import Message, Verdict
from multi_attempt.tasks.load import Tasks
from multi_attempt.turns import ChatTemplate
from verl_ext.names import NAME
from verl_ext.rollout.chat import chat_template, context_length
from verl_ext.rollout.output import AttemptsOutput
from verl_ext.rollout.sampling import request_parameters, was_aborted, was_cut

TRANSCRIPT_KEY = "multi_attempt"
"""Where the episode's transcript stands in ``AgentLoopOutput.extra_fields``."""

# What an episode waits for, and the name of the timer; the first two are fields of verl's AgentLoopMetrics.
_TIMERS = {"generate": "generate_sequences", "grade": "tool_calls", "tokens": "tokens"}

_logger = logging.getLogger(__name__)

# It warns for each episode which builder of dialogues it falls back to; none is used.
logging.getLogger("verl.utils.tokenizer.continuous_token_wiring").setLevel(logging.ERROR)


class EpisodeAborted(Exception):
    """The engine aborted a generation more often than ``multi_attempt.episode.abort_retries`` allows."""


@dataclass
class TokenStream:
    """The tokens of a sequence: of an episode, or of one attempt where less than all stays of the earlier ones.

    Attributes:
        ids: prompt and response, shape [prompt_length + response_length].
        prompt_length: how many of them are the prompt.
        mask: response mask, shape [response_length]: 1 for generated tokens, 0 for feedback.
        log_probs: the engine's log-probabilities, shape [response_length], 0 for feedback; None if it gives none.
    """

    ids: list[int] = field(default_factory=list)
    prompt_length: int = 0
    mask: list[int] = field(default_factory=list)
    log_probs: list[float] | None = None

    def generated(self, ids: list[int], log_probs: list[float] | None) -> None:
        """Append tokens that the engine generated.

        Raises:
            RuntimeError: there is not one log-probability for each, or some attempts have them and others not. Training
                on such an episode would take the probabilities of other tokens.
        """
        if log_probs is not None and len(log_probs) != len(ids):
            raise RuntimeError(f"the engine gave {len(log_probs)} log-probs for {len(ids)} tokens")
        if self.mask and (log_probs is None) != (self.log_probs is None):
            raise RuntimeError("the engine gave log-probs for some attempts and not for others")
        self._append(ids, 1, log_probs)

    def told(self, ids: list[int]) -> None:
        """Append tokens that the model did not generate."""
        self._append(ids, 0, None if self.log_probs is None else [0.0] * len(ids))

    def _append(self, ids: list[int], mask: int, log_probs: list[float] | None) -> None:
        self.ids = [*self.ids, *ids]
        self.mask = [*self.mask, *[mask] * len(ids)]
        self.log_probs = None if log_probs is None else [*(self.log_probs or []), *log_probs]


@dataclass
class _Rollout:
    """An episode under way: the task's side, the token side, and what verl wants to know of it."""

    transcript: Transcript
    metrics: dict[str, Any]
    extra_fields: dict[str, Any]
    sequences: list[TokenStream] = field(default_factory=list)
    episode: Episode | None = None  # until its row has been read

    @property
    def tokens(self) -> TokenStream:
        """The sequence that goes on."""
        return self.sequences[-1]


@dataclass(frozen=True)
class _Shared:
    """What all episodes of a process share; verl builds an agent loop object for each episode."""

    config: DictConfig
    settings: TaskSettings
    tasks: Tasks
    critic: Critic | None
    chat: ChatTemplate
    context: int
    request_parameters: dict[str, Any]


@register(NAME)
class MultiAttemptAgentLoop(AgentLoopBase):
    """One episode: generate, judge, give feedback, until the answer is right or the attempts are used up."""

    tokenizer: Any  # verl declares AutoTokenizer, which is a factory
    _shared: ClassVar[_Shared | None] = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # By these verl chooses a builder of dialogues, which this loop does not use, and which refuses some tokenizers
        # of a family (DeepSeek-R1-Distill-Qwen) and some models of text and images.
        super().__init__(*args, **{**kwargs, "hf_model_type": None, "processor": None})
        cls = type(self)
        if cls._shared is None or cls._shared.config is not self.config:
            cls._shared = self._share()
        shared = cls._shared
        self._settings, self._tasks, self._critic = shared.settings, shared.tasks, shared.critic
        self._request_parameters = shared.request_parameters
        self.chat, self.context = shared.chat, shared.context
        self._response_length: int = self.rollout_config.response_length
        self.prompt_length: int = self.rollout_config.prompt_length

    def _share(self) -> _Shared:
        settings = load_settings(self.config.get(NAME))
        tasks = settings.make_tasks()
        tasks.warm_up()
        chat = chat_template(self.config, self.tokenizer)
        asynchronous = self.config.trainer.v1.trainer_mode != NAME
        parameters = request_parameters(self.rollout_config.name, chat.end_ids, may_abort=asynchronous)
        critic = settings.make_critic()
        return _Shared(self.config, settings, tasks, critic, chat, context_length(self.config), parameters)

    # verl declares one output, and takes a list as well (agent_loop_tq.py, line 150).
    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> Any:
        """Run the episode of one dataset row.

        Args:
            sampling_params: as verl prepares them.
            **kwargs: the row (``raw_prompt`` and what its task needs; ``extra_info.index``; ``extra_info.attempts`` for
                a fixed number of attempts, ``extra_info.task`` for another task than the config's) and
                ``global_steps``.

        Returns:
            The episode, ending on a generated token; one that failed has a single masked token as its response. Where
            less than all stays of earlier attempts, a list with a sample for each attempt, in order; the last has the
            transcript, as verl takes an episode's reward and measures from the last (``agent_loop_tq.py``, line 172).
        """
        row, step = kwargs["index"], int(kwargs["global_steps"])
        rollout = _Rollout(
            Transcript(budget=self._attempts(kwargs["extra_info"], row, step)),
            metrics=dict.fromkeys(_TIMERS.values(), 0.0),
            extra_fields={"min_global_steps": step, "max_global_steps": step},
        )
        try:
            await asyncio.wait_for(self._play(rollout, kwargs, sampling_params), self._settings.episode.timeout)
        except EpisodeAborted as error:
            _logger.warning("Episode of row %s at step %s was aborted: %s", row, step, error)
            rollout.transcript.stop = StopReason.ABORTED
        except Exception as error:
            _logger.exception("Episode of row %s at step %s failed; the step goes on without it.", row, step)
            rollout.transcript.stop = StopReason.ABORTED
            rollout.transcript.error = f"{type(error).__name__}: {error}"
        return self._output(rollout)

    def _attempts(self, extra_info: dict[str, Any], row: int, step: int) -> int:
        """N: fixed by the row, or drawn for this row and step."""
        if extra_info.get("attempts") is not None:
            return int(extra_info["attempts"])
        settings = self._settings
        return draw_attempts(settings.min_attempts, settings.max_attempts, seed=settings.seed, step=step, row=int(row))

    async def _play(self, rollout: _Rollout, row: dict[str, Any], sampling_params: dict[str, Any]) -> None:
        """Play the episode to its end."""
        asked = self._tasks.read({**row, "prompt": row["raw_prompt"]})
        settings = self._settings
        rollout.episode = episode = Episode(
            asked.task,
            asked.row,
            rollout.transcript.budget,
            blind=settings.tell == "blind",
            reflects=settings.reflect == "self",
        )
        rollout.transcript = episode.transcript

        async def judge(response: str) -> Verdict:
            with simple_timer(_TIMERS["grade"], rollout.metrics):
                return await episode.verdict(response)

        await play(
            episode,
            _VerlStream(self, rollout, sampling_params),
            judge=judge,
            room=self._response_length,
            max_tokens_per_attempt=settings.max_tokens_per_attempt,
            max_tokens_per_reflection=settings.reflection.max_tokens,
            critic=self._critic,
            history=settings.kept,
        )

    async def generate(self, request_id: str, ids: list[int], sampling_params: dict[str, Any]) -> TokenOutput:
        """Ask the engine; again when it aborted the generation (as for a weight update)."""
        sampling_params = {**sampling_params, **self._request_parameters}
        for _ in range(self._settings.episode.abort_retries + 1):
            output = await self.server_manager.generate(
                request_id=request_id, prompt_ids=ids, sampling_params=dict(sampling_params)
            )
            if not was_aborted(output):
                return output
        raise EpisodeAborted(f"generation was aborted {self._settings.episode.abort_retries + 1} times")

    def _output(self, rollout: _Rollout) -> AgentLoopOutput | list[AgentLoopOutput]:
        """The finished episode in verl's form; a failed one as a single masked token."""
        transcript = rollout.transcript
        transcript.seconds = {wait: rollout.metrics[name] for wait, name in _TIMERS.items()}
        if transcript.stop is StopReason.ABORTED:
            sequences = [self._failed(rollout.sequences)]
        else:
            sequences = [tokens for tokens in rollout.sequences if tokens.mask]  # the last may have had no room
            if any(tokens.mask[-1] != 1 for tokens in sequences):
                raise RuntimeError("it does not end on a generated token; the reward would be lost to the critic")
        *earlier, last = (self._sample(tokens, rollout) for tokens in sequences)
        last.extra_fields[TRANSCRIPT_KEY] = transcript.to_dict()
        if self._settings.kept.apart:
            return [*earlier, last]
        if transcript.stop is not StopReason.ABORTED:
            rewards = attempt_rewards(self._settings.reward, transcript)
            last.reward_at([attempt.span[1] - 1 for attempt in transcript.attempts], rewards)
        return last

    def _failed(self, sequences: list[TokenStream]) -> TokenStream:
        filler = min(self.chat.end_ids)
        prompt = sequences[0].ids[: sequences[0].prompt_length] if sequences else []
        return TokenStream(
            ids=[*(prompt or [filler]), filler],
            prompt_length=max(len(prompt), 1),
            mask=[0],
            log_probs=[0.0] if self.rollout_config.calculate_log_probs else None,
        )

    def _sample(self, tokens: TokenStream, rollout: _Rollout) -> AttemptsOutput:
        """A sequence in verl's form, without the transcript."""
        messages = rollout.episode.messages if rollout.episode else []
        return AttemptsOutput(
            prompt_ids=tokens.ids[: tokens.prompt_length],
            response_ids=tokens.ids[tokens.prompt_length :],
            response_mask=tokens.mask,
            response_logprobs=tokens.log_probs,
            num_turns=sum(message["role"] != "system" for message in messages),
            metrics=AgentLoopMetrics(**rollout.metrics),
            extra_fields={
                **rollout.extra_fields,
                "turn_scores": [],  # as verl's own multi-turn loop has them
                "tool_rewards": [],
            },
        )


class _VerlStream:
    """An episode's tokens in verl's form, continued by its engine: a :class:`multi_attempt.dialogue.Stream`."""

    def __init__(self, loop: MultiAttemptAgentLoop, rollout: _Rollout, sampling_params: dict[str, Any]) -> None:
        self._loop, self._rollout, self._sampling_params = loop, rollout, sampling_params
        # One id for the whole episode: it pins the episode to one replica, whose prefix cache holds all of it.
        self._request_id = uuid4().hex

    @property
    def used(self) -> int:
        return len(self._rollout.tokens.mask)

    def _tokens_timer(self) -> AbstractContextManager[None]:
        return simple_timer(_TIMERS["tokens"], self._rollout.metrics)

    async def open(self, messages: list[Message]) -> int:
        loop = self._loop
        with self._tokens_timer():
            ids = loop.chat.opening(messages)
        if len(ids) > loop.prompt_length:
            raise PromptTooLong(
                f"the prompt has {len(ids)} tokens, more than data.max_prompt_length = {loop.prompt_length}"
            )
        self._rollout.sequences.append(TokenStream(ids, len(ids)))
        return loop.context - len(ids)

    async def respond(self, limit: int) -> Response:
        chat, tokens = self._loop.chat, self._rollout.tokens
        with simple_timer(_TIMERS["generate"], self._rollout.metrics):
            output = await self._loop.generate(
                self._request_id, tokens.ids, {**self._sampling_params, "max_tokens": limit}
            )
        _note_engine_facts(output, self._rollout)
        start, ids = self.used, list(output.token_ids)
        if not ids:
            raise RuntimeError("the engine generated no token, not even one that ends the turn")
        with self._tokens_timer():
            tokens.generated(ids, output.log_probs)
            text = chat.text_of(ids)
        return Response(text, (start, self.used), was_cut(output, limit, chat.end_ids))

    async def tell(self, messages: list[Message], room: int) -> bool:
        tokens = self._rollout.tokens
        with self._tokens_timer():
            ids = self._loop.chat.after_attempt(messages, tokens.ids[-1])
        if self.used + len(ids) >= room:
            return False
        tokens.told(ids)
        return True


def _note_engine_facts(output: TokenOutput, rollout: _Rollout) -> None:
    """Keep what the engine says of itself: weight versions, preemptions, prefix cache."""
    facts, later_attempt = output.extra_fields, bool(rollout.sequences[0].mask)
    if facts.get("max_global_steps") is not None:
        if not later_attempt:
            rollout.extra_fields["min_global_steps"] = facts.get("min_global_steps", facts["max_global_steps"])
        rollout.extra_fields["max_global_steps"] = facts["max_global_steps"]
    if output.num_preempted is not None:
        rollout.metrics["num_preempted"] = rollout.metrics.get("num_preempted", 0) + output.num_preempted
    if later_attempt and facts.get("num_cached_tokens") is not None:
        rollout.transcript.prompt_tokens += len(rollout.tokens.ids)
        rollout.transcript.cached_tokens += facts["num_cached_tokens"]
