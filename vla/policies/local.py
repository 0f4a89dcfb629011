"""A vision-language model in this process as a policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vla.contract import PolicyContract
from vla.datasets.items import Images
from vla.examples import Example, Examples
from vla.models.decode import Decoded, generate
from vla.models.load import load_vlm
from vla.policies.base import ActionChunk, Observation

BUCKET = 16
"""Prompts are padded to a multiple of it: coarser than in training, so that a word more seldom parts the rows of a call."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the model says to a question: words, and a point (right, down; 0 to 1) if it answers with a place."""

    text: str
    point: tuple[float, float] | None


class LocalPolicy:
    """Acts by writing action tokens, restricted to the legal ids of each position, greedily.

    Every call has a declared batch shape: it is padded to that many rows and the prompts to a bucket. An answer depends on its
    call's shape, which `info["batch"]` names, and not on which other observations came with it.

    Args:
        model, processor: as `load_vlm` gives them.
        contract: what the model was trained on.
        batch: rows per call of the model; several are a ladder, of which a call takes the smallest that holds its rows.
        valid_mass: whether chunks report the unrestricted probability of legal tokens.
        probabilities: whether chunks report the probability of each written token: `plan` [P] and `steps` [chunk, 1 + A] (the
            terminate token first where the contract has one).
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        contract: PolicyContract,
        batch: int | Sequence[int] = 1,
        valid_mass: bool = False,
        probabilities: bool = False,
    ):
        self.model, self.contract, self.valid_mass, self.probabilities = model.eval(), contract, valid_mass, probabilities
        self.shapes = (batch,) if isinstance(batch, int) else tuple(sorted(batch))
        self.batch = self.shapes[-1]
        self.examples = Examples(contract, processor)
        self._past: dict[str, list[Images]] = {}

    @classmethod
    def from_export(cls, folder: str | Path, batch: int | Sequence[int] = 1, probabilities: bool = False) -> LocalPolicy:
        """Reads a folder that `vla export` wrote; whatever the type of its weights, it computes in float32."""
        contract = PolicyContract.load(folder)
        model, processor = load_vlm(folder, dtype=torch.float32)
        return cls(model.requires_grad_(False), processor, contract, batch, probabilities=probabilities)

    def reset(self, ids: Sequence[str]) -> None:
        for stream in ids:
            self._past.pop(stream, None)

    def act(self, observations: list[Observation]) -> list[ActionChunk]:
        # Rows of one call share embodiment and mode, which have one list of legal ids, and their bucket: a longer prompt would
        # change the shape of the computation, and so its last digits.
        alike: dict[tuple[str, str, int], list[int]] = {}
        seen: dict[str, list[Images]] = {}
        examples = [self._example(observation, seen) for observation in observations]
        for place, (observation, example) in enumerate(zip(observations, examples, strict=True)):
            bucket = -(-len(example.sequence) // BUCKET)
            alike.setdefault((observation.embodiment, self.examples.mode(observation), bucket), []).append(place)
        answers: dict[int, ActionChunk] = {}
        for (name, mode, _), places in alike.items():
            how = {"allowed": self.examples.allowed(name, mode), "eos_id": self.examples.ends(name)}
            for start in range(0, len(places), self.batch):
                rows = places[start : start + self.batch]
                out = self._write([examples[p] for p in rows], **how, valid_mass=self.valid_mass)
                for row, place in enumerate(rows):
                    answers[place] = self.examples.chunk(out.ids[row].numpy(), name, mode)
                    answers[place].info["batch"] = self._shape(len(rows))
                    if out.valid_mass is not None:
                        answers[place].info["valid_mass"] = float(out.valid_mass[row].mean())
                    if self.probabilities:
                        answers[place].info["probabilities"] = self._probabilities(out.logprobs[row].exp(), name)
        # Only now: a call that failed may be asked again.
        self._past |= seen
        return [answers[place] for place in range(len(observations))]

    def _probabilities(self, written: torch.Tensor, embodiment: str) -> dict[str, Any]:
        width = self.contract.embodiment(embodiment).action.size + int(self.contract.terminate)
        plan = len(written) - self.contract.chunk * width
        return {"plan": written[:plan].tolist(), "steps": written[plan:].reshape(self.contract.chunk, width).tolist()}

    def _example(self, observation: Observation, seen: dict[str, list[Images]]) -> Example:
        past = seen.get(observation.id, self._past.get(observation.id, []))
        example = self.examples.act(observation, past)
        if self.contract.history > 1:
            seen[observation.id] = [*past, observation.images][1 - self.contract.history :]
        return example

    def ask(self, images: list[dict[str, np.ndarray]], questions: list[str], limit: int = 8) -> list[Answer]:
        """Answers questions on pictures (camera name -> uint8 [H, W, 3]) with the whole vocabulary open."""
        answers = []
        for start in range(0, len(questions), self.batch):
            pairs = zip(images[start : start + self.batch], questions[start : start + self.batch], strict=True)
            examples = [self.examples.ask(i, q) for i, q in pairs]
            out = self._write(examples, max_new_tokens=limit, eos_id=self.examples.vocabulary.eos_id)
            answers += [Answer(*self.examples.answer(row.numpy())) for row in out.ids[: len(examples)]]
        return answers

    def _shape(self, rows: int) -> int:
        return next(shape for shape in self.shapes if shape >= rows)

    def _write(self, examples: list[Example], **how: Any) -> Decoded:
        padded = examples + [examples[0]] * (self._shape(len(examples)) - len(examples))
        batch = self.examples.batch(padded, BUCKET)
        return generate(
            self.model, batch["input_ids"], batch["prefix_mask"], batch["attention_mask"], batch["pixel_values"], **how
        )
