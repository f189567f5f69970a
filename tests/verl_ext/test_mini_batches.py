"""Mini-batches hold episodes of all lengths and outcomes, and a resumed run makes those of the interrupted one."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import datasets
import mini_batch_record
import pytest
import torch
import yaml
from hydra import compose
from tensordict import TensorDict
from torch.utils.data import DataLoader
from training_run import TrainingRun, make_toy
from verl.utils.tensordict_utils import make_iterator

from multi_attempt.prompts import load_prompt_set

EPISODES, MINI_BATCH = 64, 16
SEED = 3


def places(episodes: int, mini_batch: int, seed: int) -> list[list[int]]:
    """The places in the batch that each mini-batch takes, as torch shuffles with a seed."""
    generator = torch.Generator().manual_seed(seed)
    every: Any = torch.arange(episodes)
    loader = DataLoader(every, mini_batch, shuffle=True, generator=generator, collate_fn=torch.stack)
    return [part.tolist() for part in loader]


@pytest.mark.usefixtures("hydra_configs")
@pytest.mark.parametrize("name", ["multi_attempt", "single_turn", "published", "multi_attempt_cpu", "reproduce"])
def test_actor_and_critic_shuffle_by_one_seed(name: str) -> None:
    config = compose(name, overrides=[f"actor_rollout_ref.actor.data_loader_seed={SEED}"])
    assert config.actor_rollout_ref.actor.shuffle is config.critic.shuffle is True
    assert config.critic.data_loader_seed == SEED


@pytest.mark.parametrize("shuffle", [False, True])
def test_episodes_that_come_in_the_order_of_finishing_are_mixed_only_by_shuffling(shuffle: bool) -> None:
    """A simulation of the paper's step, 1,024 episodes that come shortest first, through verl's own mini-batches."""
    draw = random.Random(0)
    lengths = sorted(draw.lognormvariate(6.7, 0.7) for _ in range(1024))
    batch = TensorDict({"lengths": torch.tensor(lengths)}, batch_size=1024)
    parts = make_iterator(batch, mini_batch_size=128, epochs=1, seed=42, dataloader_kwargs={"shuffle": shuffle})
    means = [part["lengths"].mean().item() for part in parts]
    assert len(means) == 8
    assert (max(means) < 1.5 * min(means)) is shuffle
    assert (max(means) > 8 * min(means)) is not shuffle


@pytest.mark.engine
def test_a_runs_mini_batches_are_mixed_and_a_resumed_run_makes_the_same(tmp_path: Path) -> None:
    make_task(tmp_path)
    first = updates(tmp_path, "first", steps=2)
    resumed = updates(tmp_path, "resumed", steps=3)
    assert len(first) == 2 * 2  # critic and actor, two steps
    assert len(resumed) == 2
    for update in [*first, *resumed]:
        # The trainer's batch is the same 64 places in whatever order; how they are dealt out is a function of the seed.
        assert update["places"] == places(EPISODES, MINI_BATCH, SEED)
        check_mixed(update)


def make_task(folder: Path) -> None:
    """A task on which a random model has episodes of all lengths, some of them solved: the last digit is to be a 7."""
    make_toy(folder)
    prompts = {**asdict(load_prompt_set("toy")), "answer": "last_number"}
    del prompts["name"]
    (folder / "prompts.yaml").write_text(yaml.safe_dump(prompts))
    rows = datasets.load_dataset("parquet", data_files=str(folder / "train.parquet"), split="train")
    sevens = [{**row["reward_model"], "ground_truth": "7"} for row in rows]
    rows.remove_columns("reward_model").add_column("reward_model", sevens).to_parquet(folder / "train.parquet")


def updates(toy: Path, name: str, steps: int) -> list[dict[str, Any]]:
    """Train up to a step, from the last checkpoint on; the record of each update."""
    record = toy / f"{name}.jsonl"
    settings = [
        f"data.train_batch_size={EPISODES}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={MINI_BATCH}",
        f"actor_rollout_ref.actor.data_loader_seed={SEED}",
        f"trainer.total_training_steps={steps}",
        f"multi_attempt.prompts={toy / 'prompts.yaml'}",
        "multi_attempt.max_tokens_per_attempt=null",
        "trainer.save_freq=1",
        "trainer.critic_warmup=0",
    ]
    environment = {
        "VERL_USE_EXTERNAL_MODULES": mini_batch_record.__name__,
        "PYTHONPATH": str(Path(mini_batch_record.__file__).parent),
        mini_batch_record.FILE: str(record),
    }
    with TrainingRun(toy, toy / "checkpoints", toy, settings, environment) as run:
        run.start()
        run.finish()
    return [json.loads(line) for line in record.read_text().splitlines()]


def check_mixed(update: dict[str, Any]) -> None:
    lengths, solved = update["lengths"], [reward > 0 for reward in update["rewards"]]
    assert len(set(lengths)) > MINI_BATCH
    assert 0 < sum(solved) < EPISODES

    def spread(values: list[Any], parts: list[list[int]]) -> float:
        means = [fmean(values[place] for place in part) for part in parts]
        return max(means) - min(means)

    ordered = sorted(range(EPISODES), key=lambda place: lengths[place])
    by_length = [ordered[start : start + MINI_BATCH] for start in range(0, EPISODES, MINI_BATCH)]
    assert spread(lengths, update["places"]) < spread(lengths, by_length) / 2
    assert spread(solved, update["places"]) < 0.6
