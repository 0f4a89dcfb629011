"""Environments in processes without torch: Stable-Baselines3's own load it in each, beside the simulator's renderer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from vla.errors import UserError
from vla.sim.workers import Fault, Worker, Workers

DEADLINE = 120.0
"""Seconds after which a process that has not answered counts as hung; its first answer takes about five."""


class ProcessVecEnv(VecEnv):
    """Environments with dict observations in step, a worker process (`vla.sim.workers`) each.

    Args:
        make: an environment, in each process and once here for its spaces: it must load a simulator at its first `reset`, not
            before. `reset` takes a seed by position.
        count: environments.

    Raises:
        UserError: a process died, hangs or reports an error.
    """

    def __init__(self, make: Callable[[], gymnasium.Env], count: int):
        plan = make()
        self._workers = Workers(count, make)
        super().__init__(count, plan.observation_space, plan.action_space)

    def reset(self) -> Any:
        begun = self._ask({place: ("reset", seed) for place, seed in enumerate(self._seeds)})
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [begun[place][1] for place in range(self.num_envs)]
        return self._stacked([begun[place][0] for place in range(self.num_envs)])

    def step_async(self, actions: np.ndarray) -> None:
        self._send({place: ("step", action) for place, action in enumerate(actions)})

    def step_wait(self) -> Any:
        went = self._answers(range(self.num_envs))
        seen, rewards, ended, cut, infos = (list(parts) for parts in zip(*(went[i] for i in range(self.num_envs)), strict=True))
        over = [place for place in range(self.num_envs) if ended[place] or cut[place]]
        # The next episodes begin at the same time.
        begun = self._ask(dict.fromkeys(over, ("reset",)))
        for place in over:
            infos[place] |= {"terminal_observation": seen[place], "TimeLimit.truncated": cut[place] and not ended[place]}
            seen[place], self.reset_infos[place] = begun[place]
        done = np.array([place in over for place in range(self.num_envs)])
        return self._stacked(seen), np.array(rewards, np.float32), done, infos

    def close(self) -> None:
        self._workers.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        if attr_name != "render_mode":
            raise AttributeError(attr_name)
        return [None] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(attr_name)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        raise AttributeError(method_name)

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: Any = None) -> list[bool]:
        return [False] * len(list(self._get_indices(indices)))

    def _ask(self, messages: dict[int, tuple[Any, ...]]) -> dict[int, Any]:
        self._send(messages)
        return self._answers(messages)

    def _send(self, messages: dict[int, tuple[Any, ...]]) -> None:
        for place, message in messages.items():
            try:
                self._workers.all[place].send(*message)
            except OSError:
                # It is dead; its answer will say how.
                continue

    def _answers(self, places: Sequence[int] | range | dict[int, Any]) -> dict[int, Any]:
        waiting: dict[Worker, int] = {self._workers.all[place]: place for place in places}
        found: dict[int, Any] = {}
        while waiting:
            for worker, answer in self._workers.answers(list(waiting), DEADLINE):
                place = waiting.pop(worker)
                if isinstance(answer, Fault):
                    fix = "the same command goes on from the last checkpoint; `vla doctor` checks rendering"
                    raise UserError(f"its process failed: {answer.reason}", f"environment {place}", fix)
                found[place] = answer
        return found

    @staticmethod
    def _stacked(seen: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {name: np.stack([one[name] for one in seen]) for name in seen[0]}
