"""A vectorised environment with a frozen model's states in its observations, computed in one call for all environments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from vla.promptable.cache import CachedRepresentation
from vla.promptable.representation import PromptableRepresentation, States
from vla.rl.envs.observation import Observations, cameras, entries


class PromptedVecEnv(VecEnvWrapper):
    """Adds a frozen model's states, or its answer, to the environments' observations.

    Observations are dicts with images (uint8 [H, W, 3]); every reset and step gives `info["fields"]`. "states" adds "tokens"
    [L, D] and "padding" [L] (1 is padding); "answer" adds "answer" [1], which is 1 if the model's answer begins with yes.

    Args:
        venv: the environments.
        representation: the frozen model with its prompt.
        observe: "states", "answer" or both.
        known: the fields that the environments fill.

    Raises:
        UserError: the prompt has a field that the environments do not fill.
    """

    def __init__(
        self,
        venv: VecEnv,
        representation: PromptableRepresentation | CachedRepresentation,
        observe: Sequence[str] = ("states",),
        known: Sequence[str] = (),
    ):
        self.representation, self.observe = representation, tuple(observe)
        self.cameras = cameras(venv)
        representation.prompt.check(known)
        super().__init__(venv, spaces.Dict({**entries(venv), **self._added()}))
        self._fields: list[dict[str, str]] = [{} for _ in range(venv.num_envs)]

    def _added(self) -> dict[str, spaces.Space]:
        added: dict[str, spaces.Space] = {}
        if "states" in self.observe:
            length, width = self.representation.shape
            dtype = np.dtype(self.representation.identity["dtype"])
            added["tokens"] = spaces.Box(-np.inf, np.inf, (length, width), dtype.type)
            added["padding"] = spaces.Box(0, 1, (length,), np.uint8)
        if "answer" in self.observe:
            added["answer"] = spaces.Box(0.0, 1.0, (1,), np.float32)
        return added

    def reset(self) -> Observations:
        observations = self.venv.reset()
        assert isinstance(observations, dict)
        self._fields = [info["fields"] for info in self.venv.unwrapped.reset_infos]
        return self._with_states(observations, self._fields)

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        assert isinstance(observations, dict)
        ended = [env for env, done in enumerate(dones) if done]
        # The last observation of an episode needs states too: the head estimates the value of a truncated episode from them.
        last = [infos[env]["terminal_observation"] for env in ended]
        last_fields = [self._fields[env] for env in ended]
        resets = self.venv.unwrapped.reset_infos
        self._fields = [resets[i]["fields"] if i in ended else infos[i]["fields"] for i in range(self.num_envs)]
        rows = {name: np.concatenate([values, *([o[name]] for o in last)]) for name, values in observations.items()}
        rows = self._with_states(rows, [*self._fields, *last_fields])
        for row, env in enumerate(ended, self.num_envs):
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
