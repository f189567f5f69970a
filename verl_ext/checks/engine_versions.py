"""Which versions of the rollout engines this plugin has been tested with, and a warning of others."""

from __future__ import annotations

import logging
from importlib.metadata import version

from packaging.version import Version

_logger = logging.getLogger(__name__)

# The oldest and the newest; docs/models.md says by which tests.
TESTED = {"vllm": ("0.24.0", "0.28.0"), "sglang": ("0.5.13", "0.5.13")}


def warn_of_untested_version(engine: str) -> None:
    """Log a warning where the installed version of an engine is older or newer than what was tested.

    Args:
        engine: the name of its package, a key of ``TESTED``.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    installed = version(engine)
    oldest, newest = TESTED[engine]
    # Without the label of the build, such as +cpu.
    if not Version(oldest) <= Version(Version(installed).public) <= Version(newest):
        _logger.warning(
            "%s %s is installed, and this plugin was tested with %s to %s: what it relies on may differ; watch "
            "multi_attempt.guard's correlation in the first steps, or install the extra %s of this package",
            *(engine, installed, oldest, newest, engine),
        )
