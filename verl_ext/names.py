"""The names that the plugin's parts have in verl's registries."""

from __future__ import annotations

NAME = "multi_attempt"
"""Of the agent loop, the reward manager and the trainer."""

COLOCATE_ASYNC = f"{NAME}_colocate_async"
"""Of the asynchronous trainer."""
