"""A vision-language model in this process as a policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla.contract import PolicyContract
from vla.datasets.items import Images
from vla.examples import BUCKET, Example, Examples
from vla.models.decode import Decoded, generate
from vla.models.load import load_vlm
from vla.policies.base import ActionChunk, Observation


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the model says to a question: words, and a point (right, down; 0 to 1) if it answers with a place."""

    text: str
    point: tuple[float, float] | None


class LocalPolicy:
    """Acts by writing action tokens, restricted to the legal ids of each position, greedily.

    Every call has one declared batch shape: it is padded to `batch` rows and the prompts to a bucket, so that an answer does not
    depend on which other observations came with it.

    Args:
        model, processor: as `load_vlm` gives them.
        contract: what the model was trained on.
        batch: rows per call of the model.
        valid_mass: whether chunks report the unrestricted probability of legal tokens.
    """

    def __init__(self, model: Any, processor: Any, contract: PolicyContract, batch: int = 1, valid_mass: bool = False):
        self.model, self.contract, self.batch, self.valid_mass = model.eval(), contract, batch, valid_mass
        self.examples = Examples(contract, processor)
        self._past: dict[str, list[Images]] = {}

    @classmethod
    def from_export(cls, folder: str | Path, batch: int = 1) -> LocalPolicy:
        """Reads a folder that `vla export` wrote."""
        contract = PolicyContract.load(folder)
        model, processor = load_vlm(folder)
        return cls(model, processor, contract, batch)

    def reset(self, ids: Sequence[str]) -> None:
        for stream in ids:
            self._past.pop(stream, None)

    def act(self, observations: list[Observation]) -> list[ActionChunk]:
        # Rows of one call share embodiment and mode, which have one list of legal ids, and their bucket: a longer prompt would
        # change the shape of the computation, and so its last digits.
        alike: dict[tuple[str, str, int], list[int]] = {}
        examples = [self._example(observation) for observation in observations]
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
                    if out.valid_mass is not None:
                        answers[place].info["valid_mass"] = float(out.valid_mass[row].mean())
        return [answers[place] for place in range(len(observations))]

    def _example(self, observation: Observation) -> Example:
        past = self._past.get(observation.id, [])
        example = self.examples.act(observation, past)
        if self.contract.history > 1:
            self._past[observation.id] = [*past, observation.images][1 - self.contract.history :]
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

    def _write(self, examples: list[Example], **how: Any) -> Decoded:
        padded = examples + [examples[0]] * (self.batch - len(examples))
        batch = self.examples.batch(padded)
        return generate(
            self.model, batch["input_ids"], batch["prefix_mask"], batch["attention_mask"], batch["pixel_values"], **how
        )
