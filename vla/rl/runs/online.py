"""Learning in environments: `vla rl fit` with PPO or SAC."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from vla.errors import UserError
from vla.promptable.cache import CachedRepresentation, Hits
from vla.report.learning import FILE, LearningRun, load_run
from vla.report.provenance import provenance
from vla.rl.envs.registry import environment_class, make_vec_env
from vla.rl.learners.registry import OnlineLearner, online_learner
from vla.rl.policies.export import write_agent
from vla.rl.policies.features import mixed_layers, sb3_policy
from vla.rl.policies.sb3_to_head import unfit, write_policy
from vla.rl.runs.checkpoint import Saved
from vla.rl.runs.options import RunOptions
from vla.rl.runs.outcome import Outcome, Stopwatch


class Online:
    """A learner in its environments; implements `runner.Training`."""

    def __init__(self, options: RunOptions, representation: CachedRepresentation | None, watch: Stopwatch):
        self.options, self.representation, self.watch = options, representation, watch
        self.out = Path(options.out)
        self.environments = make_environments(options, representation)

    @property
    def steps(self) -> int:
        return self.learner.steps

    def begin(self, saved: Saved | None) -> None:
        options = self.options
        policy = sb3_policy(options.policy, mixed_layers(self.representation))
        kind = online_learner(options.learner.name)
        self.learner: OnlineLearner = kind(self.environments, policy, options.learner.arguments, options.seed)
        if saved is not None:
            self.learner.load(saved)
            self.watch.before = saved.get("spent", self.watch.before)
            if self.representation is not None:
                self.representation.hits = Hits(**saved["hits"])
        self.out.mkdir(parents=True, exist_ok=True)
        self.learner.log_to(self.out / "logs")

    def advance(self) -> None:
        budget = self.options.budget
        hits = self.representation.hits if self.representation else None
        self.learner.learn(min(budget.checkpoint, budget.steps - self.steps), hits)

    def state(self) -> Saved:
        hits = dataclasses.asdict(self.representation.hits) if self.representation else {}
        return {"wanted": self.options.budget.steps, **self.learner.state(), "hits": hits, "spent": self._spent()}

    def close(self) -> None:
        self.environments.close()

    def finish(self) -> Outcome:
        self.learner.close_log()
        options, policy, spent = self.options, self.learner.policy, self._spent()
        folder, all_options = self.out / "export", options.to_dict()
        if why := unfit(options.environment.name, options.observation, self.representation):
            write_agent(folder, policy, all_options, self.representation, why)
        else:
            more = {"options": all_options, "steps": options.budget.steps, **spent}
            write_policy(folder, policy, options.policy, options.observation, self.representation, options.condition, more)
        record = self._record(spent)
        record.save(self.out)
        return Outcome(summary(options, record), record)

    def _spent(self) -> dict[str, float]:
        return {name: round(seconds, 1) for name, seconds in self.watch.taken().items()}

    def _record(self, spent: dict[str, float]) -> LearningRun:
        options, episodes, representation = self.options, self.learner.episodes, self.representation
        same = {name: options.to_dict()[name] for name in ("environment", "algorithm", "arguments", "net")}
        return LearningRun(
            task=options.environment.name,
            condition=options.condition or options.observation.title,
            seed=options.seed,
            budget=hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest(),
            steps=options.budget.steps,
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
                "parameters": int(np.sum([p.numel() for p in self.learner.policy.parameters()])),
            },
        )


def make_environments(options: RunOptions, representation: CachedRepresentation | None) -> VecEnv:
    """Makes parallel environments that give the policy's observations; their monitor records how every episode ends."""
    environments = VecMonitor(make_vec_env(options.environment), info_keywords=("is_success",))
    # A wrapper with another reward belongs here: it sees the images, and the monitor still logs the environment's return.
    try:
        return options.observation.wrap(environments, representation, environment_class(options.environment.name).fields)
    except UserError:
        environments.close()
        raise


def finished(options: RunOptions) -> Outcome | None:
    """Returns the outcome of a finished run; None if its record, which is written last, is missing or has other steps."""
    out = Path(options.out)
    if not (out / FILE).is_file() or (record := load_run(out)).steps != options.budget.steps:
        return None
    return Outcome(summary(options, record), record)


def summary(options: RunOptions, run: LearningRun) -> str:
    """Returns the run's result in one line."""
    last = float(run.curve()[-5:].mean())
    hits = f", {100 * run.more['cache']['rate']:.0f} % of the states from the cache" if run.more["cache"] else ""
    return (
        f"{options.out}: {run.condition}, {run.steps:,} steps, {len(run.ends):,} episodes, area {run.area():.3f}, "
        f"success in the last fifth {100 * last:.0f} %{hits}"
    )
