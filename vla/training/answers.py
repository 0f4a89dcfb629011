"""Which scored token of a batch belongs to which answer, and which of them are actions."""

from __future__ import annotations

import torch

from vla.contract import Statistic
from vla.models.decoding.choose import ordinal_choice
from vla.models.logprobs import token_logprobs
from vla.sequences.batch import Batch
from vla.sequences.encode import Encoder


class Answers:
    """Which answer each scored token of a batch belongs to; a row may have several, each in its branch.

    Attributes:
        of: [N] the answer of each token.
        row: [A] the row of each answer.
        branch: [A] its place among the row's answers, from 0 on.
    """

    def __init__(self, places: torch.Tensor, branches: torch.Tensor | None):
        if branches is None:
            branches = places.long()
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
    """The tokens that actions are written with, and which of them are legal at each place of a chunk.

    Args:
        encoder: of the contract and the processor.
        words: rows of the model's table of words.

    Attributes:
        ids: [I] the tokens of the codec's symbols, in order; last the end, where chunks are of unequal length.
        quantities: whether symbols are quantities, near ones nearly the same.
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
        places = [codec.positions() for codec in codecs.values()]
        legal = torch.zeros(len(places), max(map(len, places)) + 1, len(ids), dtype=torch.bool)
        ordinal = torch.zeros(legal.shape[:2], dtype=torch.bool)
        for number, (codec, chunk) in enumerate(zip(codecs.values(), places, strict=True)):
            ordinal[number, : len(chunk)] = torch.tensor(codec.ordinal())
            for place, symbols in enumerate(chunk):
                legal[number, place, torch.from_numpy(symbols)] = True
        if not self.quantities:
            legal[:, :, -1] = True
        integers = torch.tensor(vocabulary.integer_ids, dtype=torch.long)
        for name, table in (("ids", ids), ("_integers", integers), ("_legal", legal), ("_ordinal", ordinal)):
            self.register_buffer(name, table, persistent=False)
        for name, table in (("_symbols", ids), ("_bins", integers)):
            self.register_buffer(name, torch.full((words,), -1).index_put((table,), torch.arange(len(table))), persistent=False)

    def symbols(self, ids: torch.Tensor) -> torch.Tensor:
        """The place of each id among the action tokens; -1 where it is none."""
        return self._symbols[ids]

    def find(self, batch: Batch, answers: Answers) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Which scored tokens are actions, [N] bool; which of the action tokens are legal at these, [actions, I] bool; and at
        which of these places they are rising values, [actions] bool.
        """
        device = answers.of.device
        # The actions are the last tokens of a robot's answer, the plan stands before them.
        left = torch.bincount(answers.of).cumsum(0)[answers.of] - torch.arange(len(answers.of), device=device)
        row = answers.row[answers.of]
        count = batch.actions.to(device)[row]
        action = left <= count
        place = batch.embodiment.to(device)[row][action], (count - left)[action]
        return action, self._legal[place], self._ordinal[place]

    def choose(self, logits: torch.Tensor, legal: torch.Tensor, ordinal: torch.Tensor, decode: Statistic) -> torch.Tensor:
        """The symbols [N] that decoding writes, from logits [N, V] and what is legal [N, I] and ordinal [N]."""
        scores = logits[:, self.ids].float().masked_fill(~legal, -torch.inf)
        return torch.where(ordinal, ordinal_choice(scores, decode), scores.argmax(-1))

    def loss(self, logits: torch.Tensor, ids: torch.Tensor, smoothing: float, batch: Batch, answers: Answers) -> torch.Tensor:
        """Cross-entropy of the scored tokens, [N], from logits [N, V]; the targets of quantities are bells over their neighbours.

        Where one or two tokens are legal (a constant dimension, terminate) there are no neighbours.

        Args:
            smoothing: width of the bell, in bins; 0 is none.
        """
        losses = -token_logprobs(logits, ids)
        if smoothing <= 0:
            return losses
        action, legal, _ = self.find(batch, answers)
        free = legal.sum(-1) > 2 if self.quantities else torch.zeros(len(legal), dtype=torch.bool, device=ids.device)
        rows = action.nonzero()[:, 0][free]
        losses = losses.index_put((rows,), _bell(logits[rows], self._symbols[ids[rows]], self.ids, smoothing, legal[free]))
        # Integers of plans and answers are quantities too.
        rows = (~action & (self._bins[ids] >= 0)).nonzero()[:, 0]
        return losses.index_put((rows,), _bell(logits[rows], self._bins[ids[rows]], self._integers, smoothing))


def _bell(
    logits: torch.Tensor, centre: torch.Tensor, words: torch.Tensor, width: float, legal: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy [N] of logits [N, V] with a bell over words [I] about that at `centre` [N], of the legal ones [N, I]."""
    score = -0.5 * ((torch.arange(len(words), device=words.device) - centre[:, None]) / width) ** 2
    if legal is not None:
        score = score.masked_fill(~legal, -torch.inf)
    return -(score.softmax(-1) * logits.float().log_softmax(-1)[:, words]).sum(-1)
