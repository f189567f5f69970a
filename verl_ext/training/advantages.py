"""What the estimators of attempts need of a step, and verl does not hand them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transfer_queue as tq
from tensordict import TensorDict
from torch import Tensor
from transfer_queue import KVBatchMeta
from verl.workers.utils.padding import response_to_nested

from multi_attempt.credit import CreditSettings
from verl_ext.algorithms.attempts import Attempts
from verl_ext.algorithms.batch import Step
from verl_ext.training.rollout_check import transcripts_of

_AVERAGES = "attempt_averages.json"


def step_of(batch: KVBatchMeta, settings: CreditSettings, averages: dict[int, Tensor], *, critic: bool) -> Step:
    """The settings, N of each row, and the critic's values, padded as verl pads the batch (``_compute_advantage``).

    Args:
        batch: of the step.
        settings: ``multi_attempt.credit``.
        averages: what an estimator remembers from step to step.
        critic: whether there are values.
    """
    real = torch.tensor([not tag.get("is_padding", False) for tag in batch.tags])
    budgets = torch.zeros(len(batch.keys), dtype=torch.int64)  # N of what the batch is filled up with: nothing has it
    budgets[real] = torch.tensor([transcript.budget for transcript in transcripts_of(batch)], dtype=torch.int64)
    return Step(settings, _values(batch) if critic else None, budgets, averages)


def save_averages(averages: dict[int, Tensor], checkpoint: Path) -> None:
    """Keep what an estimator remembers beside the model, if it remembers anything: by N, numbers as they are."""
    if averages:
        kept = {str(budget): average.tolist() for budget, average in averages.items()}
        (checkpoint / _AVERAGES).write_text(json.dumps(kept), encoding="utf-8")


def load_averages(checkpoint: Path) -> dict[int, Tensor]:
    """What :func:`save_averages` kept; nothing of a checkpoint that has none."""
    file = checkpoint / _AVERAGES
    if not file.is_file():
        return {}
    kept = json.loads(file.read_text(encoding="utf-8"))
    return {int(budget): torch.tensor(average, dtype=torch.float64) for budget, average in kept.items()}


def keep_reference_of_first(batch: KVBatchMeta, attempts: int) -> None:
    """Let the KL to the reference be of each episode's first attempts alone: to the others the policy is its own.

    verl takes the KL in the reward as the difference of ``old_log_probs`` and ``ref_log_prob`` (``apply_kl_penalty``),
    which is then 0 from attempt to attempt.

    Args:
        batch: with both in the queue.
        attempts: how many attempts keep the reference's.
    """
    fields = ["response_mask", "old_log_probs", "ref_log_prob"]
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
    padded, nested_mask = data.to_padded_tensor(), data["response_mask"]
    made = Attempts.of(padded["response_mask"])
    first = torch.arange(made.made.shape[1]) < attempts
    kept = made.spread(first.expand(made.made.shape).to(torch.int8)).bool()
    reference = torch.where(kept, padded["ref_log_prob"], padded["old_log_probs"])
    put = TensorDict({"ref_log_prob": response_to_nested(reference, nested_mask)}, batch_size=len(batch.keys))
    tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=put)


def _values(batch: KVBatchMeta) -> Tensor:
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["response_mask", "values"])
    values: Tensor = data.to_padded_tensor()["values"]
    return values
