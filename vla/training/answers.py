"""Which scored token of a batch belongs to which answer, and which of them are actions."""

from __future__ import annotations

from typing import Any

import torch

from vla.examples import Examples
from vla.models.logprobs import token_logprobs


class Answers:
    """Which answer each scored token of a batch belongs to; a row may have several, each in its branch.

    Attributes:
        of: [N] the answer of each token.
        row: [A] the row of each answer.
        branch: [A] its place among the row's answers, from 0 on.
    """

    def __init__(self, places: torch.Tensor, branches: torch.Tensor):
        rows, columns = places.nonzero(as_tuple=True)
        most = int(branches.max()) + 1
        found, self.of = torch.unique(rows * most + branches[rows, columns], return_inverse=True)
        self.row, self.rows = found // most, len(places)
        self.branch = (found % most - 1).clamp_min(0)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of values [N] by answer, [A]."""
        return _mean_by(values, self.of, len(self.row))

    def mean_by_row(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over a row's answers of their means, [B]; 0 where nothing is scored."""
        return _mean_by(self.mean(values), self.row, self.rows)


def _mean_by(values: torch.Tensor, group: torch.Tensor, groups: int) -> torch.Tensor:
    sums = torch.zeros(groups, dtype=values.dtype, device=values.device).index_add_(0, group, values)
    return sums / torch.bincount(group, minlength=groups).clamp_min(1)


class ActionTokens(torch.nn.Module):
    """The integers among the words: which there are, and which are legal at each place of an action.

    Args:
        examples: of the contract and the processor.
        words: rows of the model's table of words.

    Attributes:
        ids: [I] the integers' ids, in order.
    """

    ids: torch.Tensor
    _bins: torch.Tensor
    _legal: torch.Tensor

    def __init__(self, examples: Examples, words: int):
        super().__init__()
        ids = torch.tensor(examples.vocabulary.integer_ids)
        bins = torch.full((words,), -1)
        bins[ids] = torch.arange(len(ids))
        names = list(examples.contract.embodiments)
        self._number = {name: number for number, name in enumerate(names)} | {"": 0}
        steps = [examples.legal(name) for name in names]
        legal = torch.zeros(len(steps), max(map(len, steps)), len(ids), dtype=torch.bool)
        for number, step in enumerate(steps):
            for place, integers in enumerate(step):
                legal[number, place, torch.from_numpy(integers)] = True
        self._widths = [len(step) for step in steps]
        for name, table in (("ids", ids), ("_bins", bins), ("_legal", legal)):
            self.register_buffer(name, table, persistent=False)

    def bins(self, ids: torch.Tensor) -> torch.Tensor:
        """The integer that each id stands for; -1 where it is another word."""
        return self._bins[ids]

    def find(self, items: list[Any], answers: Answers) -> tuple[torch.Tensor, torch.Tensor]:
        """Which scored tokens are actions, [N] bool, and the integers that are legal at these, [actions, I] bool."""
        device = answers.of.device
        # The actions are the last tokens of a robot's answer, the plan stands before them.
        left = torch.bincount(answers.of).cumsum(0)[answers.of] - torch.arange(len(answers.of), device=device)
        bodies = [self._number[getattr(item, "embodiment", "")] for item in items]
        steps = [int(item.mask.sum()) if hasattr(item, "mask") else 0 for item in items]
        widths = [self._widths[body] for body in bodies]
        body, count, width = torch.tensor([bodies, steps, widths], device=device)[:, answers.row[answers.of]]
        action = left <= count * width
        return action, self._legal[body[action], (-left % width)[action]]

    def loss(self, logits: torch.Tensor, ids: torch.Tensor, smoothing: float, items: list[Any], answers: Answers) -> torch.Tensor:
        """Cross-entropy of the scored tokens, [N], from logits [N, V]; the targets of integers are bells over their neighbours.

        Where one or two integers are legal (a constant dimension, terminate) there are no neighbours.

        Args:
            smoothing: width of the bell, in bins; 0 is none.
        """
        losses = -token_logprobs(logits, ids)
        if smoothing <= 0:
            return losses
        # Integers are ordinal: a near bin is nearly right.
        bins = self.bins(ids)
        action, legal = self.find(items, answers)
        ordinal = bins >= 0
        ordinal[action] &= legal.sum(-1) > 2
        rows = ordinal.nonzero()[:, 0]
        table = torch.arange(len(self.ids), device=ids.device)
        bell = torch.softmax(-0.5 * ((table - bins[rows, None]) / smoothing) ** 2, -1)
        logs = logits[rows].float().log_softmax(-1)[:, self.ids]
        return losses.index_put((rows,), -(bell * logs).sum(-1))
