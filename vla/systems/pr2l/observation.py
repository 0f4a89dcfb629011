"""PR2L's observation: a frozen model is asked a question about every image, and the head sees its states.

Chen, Mees, Kumar, Levine 2024 (arXiv 2402.02651).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from stable_baselines3.common.vec_env import VecEnv

from vla.errors import UserError
from vla.promptable.cache import CachedRepresentation
from vla.promptable.load import load_frozen
from vla.promptable.prompts import PromptTemplate
from vla.promptable.representation import PromptableRepresentation, Settings
from vla.rl.envs.observation import ObservationOptions, ObservedVecEnv
from vla.systems.pr2l.prompted_vec_env import PromptedVecEnv

ENTRIES = {"states": ("tokens", "padding")}
"""Names in `observe` -> entries of an observation, if these have other names."""


@dataclasses.dataclass(frozen=True)
class CacheOptions:
    """Where computed states are cached.

    Attributes:
        folder: folder of the cache on disk; "" for none.
        memory_mb: size of the cache in memory, in MiB.
    """

    folder: str = ""
    memory_mb: float = 2048

    def __post_init__(self) -> None:
        if self.memory_mb < 0:
            raise UserError(f"memory_mb is {self.memory_mb:g}", "cache", "give 0 or more")


@dataclasses.dataclass(frozen=True)
class PromptedObservation(ObservationOptions):
    """A frozen model's states, its answer, or what the environment gives.

    Attributes:
        vlm: the frozen model: `tiny`, a folder, or a public model's name; "" if none is needed.
        random: seed of random weights that replace the model's own; -1 keeps its own.
        prompt: the question; the environment fills its fields.
        representation: which of the model's states are used.
        observe: what the head sees beside the non-visual state: the model's states; whether its answer begins with yes, as one
            bit (answer); the environment's own such bit (oracle); the images themselves (pixels).
        cache: where states are cached.
    """

    vlm: str = ""
    random: int = -1
    prompt: str = ""
    representation: Settings = dataclasses.field(default_factory=Settings)
    observe: list[Literal["states", "answer", "oracle", "pixels"]] = dataclasses.field(default_factory=lambda: ["states"])
    cache: CacheOptions = dataclasses.field(default_factory=CacheOptions)

    def __post_init__(self) -> None:
        if self.random < -1:
            raise UserError(f"random is {self.random}", "observation.random", "give a seed of 0 or more, or -1 for none")
        if "answer" in self.observe and not self.representation.tokens:
            raise UserError("the answer is observed, but none is generated", "observe", "set representation.tokens, e.g. 8")

    @property
    def title(self) -> str:
        return self.prompt or super().title

    def open(self) -> CachedRepresentation | None:
        if not {"states", "answer"} & set(self.observe):
            return None
        model, processor = load_frozen(self.vlm, self.random)
        representation = PromptableRepresentation(model, processor, PromptTemplate(self.prompt), self.representation)
        return CachedRepresentation(representation, self.cache.folder, self.cache.memory_mb)

    def wrap(self, environments: VecEnv, representation: CachedRepresentation | None, fields: Sequence[str]) -> VecEnv:
        if representation is not None:
            environments = PromptedVecEnv(environments, representation, self.observe, fields)
        return ObservedVecEnv(environments, [entry for name in self.observe for entry in ENTRIES.get(name, (name,))])

    def exported(self, representation: CachedRepresentation | None) -> dict[str, Any]:
        question = {"random": self.random, "prompt": self.prompt, "representation": self.representation}
        if representation is None:
            return question
        return {**question, "vlm": self.vlm, **{name: representation.identity[name] for name in ("model", "reads")}}

    def saved(self) -> dict[str, object]:
        return {**dataclasses.asdict(self), "representation": self.representation.identity()}
