"""What files keep of a run's options, and what contradicts itself."""

import dataclasses
import hashlib
import json

import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("minigrid")

from vla.errors import UserError
from vla.promptable.representation import Settings
from vla.rl.envs.observation import EnvironmentObservation
from vla.rl.envs.registry import EnvironmentOptions
from vla.rl.learners.registry import LearnerOptions
from vla.rl.policies.options import PolicyOptions, PoolerOptions
from vla.rl.runs.options import BudgetOptions, RunOptions
from vla.systems.pr2l.observation import CacheOptions, PromptedObservation


def prompted(**representation):
    return RunOptions(
        out="runs/one",
        condition="task",
        observation=PromptedObservation("tiny", prompt="Q: {object}? A:", representation=Settings(**representation)),
        learner=LearnerOptions(arguments={"n_steps": 64}),
    )


def test_files_keep_the_form_that_recorded_runs_have():
    """The hash is of the options when they were one flat class."""
    kept = json.dumps(prompted(tokens=2).identity())
    assert hashlib.sha256(kept.encode()).hexdigest() == "b38f9953ab205bef3fed9f91c01b329fcc6a0a05bfc185a2cec6c1754b64ea4b"


def test_a_run_without_a_model_says_so_by_the_same_names():
    kept = dataclasses.replace(prompted(), observation=EnvironmentObservation(["oracle"])).to_dict()
    assert list(kept) == list(prompted().to_dict()) and (kept["vlm"], kept["random"], kept["observe"]) == ("", -1, ["oracle"])
    assert kept["representation"] == prompted().to_dict()["representation"]


def test_options_from_before_a_statistic_could_be_chosen_stay_the_same():
    """Runs and recorded cells of then go on and are merged."""
    for kept in (prompted(tokens=2).identity(), prompted(tokens=2).to_dict()):
        assert "decode" not in kept["representation"] and kept["representation"]["tokens"] == 2
    assert prompted(decode="median").identity()["representation"]["decode"] == "median"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PoolerOptions(width=0), "pooler"),
        (lambda: PoolerOptions(out=0), "pooler"),
        (lambda: PolicyOptions(net=[0]), "give positive numbers"),
        (lambda: PolicyOptions(chunk=0), "chunk 0 and net"),
        (lambda: CacheOptions(memory_mb=-1), "cache"),
        (lambda: BudgetOptions(steps=0), "positive numbers"),
        (lambda: EnvironmentOptions(count=0), "give at least 1"),
        (lambda: LearnerOptions("fly"), "one of ppo, sac, bc, iql"),
        (lambda: LearnerOptions("bc"), "bc and iql learn from data"),
        (lambda: LearnerOptions("ppo", data="runs/data"), "ppo and sac in an environment"),
        (lambda: PromptedObservation(random=-5), "a seed of 0 or more"),
        (lambda: PromptedObservation(observe=["answer"], representation=Settings(tokens=0)), "none is generated"),
        (lambda: RunOptions("", seed=-1), "give a seed of 0 or more"),
    ],
)
def test_what_contradicts_itself_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
