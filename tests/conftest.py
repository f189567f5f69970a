"""What all tests run under; set before anything reads it."""

from __future__ import annotations

import os

os.environ.update(
    # No test reaches a network.
    HF_HUB_OFFLINE="1",
    VLLM_NO_USAGE_STATS="1",
    RAY_USAGE_STATS_ENABLED="0",
    WANDB_MODE="disabled",
    # Threads that wait must not spin: engines and training share few cores.
    OMP_WAIT_POLICY="PASSIVE",
)
