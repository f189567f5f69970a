"""The launchers' shell: what they check, write, run and hand on. On a real SLURM: tests/slurm."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from kuberay_schema import schema_errors

from verl_ext.checks.check_command import compose_config

LAUNCH = Path(__file__).parents[2] / "launch"

# verl.trainer.main_ppo, as far as the scripts see it: prints the config when asked, else runs what the test says.
STAND_IN = """#!/usr/bin/env bash
if [ "$1" != -m ]; then exec {python} "$@"; fi
if [[ " $* " == *" --cfg "* ]]; then cat {config}; else {training}; fi
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a command in an empty folder, with this environment's Python and the variables given."""

    def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=clean_environment() | environment,
        )

    return run


def clean_environment() -> dict[str, str]:
    """This process's, with its Python first on PATH, and without what the launchers read."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "LAUNCH_", "RAY_"))}
    return kept | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def function(call: str) -> list[str]:
    """The command that calls a function of slurm.sbatch."""
    return ["bash", "-c", f"source {LAUNCH / 'slurm.sbatch'}; {call}"]


class TestSlurm:
    def test_dry_run_writes_the_job_and_its_config(self, run: Run, tmp_path: Path) -> None:
        arguments = ["--config-name", "multi_attempt_cpu", "trainer.logger=[console,file]", "toy=a folder/toy"]
        result = run(LAUNCH / "slurm.sbatch", "--dry-run", "--nodes=3", *arguments, LAUNCH_LOGS="logs")
        assert result.returncode == 0, result.stderr
        job, config = (tmp_path / "logs" / "dry-run" / name for name in ("job.sbatch", "config.yaml"))
        assert str(job) in result.stdout
        assert str(config) in result.stdout
        composed = yaml.safe_load(config.read_text())
        assert composed["trainer"]["nnodes"] == 3
        assert composed["data"]["train_files"] == "a folder/toy/train.parquet"
        options = [line.split()[1] for line in job.read_text().splitlines() if line.startswith("#SBATCH")]
        assert options[-3:] == ["--nodes=3", "--gres=none", f"--chdir={tmp_path}"]
        # When it is only read, not run, the file leaves its arguments and settings.
        read = run("bash", "-c", f'source {job}; printf \'%s\\n\' "$LAUNCH_LOGS" "$@"')
        assert read.stdout.splitlines() == [str(tmp_path / "logs"), *arguments]

    def test_without_a_job_it_says_how(self, run: Run) -> None:
        result = run(LAUNCH / "slurm.sbatch", "--config-name", "multi_attempt")
        assert result.returncode == 1
        assert "no SLURM job: submit this by sbatch, or look at what it would do with --dry-run" in result.stderr

    def test_the_options_of_sbatch_stand_before_the_first_command(self) -> None:
        lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
        first_command = next(number for number, line in enumerate(lines) if not line.startswith("#"))
        assert all(number < first_command for number, line in enumerate(lines) if line.startswith("#SBATCH"))

    @pytest.mark.parametrize(
        ("peer", "interface", "expected"), [("127.0.0.1", "", "127.0.0.1 lo"), ("", "lo", "127.0.0.1 lo")]
    )
    def test_the_interface_is_the_one_towards_the_peer_or_the_one_named(
        self, run: Run, peer: str, interface: str, expected: str
    ) -> None:
        result = run(*function(f'python -c "$LAUNCH_NETWORK_PROGRAM" "{peer}" "{interface}"'))
        assert result.stdout.strip() == expected

    def test_an_interface_that_is_not_there(self, run: Run) -> None:
        result = run(*function('python -c "$LAUNCH_NETWORK_PROGRAM" "" ib7'))
        assert result.returncode == 1
        assert "LAUNCH_INTERFACE = 'ib7' has no IPv4 address" in result.stderr
        assert "'lo': '127.0.0.1'" in result.stderr

    def test_infiniband_ports_that_are_up_and_no_others(self, run: Run, tmp_path: Path) -> None:
        for name, state, layer in (
            ("mlx5_0/ports/1", "4: ACTIVE", "InfiniBand"),
            ("mlx5_1/ports/1", "1: DOWN", "InfiniBand"),
            ("mlx5_2/ports/1", "4: ACTIVE", "Ethernet"),
            ("mlx5_3/ports/2", "4: ACTIVE", "InfiniBand"),
        ):
            port = tmp_path / "class" / "infiniband" / name
            port.mkdir(parents=True)
            (port / "state").write_text(state)
            (port / "link_layer").write_text(layer)
        assert run(*function("infiniband_ports"), LAUNCH_SYSFS=str(tmp_path)).stdout == "=mlx5_0:1,mlx5_3:2\n"
        assert run(*function("infiniband_ports"), LAUNCH_SYSFS=str(tmp_path / "none")).stdout == ""

    @pytest.mark.parametrize(
        ("environment", "expected"),
        [
            ("", "--nodelist=n2 env python -V"),
            (
                "pyxis:nvcr.io#image:1",
                "--container-image=nvcr.io#image:1 "
                "--container-mounts={here}:{here},{here}/logs:{here}/logs,/data:/data,/tmp:/tmp "
                "--container-workdir={here} --nodelist=n2 env python -V",
            ),
            (
                "apptainer:image.sif",
                "--nodelist=n2 apptainer exec --nv --pwd {here} "
                "--bind {here}:{here},{here}/logs:{here}/logs,/data:/data image.sif python -V",
            ),
        ],
    )
    def test_a_step_runs_in_the_container(self, run: Run, tmp_path: Path, environment: str, expected: str) -> None:
        call = 'srun() { echo "$*"; }; enter_environment; on_node n2 python -V'
        settings = {"LAUNCH_ENVIRONMENT": environment, "LAUNCH_MOUNTS": "/data:/data", "LAUNCH_LOGS": "logs"}
        result = run(*function(call), SLURM_CPUS_ON_NODE="4", **settings)
        assert result.stdout.strip().endswith(expected.format(here=tmp_path)), result.stderr

    @pytest.mark.parametrize(
        ("environment", "error"),
        [
            ("venv:/nowhere", "LAUNCH_ENVIRONMENT = venv:/nowhere: /nowhere/bin/activate is not there"),
            ("docker:image", "LAUNCH_ENVIRONMENT = docker:image: it takes venv:, conda:, pyxis: or apptainer:"),
        ],
    )
    def test_an_environment_that_is_not_there(self, run: Run, environment: str, error: str) -> None:
        result = run(*function("enter_environment"), LAUNCH_ENVIRONMENT=environment)
        assert result.returncode == 1
        assert error in result.stderr

    def test_conda_is_activated_by_name(self, run: Run, tmp_path: Path) -> None:
        conda = tmp_path / "conda"
        conda.write_text("#!/bin/sh\necho 'conda() { echo activated \"$2\"; }'\n")
        conda.chmod(0o755)
        call = f'PATH="{tmp_path}:$PATH"; enter_environment'
        assert run(*function(call), LAUNCH_ENVIRONMENT="conda:verl").stdout == "activated verl\n"

    @pytest.mark.parametrize(
        ("values", "error"),
        [
            ("device=cuda wanted_nodes=2", "trainer.n_gpus_per_node = 8, but this node gives the job 4 GPUs"),
            ("device=cpu wanted_nodes=3", "trainer.nnodes = 3, but the job has 2 nodes"),
            ("device=cpu wanted_nodes=2", None),
        ],
    )
    def test_a_config_that_does_not_fit_the_job(self, run: Run, values: str, error: str | None) -> None:
        call = f"{values} wanted_gpus=8; check_config"
        result = run(*function(call), SLURM_GPUS_ON_NODE="4", SLURM_JOB_NUM_NODES="2")
        assert result.returncode == (0 if error is None else 1)
        assert (error or "") in result.stderr


class TestRayJob:
    def test_dry_run_writes_the_runtime_environment_and_the_config(self, run: Run, tmp_path: Path) -> None:
        arguments = ["--config-name", "multi_attempt", "trainer.nnodes=2", "trainer.default_local_dir=/shared/run"]
        result = run(
            LAUNCH / "ray_job.sh", "--dry-run", *arguments, LAUNCH_LOGS="logs", HF_TOKEN="secret", WANDB_ENTITY=""
        )
        assert result.returncode == 0, result.stderr
        logs = tmp_path / "logs"
        assert yaml.safe_load((logs / "config.yaml").read_text())["trainer"]["nnodes"] == 2
        runtime = json.loads((logs / "runtime_env.json").read_text())
        assert (logs / "runtime_env.json").stat().st_mode & 0o077 == 0
        assert runtime["env_vars"]["HF_TOKEN"] == "secret"
        assert runtime["env_vars"]["WANDB_RESUME"] == "allow"
        # Whoever has the folder on sys.path, as Ray's workers do, has the plugin by its entry point.
        found = (
            'from importlib.metadata import entry_points as e; print(*e(group="verl.plugins", name="multi_attempt"))'
        )
        listed = run(
            sys.executable, "-I", "-c", f"import sys; sys.path[:] = [{runtime['working_dir']!r}, *sys.path]; {found}"
        )
        assert "value='verl_ext.plugin'" in listed.stdout, listed.stderr
        assert (Path(runtime["working_dir"]) / "verl_ext" / "config" / "multi_attempt.yaml").is_file()
        command = shlex.split(result.stdout.partition("command:")[2])
        own = ["ray_kwargs.ray_init.num_cpus=null", "++ray_kwargs.ray_init.num_gpus=null"]
        assert command[:3] == ["ray", "job", "submit"]
        assert command[command.index("--") + 1 :] == ["python", "-m", "verl.trainer.main_ppo", *arguments, *own]

    def test_a_relative_folder_of_checkpoints_is_refused(self, run: Run, tmp_path: Path) -> None:
        path = stand_in(tmp_path, {"default_local_dir": "checkpoints"}, training="exit 9")
        result = run(LAUNCH / "ray_job.sh", "--dry-run", PATH=path)
        assert result.returncode == 1
        assert "trainer.default_local_dir = checkpoints is relative" in result.stderr

    def test_another_way_to_bring_the_plugin_is_refused(self, run: Run, tmp_path: Path) -> None:
        path = stand_in(tmp_path, {"default_local_dir": "/shared"}, training="exit 9")
        result = run(LAUNCH / "ray_job.sh", "--dry-run", PATH=path, LAUNCH_PLUGIN="pip")
        assert result.returncode == 1
        assert "LAUNCH_PLUGIN = pip: it takes upload or installed" in result.stderr


class TestLocal:
    TRAINER: ClassVar[dict[str, Any]] = {
        "nnodes": 1,
        "n_gpus_per_node": 1,
        "device": "cpu",
        "experiment_name": "tried",
        "default_local_dir": "checkpoints",
    }

    def test_dry_run_checks_and_shows(self, run: Run, tmp_path: Path) -> None:
        path = stand_in(tmp_path, self.TRAINER, training="touch trained")
        result = run(
            LAUNCH / "local.sh", "--dry-run", "--config-name", "any", "a=[1, 2]", PATH=path, LAUNCH_LOGS="logs"
        )
        assert result.returncode == 0, result.stderr
        command = shlex.split(result.stdout.partition("command:")[2])
        arguments = ["--config-name", "any", "a=[1, 2]", "++ray_kwargs.ray_init.address=local"]
        assert command == ["python", "-m", "verl.trainer.main_ppo", *arguments]
        assert yaml.safe_load((tmp_path / "logs" / "tried" / "config.yaml").read_text()) == {"trainer": self.TRAINER}
        assert not (tmp_path / "trained").exists()
        assert not (tmp_path / "checkpoints").exists()

    def test_names_may_have_spaces(self, run: Run, tmp_path: Path) -> None:
        names = {"experiment_name": "a try", "default_local_dir": "my checkpoints"}
        path = stand_in(tmp_path, self.TRAINER | names, training="touch trained")
        result = run(LAUNCH / "local.sh", PATH=path, LAUNCH_LOGS="logs")
        assert result.returncode == 0, result.stderr
        assert (tmp_path / "logs" / "a try" / "try-0.log").is_file()
        assert (tmp_path / "my checkpoints" / "lock").is_file()

    @pytest.mark.parametrize(
        ("change", "variables", "error"),
        [
            ({"nnodes": 2}, {}, "trainer.nnodes = 2, but this is one machine"),
            ({}, {"RAY_ADDRESS": "head:6379"}, "RAY_ADDRESS = head:6379 names a cluster"),
            (
                {"device": "cuda", "n_gpus_per_node": 8},
                {"CUDA_VISIBLE_DEVICES": "0,1"},
                "trainer.n_gpus_per_node = 8, but this machine has 2 GPUs",
            ),
        ],
    )
    def test_what_this_machine_cannot_do(
        self, run: Run, tmp_path: Path, change: dict[str, Any], variables: dict[str, str], error: str
    ) -> None:
        path = stand_in(tmp_path, self.TRAINER | change, training="touch trained")
        result = run(LAUNCH / "local.sh", PATH=path, **variables)
        assert result.returncode == 1
        assert error in result.stderr
        assert not (tmp_path / "trained").exists()

    def test_a_failed_try_keeps_its_log_and_the_next_is_the_same_wandb_run(self, run: Run, tmp_path: Path) -> None:
        training = (
            'echo "run $WANDB_RUN_ID $WANDB_RESUME"; echo 4 >checkpoints/latest_checkpointed_iteration.txt; exit 3'
        )
        path = stand_in(tmp_path, self.TRAINER, training=training)
        first, second = (run(LAUNCH / "local.sh", PATH=path, LAUNCH_LOGS="logs") for _ in range(2))
        assert (first.returncode, second.returncode) == (3, 3)
        assert "from step 0" in first.stdout
        assert "from step 4" in second.stdout
        assert "the same command goes on from step 4" in first.stderr
        logs = [(tmp_path / "logs" / "tried" / f"try-{number}.log").read_text() for number in range(2)]
        assert logs[0].startswith("run ")
        assert logs[0].endswith(" allow\n")
        assert logs[0] == logs[1]

    def test_a_second_training_on_the_same_checkpoints_is_refused(self, run: Run, tmp_path: Path) -> None:
        path = stand_in(tmp_path, self.TRAINER, training="touch started; sleep 60")
        with subprocess.Popen([LAUNCH / "local.sh"], cwd=tmp_path, env=clean_environment() | {"PATH": path}) as first:
            wait_for((tmp_path / "started").exists)
            second = run(LAUNCH / "local.sh", PATH=path)
            first.send_signal(signal.SIGTERM)
        assert second.returncode == 1
        assert "another training runs there" in second.stderr

    def test_a_signal_goes_to_the_training_and_is_waited_for(self, tmp_path: Path) -> None:
        training = "trap 'echo ended >ended; exit 7' TERM; touch started; while :; do sleep 0.1; done"
        path = stand_in(tmp_path, self.TRAINER, training=training)
        process = subprocess.Popen([LAUNCH / "local.sh"], cwd=tmp_path, env=clean_environment() | {"PATH": path})
        wait_for((tmp_path / "started").exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 7
        assert (tmp_path / "ended").exists()


class TestKubeRay:
    def test_its_numbers_agree(self) -> None:
        job = yaml.safe_load((LAUNCH / "kuberay.yaml").read_text())
        (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        entrypoint = job["spec"]["entrypoint"].split()
        gpus = int(workers["rayStartParams"]["num-gpus"])
        resources = workers["template"]["spec"]["containers"][0]["resources"]
        assert workers["replicas"] == workers["minReplicas"] == workers["maxReplicas"]
        assert f"trainer.nnodes={workers['replicas']}" in entrypoint
        assert f"trainer.n_gpus_per_node={gpus}" in entrypoint
        assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == gpus

    def test_its_arguments_compose(self) -> None:
        job = yaml.safe_load((LAUNCH / "kuberay.yaml").read_text())
        _, name, *overrides = job["spec"]["entrypoint"].partition("main_ppo")[2].split()
        trainer = compose_config(name, overrides).trainer
        assert trainer.default_local_dir.startswith("/shared/")
        assert trainer.logger == ["console", "wandb"]

    def test_it_fits_the_published_schema(self) -> None:
        if "KUBERAY_CRD" not in os.environ:
            pytest.skip("KUBERAY_CRD does not name KubeRay's ray.io_rayjobs.yaml; see docs/launching.md")
        definition = yaml.load(Path(os.environ["KUBERAY_CRD"]).read_text(), Loader=yaml.CSafeLoader)
        job = yaml.safe_load((LAUNCH / "kuberay.yaml").read_text())
        assert list(schema_errors(definition, job)) == []
        job["spec"]["backoffLimits"] = 3
        assert list(schema_errors(definition, job)) == [
            "$.spec: Additional properties are not allowed ('backoffLimits' was unexpected)"
        ]


def stand_in(folder: Path, trainer: dict[str, Any], training: str) -> str:
    """A PATH on which ``python`` runs a stand-in for the training; beside it the config that it prints."""
    config, python = folder / "composed.yaml", folder / "bin" / "python"
    config.write_text(yaml.safe_dump({"trainer": trainer}))
    python.parent.mkdir()
    python.write_text(STAND_IN.format(python=sys.executable, config=config, training=training))
    python.chmod(0o755)
    return f"{python.parent}:{clean_environment()['PATH']}"


def wait_for(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    """Poll until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
