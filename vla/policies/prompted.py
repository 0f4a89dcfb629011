"""A head on a frozen model's prompted states as a policy, and the folder that it is kept in: safetensors and JSON."""

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

WEIGHTS, SAID = "policy.safetensors", "rl.json"
KIND = "pr2l"


@dataclasses.dataclass(frozen=True)
class Made:
    """What an export says beside weights and contract.

    Attributes:
        told: the language of the instructions.
        head: arguments of `Head`.
        pixels: whether it sees pictures themselves.
        vlm, random: the frozen model, as `load_frozen` takes them; "" where none is asked.
        model: hash of its weights.
        reads: hash of its configuration and processor.
        prompt, representation: how it is asked.
        squash: whether what the head writes goes through a tanh, or is cut at the limits.
        more: for people.
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
    """Acts with a head. What it does with an observation depends on its call's shape, which `info["batch"]` names, and not on the
    others of its call.

    Args:
        contract: of one robot.
        inputs: by rows per call: makes of observations what the head takes, by a representation of that declared shape, which
            pads fewer. A call takes the smallest that holds its rows.
        head: writes a chunk's actions as shares of their limits.
        squash: put what the head writes through a tanh; else it is cut at the limits.
    """

    def __init__(self, contract: PolicyContract, inputs: Mapping[int, Inputs], head: Head, squash: bool = True):
        self.contract, self.inputs, self.head, self.squash = contract, inputs, head.eval(), squash
        self.batch = max(inputs)
        self._body = inputs[self.batch].embodiment
        self._shares = ActionScaler(self._body.action)

    def reset(self, ids: Sequence[str]) -> None:
        """It remembers nothing."""

    def act(self, observations: list[Observation]) -> list[ActionChunk]:
        parts = [observations[i : i + self.batch] for i in range(0, len(observations), self.batch)]
        return [chunk for part in parts for chunk in self._act(part)]

    @torch.inference_mode()
    def _act(self, observations: list[Observation]) -> list[ActionChunk]:
        for observation in observations:
            self.contract.embodiment(observation.embodiment)
        shape = min(rows for rows in self.inputs if rows >= len(observations))
        states = np.stack([self._body.state.check(o.state, "the state") for o in observations])
        texts = [self.contract.instruction(o.instruction) for o in observations]
        seen = self.inputs[shape]([o.images for o in observations], states, texts)
        # Row by row: in a product of several, a row's place changes its last digits.
        rows = [self.head({name: value[i : i + 1] for name, value in seen.items()}) for i in range(len(observations))]
        written = torch.cat(rows)
        written = (torch.tanh(written) if self.squash else written).numpy()
        actions = self._shares.inverse(written.reshape(len(observations), self.contract.chunk, -1))
        return [ActionChunk(a, np.zeros(len(a), bool), {"batch": shape}) for a in actions]

    @classmethod
    def from_export(cls, folder: str | Path, batch: int | Sequence[int] = 1) -> PromptedPolicy:
        """Reads a folder that `write_prompted` wrote.

        Args:
            batch: rows per call; several are a ladder.

        Raises:
            UserError: there is no such export, it is damaged, or its model is not to be had.
            ContractMismatch: the model of that name has other weights than the head was trained on.
        """
        folder = Path(folder)
        try:
            said = json.loads((folder / SAID).read_text(encoding="utf-8"))
            if unfit := said.get("unfit"):
                raise UserError(
                    f"this head cannot act here: {unfit}", str(folder), "its results.json says how well it does there"
                )
            contract = PolicyContract.load(folder)
            made = _made(said)
            head = Head(**made.head)
            head.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            fix = f"give a folder with contract.json, {SAID} and {WEIGHTS}, as `vla rl fit` writes it"
            raise UserError(f"no export of a head that can act here: {error}", str(folder), fix) from error
        represent = None
        if made.vlm:
            asked = PromptTemplate(made.prompt), made.representation
            represent = PromptableRepresentation(*load_frozen(made.vlm, made.random), *asked)
            found = represent.identity["model"]
            if found != made.model:
                what = f"the model {made.vlm!r} has weights {found[:12]}, the head was trained on {made.model[:12]}"
                raise ContractMismatch(what, str(folder), f"put the model that it was trained on at {made.vlm!r}")
            # Another version of transformers may write the same configuration in other words: no reason to refuse.
            if made.reads and represent.identity["reads"] != made.reads:
                what = f"{folder}: configuration or processor of {made.vlm!r} are not as they were when the head was trained"
                warnings.warn(f"{what}; its states may be others", stacklevel=2)
        shapes = [batch] if isinstance(batch, int) else sorted(batch)
        inputs = {n: Inputs(contract.embodiment(), made.told, represent and represent.at(n), made.pixels) for n in shapes}
        return cls(contract, inputs, head, made.squash)


def write_prompted(folder: str | Path, head: Head, contract: PolicyContract, made: Made) -> Path:
    """Writes the export whole or not at all, replacing an earlier one.

    Raises:
        UserError: the folder is there and is no such export.
    """
    with whole_folder(Path(folder)) as unfinished:
        save_file({name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}, unfinished / WEIGHTS)
        contract.save(unfinished)
        said = json.dumps({"kind": KIND, **dataclasses.asdict(made)}, indent=1)
        (unfinished / SAID).write_text(said + "\n", encoding="utf-8")
    return Path(folder)


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which then takes the place of `folder` and of an earlier export there.

    Raises:
        UserError: the folder is there and is no such export.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / SAID).is_file():
        raise UserError("the folder is there and is no export", str(folder), "choose another")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    unfinished.mkdir()
    yield unfinished
    for path in unfinished.iterdir():
        # safetensors writes for the owner alone.
        path.chmod(0o644)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(unfinished, folder)


def _made(said: dict[str, Any]) -> Made:
    if said.pop("kind") != KIND:
        raise ValueError("another kind of export")
    told = InstructionVocabulary(*(tuple(said["told"][f.name]) for f in dataclasses.fields(InstructionVocabulary)))
    return Made(**{**said, "told": told, "representation": Settings(**said["representation"])})
