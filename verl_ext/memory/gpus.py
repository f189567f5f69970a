"""GPUs by name (gpus.yaml), or by their figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

GIB = 1024**3


@dataclass(frozen=True)
class Device:
    """What holds a run, or a rank of it.

    Attributes:
        name: for the output.
        memory: bytes that can be used; of a GPU what torch reports as its total.
    """

    name: str
    memory: float


@dataclass(frozen=True)
class GPU(Device):
    """One GPU.

    Attributes:
        flops: floating-point operations a second of dense bf16 matrix multiplication, at best.
        bandwidth: bytes a second from its memory, at best.
    """

    flops: float
    bandwidth: float


def gpu_names() -> list[str]:
    """The names that :func:`named_gpu` knows."""
    return list(_read())


def named_gpu(name: str) -> GPU:
    """The GPU of that name.

    Raises:
        ValueError: it is not in gpus.yaml.
    """
    figures = _read().get(name)
    if figures is None:
        raise ValueError(
            f"--gpu = {name!r} is none of {', '.join(gpu_names())}; give --gpu-memory, --gpu-tflops and "
            "--gpu-bandwidth for another"
        )
    return custom_gpu(name, figures["memory_gib"], figures["bf16_tflops"], figures["bandwidth_gb_s"])


def custom_gpu(name: str, memory_gib: float, bf16_tflops: float, bandwidth_gb_s: float) -> GPU:
    """A GPU by its figures: GiB, dense bf16 TFLOPS, GB/s.

    Raises:
        ValueError: one of them is not positive.
    """
    figures = (("memory", memory_gib), ("tflops", bf16_tflops), ("bandwidth", bandwidth_gb_s))
    for field, value in figures:
        if not value > 0:
            raise ValueError(f"--gpu-{field} = {value} must be positive")
    return GPU(name, memory_gib * GIB, bf16_tflops * 1e12, bandwidth_gb_s * 1e9)


def _read() -> dict[str, dict[str, float]]:
    return yaml.safe_load(Path(__file__).with_name("gpus.yaml").read_text())
