"""The interface of a policy, and wrappers that execute its chunks step by step.

Numpy only: simulation workers and robot clients import this module.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from vla.contract import Embodiment, PolicyContract
from vla.datasets.formats.conventions.forms import NAME, Form, rotations
from vla.errors import ContractMismatch, UserError
from vla.observation import ActionChunk, Observation

DTypeOption = Literal["", "float32", "bfloat16", "float16"]
"""In which a local model computes: "" is float32, whose results are the same on every machine of a kind."""


@runtime_checkable
class Policy(Protocol):
    """Anything that turns observations into actions: a local model, a server, a scripted expert."""

    contract: PolicyContract

    def reset(self, ids: Sequence[str]) -> None:
        """Drops the state of these streams."""
        ...

    def act(self, observations: list[Observation]) -> list[ActionChunk]:
        """Returns one chunk per observation, in the same order."""
        ...


@dataclasses.dataclass(frozen=True)
class QuestionAnswer:
    """A policy's answer to a question: text, and the point (right, down; 0 to 1) if it answers with one."""

    text: str
    point: tuple[float, float] | None


def check_answers(contract: PolicyContract, observations: list[Observation], chunks: Sequence[ActionChunk]) -> list[ActionChunk]:
    """Checks a policy's answers before they are executed; returns them as float64 actions [T, A] and bool terminate [T].

    Raises:
        ContractMismatch: the number of answers or a shape is wrong, a value is not finite, or an answer has neither actions nor
            a status; `where` is the observation's id.
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
        what = error.what if isinstance(error, UserError) else f"the policy's answer is not an array of numbers: {error}"
        raise ContractMismatch(what, observation.id) from None
    return ActionChunk(actions, terminate, chunk.info, chunk.status)


def check_execute(contract: PolicyContract, execute: int, where: str) -> None:
    """Checks that so many actions of each chunk can be executed; 0 is the contract's number.

    Raises:
        UserError: a chunk has fewer, or the policy's images are another number of steps apart.
    """
    if execute > contract.chunk:
        fix = f"give --execute at most {contract.chunk}, or leave it out for the contract's {contract.execute}"
        raise UserError(f"--execute {execute}, but a chunk has {contract.chunk} actions", where, fix)
    _check_spacing(contract, execute or contract.execute)


class RecedingHorizon:
    """Executes the first `execute` actions of each chunk, then asks the policy again.

    `act` returns chunks of one action. Streams that have actions left need no policy call. After a malformed answer the robot
    rests for one step, whose chunk has the answer's status, and the policy is asked again.

    Args:
        policy: the policy to wrap.
        execute: actions executed of each chunk; 0 takes the contract's `execute`.
    """

    def __init__(self, policy: Policy, execute: int = 0):
        self.policy, self.contract = policy, policy.contract
        self.execute = execute or policy.contract.execute
        _check_spacing(policy.contract, self.execute)
        self._queues: dict[str, list[ActionChunk]] = {}
        self._last: dict[str, np.ndarray] = {}

    def reset(self, ids: Sequence[str]) -> None:
        for stream in ids:
            self._queues.pop(stream, None)
            self._last.pop(stream, None)
        self.policy.reset(ids)

    def needs(self, stream: str) -> bool:
        """Whether the next step of this stream uses its images; otherwise they need not be rendered."""
        return not self._queues.get(stream)

    def act(self, observations: list[Observation]) -> list[ActionChunk]:
        waiting = [o for o in observations if self.needs(o.id)]
        for observation, chunk in zip(waiting, self.policy.act(waiting) if waiting else [], strict=True):
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
    """Asks the policy at every step and averages the actions that overlapping chunks have for it.

    Weights are exp(-decay * age); the newest chunk has age 0. This is ACT's ensemble (Zhao et al. 2023, section IV) in reverse
    order: there, the oldest chunk has the largest weight. Dimensions in `last` (a gripper) and binary ones are taken from the
    newest chunk.
    Absolute rotations are averaged as rotations, or taken from the newest chunk if the contract does not say their form.
    Malformed answers are left out; if no chunk is left, the robot rests.

    Args:
        policy: the policy to wrap.
        decay: how fast older chunks lose weight.
        last: indices of action dimensions that are never averaged.
    """

    def __init__(self, policy: Policy, decay: float = 0.5, last: Sequence[int] = (-1,)):
        self.policy, self.contract = policy, policy.contract
        _check_spacing(policy.contract, 1)
        self.decay, self.last = decay, list(last)
        # Questions go to the policy directly.
        self.ask = getattr(policy, "ask", None)
        self.trained_on_questions = getattr(policy, "trained_on_questions", None)
        self.any_size = getattr(policy, "any_size", False)
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
            chunks = [c[1:] for c in self._chunks.get(observation.id, []) if len(c) > 1]
            if not chunk.status:
                chunks.append(chunk.actions)
            elif not chunks:
                chunks.append(rest(self.contract.embodiment(observation.embodiment), self._last.get(observation.id))[None])
            self._chunks[observation.id] = chunks
            weights = np.exp(-self.decay * np.arange(len(chunks))[::-1])
            action = _mean(np.array([c[0] for c in chunks]), weights, self.contract.embodiment(observation.embodiment))
            action[self.last] = chunks[-1][0, self.last]
            binary = [pair is not None for pair in self.contract.embodiment(observation.embodiment).action.binary]
            action[binary] = chunks[-1][0, binary]
            self._last[observation.id] = action
            terminate = np.zeros(1, bool) if chunk.status else chunk.terminate[:1]
            answers.append(ActionChunk(action[None], terminate, chunk.info, chunk.status))
        return answers


def _mean(actions: np.ndarray, weights: np.ndarray, embodiment: Embodiment) -> np.ndarray:
    """The weighted mean [A] of actions [N, A]."""
    mean = np.average(actions, axis=0, weights=weights)
    for columns, form, unit in _rotations(embodiment) if embodiment.mode == "absolute" else ():
        # The mean of the numbers of two poses on either side of pi would be half a turn away from both.
        mean[columns] = form.mean(actions[:, columns], weights, unit) if form else actions[-1, columns]
    return mean


def _rotations(embodiment: Embodiment) -> Iterator[tuple[slice, Form | None, float]]:
    space = embodiment.action
    return rotations(embodiment.rotation, [bool(NAME.fullmatch(name)) for name in space.names], space.units)


def rest(embodiment: Embodiment, last: np.ndarray | None) -> np.ndarray:
    """Returns an action [A] that moves nothing.

    Differences are zero, or no turn, and a gripper (a dimension without a unit) keeps its last value. An absolute action repeats
    the last.

    Raises:
        UserError: actions are absolute, and there is no last one.
    """
    space = embodiment.action
    if embodiment.mode == "absolute":
        if last is None:
            raise UserError(
                "the first answer is malformed, and there is no earlier pose to keep", "policy", "use constrained decoding"
            )
        return last
    still = np.where([unit not in ("", "1") for unit in space.units], 0.0, 0.0 if last is None else last)
    for columns, form, _ in _rotations(embodiment):
        if form:
            still[columns] = form.from_quaternions(np.array([[0.0, 0.0, 0.0, 1.0]]))[0]
    return np.array([s if c is None else c for s, c in zip(still, space.constant, strict=True)]).clip(space.low, space.high)


def _check_spacing(contract: PolicyContract, steps: int) -> None:
    if contract.history > 1 and steps != contract.execute:
        raise UserError(
            f"the policy is asked every {steps} steps, but its {contract.history} images are {contract.execute} steps apart",
            "policy",
            f"execute {contract.execute} actions of each chunk",
        )
