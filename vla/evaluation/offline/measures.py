"""Numbers of an offline evaluation: errors, gripper, smoothness and calibration, all against the demonstrations.

An error in half ranges is divided by half the distance between the contract's limits: 1 is the distance from the middle to a
limit. Means are taken within each episode first, and intervals draw episodes: steps of one are not independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vla.contract import PolicyContract
from vla.evaluation.offline.replay import Replay
from vla.report.few_runs import interval
from vla.report.intervals import Rate
from vla.space import Space
from vla.tokenization.codecs import action_codec

FIRST = 5
"""Number of steps that count as the first of a demonstration."""
AROUND = 2
"""Steps before and after a change of the gripper that count as around it."""
BINS = 10
"""Number of bins of a calibration."""


def half_range(space: Space) -> np.ndarray:
    """Half the distance between the limits of each dimension, [A]."""
    return (np.array(space.high) - np.array(space.low)) / 2


def varying(space: Space) -> np.ndarray:
    """The dimensions that are not constant, int [V]; constant ones have no error."""
    return np.array([i for i, constant in enumerate(space.constant) if constant is None])


def scaled_error(space: Space, action: np.ndarray, demonstrated: np.ndarray) -> np.ndarray:
    """Absolute error [T, V] of the varying dimensions in half ranges."""
    columns = varying(space)
    return np.abs(action - demonstrated)[:, columns] / half_range(space)[columns]


def by_episode(episodes: Sequence[int], errors: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Joins the errors [T, V] of demonstrations that are parts of one episode."""
    return [
        np.concatenate([one for number, one in zip(episodes, errors, strict=True) if number == episode])
        for episode in dict.fromkeys(episodes)
    ]


def mean_error(errors: Sequence[np.ndarray]) -> Rate:
    """The mean over episodes of their mean errors [T, V], with its interval."""
    return mean_of([float(one.mean()) for one in errors])


def mean_of(values: Sequence[float] | np.ndarray) -> Rate:
    """The mean of one value per episode with a bootstrap interval of 95 %."""
    return interval(lambda drawn: float(drawn.mean()), np.array(values, float)[:, None])


def dimension_errors(
    space: Space, errors: Sequence[np.ndarray], others: Mapping[str, Sequence[np.ndarray]]
) -> list[dict[str, Any]]:
    """The error of each varying dimension, and how it compares with each baseline's.

    Args:
        errors: the policy's errors [T, V] in half ranges, by episode.
        others: the same of the baselines, by name.
    """
    rows = []
    for column, i in enumerate(varying(space).tolist()):
        ours = np.array([one[:, column].mean() for one in errors])
        theirs = {name: np.array([one[:, column].mean() for one in each]) for name, each in others.items()}
        rows.append(
            {
                "name": space.names[i],
                "unit": space.units[i],
                "error": float(ours.mean() * half_range(space)[i]),
                "half_ranges": float(ours.mean()),
                "baselines": {name: float(each.mean()) for name, each in theirs.items()},
                "difference": {name: mean_of(ours - each).to_dict() for name, each in theirs.items()},
            }
        )
    return rows


def position_errors(space: Space, replays: Sequence[Replay]) -> list[float]:
    """The mean error in half ranges at each position of the chunk, whether or not it is executed."""
    by_position: list[list[float]] = []
    for one in replays:
        for step, chunk in one.chunks.items():
            if not chunk.status:
                demonstrated = one.demonstration.action[step : step + len(chunk.actions)]
                errors = scaled_error(space, chunk.actions[: len(demonstrated)], demonstrated).mean(1)
                by_position += [[] for _ in range(len(errors) - len(by_position))]
                for position, error in enumerate(errors.tolist()):
                    by_position[position].append(error)
    return [float(np.mean(errors)) for errors in by_position]


