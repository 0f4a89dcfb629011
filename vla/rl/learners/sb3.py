"""Stable-Baselines3's PPO and SAC as `OnlineLearner`s."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, ClassVar

import stable_baselines3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv

from vla.errors import UserError
from vla.promptable.cache import Hits


class SB3Learner:
    """An algorithm of Stable-Baselines3 with a new head.

    Args:
        environments: the environments, with a `VecMonitor` among their wrappers.
        policy: `policy_kwargs`.
        arguments: arguments of the algorithm; they override `defaults`.
        seed: random seed.

    Raises:
        UserError: the algorithm does not support the actions, or an argument is unknown.
    """

    algorithm: ClassVar[type[BaseAlgorithm]]
    defaults: ClassVar[dict[str, Any]]
    resumes: ClassVar[bool]

    def __init__(self, environments: VecEnv, policy: dict[str, Any], arguments: dict[str, Any], seed: int):
        merged = {**self.defaults, **arguments}
        try:
            self.agent = self.algorithm(
                "MultiInputPolicy",  # type: ignore[arg-type]
                environments,
                policy_kwargs=policy,
                seed=seed,
                device="auto",
                **merged,
            )
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            name = type(self).__name__.lower()
            raise UserError(str(error), name, "see Stable-Baselines3 for its arguments and actions") from error
        self.seed = seed
        self.episodes: list[list[float]] = []

    @property
    def steps(self) -> int:
        return self.agent.num_timesteps

    @property
    def policy(self) -> BasePolicy:
        return self.agent.policy  # type: ignore[return-value]

    def log_to(self, folder: Path) -> None:
        self.agent.set_logger(configure(str(folder), ["tensorboard"]))

    def learn(self, steps: int, hits: Hits | None) -> None:
        """Takes at least `steps` steps, from new episodes. Random draws depend only on the seed and the step.

        Args:
            steps: number of steps.
            hits: hits of a cache of states, to be logged.
        """
        digest = hashlib.sha256(f"{self.seed} {self.steps}".encode()).digest()
        self.agent.set_random_seed(int.from_bytes(digest[:4], "little") % 2**31)
        self.agent._last_obs = None
        self.agent.learn(steps, callback=Episodes(self.episodes, hits), reset_num_timesteps=False, log_interval=1)

    def close_log(self) -> None:
        self.agent.logger.dump(self.steps)

    def state(self) -> dict[str, Any]:
        return {
            "policy": self.policy.state_dict(),
            "optimizer": self.policy.optimizer.state_dict() if self.resumes else {},
            "steps": self.steps,
            "updates": self.agent._n_updates,  # type: ignore[attr-defined]
            "episodes": self.episodes,
        }

    def load(self, saved: dict[str, Any]) -> None:
        self.policy.load_state_dict(saved["policy"])
        if saved["optimizer"]:
            self.policy.optimizer.load_state_dict(saved["optimizer"])
        self.agent.num_timesteps, self.agent._n_updates = saved["steps"], saved["updates"]  # type: ignore[attr-defined]
        self.episodes = saved["episodes"]


class PPO(SB3Learner):
    """Schulman et al. 2017 (arXiv 1707.06347)."""

    algorithm = stable_baselines3.PPO
    # From PR2L's notebook; all other defaults are Stable-Baselines3's.
    defaults: ClassVar[dict[str, Any]] = {"learning_rate": 1e-4, "n_steps": 64, "ent_coef": 5e-3}
    resumes = True


class SAC(SB3Learner):
    """Haarnoja et al. 2018 (arXiv 1801.01290). It cannot resume from a checkpoint, because its replay buffer is not saved."""

    algorithm = stable_baselines3.SAC
    defaults: ClassVar[dict[str, Any]] = {"learning_rate": 1e-4, "buffer_size": 20_000, "learning_starts": 500}
    resumes = False


class Episodes(BaseCallback):
    """Records how every episode ended, and logs the hits of the cache."""

    def __init__(self, episodes: list[list[float]], hits: Hits | None):
        super().__init__()
        self.episodes, self.hits = episodes, hits

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                episode = info["episode"]
                self.episodes.append([self.num_timesteps, float(episode["r"]), int(episode["l"]), int(info["is_success"])])
        return True

    def _on_rollout_end(self) -> None:
        if self.hits is not None:
            for name, value in self.hits.to_dict().items():
                self.logger.record(f"cache/{name}", value)
