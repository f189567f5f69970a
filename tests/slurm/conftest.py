"""These tests install and start SLURM on this machine: they run when asked for, by ``make test-slurm``."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster, install

if "TEST_SLURM" not in os.environ:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def cluster() -> Iterator[SlurmCluster]:
    """The cluster, taken down whatever happens; not below ``/tmp``, of which each node has its own."""
    reason = install()
    if reason is not None:
        pytest.fail(f"no SLURM: {reason}")
    # A test run that is told to end takes the cluster down too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cluster = SlurmCluster(Path(__file__).parents[2] / "outputs" / "slurm-test")
    # One cluster at a time on a machine, for its network and ports have fixed names: wait for another to end.
    with Path("/run/multi-attempt-slurm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
