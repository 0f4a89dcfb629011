"""A vision-language model in this process as a policy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from transformers import PreTrainedModel, ProcessorMixin

from vla.contract import PolicyContract
from vla.datasets.samples import Images
from vla.models.decoding.decode import Decoded, fast_steps, write
from vla.models.families.find import family_of
from vla.models.load import load_vlm
from vla.observation import ActionChunk, Observation
from vla.policies.base import DTypeOption, QuestionAnswer
from vla.policies.trained_on import on_questions
from vla.sequences.batch import Example
from vla.sequences.encode import Encoder

BUCKET = 16
"""Prompts are padded to a multiple of it: coarser than in training, so that prompts of a call rarely differ in padded length."""


SMALL = 5_000_000
"""Number of parameters of the language model below which one thread decodes on a CPU. The steps of a small model are too short to
be shared: the demo's (1.7 M parameters) takes 43 ms for an answer with one thread, 40 with two that spin while they wait, 95 with
two that sleep."""


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Torch computes with one thread while the block runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def default_device() -> str:
    """Returns cuda if there is a GPU, else cpu."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def torch_type(dtype: DTypeOption) -> torch.dtype:
    """The type of that name; "" is float32."""
    return getattr(torch, dtype or "float32")


class LocalPolicy:
    """Acts by writing action tokens. Each is the likeliest of the tokens allowed at its position, or for ordinal tokens, which
    stand for rising values, the contract's statistic of their distribution (`decode`).

    A call is padded to one of the declared batch sizes and its prompts to a multiple of BUCKET. An answer therefore depends on
    the size, which `info["batch"]` names, but not on the other observations of the call.

    Args:
        model, processor: as `load_vlm` returns them.
        contract: the contract the model was trained with.
        batch: rows per call of the model; of several sizes, a call takes the smallest that fits.
        valid_mass: whether chunks report the unconstrained probability of the allowed tokens.
        probabilities: whether chunks report the probability of each written token: `plan` [P] and `steps` [chunk, 1 + A] (the
            terminate token first, if the contract has one), or `tokens` [T] if answers differ in length.
        encoder: an encoder of this processor and contract, if there is one already.

    Attributes:
        trained_on_questions: whether the model was trained on questions; None if that is not known.
        any_size: whether it takes images of any size; else a server scales them to the contract's.
        steps: the decoding steps of the model for an answer's tokens; None: its modules are called.
    """

    trained_on_questions: bool | None = None
    any_size: bool = False

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
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
        self.steps = fast_steps(self.model)
        self._small = self.model.device.type == "cpu" and self.encoder.family.decoder(self.model).num_parameters() < SMALL
        self._history: dict[str, list[Images]] = {}

    @classmethod
    def from_export(
        cls,
        folder: str | Path,
        batch: int | Sequence[int] = 1,
        probabilities: bool = False,
        device: str = "",
        contract: PolicyContract | None = None,
        dtype: DTypeOption = "",
    ) -> LocalPolicy:
        """Loads a folder written by `vla export`.

        Args:
            folder: the folder.
            batch, probabilities: as for the class.
            device: cpu, cuda …; "" is the GPU if there is one.
            contract: the contract, if the folder has none.
            dtype: the type to compute in, whatever the type of the weights; "" is float32. bfloat16 takes half the memory, and is
                faster on a GPU; answers then differ in places.
        """
        contract = contract or PolicyContract.load(folder)
        model, processor = load_vlm(folder, strict=True, dtype=torch_type(dtype))
        model = model.requires_grad_(False).to(device or default_device())  # type: ignore[arg-type]
        policy = cls(model, processor, contract, batch, probabilities=probabilities)
        policy.trained_on_questions = on_questions(folder)
        return policy

    @property
    def dtype(self) -> str:
        """The type that the model computes in."""
        return str(next(self.model.parameters()).dtype).removeprefix("torch.")

    def reset(self, ids: Sequence[str]) -> None:
        for stream in ids:
            self._history.pop(stream, None)

    def act(self, observations: list[Observation]) -> list[ActionChunk]:
        """Returns one chunk per observation. `info["warnings"]` describes dimensions of a state far outside their range."""
        new_history: dict[str, list[Images]] = {}
        examples = [self._example(observation, new_history) for observation in observations]
        answers = self.answer(examples, [(o.embodiment, self.encoder.mode(o)) for o in observations])
        # Not before: a call that failed may be repeated.
        self._history |= new_history
        for observation, answer in zip(observations, answers, strict=True):
            if far := self.contract.embodiment(observation.embodiment).state.far_outside(np.asarray(observation.state)):
                answer.info["warnings"] = far
        return answers

    def answer(self, examples: list[Example], modes: list[tuple[str, str]]) -> list[ActionChunk]:
        """Writes the action chunks for prompts.

        Args:
            examples: the prompts, as `Encoder.act` makes them.
            modes: embodiment and mode of each.
        """
        # Rows of a call share embodiment and mode, which determine the allowed tokens, and the padded length: a longer prompt
        # would change the shape of the computation, and with it the last digits.
        groups: dict[tuple[str, str, int], list[int]] = {}
        for i, (key, example) in enumerate(zip(modes, examples, strict=True)):
            groups.setdefault((*key, -(-len(example.sequence) // BUCKET)), []).append(i)
        answers: dict[int, ActionChunk] = {}
        for (name, mode, _), indices in groups.items():
            for start in range(0, len(indices), self.batch):
                rows = indices[start : start + self.batch]
                options = self.encoder.grammar.writing(name, mode)
                out = self._write([examples[i] for i in rows], **options, valid_mass=self.valid_mass)
                for row, i in enumerate(rows):
                    answers[i] = self.encoder.chunk(out.ids[row].cpu().numpy(), name, mode)
                    answers[i].info |= {"batch": self._shape(len(rows)), **self._reported(out, row, name, mode)}
        return [answers[i] for i in range(len(examples))]

    def _reported(self, out: Decoded, row: int, embodiment: str, mode: str) -> dict[str, Any]:
        """Returns the valid mass and the probabilities to report, of the tokens up to the answer's end."""
        end, plan = self.encoder.grammar.ends(embodiment), self.encoder.plan.length(mode)
        length = out.ids.shape[1]
        if end is not None:
            length = min(plan + int((out.ids[row, plan:] != end).sum()) + 1, length)
        info: dict[str, Any] = {}
        if out.valid_mass is not None:
            info["valid_mass"] = float(out.valid_mass[row, :length].mean())
        if self.probabilities:
            probabilities = out.logprobs[row, :length].exp()
            actions = probabilities[plan:]
            if end is None:
                actions = rearrange(actions, "(step token) -> step token", step=self.contract.chunk)
            info["probabilities"] = {
                "plan": probabilities[:plan].tolist(),
                "steps" if end is None else "tokens": actions.tolist(),
            }
        return info

    def _example(self, observation: Observation, new_history: dict[str, list[Images]]) -> Example:
        past = new_history.get(observation.id, self._history.get(observation.id, []))
        example = self.encoder.act(observation, past)
        if self.contract.history > 1:
            new_history[observation.id] = [*past, observation.images][1 - self.contract.history :]
        return example

    def ask(self, images: list[dict[str, np.ndarray]], questions: list[str], limit: int = 8) -> list[QuestionAnswer]:
        """Answers questions on images (camera name -> uint8 [H, W, 3]); any token of the vocabulary may be written."""
        answers = []
        for start in range(0, len(questions), self.batch):
            pairs = zip(images[start : start + self.batch], questions[start : start + self.batch], strict=True)
            examples = [self.encoder.ask(i, q) for i, q in pairs]
            out = self._write(examples, max_new_tokens=limit, eos_id=self.encoder.vocabulary.eos_id, ordinals=self._ordinals)
            answers += [QuestionAnswer(*self.encoder.answer(row.numpy())) for row in out.ids[: len(examples)].cpu()]
        return answers

    def _shape(self, rows: int) -> int:
        return next(shape for shape in self.shapes if shape >= rows)

    def _write(self, examples: list[Example], **options: Any) -> Decoded:
        padded = examples + [examples[0]] * (self._shape(len(examples)) - len(examples))
        inputs = self.encoder.batch(padded, BUCKET).inputs
        with _one_thread() if self._small else contextlib.nullcontext():
            return write(self.encoder.family.session(self.model, inputs, self.steps), **options)
