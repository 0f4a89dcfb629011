"""The answers in a batch: which scored token belongs to which, and which tokens are actions."""

from __future__ import annotations

import torch

from vla.contract import Statistic
from vla.models.decoding.choose import ordinal_choice
from vla.models.logprobs import token_logprobs
from vla.sequences.batch import Batch
from vla.sequences.encode import Encoder


class Answers:
    """Groups the scored tokens of a batch into answers. A row may have several answers, each in its branch.

    Args:
        positions: bool [B, L], the positions whose next token is scored.
        branches: int64 [B, L], the branch of each position; None: one per row.

    Attributes:
        of: [N] the answer of each token.
        row: [A] the row of each answer.
        branch: [A] its number among the row's answers, from 0 on.
        last: bool [A], whether it is its row's last: the one that has the actions, if any has.
    """

    def __init__(self, positions: torch.Tensor, branches: torch.Tensor | None):
        if branches is None:
            branches = positions.long()
        rows, columns = positions.nonzero(as_tuple=True)
        most = int(branches.max()) + 1
        answers, self.of = torch.unique(rows * most + branches[rows, columns], return_inverse=True)
        self.row, self.rows = answers // most, len(positions)
        self.branch = (answers % most - 1).clamp_min(0)
        self.last = torch.cat([self.row[1:] != self.row[:-1], self.row.new_ones(min(len(self.row), 1), dtype=torch.bool)])

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of the values [N] of each answer, [A]."""
        return _mean_by(values, self.of, len(self.row))

    def mean_by_row(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over each row's answers of their means, [B]; 0 where nothing is scored."""
        return _mean_by(self.mean(values), self.row, self.rows)


def _mean_by(values: torch.Tensor, group: torch.Tensor, groups: int) -> torch.Tensor:
    sums = torch.zeros(groups, dtype=values.dtype, device=values.device).index_add_(0, group, values)
    return sums / torch.bincount(group, minlength=groups).clamp_min(1)


class ActionTokens(torch.nn.Module):
    """The tokens that actions are written with, and which of them are legal at each position of a chunk.

    Args:
        encoder: of the contract and the model family.
        words: size of the model's vocabulary.

    Attributes:
        ids: [I] the tokens of the codec's symbols, in order; the end token last, if chunks differ in length.
        quantities: whether symbols are quantities, so that neighbouring ones mean nearly the same.
    """

    ids: torch.Tensor
    _integers: torch.Tensor
    _symbols: torch.Tensor
    _bins: torch.Tensor
    _legal: torch.Tensor
    _ordinal: torch.Tensor

    def __init__(self, encoder: Encoder, words: int):
        super().__init__()
        codecs, vocabulary = {name: encoder.codec(name) for name in encoder.contract.embodiments}, encoder.vocabulary
        self.quantities = all(codec.fixed for codec in codecs.values())
        ids = torch.tensor([*vocabulary.action_ids, *(() if self.quantities else (vocabulary.eos_id,))])
        chunks = [codec.positions() for codec in codecs.values()]
        legal = torch.zeros(len(chunks), max(map(len, chunks)) + 1, len(ids), dtype=torch.bool)
        ordinal = torch.zeros(legal.shape[:2], dtype=torch.bool)
        for number, (codec, chunk) in enumerate(zip(codecs.values(), chunks, strict=True)):
            ordinal[number, : len(chunk)] = torch.tensor(codec.ordinal())
            for position, symbols in enumerate(chunk):
                legal[number, position, torch.from_numpy(symbols)] = True
        if not self.quantities:
            legal[:, :, -1] = True
        integers = torch.tensor(vocabulary.integer_ids, dtype=torch.long)
        for name, table in (("ids", ids), ("_integers", integers), ("_legal", legal), ("_ordinal", ordinal)):
            self.register_buffer(name, table, persistent=False)
        for name, table in (("_symbols", ids), ("_bins", integers)):
            self.register_buffer(name, torch.full((words,), -1).index_put((table,), torch.arange(len(table))), persistent=False)

    def symbols(self, ids: torch.Tensor) -> torch.Tensor:
        """The index of each id among the action tokens; -1 if it is none."""
        return self._symbols[ids]

    def find(self, batch: Batch, answers: Answers) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The scored tokens that are actions.

        Returns:
            bool [N], which scored tokens are actions; bool [actions, I], the action tokens that are legal at each of these;
            bool [actions], where the legal tokens are ordinal.
        """
        device = answers.of.device
        # The actions are the last tokens of a robot's answer; the plan comes before them.
        left = torch.bincount(answers.of).cumsum(0)[answers.of] - torch.arange(len(answers.of), device=device)
        row = answers.row[answers.of]
        count = batch.actions.to(device)[row]
        action = (left <= count) & answers.last[answers.of]
        position = batch.embodiment.to(device)[row][action], (count - left)[action]
        return action, self._legal[position], self._ordinal[position]

    def choose(self, logits: torch.Tensor, legal: torch.Tensor, ordinal: torch.Tensor, decode: Statistic) -> torch.Tensor:
        """The symbols [N] that decoding would write, from logits [N, V] and the legal [N, I] and ordinal [N] positions."""
        scores = logits[:, self.ids].float().masked_fill(~legal, -torch.inf)
        return torch.where(ordinal, ordinal_choice(scores, decode), scores.argmax(-1))

    def loss(self, logits: torch.Tensor, ids: torch.Tensor, smoothing: float, batch: Batch, answers: Answers) -> torch.Tensor:
        """Cross-entropy of the scored tokens, [N], from logits [N, V]. Targets that are quantities are smoothed over their
        neighbours by a Gaussian.

        Where one or two tokens are legal (a constant dimension, terminate) there are no neighbours.

        Args:
            smoothing: standard deviation of the Gaussian, in bins; 0 is none.
        """
        losses = -token_logprobs(logits, ids)
        if smoothing <= 0:
            return losses
        action, legal, _ = self.find(batch, answers)
        free = legal.sum(-1) > 2 if self.quantities else torch.zeros(len(legal), dtype=torch.bool, device=ids.device)
        rows = action.nonzero()[:, 0][free]
        losses = losses.index_put((rows,), _smoothed(logits[rows], self._symbols[ids[rows]], self.ids, smoothing, legal[free]))
        # The integers of plans and answers are quantities too.
        rows = (~action & (self._bins[ids] >= 0)).nonzero()[:, 0]
        return losses.index_put((rows,), _smoothed(logits[rows], self._bins[ids[rows]], self._integers, smoothing))


def _smoothed(
    logits: torch.Tensor, centre: torch.Tensor, words: torch.Tensor, width: float, legal: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy [N] of logits [N, V] with a Gaussian over words [I] around index `centre` [N], within `legal` [N, I]."""
    score = -0.5 * ((torch.arange(len(words), device=words.device) - centre[:, None]) / width) ** 2
    if legal is not None:
        score = score.masked_fill(~legal, -torch.inf)
    return -(score.softmax(-1) * logits.float().log_softmax(-1)[:, words]).sum(-1)
