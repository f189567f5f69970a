"""Registers all estimators, and the loss."""

from __future__ import annotations

from verl_ext.algorithms import (  # noqa: F401 - their decorators register them
    attempt_rloo,
    budget_baseline,
    calibrated,
    feedback_loss,
    gigpo,
    grpo,
    max_rl,
    mt_grpo,
    pass_at_k,
    reinforce_baseline,
    rloo,
    two_level_gae,
)
