"""What the launcher's tests train with where they do not look at the training: a step is a second of waiting.

It is started, told its settings, connected to Ray, resumed and ended as ``verl.trainer.main_ppo`` is.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import hydra
import ray
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_SEEN = (
    "WANDB_RUN_ID",
    "WANDB_RESUME",
    "GLOO_SOCKET_IFNAME",
    "NCCL_SOCKET_FAMILY",
    "RAY_AUTH_MODE",
    "CUDA_VISIBLE_DEVICES",
    "MLP_CURRENT_CAPACITY_BLOCK_EXPIRATION_TIMESTAMP",
)

# As far as the launcher knows verl's.
_CONFIG = {
    "trainer": {
        "nnodes": 1,
        "n_gpus_per_node": 1,
        "device": "cpu",
        "default_local_dir": "checkpoints",
        "total_training_steps": 1,
        "save_freq": 1,
        "fails_at": None,
    },
    "ray_kwargs": {"ray_init": {"num_cpus": 8}},
}
ConfigStore.instance().store("stand_in", _CONFIG)


@ray.remote(num_cpus=0, num_gpus=1)
def seen_by_a_worker() -> dict[str, str | None]:
    """What a worker finds in its environment."""
    return {name: os.environ.get(name) for name in _SEEN}


@hydra.main(config_path=None, config_name="stand_in", version_base=None)
def main(config: DictConfig) -> None:
    """Count the steps."""
    ray.init(**{str(name): value for name, value in config.ray_kwargs.ray_init.items()})
    for node in ray.nodes():
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        print(node["NodeName"], ray.get(seen_by_a_worker.options(scheduling_strategy=there).remote()), flush=True)
    try:
        count(config.trainer)
    except SystemExit:  # by Ray's handler of SIGTERM
        print("ended in order", flush=True)
        raise


def count(trainer: DictConfig) -> None:
    """A step a second, from the last checkpoint on."""
    folder = Path(trainer.default_local_dir)
    folder.mkdir(parents=True, exist_ok=True)
    latest = folder / "latest_checkpointed_iteration.txt"
    first = int(latest.read_text()) if latest.exists() else 0
    for step in range(first + 1, trainer.total_training_steps + 1):
        time.sleep(1)
        if step == trainer.fails_at:
            raise RuntimeError(f"step {step} fails, as it was told to")
        print("step", step, flush=True)
        if trainer.save_freq > 0 and step % trainer.save_freq == 0:
            latest.write_text(str(step))


if __name__ == "__main__":
    main()
