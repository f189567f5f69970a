"""A real run of ``main_ppo`` in which each attempt is a sample of its own, read after the last one alone."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import pytest
from runs import json_lines
from training_run import TrainingRun

from multi_attempt.toy.build import build_toy
from multi_attempt.toy.settings import ToySettings

pytestmark = pytest.mark.engine

STEPS = 2
EPISODES = 16
ATTEMPTS = 3

SETTINGS = (
    "multi_attempt.history=last",
    f"multi_attempt.min_attempts={ATTEMPTS}",
    f"multi_attempt.max_attempts={ATTEMPTS}",
    "multi_attempt.max_tokens_per_attempt=48",
    "data.max_prompt_length=160",
    "data.max_response_length=48",
    "actor_rollout_ref.actor.ppo_mini_batch_size=8",
    "trainer.critic_warmup=0",
    f"trainer.total_training_steps={STEPS}",
    f"trainer.save_freq={STEPS}",
    f"trainer.test_freq={STEPS}",
)


class Trained(NamedTuple):
    """What came of the run.

    Attributes:
        steps: verl's metrics.
        episodes: for each step, of each episode its samples in order.
        validated: the same of the validation.
        settings: what the trained model keeps beside it.
    """

    steps: dict[int, dict[str, Any]]
    episodes: dict[int, list[list[dict[str, Any]]]]
    validated: list[list[dict[str, Any]]]
    settings: dict[str, Any]


def by_episode(path: Path) -> list[list[dict[str, Any]]]:
    """A dump's samples by episode; verl writes them in order, and padding has a name of its own."""
    episodes = defaultdict(list)
    for row in json_lines(path):
        if not row["uid"].startswith("pad"):
            episodes[row["uid"].rsplit("_", 1)[0]].append(row)
    return list(episodes.values())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("history")
    # Enough for attempts that end by themselves; some have an answer, and most are wrong.
    build_toy(folder, train_questions=64, heldout_questions=8, settings=ToySettings(steps=120, max_attempts=ATTEMPTS))
    kept = [f"trainer.rollout_data_dir={folder / 'train'}", f"trainer.validation_data_dir={folder / 'val'}"]
    with TrainingRun(folder, folder / "checkpoints", folder, [*SETTINGS, *kept]) as run:
        run.start()
        run.finish()
        steps = run.steps()
    model = folder / "checkpoints" / f"global_step_{STEPS}" / "actor" / "huggingface"
    return Trained(
        steps,
        {step: by_episode(folder / "train" / f"{step}.jsonl") for step in steps},
        by_episode(folder / "val" / f"{STEPS}.jsonl"),
        json.loads((model / "multi_attempt.json").read_text()),
    )


def test_each_attempt_reads_the_question_the_last_attempt_and_its_feedback(trained: Trained) -> None:
    dialogues = [samples for episodes in trained.episodes.values() for samples in episodes]
    assert max(map(len, dialogues)) == ATTEMPTS
    for samples in [*dialogues, *trained.validated]:
        first = samples[0]["input"]
        allowed = int(re.findall(r" \((\d)\)\n", first)[0])
        assert "assistant\n" not in first.removesuffix("assistant\n")
        for number, (earlier, sample) in enumerate(pairwise(samples), 1):
            told = f"\nuser\nWrong. ({allowed - number})\nassistant\n"
            assert sample["input"] == first + earlier["output"] + told


def test_samples_have_the_reward_of_their_episode_which_counts_once(trained: Trained) -> None:
    assert set(trained.steps) == set(range(1, STEPS + 1))
    for step, metrics in trained.steps.items():
        episodes = trained.episodes[step]
        assert len(episodes) == EPISODES
        assert all(len({sample["score"] for sample in samples}) == 1 for samples in episodes)
        solved = [samples[0]["score"] == 1.0 for samples in episodes]
        assert metrics["multi_attempt/success"] == pytest.approx(sum(solved) / EPISODES)
        made = [len(samples) for samples, right in zip(episodes, solved, strict=True) if not right]
        assert metrics["multi_attempt/attempts_used/failure"] == pytest.approx(sum(made) / len(made))
        assert metrics["multi_attempt/episode_errors"] == 0
        # verl's own measures are of samples.
        assert metrics["critic/score/mean"] == pytest.approx(
            sum(sample["score"] for samples in episodes for sample in samples) / sum(map(len, episodes)), abs=1e-6
        )
        assert metrics["training/rollout_actor_probs_pearson_corr"] > 0.9999
        assert metrics["actor/grad_norm"] > 0


def test_a_validation_counts_an_episode_once_and_the_model_is_evaluated_so(trained: Trained) -> None:
    # Of each number of attempts as many.
    accuracies = [value for name, value in trained.steps[STEPS].items() if re.match("val-core/.*/acc/", name)]
    assert fmean(accuracies) == pytest.approx(
        sum(each[-1]["acc"] for each in trained.validated) / len(trained.validated)
    )
    assert (trained.settings["history"], trained.settings["max_response_length"]) == ("last", 48)
