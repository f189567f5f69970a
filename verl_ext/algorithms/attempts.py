"""The attempts of a batch: the runs of 1 in its response mask.

Attempts are counted from 0. What an attempt has once (a return, an advantage) stands in a table, shape [batch, most],
where ``most`` is the greatest number of attempts of an episode, at least 1; places of attempts that were not made hold
0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Attempts:
    """Where the attempts of a batch stand. Their tokens, row by row, are the mask's ones in the order of memory.

    Attributes:
        mask: which tokens were generated, bool, shape [batch, length].
        row: of each attempt, in the order of rows and tokens, shape [attempts].
        number: of each attempt in its episode, from 0, shape [attempts].
        first: its first token, shape [attempts].
        last: its last token, shape [attempts].
        made: which attempts were made, bool, shape [batch, most].
    """

    mask: Tensor
    row: Tensor
    number: Tensor
    first: Tensor
    last: Tensor
    made: Tensor

    @classmethod
    def of(cls, response_mask: Tensor) -> Attempts:
        """The attempts of a response mask, shape [batch, length]: 1 for generated tokens, 0 for all others."""
        mask = response_mask.bool()
        outside = torch.zeros(len(mask), 1, dtype=torch.int8, device=mask.device)
        # One column more than there are tokens: at each, whether an attempt begins (1) or the one before it ended (-1).
        edges = torch.diff(mask.to(torch.int8), dim=1, prepend=outside, append=outside)
        row, first = (edges > 0).nonzero(as_tuple=True)
        last = (edges < 0).nonzero(as_tuple=True)[1] - 1
        counts = torch.bincount(row, minlength=len(mask))
        number = torch.arange(len(row), device=mask.device) - (counts.cumsum(0) - counts)[row]
        most = max(1, int(counts.max())) if len(counts) else 1
        made = torch.arange(most, device=mask.device) < counts[:, None]
        return cls(mask, row, number, first, last, made)

    @property
    def finished(self) -> Tensor:
        """Which rows hold an episode: aborted ones, and those that a batch is filled up with, have no attempt."""
        return self.made[:, 0]

    @property
    def lengths(self) -> Tensor:
        """Tokens of each attempt, shape [attempts]."""
        return self.last - self.first + 1

    def table(self, values: Tensor) -> Tensor:
        """Values of the attempts, shape [attempts], as a table."""
        table = values.new_zeros(self.made.shape)
        table[self.row, self.number] = values
        return table

    def at_last(self, tokens: Tensor) -> Tensor:
        """What stands at each attempt's last token, of shape [batch, length], as a table."""
        return self.table(tokens[self.row, self.last])

    def sums(self, tokens: Tensor) -> Tensor:
        """The sum over each attempt's tokens, of shape [batch, length], as a table."""
        if not len(self.row):
            return tokens.new_zeros(self.made.shape)
        return self.table(torch.segment_reduce(tokens[self.mask], "sum", lengths=self.lengths))

    def spread(self, table: Tensor) -> Tensor:
        """A table's values at all tokens of their attempts, 0 elsewhere, shape [batch, length]."""
        tokens = table.new_zeros(self.mask.shape)
        return tokens.masked_scatter_(self.mask, table[self.row, self.number].repeat_interleave(self.lengths))