def grippers(space: Space, demonstrated: Sequence[np.ndarray]) -> dict[int, tuple[float, float]]:
    """The dimensions with exactly two values in these demonstrations, and the values."""
    together = np.concatenate(demonstrated)
    values = {i: np.unique(together[:, i]) for i in varying(space).tolist()}
    return {i: (float(v[0]), float(v[1])) for i, v in values.items() if len(v) == 2}


def near_changes(demonstrated: np.ndarray, columns: Sequence[int]) -> np.ndarray:
    """Which steps are within AROUND steps of a change in one of the columns, bool [T]."""
    changed = np.flatnonzero((np.diff(demonstrated[:, list(columns)], axis=0) != 0).any(1)) + 1
    steps = np.arange(len(demonstrated))
    return np.asarray((np.abs(steps[:, None] - changed) <= AROUND).any(1))


def gripper_confusion(replays: Sequence[Replay], column: int, values: tuple[float, float]) -> dict[str, Any]:
    """How often each of the two values was decoded (columns) where each was demonstrated (rows), as counts [2, 2].

    A decoded action counts as the nearer value.
    """
    middle = sum(values) / 2
    demonstrated = np.concatenate([one.demonstration.action[:, column] for one in replays]) > middle
    decoded = np.concatenate([one.action[:, column] for one in replays]) > middle
    counts = [[int(((demonstrated == row) & (decoded == col)).sum()) for col in (False, True)] for row in (False, True)]
    return {"values": list(values), "counts": counts, "agreement": float((demonstrated == decoded).mean())}


def jerk(actions: Sequence[np.ndarray], space: Space) -> float:
    """The mean absolute second difference of the actions in half ranges; NaN if no demonstration has three steps."""
    columns = varying(space)
    bends = [np.abs(np.diff(one[:, columns] / half_range(space)[columns], 2, axis=0)).mean() for one in actions if len(one) > 2]
    return float(np.mean(bends)) if bends else float("nan")


def calibration(contract: PolicyContract, embodiment: str, replays: Sequence[Replay]) -> dict[str, Any] | None:
    """How the probabilities of written action tokens agree with how often they are the demonstrated ones.

    Returns:
        The expected calibration error (Guo et al. 2017, section 2), the mean probability, the share of tokens that are the
        demonstrated ones, and both by bin; None if the policy reports no probabilities, or writes answers of unequal length.
    """
    codec, columns = action_codec(contract, embodiment), varying(contract.embodiment(embodiment).action)
    probability, right = [], []
    for one in replays:
        for step, chunk in one.chunks.items():
            steps = chunk.info.get("probabilities", {}).get("steps") if not chunk.status else None
            if not steps or not codec.fixed:
                continue
            demonstrated = one.demonstration.action[step : step + len(chunk.actions)].astype(np.float64)
            count = len(demonstrated)
            padded = np.concatenate([demonstrated, np.repeat(demonstrated[-1:], len(chunk.actions) - count, axis=0)])
            nearest, _ = codec.decode(codec.encode(padded, np.zeros(len(padded), bool))[0])
            # The last columns are the dimensions; a terminate token comes before them.
            probability.append(np.array(steps)[:count, -chunk.actions.shape[1] :][:, columns])
            right.append(np.isclose(nearest, chunk.actions)[:count][:, columns])
    if not probability:
        return None
    p, hit = (np.concatenate([part.ravel() for part in parts]) for parts in (probability, right))
    number = np.minimum((p * BINS).astype(int), BINS - 1)
    counts = np.bincount(number, minlength=BINS)
    filled = np.flatnonzero(counts)
    stated, true = (np.bincount(number, x, BINS)[filled] / counts[filled] for x in (p, hit.astype(float)))
    return {
        "error": float((np.abs(stated - true) * counts[filled]).sum() / len(p)),
        "probability": float(p.mean()),
        "right": float(hit.mean()),
        "bins": [
            {"probability": a, "right": b, "n": n}
            for a, b, n in zip(stated.tolist(), true.tolist(), counts[filled].tolist(), strict=True)
        ],
    }
