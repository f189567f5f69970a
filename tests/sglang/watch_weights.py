"""Named by ``VERL_USE_EXTERNAL_MODULES``: every process of a run uses the adapter of ``watched_adapter.py``."""

from __future__ import annotations

from verl.workers.rollout import base

import verl_ext.plugin  # noqa: F401 - registers the adapter that is replaced here

base._ROLLOUT_REGISTRY[("sglang", "async")] = "watched_adapter.WatchedServerAdapter"
