"""``launch/ray_job.sh`` on a Ray cluster that runs already; opt-in like the tests of SLURM, for it trains for real."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from training_run import free_port, make_toy

ROOT = Path(__file__).parents[2]
_START_SECONDS = 120.0
_TRAINING_SECONDS = 500.0


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """This process's, with its Python first on PATH and a token for the cluster."""
    token = tmp_path / "token"
    token.write_text(secrets.token_hex())
    # In the shared folder `ray start` would leave a note of this cluster, which others would join when it is gone. Not
    # below tmp_path: the paths of Ray's sockets may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as ray_folder:
        yield os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_TMPDIR": ray_folder,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        }


@pytest.fixture
def dashboard(environment: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """The address of a cluster's dashboard."""
    gcs, http, agent = free_port(), free_port(), free_port()
    options = [
        *("--node-ip-address=127.0.0.1", f"--port={gcs}", f"--dashboard-port={http}"),
        *(f"--dashboard-agent-listen-port={agent}", "--num-cpus=32", "--num-gpus=1"),
    ]
    with (tmp_path / "ray.log").open("w") as log:
        ray = subprocess.Popen(
            ["ray", "start", "--head", "--block", "--object-store-memory=500000000", *options],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        for port in (http, agent):  # the agent takes the jobs
            wait_for_port(port, ray, tmp_path / "ray.log")
        yield f"http://127.0.0.1:{http}"
    finally:
        ray.terminate()
        ray.wait(timeout=60)


def test_a_job_trains_with_the_package_that_is_sent(
    dashboard: str, environment: dict[str, str], tmp_path: Path
) -> None:
    toy = tmp_path / "toy"
    make_toy(toy)
    command = [
        *(str(ROOT / "launch" / "ray_job.sh"), "--config-name", "multi_attempt_cpu", f"toy={toy}"),
        *("trainer.total_training_steps=1", "trainer.save_freq=1", "trainer.critic_warmup=0"),
        *("data.train_batch_size=16", "actor_rollout_ref.actor.ppo_mini_batch_size=16", "trainer.logger=console"),
        *("multi_attempt.keep_best=false", f"trainer.default_local_dir={tmp_path / 'checkpoints'}"),
    ]
    settings = {"RAY_API_SERVER_ADDRESS": dashboard, "LAUNCH_LOGS": str(tmp_path / "logs")}
    result = subprocess.run(
        command, env=environment | settings, cwd=tmp_path, capture_output=True, text=True, timeout=_TRAINING_SECONDS
    )
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    assert "step:1 - " in result.stdout
    assert "succeeded" in result.stdout
    assert (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").read_text() == "1"
    # The job ran in the package that was sent, not in this folder.
    assert not (tmp_path / "outputs").exists()


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until a process answers on a port."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)
