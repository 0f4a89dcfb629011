"""Recorded demonstrations as a head learns from them: an observation, the chunk of actions that followed, and what it led to."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from vla.contract import PolicyContract
from vla.datasets.robot import RobotSource
from vla.datasets.samples import RobotSample
from vla.datasets.sources import Split, read
from vla.promptable.actions import ActionScaler
from vla.promptable.inputs import Inputs


@dataclasses.dataclass(frozen=True)
class Batch:
    """B steps of demonstrations.

    Attributes:
        observation: as `Head` takes it.
        actions: [B, K * F], a chunk's actions as shares of their limits.
        mask: [B, K * F], 0 past the end.
        done: [B], 1 where the task is done within the chunk.
        next: the observation after the chunk; empty where it is not wanted.
        known: [B], 1 where that is recorded, or the task is over.
    """

    observation: dict[str, torch.Tensor]
    actions: torch.Tensor
    mask: torch.Tensor
    done: torch.Tensor
    next: dict[str, torch.Tensor]
    known: torch.Tensor

    def to(self, device: str) -> Batch:
        return Batch(
            _moved(self.observation, device),
            self.actions.to(device),
            self.mask.to(device),
            self.done.to(device),
            _moved(self.next, device),
            self.known.to(device),
        )


def _moved(parts: dict[str, torch.Tensor], device: str) -> dict[str, torch.Tensor]:
    return {name: part.to(device) for name, part in parts.items()}


class Demonstrations:
    """Batches of a robot data set's steps.

    Args:
        folder: of the data set.
        chunk: K, actions that follow one another.
        split: of its episodes; a twentieth is held out.
    """

    def __init__(self, folder: str, chunk: int, split: Split = "train"):
        self.chunk = chunk
        # One action more: its mask says whether the observation after the chunk is recorded.
        self.source = RobotSource(folder, split=split, holdout=0.05, cache=True, chunk=chunk + 1)
        self.scaler = ActionScaler(self.source.card.spec.action)

    def __len__(self) -> int:
        return len(self.source)

    def draw(self, inputs: Inputs, contract: PolicyContract, rows: int, seed: tuple[int, ...], ahead: bool) -> Batch:
        """A batch that is a function of the seed.

        Args:
            ahead: whether the observation after the chunk is wanted.
        """
        chosen = np.random.default_rng(seed).integers(len(self.source), size=rows).tolist()
        samples = [read(self.source, i, (*seed, n))[0] for n, i in enumerate(chosen)]
        after = [read(self.source, min(i + self.chunk, len(self.source) - 1), seed)[0] for i in chosen] if ahead else []
        size, mask = self.chunk, np.stack([sample.mask for sample in samples])
        actions = self.scaler(np.stack([sample.actions[:size] for sample in samples]))
        done = np.stack([(sample.terminate & sample.mask)[:size].any() for sample in samples])
        follows = [a.episode == i.episode and a.step == i.step + size for i, a in zip(samples, after, strict=ahead)]
        numbers = [
            actions.reshape(rows, -1),
            np.repeat(mask[:, :size], actions.shape[-1], 1),
            done,
            done | (mask[:, size] & np.array(follows or done)),
        ]
        actions, inside, done, known = (torch.from_numpy(np.ascontiguousarray(x, np.float32)) for x in numbers)
        following = self._observations(inputs, contract, after) if ahead else {}
        return Batch(self._observations(inputs, contract, samples), actions, inside, done, following, known)

    @staticmethod
    def _observations(inputs: Inputs, contract: PolicyContract, samples: list[RobotSample]) -> dict[str, torch.Tensor]:
        texts = [contract.instruction(sample.instruction) for sample in samples]
        return inputs([sample.images for sample in samples], np.stack([sample.state for sample in samples]), texts)
