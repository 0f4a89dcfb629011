"""A policy that is a head on the prompted states of a frozen model, and its export folder of safetensors and JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vla.contract import PolicyContract
from vla.errors import ContractMismatch, UserError
from vla.observation import ActionChunk, Observation
from vla.promptable.actions import ActionScaler
from vla.promptable.head import Head
from vla.promptable.inputs import Inputs
from vla.promptable.instruction_vocabulary import InstructionVocabulary
from vla.promptable.load import load_frozen
from vla.promptable.prompts import PromptTemplate
from vla.promptable.representation import PromptableRepresentation, Settings

WEIGHTS, DESCRIPTION = "policy.safetensors", "rl.json"
KIND = "pr2l"


@dataclasses.dataclass(frozen=True)
class HeadDescription:
    """The JSON of an export, beside its weights and contract. Field names are those of the file.

    Attributes:
        told: the vocabulary of the instructions.
        head: arguments of `Head`.
        pixels: whether the head sees the images themselves.
        vlm, random: the frozen model, as `load_frozen` takes them; "" without a model.
        model: hash of the model's weights.
        reads: hash of the model's configuration and processor.
        prompt, representation: the prompt and the settings of the representation.
        squash: whether the head's output goes through a tanh; otherwise it is clipped to the limits.
        more: information for people.
    """

    told: InstructionVocabulary
    head: dict[str, Any]
    pixels: bool = False
    vlm: str = ""
    random: int = -1
    model: str = ""
    reads: str = ""
    prompt: str = ""
    representation: Settings = dataclasses.field(default_factory=Settings)
    squash: bool = True
    more: dict[str, Any] = dataclasses.field(default_factory=dict)


class PromptedPolicy:
    """Acts with a head. An action depends on the batch size of the call, which `info["batch"]` names, but not on the other
    observations of the call.

    Args:
        contract: a contract with one embodiment.
        inputs: rows per call -> what computes the head's inputs, padded to that many rows. A call takes the smallest that fits.
        head: outputs the actions of a chunk, each scaled to its limits.
        squash: apply a tanh to the output; otherwise it is clipped to the limits.
    """

    def __init__(self, contract: PolicyContract, inputs: Mapping[int, Inputs], head: Head, squash: bool = True):
        self.contract, self.inputs, self.head, self.squash = contract, inputs, head.eval(), squash
        self.batch = max(inputs)
        self._embodiment = inputs[self.batch].embodiment
        self._scaler = ActionScaler(self._embodiment.action)

    def reset(self, ids: Sequence[str]) -> None:
        """Does nothing: the policy keeps no state."""

    def act(self, observations: list[Observation]) -> list[ActionChunk]:
        batches = [observations[i : i + self.batch] for i in range(0, len(observations), self.batch)]
        return [chunk for batch in batches for chunk in self._act(batch)]

    @torch.inference_mode()
    def _act(self, observations: list[Observation]) -> list[ActionChunk]:
        for observation in observations:
            self.contract.embodiment(observation.embodiment)
        shape = min(rows for rows in self.inputs if rows >= len(observations))
        states = np.stack([self._embodiment.state.check(o.state, "the state") for o in observations])
        texts = [self.contract.instruction(o.instruction) for o in observations]
        inputs = self.inputs[shape]([o.images for o in observations], states, texts)
        # Row by row: in a product of several rows, the last digits of a row depend on its position.
        rows = [self.head({name: value[i : i + 1] for name, value in inputs.items()}) for i in range(len(observations))]
        outputs = torch.cat(rows)
        outputs = (torch.tanh(outputs) if self.squash else outputs).numpy()
        actions = self._scaler.inverse(rearrange(outputs, "row (step dim) -> row step dim", step=self.contract.chunk))
        return [ActionChunk(a, np.zeros(len(a), bool), {"batch": shape}) for a in actions]

    @classmethod
    def from_export(cls, folder: str | Path, batch: int | Sequence[int] = 1) -> PromptedPolicy:
        """Loads a folder written by `write_prompted`.

        Args:
            batch: rows per call; of several sizes, a call takes the smallest that fits.

        Raises:
            UserError: there is no such export, it is damaged, or its model cannot be loaded.
            ContractMismatch: the model of that name does not have the weights the head was trained on.
        """
        folder = Path(folder)
        try:
            content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            if unfit := content.get("unfit"):
                raise UserError(
                    f"this head cannot act here: {unfit}",
                    str(folder),
                    "see its results.json for its results in its own environment",
                )
            contract = PolicyContract.load(folder)
            description = _read_description(content)
            head = Head(**description.head)
            head.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            fix = f"give a folder with contract.json, {DESCRIPTION} and {WEIGHTS}, as `vla rl fit` writes it"
            raise UserError(f"not an export of a head that can act here: {error}", str(folder), fix) from error
        represent = None
        if vlm := description.vlm:
            template = PromptTemplate(description.prompt)
            model, processor = load_frozen(vlm, description.random)
            represent = PromptableRepresentation(model, processor, template, description.representation)
            weights = represent.identity["model"]
            if weights != description.model:
                what = f"the model {vlm!r} has weights {weights[:12]}, the head was trained on {description.model[:12]}"
                raise ContractMismatch(what, str(folder), f"put the model the head was trained on at {vlm!r}")
            # Only a warning: another version of transformers may write the same configuration differently.
            if description.reads and represent.identity["reads"] != description.reads:
                what = f"{folder}: configuration or processor of {vlm!r} differ from those the head was trained with"
                warnings.warn(f"{what}; its states may differ too", stacklevel=2)
        shapes = [batch] if isinstance(batch, int) else sorted(batch)
        embodiment, vocabulary, pixels = contract.embodiment(), description.told, description.pixels
        inputs = {n: Inputs(embodiment, vocabulary, represent and represent.at(n), pixels) for n in shapes}
        return cls(contract, inputs, head, description.squash)


def write_prompted(folder: str | Path, head: Head, contract: PolicyContract, description: HeadDescription) -> Path:
    """Writes an export atomically, replacing an earlier one.

    Raises:
        UserError: the folder exists and is not an export.
    """
    with atomic_folder(Path(folder)) as unfinished:
        save_file({name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}, unfinished / WEIGHTS)
        contract.save(unfinished)
        content = json.dumps({"kind": KIND, **dataclasses.asdict(description)}, indent=1)
        (unfinished / DESCRIPTION).write_text(content + "\n", encoding="utf-8")
    return Path(folder)


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder to fill, which then replaces `folder` and any earlier export there.

    Raises:
        UserError: the folder exists and is not an export.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / DESCRIPTION).is_file():
        raise UserError("the folder exists and is not an export", str(folder), "choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    unfinished.mkdir()
    yield unfinished
    for path in unfinished.iterdir():
        # safetensors makes files readable by the owner only.
        path.chmod(0o644)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(unfinished, folder)


def _read_description(content: dict[str, Any]) -> HeadDescription:
    if content.pop("kind") != KIND:
        raise ValueError("another kind of export")
    vocabulary = InstructionVocabulary(*(tuple(content["told"][f.name]) for f in dataclasses.fields(InstructionVocabulary)))
    representation = Settings(**content["representation"])
    return HeadDescription(**{**content, "told": vocabulary, "representation": representation})
