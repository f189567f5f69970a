"""What is measured of episodes. One definition for training (a batch) and validation (one episode at a time)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from multi_attempt.episode import Attempt, Reflection, StopReason, Transcript

PREFIX = "multi_attempt/"
"""What the names of training metrics begin with."""

WAITS = ("generate", "grade", "tokens")
"""What an episode waits for: the engine, the grader, the tokeniser."""


def episode_metrics(transcript: Transcript) -> dict[str, float | None]:
    """The measures of one episode: always the same keys, None where a measure does not apply.

    verl averages them over the episodes of a validation run, leaving out None.
    """
    valid = transcript.stop is not StopReason.ABORTED
    attempts = transcript.attempts if valid else []
    retries = [float(attempt.correct) for attempt in attempts[1:]]
    return {
        "success": float(transcript.success) if valid else None,
        "first_attempt_accuracy": float(attempts[0].correct) if valid and attempts else None,
        "retry_success": _mean(retries),
        "attempts_used/success": float(len(attempts)) if valid and transcript.success else None,
        "attempts_used/failure": float(len(attempts)) if valid and not transcript.success else None,
        **_flips([attempts]),
        "repeat_rate": _mean([float(attempt.repeated) for attempt in attempts[1:]]),
        "answer_rate": _mean([float(attempt.answer is not None) for attempt in attempts]),
        "format_rate": _mean([float(attempt.well_formed) for attempt in attempts]),
        **{f"stop/{reason.value}": float(transcript.stop is reason) for reason in StopReason},
        "tokens_per_attempt": _mean([float(attempt.span[1] - attempt.span[0]) for attempt in attempts]),
        "tokens_per_reflection": _mean(_lengths(transcript.reflections if valid else [])),
        "generated_tokens": _generated([transcript]),
        "cached_token_fraction": transcript.cached_tokens / transcript.prompt_tokens
        if transcript.prompt_tokens
        else None,
        **{f"seconds/{wait}": transcript.seconds.get(wait) for wait in WAITS},
        "grader_timeouts": float(sum(attempt.reason in ("timeout", "stall") for attempt in attempts)),
        "grader_memory_limits": float(sum(attempt.reason == "memory" for attempt in attempts)),
        "episode_errors": float(bool(transcript.error)),
    }


def batch_metrics(transcripts: Sequence[Transcript], max_attempts: int) -> dict[str, float]:
    """The measures of a training step's episodes: the same keys every step, NaN where a measure does not apply.

    Rates per attempt (``retry_success``, ``repeat_rate``, ``answer_rate``, ``format_rate``, ``tokens_per_attempt``)
    weigh attempts equally, ``cached_token_fraction`` tokens; ``answer_rate`` is the share of attempts in which an
    answer was found; ``wrong_to_right`` and ``right_to_wrong`` are the shares of attempts of one kind which the next
    attempt turns into the other (after a right attempt only blind episodes go on); ``repeat_rate/k`` is that of the
    k-th attempts; ``success_by_budget/k`` is the success of the episodes that were allowed k attempts;
    ``generated_tokens`` is their sum over all attempts and reflections, aborted episodes included; ``seconds/...`` is
    how long an episode waited, in the mean; ``grader_timeouts``, ``grader_memory_limits`` and ``episode_errors`` are
    counts.

    Args:
        transcripts: the episodes.
        max_attempts: M, the greatest budget.
    """
    valid = [transcript for transcript in transcripts if transcript.stop is not StopReason.ABORTED]
    attempts = [attempt for transcript in valid for attempt in transcript.attempts]
    retries = [attempt for transcript in valid for attempt in transcript.attempts[1:]]
    solved = [transcript for transcript in valid if transcript.success]
    failed = [transcript for transcript in valid if not transcript.success]
    prompt_tokens = sum(transcript.prompt_tokens for transcript in transcripts)
    values: dict[str, float | None] = {
        "success": _mean(transcript.success for transcript in valid),
        "first_attempt_accuracy": _mean(t.attempts[0].correct for t in valid if t.attempts),
        **{
            f"success_by_budget/{budget}": _mean(t.success for t in valid if t.budget == budget)
            for budget in range(1, max_attempts + 1)
        },
        "retry_success": _mean(attempt.correct for attempt in retries),
        "attempts_used/success": _mean(len(transcript.attempts) for transcript in solved),
        "attempts_used/failure": _mean(len(transcript.attempts) for transcript in failed),
        **_flips([transcript.attempts for transcript in valid]),
        "repeat_rate": _mean(attempt.repeated for attempt in retries),
        **{
            f"repeat_rate/{number}": _mean(t.attempts[number - 1].repeated for t in valid if len(t.attempts) >= number)
            for number in range(2, max_attempts + 1)
        },
        "answer_rate": _mean(attempt.answer is not None for attempt in attempts),
        "format_rate": _mean(attempt.well_formed for attempt in attempts),
        **{f"stop/{reason.value}": _mean(t.stop is reason for t in transcripts) for reason in StopReason},
        "tokens_per_attempt": _mean(attempt.span[1] - attempt.span[0] for attempt in attempts),
        "tokens_per_reflection": _mean(_lengths(each for transcript in valid for each in transcript.reflections)),
        "generated_tokens": _generated(transcripts),
        "cached_token_fraction": (
            sum(transcript.cached_tokens for transcript in transcripts) / prompt_tokens if prompt_tokens else None
        ),
        **{
            f"seconds/{wait}": _mean(
                transcript.seconds[wait] for transcript in transcripts if wait in transcript.seconds
            )
            for wait in WAITS
        },
        "grader_timeouts": float(sum(attempt.reason in ("timeout", "stall") for attempt in attempts)),
        "grader_memory_limits": float(sum(attempt.reason == "memory" for attempt in attempts)),
        "episode_errors": float(sum(bool(transcript.error) for transcript in transcripts)),
    }
    return {PREFIX + name: float("nan") if value is None else value for name, value in values.items()}


def _flips(episodes: Iterable[Sequence[Attempt]]) -> dict[str, float | None]:
    """How often the next attempt turns a wrong one into a right one, and the other way round."""
    pairs = [(one.correct, next_one.correct) for attempts in episodes for one, next_one in pairwise(attempts)]
    return {
        "wrong_to_right": _mean(after for before, after in pairs if not before),
        "right_to_wrong": _mean(not after for before, after in pairs if before),
    }


def _generated(transcripts: Sequence[Transcript]) -> float:
    return float(sum(length for t in transcripts for made in (t.attempts, t.reflections) for length in _lengths(made)))


def _lengths(made: Iterable[Attempt | Reflection]) -> list[float]:
    """Tokens that the model generated in each; a judge's words are none of them."""
    spans = [each.span for each in made if not (isinstance(each, Reflection) and each.by != "self")]
    return [float(stop - start) for start, stop in spans]


def _mean(values: Iterable[float]) -> float | None:
    collected = [float(value) for value in values]
    return sum(collected) / len(collected) if collected else None
