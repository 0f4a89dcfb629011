"""Defines what a policy observes beside the non-visual state."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from vla.errors import UserError
from vla.promptable.cache import CachedRepresentation

Observations = dict[str, np.ndarray]


class ObservationOptions:
    """The `observation` part of a run's options, selected by `class_path`.

    A system that computes observations, e.g. with a foundation model, adds a subclass: a dataclass whose fields are its options.

    Attributes:
        observe: names of what the policy observes.
    """

    observe: Sequence[str]

    @property
    def title(self) -> str:
        """Name of a run that has no `condition`."""
        return "+".join(self.observe)

    def open(self) -> CachedRepresentation | None:
        """Loads the frozen model; returns None if the observation needs none."""
        return None

    def wrap(self, environments: VecEnv, representation: CachedRepresentation | None, fields: Sequence[str]) -> VecEnv:
        """Wraps environments so that their observations are what the policy observes.

        Args:
            environments: the environments.
            representation: what `open` returned.
            fields: keys of the environments' `info["fields"]`.
        """
        return ObservedVecEnv(environments, self.observe)

    def exported(self, representation: CachedRepresentation | None) -> dict[str, Any]:
        """Returns what an export keeps of the observation, under the names of `vla.policies.prompted.HeadDescription`."""
        return {}

    def saved(self) -> dict[str, object]:
        """Returns the options as JSON holds them, under the names used in checkpoints and records."""
        return {"observe": list(self.observe)}


@dataclasses.dataclass(frozen=True)
class EnvironmentObservation(ObservationOptions):
    """Observations that the environment itself provides.

    Attributes:
        observe: pixels, the images, for a network from scratch; oracle, the environment's own bit for "the goal is in view".
    """

    observe: list[Literal["pixels", "oracle"]] = dataclasses.field(default_factory=lambda: ["pixels"])


def entries(venv: VecEnv) -> dict[str, spaces.Space]:
    """Returns the spaces of the entries of the environments' observations."""
    assert isinstance(venv.observation_space, spaces.Dict)
    return venv.observation_space.spaces


def cameras(venv: VecEnv) -> list[str]:
    """Returns the names of the entries that are images."""
    return [name for name, space in entries(venv).items() if len(space.shape or ()) == 3]


class ObservedVecEnv(VecEnvWrapper):
    """Keeps "state" and the named entries of each observation.

    Args:
        venv: environments whose observations are dicts.
        names: names of entries; "pixels" stands for every image.

    Raises:
        UserError: there is no such entry.
    """

    def __init__(self, venv: VecEnv, names: Sequence[str]):
        inner = entries(venv)
        missing = [name for name in names if name not in ("pixels", *inner)]
        if missing:
            raise UserError(f"the environment has no {missing[0]}", "observe", "leave it out")
        self._names = ["state", *(name for name in names if name != "pixels"), *(cameras(venv) if "pixels" in names else [])]
        super().__init__(venv, spaces.Dict({name: inner[name] for name in self._names}))

    def reset(self) -> Observations:
        return self._keep(self.venv.reset())

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        for env in np.flatnonzero(dones):
            infos[env]["terminal_observation"] = self._keep(infos[env]["terminal_observation"])
        return self._keep(observations), rewards, dones, infos

    def _keep(self, observations: VecEnvObs) -> Observations:
        assert isinstance(observations, dict)
        return {name: observations[name] for name in self._names}
