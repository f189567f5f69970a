"""How the advantage of an attempt is estimated (docs/algorithms.md), as far as there is a choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional


@dataclass
class CreditSettings:
    """What the estimators ``multi_attempt_*`` read; each reads only what its page names.

    Attributes:
        gamma: discount from one attempt to the next.
        lam: GAE's lambda from one attempt to the next.
        from_start: whether the discount counts from the first attempt (``gamma^(k-1)`` on the advantage of attempt k),
            as the gradient of a discounted objective has it.
        normalise: whether advantages are divided by the deviation of what they were made from.
        subset: the k of pass@k.
        attempt_weight: of an attempt's advantage beside the whole episode's (GiGPO).
        weights: where the weights of attempts are from: ``averages``, ``group`` or ``none``.
        memory: share that a running average keeps at each step.
        kl_attempts: how many attempts of an episode, from the first, the KL penalty in the reward is for; None for all.
    """

    gamma: float = 1.0
    lam: float = 1.0
    from_start: bool = True
    normalise: bool = False
    subset: int = 2
    attempt_weight: float = 1.0
    weights: str = "averages"
    memory: float = 0.9
    kl_attempts: Optional[int] = None  # noqa: UP045 - OmegaConf reads it on Python 3.10 too

    def __post_init__(self) -> None:
        for name in ("gamma", "lam", "memory"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"multi_attempt.credit.{name} = {getattr(self, name)} must lie in [0, 1]")
        if self.kl_attempts is not None and self.kl_attempts < 1:
            raise ValueError(f"multi_attempt.credit.kl_attempts = {self.kl_attempts} must be at least 1, or null")
        if self.subset < 1:
            raise ValueError(f"multi_attempt.credit.subset = {self.subset} must be at least 1")
        if not 0 <= self.attempt_weight < float("inf"):
            raise ValueError(
                f"multi_attempt.credit.attempt_weight = {self.attempt_weight} must be 0 or more, and finite"
            )
        if self.weights not in ("averages", "group", "none"):
            raise ValueError(f"multi_attempt.credit.weights = {self.weights!r}; use 'averages', 'group' or 'none'")
