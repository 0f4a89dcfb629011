"""Many environments in step, whose pictures one call of the model turns into states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from vla.errors import UserError
from vla.promptable.cache import CachedRepresentation
from vla.promptable.representation import PromptableRepresentation, States

Observe = Literal["states", "answer", "oracle", "pixels"]
"""What an RL head sees beside the non-visual state: the model's states; whether its answer begins with yes, as one bit; the
environment's own such bit; the pictures themselves."""


class PromptedVecEnv(VecEnvWrapper):
    """Puts a frozen model's states in the place of pictures; the environments are stepped as ever.

    An environment gives a dict of pictures (uint8 [H, W, 3]), "state" and maybe "oracle", and `info["fields"]` at every reset and
    step. What comes out has "state" and what is observed: "tokens" [L, D] with "padding" [L] (1 is padding), "answer" [1],
    "oracle" [1], or the pictures.

    Args:
        venv: the environments.
        representation: of all of them; None where neither states nor answer are observed.
        observe: what the head sees.
        known: the fields that the environments fill.

    Raises:
        UserError: a prompt with a field that the environments do not fill, or nothing that gives what is to be observed.
    """

    def __init__(
        self,
        venv: VecEnv,
        representation: PromptableRepresentation | CachedRepresentation | None,
        observe: Sequence[Observe] = ("states",),
        known: Sequence[str] = (),
    ):
        self.representation, self.observe = representation, tuple(observe)
        inner: Any = venv.observation_space
        self.cameras = [name for name, space in inner.spaces.items() if len(space.shape) == 3]
        self._asks = "states" in observe or "answer" in observe
        if self._asks and representation is None:
            raise UserError(f"{', '.join(observe)} without a model", "observe", "name a vlm")
        if "oracle" in observe and "oracle" not in inner.spaces:
            raise UserError("the environment has no oracle", "observe", "leave it out")
        if representation is not None and self._asks:
            representation.prompt.check(known)
        super().__init__(venv, self._space(inner))
        self._fields: list[dict[str, str]] = [{} for _ in range(venv.num_envs)]

    def _space(self, inner: Any) -> spaces.Dict:
        given: dict[str, spaces.Space] = {"state": inner["state"]}
        if "states" in self.observe and self.representation is not None:
            length, width = self.representation.shape
            dtype: Any = np.dtype(self.representation.identity["dtype"])
            given["tokens"] = spaces.Box(-np.inf, np.inf, (length, width), dtype)
            given["padding"] = spaces.Box(0, 1, (length,), np.uint8)
        if "answer" in self.observe:
            given["answer"] = spaces.Box(0.0, 1.0, (1,), np.float32)
        if "oracle" in self.observe:
            given["oracle"] = inner["oracle"]
        if "pixels" in self.observe:
            given |= {camera: inner[camera] for camera in self.cameras}
        return spaces.Dict(given)

    def reset(self) -> dict[str, np.ndarray]:
        observations: Any = self.venv.reset()
        self._fields = [info["fields"] for info in self.venv.reset_infos]
        return self._seen(observations, self._fields)

    def step_wait(self) -> Any:
        answer: Any = self.venv.step_wait()
        observations, rewards, dones, infos = answer
        over = [place for place, done in enumerate(dones) if done]
        # The last observation of an episode is asked about too: a head says what a cut-off one would still have been worth.
        last = [infos[place]["terminal_observation"] for place in over]
        ended = [self._fields[place] for place in over]
        self._fields = [self.venv.reset_infos[i]["fields"] if i in over else infos[i]["fields"] for i in range(self.num_envs)]
        whole = {name: np.concatenate([values, *([o[name]] for o in last)]) for name, values in observations.items()}
        seen = self._seen(whole, [*self._fields, *ended])
        for row, place in enumerate(over, self.num_envs):
            infos[place]["terminal_observation"] = {name: values[row] for name, values in seen.items()}
        return {name: values[: self.num_envs] for name, values in seen.items()}, rewards, dones, infos

    def _seen(self, observations: dict[str, np.ndarray], fields: list[dict[str, str]]) -> dict[str, np.ndarray]:
        seen = {"state": observations["state"]}
        if self._asks and self.representation is not None:
            pictures = [[observations[camera][row] for camera in self.cameras] for row in range(len(fields))]
            states: States = self.representation(pictures, fields)
            if "states" in self.observe:
                seen |= {"tokens": states.tokens.numpy(), "padding": states.padding.numpy().astype(np.uint8)}
            if "answer" in self.observe:
                yes = [answer.lower().startswith("yes") for answer in self.representation.answers(states.written)]
                seen["answer"] = np.array(yes, np.float32)[:, None]
        kept = (["oracle"] if "oracle" in self.observe else []) + (self.cameras if "pixels" in self.observe else [])
        return seen | {name: observations[name] for name in kept}
