"""A real ``vllm serve`` on CPU, for tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_WAIT_POLICY": "PASSIVE", "VLLM_NO_USAGE_STATS": "1"}
"""What vLLM runs in."""

_DEADLINE_SECONDS = 600

# vLLM's command, which knows of its CPU build by then.
_PROGRAM = (
    "from verl_ext.cpu.distributions import install; install(); from vllm.entrypoints.cli.main import main; main()"
)


@contextmanager
def served(model: Path, name: str, *options: str) -> Iterator[str]:
    """Serve a model in fp32 under a name; gives the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-c", _PROGRAM, "serve", str(model), "--served-model-name", name, "--port", str(port)),
        # See engines.py: requests with a seed, on CPU.
        *("--dtype", "float32", "--enforce-eager", "--no-enable-chunked-prefill", *options),
    ]
    process = subprocess.Popen(command, env={**os.environ, **ENVIRONMENT}, start_new_session=True)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _DEADLINE_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, "vllm serve ended"
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (URLError, OSError):
            time.sleep(0.5)
    raise AssertionError("vllm serve did not start")
