"""A vision-language model in this process as a policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vla.contract import PolicyContract
from vla.datasets.samples import Images
from vla.models.decoding.decode import Decoded, static_steps, write
from vla.models.families.find import family_of
from vla.models.load import load_vlm
from vla.observation import ActionChunk, Observation
from vla.sequences.batch import Example
from vla.sequences.encode import Encoder

BUCKET = 16
"""Prompts are padded to a multiple of it: coarser than in training, so that a word more seldom parts the rows of a call."""


def usual_device() -> str:
    """Where a policy computes if nobody says."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the model says to a question: words, and a point (right, down; 0 to 1) if it answers with a place."""

    text: str
    point: tuple[float, float] | None


class LocalPolicy:
    """Acts by writing action tokens, restricted to the legal ids of each position: the likeliest, and where these stand for
    rising values the contract's statistic (`decode`).

    Every call has a declared batch shape: it is padded to that many rows and the prompts to a bucket. An answer depends on its
    call's shape, which `info["batch"]` names, and not on which other observations came with it.

    Args:
        model, processor: as `load_vlm` gives them.
        contract: what the model was trained on.
        batch: rows per call of the model; several are a ladder, of which a call takes the smallest that holds its rows.
        valid_mass: whether chunks report the unrestricted probability of legal tokens.
        probabilities: whether chunks report the probability of each written token (an ordinal one need not be the likeliest):
            `plan` [P] and `steps` [chunk, 1 + A] (the terminate token first where the contract has one), or `tokens` [T] where
            answers are of unequal length.
        encoder: of the processor and the contract, where there is one already.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        contract: PolicyContract,
        batch: int | Sequence[int] = 1,
        valid_mass: bool = False,
        probabilities: bool = False,
        encoder: Encoder | None = None,
    ):
        self.model, self.contract, self.valid_mass, self.probabilities = model.eval(), contract, valid_mass, probabilities
        self.shapes = (batch,) if isinstance(batch, int) else tuple(sorted(batch))
        self.batch = self.shapes[-1]
        self.encoder = encoder or Encoder(contract, family_of(model, processor))
        self._ordinals = self.encoder.grammar.ordinals()
        self._static = static_steps(self.model)
        self._past: dict[str, list[Images]] = {}

    @classmethod
    def from_export(
        cls, folder: str | Path, batch: int | Sequence[int] = 1, probabilities: bool = False, device: str = ""
    ) -> LocalPolicy:
        """Reads a folder that `vla export` wrote; whatever the type of its weights, it computes in float32.

        Args:
            folder, batch, probabilities: as above.
            device: cpu, cuda …; "" is the GPU where there is one.
        """
        contract = PolicyContract.load(folder)
        model, processor = load_vlm(folder, dtype=torch.float32)
        model = model.requires_grad_(False).to(device or usual_device())  # type: ignore[arg-type]
        return cls(model, processor, contract, batch, probabilities=probabilities)

    def reset(self, ids: Sequence[str]) -> None:
        for stream in ids:
            self._past.pop(stream, None)

    def act(self, observations: list[Observation]) -> list[ActionChunk]:
        seen: dict[str, list[Images]] = {}
        examples = [self._example(observation, seen) for observation in observations]
        answers = self.answer(examples, [(o.embodiment, self.encoder.mode(o)) for o in observations])
        # Only now: a call that failed may be asked again.
        self._past |= seen
        return answers

    def answer(self, examples: list[Example], ways: list[tuple[str, str]]) -> list[ActionChunk]:
        """Writes the actions that prompts ask for.

        Args:
            examples: prompts, as `Encoder.act` makes them.
            ways: embodiment and mode of each.
        """
        # Rows of one call share embodiment and mode, which say what may be written, and their bucket: a longer prompt would
        # change the shape of the computation, and so its last digits.
        alike: dict[tuple[str, str, int], list[int]] = {}
        for place, (way, example) in enumerate(zip(ways, examples, strict=True)):
            alike.setdefault((*way, -(-len(example.sequence) // BUCKET)), []).append(place)
        answers: dict[int, ActionChunk] = {}
        for (name, mode, _), places in alike.items():
            for start in range(0, len(places), self.batch):
                rows = places[start : start + self.batch]
                how = self.encoder.grammar.writing(name, mode)
                out = self._write([examples[p] for p in rows], **how, valid_mass=self.valid_mass)
                for row, place in enumerate(rows):
                    answers[place] = self.encoder.chunk(out.ids[row].cpu().numpy(), name, mode)
                    answers[place].info |= {"batch": self._shape(len(rows)), **self._more(out, row, name, mode)}
        return [answers[place] for place in range(len(examples))]

    def _more(self, out: Decoded, row: int, embodiment: str, mode: str) -> dict[str, Any]:
        """What else is told of an answer, from what was written of it up to its end."""
        end, plan = self.encoder.grammar.ends(embodiment), self.encoder.plan.length(mode)
        length = out.ids.shape[1]
        if end is not None:
            length = min(plan + int((out.ids[row, plan:] != end).sum()) + 1, length)
        more: dict[str, Any] = {}
        if out.valid_mass is not None:
            more["valid_mass"] = float(out.valid_mass[row, :length].mean())
        if self.probabilities:
            shares = out.logprobs[row, :length].exp()
            actions = shares[plan:] if end is not None else shares[plan:].view(self.contract.chunk, -1)
            more["probabilities"] = {"plan": shares[:plan].tolist(), "steps" if end is None else "tokens": actions.tolist()}
        return more

    def _example(self, observation: Observation, seen: dict[str, list[Images]]) -> Example:
        past = seen.get(observation.id, self._past.get(observation.id, []))
        example = self.encoder.act(observation, past)
        if self.contract.history > 1:
            seen[observation.id] = [*past, observation.images][1 - self.contract.history :]
        return example

    def ask(self, images: list[dict[str, np.ndarray]], questions: list[str], limit: int = 8) -> list[Answer]:
        """Answers questions on pictures (camera name -> uint8 [H, W, 3]) with the whole vocabulary open."""
        answers = []
        for start in range(0, len(questions), self.batch):
            pairs = zip(images[start : start + self.batch], questions[start : start + self.batch], strict=True)
            examples = [self.encoder.ask(i, q) for i, q in pairs]
            out = self._write(examples, max_new_tokens=limit, eos_id=self.encoder.vocabulary.eos_id, ordinals=self._ordinals)
            answers += [Answer(*self.encoder.answer(row.numpy())) for row in out.ids[: len(examples)].cpu()]
        return answers

    def _shape(self, rows: int) -> int:
        return next(shape for shape in self.shapes if shape >= rows)

    def _write(self, examples: list[Example], **how: Any) -> Decoded:
        padded = examples + [examples[0]] * (self._shape(len(examples)) - len(examples))
        inputs = self.encoder.batch(padded, BUCKET).inputs
        return write(self.encoder.family.session(self.model, inputs, self._static), **how)
