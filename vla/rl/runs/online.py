"""`vla rl fit`: an RL head learns on a frozen model's states."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure

from vla.promptable.cache import CachedRepresentation, Hits
from vla.report.learning import FILE, LearningRun, load_run
from vla.report.provenance import provenance
from vla.rl.runs.build import make_agent, make_environments, make_representation
from vla.rl.runs.checkpoint import check_model, read_checkpoint, write_checkpoint
from vla.rl.policies.export import write_agent
from vla.rl.runs.options import RLOptions
from vla.rl.policies.sb3_to_head import unfit, write_policy


class Episodes(BaseCallback):
    """Notes every episode's end: [step, return, length, success]; and says how often the cache was of use."""

    def __init__(self, done: list[list[float]], hits: Any = None):
        super().__init__()
        self.done, self.hits = done, hits

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                episode = info["episode"]
                self.done.append([self.num_timesteps, float(episode["r"]), int(episode["l"]), int(info["is_success"])])
        return True

    def _on_rollout_end(self) -> None:
        if self.hits is not None:
            for name, value in self.hits.to_dict().items():
                self.logger.record(f"cache/{name}", value)


def fit(options: RLOptions) -> LearningRun:
    """Trains to the wanted number of steps, from the folder's checkpoint if it has one; a finished run is only read.

    The folder gets checkpoint.pt (plain types), logs/ (TensorBoard), results.json (the learning curve, for `vla compare`) and
    export/ (safetensors and JSON), which `vla rollout` and `vla serve` take if the head drives the tabletop.

    Raises:
        UserError: the folder's run is another one, or the options contradict one another.
    """
    out, began = Path(options.out), _spent()
    saved = read_checkpoint(out, options)
    if saved is not None:
        # A run that is asked for fewer steps than it took stays as it is.
        options = dataclasses.replace(options, steps=max(options.steps, min(saved["wanted"], saved["steps"])))
        # The record is written last.
        if saved["steps"] >= options.steps and (out / FILE).is_file() and (run := load_run(out)).steps == options.steps:
            return run
    representation = make_representation(options)
    if saved is not None:
        check_model(out, saved, representation)
    environments = make_environments(options, representation)
    try:
        agent = make_agent(options, environments, representation)
        episodes: list[list[float]] = []
        before = dict.fromkeys(began, 0.0)
        if saved is not None:
            agent.policy.load_state_dict(saved["policy"])
            if saved["optimizer"]:
                agent.policy.optimizer.load_state_dict(saved["optimizer"])
            agent.num_timesteps, agent._n_updates = saved["steps"], saved["updates"]
            episodes, before = saved["episodes"], saved.get("spent", before)
            if representation is not None:
                representation.hits = Hits(**saved["hits"])
        out.mkdir(parents=True, exist_ok=True)
        agent.set_logger(configure(str(out / "logs"), ["tensorboard"]))
        noted = Episodes(episodes, representation.hits if representation else None)
        while agent.num_timesteps < options.steps:
            chunk = min(options.checkpoint, options.steps - agent.num_timesteps)
            _begin(agent, options.seed)
            agent.learn(chunk, callback=noted, reset_num_timesteps=False, log_interval=1)
            _save(out, agent, episodes, options, representation, _since(began, before))
        agent.logger.dump(agent.num_timesteps)
    finally:
        environments.close()
    spent = _since(began, before)
    if why := unfit(options, representation):
        write_agent(out / "export", agent, options, representation, why)
    else:
        write_policy(out / "export", agent.policy, options, representation, spent)
    run = _record(options, agent, episodes, representation, spent)
    run.save(out)
    return run


def _spent() -> dict[str, float]:
    """Seconds by the clock, and of all cores together: of this process and of its children that have ended."""
    return {"seconds": time.perf_counter(), "cpu_seconds": sum(psutil.Process().cpu_times()[:4])}


def _since(began: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    return {name: round(before[name] + now - began[name], 1) for name, now in _spent().items()}


def _begin(agent: BaseAlgorithm, seed: int) -> None:
    """Everything that is drawn from here on depends on seed and step alone, and episodes begin anew."""
    mixed = hashlib.sha256(f"{seed} {agent.num_timesteps}".encode()).digest()
    agent.set_random_seed(int.from_bytes(mixed[:4], "little") % 2**31)
    agent._last_obs = None


def _save(
    out: Path,
    agent: BaseAlgorithm,
    episodes: list[list[float]],
    options: RLOptions,
    asked: CachedRepresentation | None,
    spent: dict[str, float],
) -> None:
    state = {
        "identity": options.identity(),
        "asked": asked.identity if asked else {},
        "wanted": options.steps,
        "policy": agent.policy.state_dict(),
        "optimizer": agent.policy.optimizer.state_dict() if options.algorithm == "ppo" else {},
        "steps": agent.num_timesteps,
        "updates": agent._n_updates,
        "episodes": episodes,
        "hits": dataclasses.asdict(asked.hits) if asked else {},
        "spent": spent,
    }
    write_checkpoint(out, state)


def _record(
    options: RLOptions, agent: BaseAlgorithm, episodes: list[list[float]], representation: Any, spent: dict[str, float]
) -> LearningRun:
    same = {k: v for k, v in dataclasses.asdict(options).items() if k in ("environment", "algorithm", "arguments", "net")}
    return LearningRun(
        task=options.environment.name,
        condition=options.condition or options.prompt or "+".join(options.observe),
        seed=options.seed,
        budget=hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest(),
        steps=options.steps,
        ends=[int(e[0]) for e in episodes],
        success=[int(e[3]) for e in episodes],
        more={
            **provenance(),
            **spent,
            "options": options.identity(),
            "returns": [round(float(e[1]), 6) for e in episodes],
            "lengths": [int(e[2]) for e in episodes],
            "cache": representation.hits.to_dict() if representation else {},
            "model": representation.identity["model"] if representation else "",
            "parameters": int(np.sum([p.numel() for p in agent.policy.parameters()])),
        },
    )
