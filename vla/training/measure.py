"""Metrics of a batch: losses and counts per source, accuracies, and errors of the actions.

All are teacher-forced: each token is predicted after the true ones.
"""

from __future__ import annotations

import numpy as np
import torch

from vla.datasets.samples import QuestionSample, RobotSample
from vla.models.decoding.choose import likeliest
from vla.models.logprobs import allowed_mass
from vla.policies.base import QuestionAnswer
from vla.policies.vqa_accuracy import is_correct
from vla.renamed import TEACHER_FORCED
from vla.sequences.encode import Encoder
from vla.training.answers import ActionTokens, Answers
from vla.training.batch import Sample, TrainingBatch

Sums = dict[str, tuple[float, int]]
"""Name -> (sum, number of values). A name that ends in "_count" is a plain sum."""


class Measure:
    """Measures batches of scored tokens.

    Args:
        encoder: of the contract and the model family.
        tokens: the action tokens.
        sources: their names, in the order of their numbers in a batch.
    """

    def __init__(self, encoder: Encoder, tokens: ActionTokens, sources: list[str]):
        self.encoder, self.tokens, self.sources = encoder, tokens, sources
        self._ordinals = encoder.grammar.ordinals()

    def __call__(
        self, batch: TrainingBatch, logits: torch.Tensor, ids: torch.Tensor, answers: Answers, losses: torch.Tensor, mass: bool
    ) -> Sums:
        """All metrics of a batch, as sums.

        Args:
            batch: as the data module makes it; rows of weight 0 do not count.
            logits: [N, V] of the scored tokens.
            ids: [N] the scored tokens.
            losses: [B] by row.
            mass: whether to measure the probability of the legal tokens too.
        """
        sums: Sums = {}

        def add(name: str, numbers: torch.Tensor) -> None:
            if len(numbers):
                sums[name] = (float(numbers.float().sum()), len(numbers))

        counted = batch.weight > 0
        likeliest_ids = logits.argmax(-1)
        answered = likeliest(logits, [one.to(logits.device) for one in self._ordinals])
        for number, name in enumerate(self.sources):
            mine = (batch.source == number) & counted
            add(f"{name}_loss", losses[mine])
            if mine.any():
                sums[f"{name}_count"] = (float(mine.sum()), 1)
            sums |= self._questions(name, batch.samples, answered, answers, mine)
        rows = answers.row[answers.of]
        action, legal, ordinal = self.tokens.find(batch.sequences, answers)
        used = counted[rows][action]
        legal, hit, logits, truth = legal[used], (likeliest_ids == ids)[action][used], logits[action][used], ids[action][used]
        # Where only one token is legal nothing can be wrong: constant dimensions would flatter the means.
        choice = legal.sum(-1)
        add("action_token_accuracy", hit[choice > 1])
        if self.tokens.quantities:
            chosen = self.tokens.choose(logits, legal, ordinal[used], self.encoder.contract.decode)
            off = (chosen - self.tokens.symbols(truth)).abs()[choice > 2]
            add(TEACHER_FORCED + "action_bin_error", off)
            add(TEACHER_FORCED + "action_l1", self._action_l1(batch.samples, chosen, rows[action][used]))
        if mass:
            add("valid_mass", allowed_mass(logits, self.tokens.ids, legal))
        robot = torch.tensor([isinstance(sample, RobotSample) for sample in batch.samples], device=ids.device) & counted
        add("plan_token_accuracy", (likeliest_ids == ids)[robot[rows] & answers.last[answers.of] & ~action])
        return sums

    def _action_l1(self, samples: list[Sample], symbols: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Absolute differences [D] between decoded actions and the true actions of the data, which are not binned: one for each
        dimension that varies and each step within the episode.

        A difference is in units of half its dimension's range (the contract's low and high become -1 and 1), so that metres,
        radians and the gripper can be averaged.

        Args:
            samples: the batch's.
            symbols: [N] the symbol that decoding writes at each position, given the true symbols before it.
            rows: [N] the row of each.
        """
        errors = [torch.empty(0)]
        for row in rows.unique().tolist():
            sample = samples[row]
            assert isinstance(sample, RobotSample)  # its tokens are actions
            codec = self.encoder.codec(sample.embodiment)
            written = symbols[rows == row].cpu().numpy()
            # Steps past the end of the episode are not scored; any legal symbol may stand for them.
            chunk = np.array([legal[0] for legal in codec.positions()])
            chunk[: len(written)] = written
            half = (np.array(codec.space.high) - np.array(codec.space.low)) / 2
            off = np.abs(codec.decode(chunk)[0] - sample.actions) / half
            errors.append(torch.from_numpy(off[sample.mask][:, codec.varies]).flatten())
        return torch.cat(errors)

    def _questions(self, name: str, samples: list[Sample], ids: torch.Tensor, answers: Answers, counted: torch.Tensor) -> Sums:
        """Correct answers by type of question, as `vqa_accuracy` counts them; each token is predicted from the true ones before
        it."""
        sums: Sums = {}
        # Tokens are in the order of their answers.
        written = ids.split(torch.bincount(answers.of).tolist())
        for words, row, branch in zip(written, answers.row.tolist(), answers.branch.tolist(), strict=True):
            sample = samples[row]
            if not counted[row] or not isinstance(sample, QuestionSample):
                continue
            question = sample.questions[branch]
            if len(question.answer) == 1:
                correct = is_correct(question, QuestionAnswer(*self.encoder.answer(words.cpu().numpy())))
                key = f"{name}_accuracy/{question.type or 'any'}"
                hits, count = sums.get(key, (0.0, 0))
                sums[key] = (hits + correct, count + 1)
        return sums


def merge(several: list[Sums]) -> Sums:
    """Adds up the sums of several batches, or of several ranks."""
    merged: Sums = {}
    for name in dict.fromkeys(name for sums in several for name in sums):
        parts = [sums[name] for sums in several if name in sums]
        merged[name] = (sum(total for total, _ in parts), sum(count for _, count in parts))
    return merged


def means(sums: Sums) -> dict[str, float]:
    """Means by name; counts stay as they are. For each source of questions also the mean over types, `NAME_question_accuracy`."""
    values = {name: total if name.endswith("_count") else total / count for name, (total, count) in sums.items()}
    types: dict[str, list[float]] = {}
    for name, value in values.items():
        source, separator, _ = name.partition("_accuracy/")
        if separator:
            types.setdefault(source, []).append(value)
    return values | {f"{source}_question_accuracy": sum(shares) / len(shares) for source, shares in types.items()}
