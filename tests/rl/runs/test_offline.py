import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3")
pytest.importorskip("minigrid")

from vla.errors import ContractMismatch, UserError
from vla.observation import Observation
from vla.policies.load import load_policy
from vla.promptable.representation import Settings
from vla.report.plots import read_metrics
from vla.rl.envs.observation import EnvironmentObservation
from vla.rl.learners.demonstrations import Demonstrations
from vla.rl.learners.registry import LearnerOptions
from vla.rl.policies.options import PolicyOptions, PoolerOptions
from vla.rl.runs.checkpoint import CHECKPOINT
from vla.rl.runs.options import BudgetOptions, RunOptions
from vla.rl.runs.runner import fit
from vla.sim.tabletop.embodiment import EMBODIMENT
from vla.systems.pr2l.observation import CacheOptions, PromptedObservation


@pytest.fixture(scope="module")
def options(vlm, data, tmp_path_factory):
    """A run of 40 steps in two parts."""
    return RunOptions(
        out=str(tmp_path_factory.mktemp("bc") / "run"),
        condition="bc",
        observation=PromptedObservation(
            vlm=str(vlm),
            prompt="Q: where is the {object}? A:",
            representation=Settings(tokens=2, batch=4, image=False, words=32),
            cache=CacheOptions(str(tmp_path_factory.mktemp("cache")), 64),
        ),
        policy=PolicyOptions(PoolerOptions(width=16, hidden=16, out=16), net=[32]),
        learner=LearnerOptions("bc", {"batch": 8, "learning_rate": 3e-3}, str(data / "robot")),
        budget=BudgetOptions(40, 20),
    )


@pytest.fixture(scope="module")
def run(options):
    return fit(options).summary


@pytest.fixture
def observations():
    rng = np.random.default_rng(1)

    def images():
        return {c.name: rng.integers(0, 255, (64, 64, 3), np.uint8) for c in EMBODIMENT.cameras}

    instructions = ("lift the red cube", "Lift the blue cube.", "")
    return [Observation(str(i), images(), np.array([0.0, 0, 0.1, 0, 0.04]), text) for i, text in enumerate(instructions)]


def weights(folder):
    return torch.load(f"{folder}/{CHECKPOINT}", weights_only=True)


def test_a_run_learns_and_says_how_well(options, run):
    logged = read_metrics(options.out)
    assert logged["train/loss"][1][-1] < logged["train/loss"][1][0] and logged["cache/rate"][1][-1] > 0.5
    assert "held-out error" in run and len(logged["val/action_l1"][0]) == 2


@pytest.mark.parametrize("algorithm", ["bc", "iql"])
def test_a_resumed_run_is_an_uninterrupted_one(options, tmp_path, changed, algorithm):
    whole = changed(options, out=str(tmp_path / "whole"), learner__name=algorithm, budget=BudgetOptions(8, 4))
    half = dataclasses.replace(whole, out=str(tmp_path / "half")).with_steps(4)
    fit(whole)
    fit(half)
    fit(half.with_steps(8))
    one, two = weights(whole.out), weights(half.out)
    assert one["steps"] == two["steps"] == 8 and one["held_out"] == two["held_out"]
    assert all(torch.equal(one["networks"][name], two["networks"][name]) for name in one["networks"])


def test_the_export_is_a_policy_whose_answers_do_not_depend_on_company(options, run, observations):
    policy = load_policy(f"{options.out}/export", batch=2)
    chunks = policy.act(observations)
    space = EMBODIMENT.action
    for observation, chunk in zip(observations, chunks, strict=True):
        assert chunk.actions.shape == (2, 7) and not chunk.terminate.any() and not chunk.status
        assert (chunk.actions >= space.low).all() and (chunk.actions <= space.high).all() and not chunk.actions[:, 3:5].any()
        assert np.array_equal(policy.act([observation])[0].actions, chunk.actions) and chunk.info["batch"] == 2
    assert not np.array_equal(chunks[0].actions, chunks[1].actions)


def test_it_acts_as_it_was_trained(options, run):
    """On a step of the data, the policy writes what the trained head does."""
    policy = load_policy(f"{options.out}/export", batch=1)
    sample = Demonstrations(options.learner.data, 2).source.sample(3, np.random.default_rng(0))
    actions = policy.act([Observation("0", sample.images, sample.state, sample.instruction)])[0].actions
    policy.head.load_state_dict(
        {name.removeprefix("actor."): value for name, value in weights(options.out)["networks"].items() if "actor." in name}
    )
    again = policy.act([Observation("0", sample.images, sample.state, sample.instruction)])[0].actions
    assert np.array_equal(actions, again)
    assert np.abs(actions - sample.actions[:2]).mean() < np.abs(actions - sample.actions[:2][:, ::-1]).mean()


def test_a_network_from_scratch_needs_no_model(options, tmp_path, observations):
    pixels = EnvironmentObservation(["pixels"])
    mine = dataclasses.replace(options, out=str(tmp_path / "run"), observation=pixels, budget=BudgetOptions(2, 2))
    fit(mine)
    chunk = load_policy(f"{mine.out}/export").act(observations[:1])[0]
    assert chunk.actions.shape == (2, 7)


def test_other_weights_than_those_it_was_trained_on_are_refused(options, run, vlm, tmp_path):
    folder = shutil.copytree(f"{options.out}/export", tmp_path / "export")
    content = json.loads((folder / "rl.json").read_text())
    (folder / "rl.json").write_text(json.dumps({**content, "random": 3}))
    with pytest.raises(ContractMismatch, match="has weights"):
        load_policy(str(folder))
    (folder / "rl.json").write_text(json.dumps({**content, "head": {}}))
    with pytest.raises(UserError, match="not an export of a head"):
        load_policy(str(folder))


def test_a_head_whose_model_reads_otherwise_says_so(options, run, tmp_path):
    folder = shutil.copytree(f"{options.out}/export", tmp_path / "export")
    content = json.loads((folder / "rl.json").read_text())
    (folder / "rl.json").write_text(json.dumps({**content, "reads": "other"}))
    with pytest.warns(UserWarning, match="differ from those the head was trained with"):
        load_policy(str(folder))


def test_a_call_takes_the_smallest_shape_that_holds_it(options, run, observations):
    ladder, one = load_policy(f"{options.out}/export", batch=[1, 4]), load_policy(f"{options.out}/export", batch=1)
    assert [chunk.info["batch"] for chunk in ladder.act(observations)] == [4, 4, 4]
    alone = ladder.act(observations[:1])[0]
    assert alone.info["batch"] == 1 and np.array_equal(alone.actions, one.act(observations[:1])[0].actions)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learner__arguments": {"batch": 0}}, "must be positive"),
        ({"learner__arguments": {"batch": "many"}}, "must be positive"),
        ({"learner__arguments": {"learning_rate": -1}}, "must be positive"),
        ({"learner__name": "iql", "learner__arguments": {"expectile": 3}}, "expectile"),
        ({"observation": EnvironmentObservation(["oracle"])}, "oracle is not recorded"),
        ({"observation__prompt": "{shape}?"}, "unknown field"),
        ({"learner__arguments": {"n_steps": 3}}, "its arguments are batch"),
    ],
)
def test_contradictions_are_refused(options, tmp_path, changed, change, message):
    with pytest.raises(UserError, match=message):
        fit(changed(options, out=str(tmp_path), **change))


def test_another_run_in_the_folder_is_refused(options, run):
    with pytest.raises(UserError, match="another seed"):
        fit(dataclasses.replace(options, seed=4))
