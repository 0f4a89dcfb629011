"""Runs environments in processes without torch; Stable-Baselines3's own SubprocVecEnv would load torch in each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from vla.errors import UserError
from vla.sim.workers import Fault, Worker, Workers

DEADLINE = 120.0
"""Seconds after which a process that has not answered counts as hung; a first answer takes about five."""


class SubprocessVecEnv(VecEnv):
    """Parallel environments with dict observations, each in a worker process (`vla.sim.workers`).

    Args:
        make: makes an environment, in each process and once here for its spaces. An environment must not load its simulator
            before the first `reset`, which takes a seed by position.
        count: number of environments.

    Raises:
        UserError: a process died, hangs or reports an error.
    """

    def __init__(self, make: Callable[[], gymnasium.Env], count: int):
        sample = make()
        self._workers = Workers(count, make)
        super().__init__(count, sample.observation_space, sample.action_space)

    def reset(self) -> VecEnvObs:
        resets = self._ask({env: ("reset", seed) for env, seed in enumerate(self._seeds)})
        self._reset_seeds()
        self._reset_options()
        observations, self.reset_infos = (list(parts) for parts in zip(*(resets[i] for i in range(self.num_envs)), strict=True))
        return _stacked(observations)

    def step_async(self, actions: np.ndarray) -> None:
        self._send({env: ("step", action) for env, action in enumerate(actions)})

    def step_wait(self) -> VecEnvStepReturn:
        steps = self._answers(range(self.num_envs))
        observations, rewards, terminated, truncated, infos = (
            list(parts) for parts in zip(*(steps[i] for i in range(self.num_envs)), strict=True)
        )
        finished = [env for env in range(self.num_envs) if terminated[env] or truncated[env]]
        # The environments reset in parallel.
        resets = self._ask(dict.fromkeys(finished, ("reset",)))
        for env in finished:
            infos[env] |= {
                "terminal_observation": observations[env],
                "TimeLimit.truncated": truncated[env] and not terminated[env],
            }
            observations[env], self.reset_infos[env] = resets[env]
        dones = np.array([env in finished for env in range(self.num_envs)])
        return _stacked(observations), np.array(rewards, np.float32), dones, infos

    def close(self) -> None:
        self._workers.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        if attr_name != "render_mode":
            raise AttributeError(attr_name)
        return [None] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: object, indices: VecEnvIndices = None) -> None:
        raise AttributeError(attr_name)

    def env_method(
        self, method_name: str, *method_args: object, indices: VecEnvIndices = None, **method_kwargs: object
    ) -> list[Any]:
        raise AttributeError(method_name)

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        return [False] * len(list(self._get_indices(indices)))

    def _ask(self, messages: dict[int, tuple[Any, ...]]) -> dict[int, Any]:
        self._send(messages)
        return self._answers(messages)

    def _send(self, messages: dict[int, tuple[Any, ...]]) -> None:
        for env, message in messages.items():
            try:
                self._workers.all[env].send(*message)
            except OSError:
                # The process is dead; its answer will be a Fault.
                continue

    def _answers(self, envs: Iterable[int]) -> dict[int, Any]:
        waiting: dict[Worker, int] = {self._workers.all[env]: env for env in envs}
        answers: dict[int, Any] = {}
        while waiting:
            for worker, answer in self._workers.answers(list(waiting), DEADLINE):
                env = waiting.pop(worker)
                if isinstance(answer, Fault):
                    fix = "run the same command to resume from the last checkpoint; `vla doctor` checks rendering"
                    raise UserError(f"its process failed: {answer.reason}", f"environment {env}", fix)
                answers[env] = answer
        return answers


def _stacked(observations: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([one[name] for one in observations]) for name in observations[0]}
