"""Sums over the other episodes of a question. Which rows count is said by a mask: aborted ones are in no mean."""

from __future__ import annotations

import torch
from torch import Tensor


def total(values: Tensor, group: Tensor) -> Tensor:
    """Of each row, the sum over its group, itself included; shapes [batch, ...]."""
    groups = int(group.max()) + 1 if len(group) else 0
    return values.new_zeros(groups, *values.shape[1:]).index_add_(0, group, values)[group]


def mean(values: Tensor, counts: Tensor, group: Tensor) -> Tensor:
    """The mean over a group's entries that count (bool, of the same shape as ``values``); 0 if none does."""
    members = total(counts.to(values.dtype), group)
    return total(values * counts, group) / members.clamp_min(1)


def deviation(values: Tensor, counts: Tensor, group: Tensor) -> Tensor:
    """The standard deviation over a group's m entries that count, with m - 1 degrees of freedom."""
    members = total(counts.to(values.dtype), group)
    squares = total((values - mean(values, counts, group)).square() * counts, group)
    return (squares / (members - 1).clamp_min(1)).sqrt()


def mean_of_others(values: Tensor, counts: Tensor, group: Tensor) -> Tensor:
    """The mean over a group's other entries that count; 0 for one that has no others."""
    others = total(counts.to(values.dtype), group) - counts.to(values.dtype)
    return (total(values * counts, group) - values * counts) / others.clamp_min(1) * (others > 0)


def share_without_variance(values: Tensor, counts: Tensor, group: Tensor) -> float:
    """Of the groups with at least two entries that count, the share in which all have the same value; 0 of none.

    Args:
        values: shape [batch].
        counts: bool, shape [batch].
        group: shape [batch].
    """
    group, values = group[counts], values[counts]
    members = torch.bincount(group)
    lowest, highest = (
        values.new_zeros(len(members)).scatter_reduce_(0, group, values, which, include_self=False)
        for which in ("amin", "amax")
    )
    several = members > 1
    return float((several & (lowest == highest)).sum() / several.sum().clamp_min(1))
