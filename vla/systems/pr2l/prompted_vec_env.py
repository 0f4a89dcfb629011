"""Environments in step, with a frozen model's states beside their images: one call of the model for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from vla.promptable.cache import CachedRepresentation
from vla.promptable.representation import PromptableRepresentation, States
from vla.rl.envs.observation import Observations


class PromptedVecEnv(VecEnvWrapper):
    """Adds entries to what the environments give.

    An environment gives a dict with images (uint8 [H, W, 3]), and `info["fields"]` at every reset and step. Added are, for
    "states", "tokens" [L, D] with "padding" [L] (1 is padding), and for "answer", "answer" [1]: 1 where it begins with yes.

    Args:
        venv: the environments.
        representation: asked about all of them.
        observe: "states", "answer" or both.
        known: the fields that the environments fill.

    Raises:
        UserError: a prompt with a field that the environments do not fill.
    """

    def __init__(
        self,
        venv: VecEnv,
        representation: PromptableRepresentation | CachedRepresentation,
        observe: Sequence[str] = ("states",),
        known: Sequence[str] = (),
    ):
        self.representation, self.observe = representation, tuple(observe)
        inner: Any = venv.observation_space
        self.cameras = [name for name, space in inner.spaces.items() if len(space.shape) == 3]
        representation.prompt.check(known)
        super().__init__(venv, self._space(inner))
        self._fields: list[dict[str, str]] = [{} for _ in range(venv.num_envs)]

    def _space(self, inner: Any) -> spaces.Dict:
        added: dict[str, spaces.Space] = {}
        if "states" in self.observe:
            length, width = self.representation.shape
            dtype: Any = np.dtype(self.representation.identity["dtype"])
            added["tokens"] = spaces.Box(-np.inf, np.inf, (length, width), dtype)
            added["padding"] = spaces.Box(0, 1, (length,), np.uint8)
        if "answer" in self.observe:
            added["answer"] = spaces.Box(0.0, 1.0, (1,), np.float32)
        return spaces.Dict({**inner.spaces, **added})

    def reset(self) -> Observations:
        observations: Any = self.venv.reset()
        self._fields = [info["fields"] for info in self.venv.unwrapped.reset_infos]
        return self._with_states(observations, self._fields)

    def step_wait(self) -> Any:
        step: Any = self.venv.step_wait()
        observations, rewards, dones, infos = step
        over = [env for env, done in enumerate(dones) if done]
        # The last observation of an episode is asked about too: a head says what a cut-off one would still have been worth.
        last = [infos[env]["terminal_observation"] for env in over]
        ended = [self._fields[env] for env in over]
        resets = self.venv.unwrapped.reset_infos
        self._fields = [resets[i]["fields"] if i in over else infos[i]["fields"] for i in range(self.num_envs)]
        rows = {name: np.concatenate([values, *([o[name]] for o in last)]) for name, values in observations.items()}
        rows = self._with_states(rows, [*self._fields, *ended])
        for row, env in enumerate(over, self.num_envs):
            infos[env]["terminal_observation"] = {name: values[row] for name, values in rows.items()}
        return {name: values[: self.num_envs] for name, values in rows.items()}, rewards, dones, infos

    def _with_states(self, observations: Observations, fields: list[dict[str, str]]) -> Observations:
        images = [[observations[camera][row] for camera in self.cameras] for row in range(len(fields))]
        states: States = self.representation(images, fields)
        added = {}
        if "states" in self.observe:
            added |= {"tokens": states.tokens.numpy(), "padding": states.padding.numpy().astype(np.uint8)}
        if "answer" in self.observe:
            yes = [answer.lower().startswith("yes") for answer in self.representation.answers(states.written)]
            added["answer"] = np.array(yes, np.float32)[:, None]
        return observations | added
