"""Replays demonstrations to a policy: it sees what was recorded and decodes its own actions, as it would when it acts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from vla.datasets.demonstrations import Demonstration
from vla.errors import Unreadable
from vla.observation import ActionChunk, Observation
from vla.policies.base import Policy, RecedingHorizon, check_answers

BATCH = 8
"""Rows per call of a local model, part of the result's identity."""


@dataclasses.dataclass
class Replay:
    """What a policy did on one demonstration of T steps.

    Attributes:
        demonstration: what was replayed.
        action: float64 [T, A], the actions as they would be executed: the first `execute` of each chunk.
        terminate: bool [T], where the policy considers the task done.
        chunks: step of each call of the policy -> its answer.
    """

    demonstration: Demonstration
    action: np.ndarray
    terminate: np.ndarray
    chunks: dict[int, ActionChunk] = dataclasses.field(default_factory=dict)

    @property
    def malformed(self) -> int:
        """Number of calls whose answer was not a complete chunk. The robot rests for one step then."""
        return sum(bool(chunk.status) for chunk in self.chunks.values())


def replay(
    policy: Policy,
    demonstrations: Sequence[Demonstration],
    execute: int = 0,
    progress: Callable[[int], None] = lambda steps: None,
) -> tuple[list[Replay], dict[str, str]]:
    """Replays all demonstrations, as many at a time as the policy has rows.

    The policy is called where it would be called on the robot, with the recorded observation, and its chunk is executed as the
    contract says. It never sees the demonstrated actions.

    Args:
        policy: the policy.
        demonstrations: what is replayed.
        execute: actions executed of each chunk; 0 takes the contract's.
        progress: called with the number of steps done since the last call.

    Returns:
        The replays in order, and demonstration -> what is wrong with it, for those that have an unreadable image.

    Raises:
        ContractMismatch: the policy gives a wrong shape or NaN; episode and step are named.
    """
    replays, unreadable = [], {}
    rows = getattr(policy, "batch", 0) or BATCH
    for begin in range(0, len(demonstrations), rows):
        group = demonstrations[begin : begin + rows]
        done, wrong = _replay_group(policy, dict(enumerate(group)), execute, progress)
        replays += done
        unreadable |= wrong
    return replays, unreadable


def _replay_group(
    policy: Policy, group: dict[int, Demonstration], execute: int, progress: Callable[[int], None]
) -> tuple[list[Replay], dict[str, str]]:
    recorded = _Recorded(policy)
    acting, unreadable = RecedingHorizon(recorded, execute), {}
    names = {number: f"{demonstration}" for number, demonstration in group.items()}
    acting.reset(list(names.values()))
    size = policy.contract.embodiment(next(iter(group.values())).embodiment).action.size
    replays = {n: Replay(d, np.full((len(d), size), np.nan), np.zeros(len(d), bool)) for n, d in group.items()}
    for step in range(max(map(len, group.values()))):
        observations = {}
        for number in [n for n in replays if step < len(group[n])]:
            demonstration, name = group[number], names[number]
            try:
                images = demonstration.images(step) if acting.needs(name) else {}
            except Unreadable as error:
                unreadable[name] = f"{error.where}: {error.what}"
                del replays[number]
                continue
            state, text = demonstration.state[step], demonstration.instruction[step]
            observations[number] = Observation(name, images, state, text, demonstration.embodiment)
        recorded.step = step
        for number, chunk in zip(observations, acting.act(list(observations.values())), strict=True):
            replays[number].action[step], replays[number].terminate[step] = chunk.actions[0], chunk.terminate[0]
        progress(len(observations))
    for number, one in replays.items():
        one.chunks = recorded.chunks[names[number]]
    acting.reset(list(names.values()))
    return list(replays.values()), unreadable


class _Recorded:
    """Wraps a policy, checks its answers and keeps them by stream and step."""

    def __init__(self, policy: Policy):
        self.policy, self.contract, self.step = policy, policy.contract, 0
        self.chunks: dict[str, dict[int, ActionChunk]] = {}

    def reset(self, ids: Sequence[str]) -> None:
        self.policy.reset(ids)

    def act(self, observations: list[Observation]) -> list[ActionChunk]:
        where = {o.id: dataclasses.replace(o, id=f"{o.id}, step {self.step}") for o in observations}
        chunks = check_answers(self.contract, list(where.values()), self.policy.act(observations))
        for observation, chunk in zip(observations, chunks, strict=True):
            self.chunks.setdefault(observation.id, {})[self.step] = chunk
        return chunks
