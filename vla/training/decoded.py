"""What the policy decodes for single steps of the data, free-running: for predictions, and for the error at each validation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from vla.datasets.samples import RobotSample
from vla.evaluation.offline.measures import scaled_error
from vla.observation import ActionChunk
from vla.policies.local import LocalPolicy
from vla.sequences.batch import Example
from vla.training.batch import Sample
from vla.training.measure import Sums


def decode(policy: LocalPolicy, rows: Iterable[tuple[Sample, float]]) -> list[tuple[RobotSample, ActionChunk]]:
    """The chunks that the policy writes for the robot samples among the rows.

    Args:
        policy: of the model; it acts in its own mode, not in the source's.
        rows: samples with their weights; one of weight 0 stands in for a sample that cannot be read, and is left out.
    """
    samples = [dataclasses.replace(s, mode="", questions=[]) for s, weight in rows if weight and isinstance(s, RobotSample)]
    prompts = [_prompt(policy.encoder.robot(sample)) for sample in samples]
    chunks = policy.answer(prompts, [(sample.embodiment, "") for sample in samples])
    return list(zip(samples, chunks, strict=True))


def decoded_errors(policy: LocalPolicy, rows: Iterable[tuple[Sample, float]]) -> Sums:
    """The error of the executed actions, as `vla evaluate` measures it, and the share of malformed answers, which have no error.

    An error is absolute, in half ranges of its dimension, and a mean over the dimensions that vary.
    """
    execute, errors, malformed = policy.contract.execute, [], 0
    answers = decode(policy, rows)
    for sample, chunk in answers:
        truth = sample.actions[sample.mask][:execute]
        malformed += bool(chunk.status)
        if not chunk.status:
            space = policy.contract.embodiment(sample.embodiment).action
            errors.append(float(scaled_error(space, chunk.actions[: len(truth)], truth).mean()))
    sums: Sums = {"decoded_malformed": (malformed, len(answers))} if answers else {}
    return sums | ({"decoded_error": (sum(errors), len(errors))} if errors else {})


def _prompt(example: Example) -> Example:
    """The part of a training example before the answer."""
    return dataclasses.replace(example, sequence=example.sequence[: example.sequence.prefix], block=0)
