"""Batches of recorded demonstrations: an observation, the chunk of actions that followed, and what it led to."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from einops import rearrange, repeat

from vla.contract import PolicyContract
from vla.datasets.robot import RobotSource
from vla.datasets.samples import RobotSample
from vla.datasets.sources import Split, read
from vla.promptable.actions import ActionScaler
from vla.promptable.inputs import Inputs


@dataclasses.dataclass(frozen=True)
class TransitionBatch:
    """B steps of demonstrations.

    Attributes:
        observation: the observation as `Head` takes it.
        actions: [B, K * F] a chunk's actions as shares of their limits.
        mask: [B, K * F] 0 past the end of the episode.
        done: [B] 1 if the task is completed within the chunk.
        next: the observation after the chunk; empty if not requested.
        known: [B] 1 if the observation after the chunk is recorded, or the task is completed.
    """

    observation: dict[str, torch.Tensor]
    actions: torch.Tensor
    mask: torch.Tensor
    done: torch.Tensor
    next: dict[str, torch.Tensor]
    known: torch.Tensor

    def to(self, device: str) -> TransitionBatch:
        return TransitionBatch(
            _to_device(self.observation, device),
            self.actions.to(device),
            self.mask.to(device),
            self.done.to(device),
            _to_device(self.next, device),
            self.known.to(device),
        )


def _to_device(tensors: dict[str, torch.Tensor], device: str) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}


class Demonstrations:
    """Draws batches of a robot data set's steps.

    Args:
        folder: folder of the data set.
        chunk: K, the number of consecutive actions of a chunk.
        split: the split of its episodes; a twentieth is held out.
    """

    def __init__(self, folder: str, chunk: int, split: Split = "train"):
        self.chunk = chunk
        # The mask of one more action says whether the observation after the chunk is recorded.
        self.source = RobotSource(folder, split=split, holdout=0.05, cache=True, chunk=chunk + 1)
        self.scaler = ActionScaler(self.source.card.spec.action)

    def __len__(self) -> int:
        return len(self.source)

    def draw(self, inputs: Inputs, contract: PolicyContract, rows: int, seed: tuple[int, ...], ahead: bool) -> TransitionBatch:
        """Draws a batch, which is a function of the seed.

        Args:
            inputs: makes the observations.
            contract: normalises the instructions.
            rows: B, the number of steps.
            seed: random seed.
            ahead: whether to include the observation after the chunk.
        """
        chosen = np.random.default_rng(seed).integers(len(self.source), size=rows).tolist()
        samples = [read(self.source, i, (*seed, n))[0] for n, i in enumerate(chosen)]
        after = [read(self.source, min(i + self.chunk, len(self.source) - 1), seed)[0] for i in chosen] if ahead else []
        size, mask = self.chunk, np.stack([sample.mask for sample in samples])
        actions = self.scaler(np.stack([sample.actions[:size] for sample in samples]))
        done = np.stack([(sample.terminate & sample.mask)[:size].any() for sample in samples])
        follows = [a.episode == s.episode and a.step == s.step + size for s, a in zip(samples, after, strict=ahead)]
        numbers = [
            rearrange(actions, "b k f -> b (k f)"),
            repeat(mask[:, :size], "b k -> b (k f)", f=actions.shape[-1]),
            done,
            done | (mask[:, size] & np.array(follows or done)),
        ]
        actions, action_mask, done, known = (torch.from_numpy(np.ascontiguousarray(x, np.float32)) for x in numbers)
        following = self._observations(inputs, contract, after) if ahead else {}
        return TransitionBatch(self._observations(inputs, contract, samples), actions, action_mask, done, following, known)

    @staticmethod
    def _observations(inputs: Inputs, contract: PolicyContract, samples: list[RobotSample]) -> dict[str, torch.Tensor]:
        texts = [contract.instruction(sample.instruction) for sample in samples]
        return inputs([sample.images for sample in samples], np.stack([sample.state for sample in samples]), texts)
