"""Registers all estimators."""

from __future__ import annotations

from verl_ext.algorithms import (  # noqa: F401 - their decorators register them
    attempt_rloo,
    budget_baseline,
    calibrated,
    gigpo,
    grpo,
    max_rl,
    mt_grpo,
    pass_at_k,
    reinforce_baseline,
    rloo,
    two_level_gae,
)
