"""What a policy is, and the wrappers that execute its chunks step by step.

Numpy only: simulation workers and robot clients import this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from vla.contract import Embodiment, PolicyContract
from vla.errors import ContractMismatch, UserError
from vla.observation import ActionChunk, Observation


@runtime_checkable
class Policy(Protocol):
    """Anything that acts: a local model, a server, a scripted expert."""

    contract: PolicyContract

    def reset(self, ids: Sequence[str]) -> None:
        """Forgets what is kept for these streams."""
        ...

    def act(self, observations: list[Observation]) -> list[ActionChunk]:
        """One chunk per observation, in the same order."""
        ...


def check_answers(contract: PolicyContract, observations: list[Observation], chunks: Sequence[ActionChunk]) -> list[ActionChunk]:
    """What a policy answered, as float64 actions [T, A] and bool terminate [T], before anybody acts on it.

    Raises:
        ContractMismatch: another number of answers, another shape, a value that is not finite, or neither actions nor a status;
            `where` is the observation's id.
    """
    if len(chunks) != len(observations):
        what = f"the policy gave {len(chunks)} answers to {len(observations)} observations"
        raise ContractMismatch(what, observations[0].id)
    return [_check_answer(contract, *pair) for pair in zip(observations, chunks, strict=True)]


def _check_answer(contract: PolicyContract, observation: Observation, chunk: ActionChunk) -> ActionChunk:
    try:
        actions = contract.embodiment(observation.embodiment).action.check(chunk.actions, "the policy's answer")
        terminate = np.asarray(chunk.terminate, bool)
        if actions.ndim != 2 or bool(len(actions)) == bool(chunk.status) or terminate.shape != actions.shape[:1]:
            shapes = f"shape {actions.shape} and terminate {terminate.shape}, expected [T, A] and [T]"
            raise ContractMismatch(f"the policy's answer has {shapes}")
    except (ContractMismatch, TypeError, ValueError) as error:
        what = error.what if isinstance(error, UserError) else f"the policy's answer is no array of numbers: {error}"
        raise ContractMismatch(what, observation.id) from None
    return ActionChunk(actions, terminate, chunk.info, chunk.status)


class RecedingHorizon:
    """Executes the first `execute` actions of each chunk, then asks the policy again.

    `act` returns chunks of one action. Streams that still hold actions cost no policy call. Where the policy's answer is
    malformed, the robot rests for one step, which carries the answer's status, and the policy is asked again.

    Args:
        policy: the policy to wrap.
        execute: actions taken of each chunk; 0 takes the contract's `execute`.
    """

    def __init__(self, policy: Policy, execute: int = 0):
        self.policy, self.contract = policy, policy.contract
        self.execute = execute or policy.contract.execute
        _need_spacing(policy.contract, self.execute)
        self._queues: dict[str, list[ActionChunk]] = {}
        self._last: dict[str, np.ndarray] = {}

    def reset(self, ids: Sequence[str]) -> None:
        for stream in ids:
            self._queues.pop(stream, None)
            self._last.pop(stream, None)
        self.policy.reset(ids)

    def needs(self, stream: str) -> bool:
        """Whether the next step of this stream will look at its picture (else it need not be rendered)."""
        return not self._queues.get(stream)

    def act(self, observations: list[Observation]) -> list[ActionChunk]:
        hungry = [o for o in observations if self.needs(o.id)]
        for observation, chunk in zip(hungry, self.policy.act(hungry) if hungry else [], strict=True):
            if chunk.status:
                action = rest(self.contract.embodiment(observation.embodiment), self._last.get(observation.id))
                chunk = ActionChunk(action[None], np.zeros(1, bool), chunk.info, chunk.status)
            self._queues[observation.id] = [
                ActionChunk(chunk.actions[i : i + 1], chunk.terminate[i : i + 1], chunk.info, chunk.status)
                for i in range(min(self.execute, len(chunk.actions)))
            ]
        answers = [self._queues[o.id].pop(0) for o in observations]
        self._last |= {o.id: answer.actions[0] for o, answer in zip(observations, answers, strict=True)}
        return answers


class TemporalEnsemble:
    """Asks the policy at every step and averages what the overlapping chunks say of this step.

    Weights are exp(-decay * age), the newest chunk having age 0 (ACT, Zhao et al. 2023, section IV, with the order turned
    round: there the oldest weighs most). Dimensions in `last` (a gripper) are taken from the newest chunk instead. Malformed
    answers say nothing; where no other is left, the robot rests.

    Args:
        policy: the policy to wrap.
        decay: how fast older chunks lose weight.
        last: indices of action dimensions that are never averaged.
    """

    def __init__(self, policy: Policy, decay: float = 0.5, last: Sequence[int] = (-1,)):
        self.policy, self.contract = policy, policy.contract
        _need_spacing(policy.contract, 1)
        self.decay, self.last = decay, list(last)
        # Questions go past it.
        self.ask = getattr(policy, "ask", None)
        self._chunks: dict[str, list[np.ndarray]] = {}
        self._last: dict[str, np.ndarray] = {}

    def reset(self, ids: Sequence[str]) -> None:
        for stream in ids:
            self._chunks.pop(stream, None)
            self._last.pop(stream, None)
        self.policy.reset(ids)

    def needs(self, stream: str) -> bool:
        return True

    def act(self, observations: list[Observation]) -> list[ActionChunk]:
        answers = []
        for observation, chunk in zip(observations, self.policy.act(observations), strict=True):
            kept = [c[1:] for c in self._chunks.get(observation.id, []) if len(c) > 1]
            if not chunk.status:
                kept.append(chunk.actions)
            elif not kept:
                kept.append(rest(self.contract.embodiment(observation.embodiment), self._last.get(observation.id))[None])
            self._chunks[observation.id] = kept
            ages = np.arange(len(kept))[::-1]
            weights = np.exp(-self.decay * ages)
            action = np.average([c[0] for c in kept], axis=0, weights=weights)
            action[self.last] = kept[-1][0, self.last]
            self._last[observation.id] = action
            terminate = np.zeros(1, bool) if chunk.status else chunk.terminate[:1]
            answers.append(ActionChunk(action[None], terminate, chunk.info, chunk.status))
        return answers


def rest(embodiment: Embodiment, last: np.ndarray | None) -> np.ndarray:
    """An action [A] that moves nothing: no difference, and a gripper (no unit) as it was; of poses the last one.

    Raises:
        UserError: the first action of all is wanted, and it is a pose.
    """
    space = embodiment.action
    if embodiment.mode == "absolute":
        if last is None:
            raise UserError(
                "the first answer is malformed, and no earlier pose is known", "policy", "restrict decoding to chunks"
            )
        return last
    still = np.where([unit not in ("", "1") for unit in space.units], 0.0, 0.0 if last is None else last)
    return np.array([s if c is None else c for s, c in zip(still, space.constant, strict=True)]).clip(space.low, space.high)


def _need_spacing(contract: PolicyContract, steps: int) -> None:
    if contract.history > 1 and steps != contract.execute:
        raise UserError(
            f"the policy is asked every {steps} steps, but its {contract.history} pictures are {contract.execute} steps apart",
            "policy",
            f"execute {contract.execute} actions of each chunk",
        )
