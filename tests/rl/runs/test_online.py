import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from vla.errors import UserError
from vla.report.learning import load_run

pytest.importorskip("stable_baselines3")
pytest.importorskip("minigrid")

from vla.promptable.representation import Settings
from vla.rl.envs.observation import EnvironmentObservation
from vla.rl.envs.registry import EnvironmentOptions
from vla.rl.learners.registry import LearnerOptions
from vla.rl.policies.export import act, read_agent
from vla.rl.policies.options import PolicyOptions, PoolerOptions
from vla.rl.runs.online import Online
from vla.rl.runs.options import BudgetOptions, RunOptions
from vla.rl.runs.outcome import Stopwatch
from vla.rl.runs.runner import fit
from vla.systems.pr2l.observation import CacheOptions, PromptedObservation


@pytest.fixture(scope="module")
def options(vlm, tmp_path_factory):
    """A run of 64 steps in two parts."""
    return RunOptions(
        out=str(tmp_path_factory.mktemp("rl") / "run"),
        condition="task",
        environment=EnvironmentOptions("BabyAI-GoToObj-v0", 2),
        observation=PromptedObservation(
            vlm=str(vlm),
            prompt="Q: is there a {object}? A:",
            representation=Settings(tokens=2, batch=2, image=False, words=40),
            cache=CacheOptions(str(tmp_path_factory.mktemp("cache")), 64),
        ),
        policy=PolicyOptions(PoolerOptions(width=16, hidden=16, out=8), net=[8]),
        learner=LearnerOptions(arguments={"n_steps": 16, "batch_size": 16, "n_epochs": 1}),
        budget=BudgetOptions(64, 32),
    )


@pytest.fixture(scope="module")
def run(options):
    return fit(options).record


def weights(folder):
    return torch.load(f"{folder}/checkpoint.pt", weights_only=True)


def test_a_run_leaves_curve_logs_checkpoint_and_export(options, run):
    record = load_run(options.out)
    assert record.condition == "task" and record.steps == 64 and record.task == "BabyAI-GoToObj-v0"
    assert 0 < record.more["cache"]["rate"] <= 1 and record.more["versions"]["vla"]
    from vla.report.plots import read_metrics

    logged = read_metrics(options.out)
    assert {"cache/rate", "train/loss"} <= set(logged) and logged["train/loss"][0][-1] == 64


def test_a_resumed_run_is_an_uninterrupted_one(options, run, tmp_path):
    half = dataclasses.replace(options, out=str(tmp_path / "half")).with_steps(32)
    fit(half)
    resumed = fit(half.with_steps(64)).record
    whole, again = weights(options.out), weights(half.out)
    assert whole["steps"] == again["steps"] == 64 and (resumed.ends, resumed.success) == (run.ends, run.success)
    assert all(torch.equal(whole["policy"][name], again["policy"][name]) for name in whole["policy"])


def test_a_finished_run_is_only_read(options, run):
    before = weights(options.out)
    again = fit(options).record
    assert (again.ends, again.more["cache"]) == (run.ends, run.more["cache"])
    assert all(torch.equal(before["policy"][name], weights(options.out)["policy"][name]) for name in before["policy"])


def test_a_run_that_was_killed_while_it_wrote_is_finished(options, run, tmp_path):
    done = dataclasses.replace(options, out=str(shutil.copytree(options.out, tmp_path / "run")))
    record = tmp_path / "run/results.json"
    # The record is written last: without it the export may be an earlier one's.
    record.unlink()
    shutil.rmtree(tmp_path / "run/export")
    assert fit(done).record.ends == run.ends and (tmp_path / "run/export/rl.json").is_file() and record.is_file()
    record.write_text(json.dumps({**json.loads(record.read_text()), "steps": 32}))
    assert fit(done).record.steps == 64 == load_run(done.out).steps
    assert fit(done.with_steps(8)).record.steps == 64


def test_a_run_does_not_go_on_with_another_model(options, run, vlm, tmp_path, changed):
    model = shutil.copytree(vlm, tmp_path / "vlm")
    mine = changed(options, out=str(tmp_path / "run"), observation__vlm=str(model), budget__steps=32)
    fit(mine)
    change_weights(model)
    with pytest.raises(UserError, match="another model"):
        fit(mine.with_steps(64))


def change_weights(folder):
    from safetensors.torch import load_file, save_file

    kept = load_file(folder / "model.safetensors")
    name = next(iter(kept))
    save_file({**kept, name: kept[name] + 1}, folder / "model.safetensors", {"format": "pt"})


def test_the_export_acts_as_the_trained_head(options, run, tmp_path):
    policy, content = read_agent(f"{options.out}/export")
    assert content["options"] == options.to_dict() and content["kind"] == "pr2l" and content["representation"]["tokens"] == 2
    training = Online(dataclasses.replace(options, out=str(tmp_path)), options.observation.open(), Stopwatch())
    training.begin(None)
    environments, agent = training.environments, training.learner.agent
    agent.policy.load_state_dict(weights(options.out)["policy"])
    environments.seed(5)
    observations = environments.reset()
    for _ in range(5):
        expected, _ = agent.predict(observations, deterministic=True)
        actions = act(policy, observations)
        assert np.array_equal(actions, expected)
        observations = environments.step(actions)[0]
    environments.close()


def test_a_damaged_export_is_named(options, run, tmp_path):
    folder = shutil.copytree(f"{options.out}/export", tmp_path / "export")
    (folder / "policy.safetensors").write_bytes(b"123")
    with pytest.raises(UserError, match="not an export of an RL head"):
        read_agent(folder)
    (folder / "rl.json").write_text(json.dumps({"kind": "pr2l"}))
    with pytest.raises(UserError, match="not an export of an RL head"):
        read_agent(folder)


@pytest.mark.parametrize(("change", "name"), [({"seed": 1}, "seed"), ({"policy__net": [9]}, "net"), ({"observation__prompt": "{shape}"}, "prompt")])
def test_another_run_in_the_folder_is_refused(options, run, changed, change, name):
    with pytest.raises(UserError, match=f"another {name}"):
        fit(changed(options, **change))


def test_a_damaged_checkpoint_is_named(options, run, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"no")
    with pytest.raises(UserError, match="not a checkpoint"):
        fit(dataclasses.replace(options, out=str(tmp_path)))
    torch.save({"state_dict": {}}, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match="not a checkpoint"):
        fit(dataclasses.replace(options, out=str(tmp_path)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observation__vlm": ""}, "no model is named"),
        ({"learner": LearnerOptions("sac")}, "Discrete"),
        ({"learner__arguments": {"n_stepps": 16}}, "n_stepps"),
        ({"observation__prompt": "{nothing}"}, "unknown field"),
        ({"learner__arguments": {"n_steps": 0}}, "n_steps"),
        ({"environment__name": "CartPole-v1"}, "no environment 'CartPole-v1'"),
    ],
)
def test_contradictions_are_refused(options, change, message, tmp_path, changed):
    with pytest.raises(UserError, match=message):
        fit(changed(options, out=str(tmp_path), **change))


def test_conditions_share_the_budget_and_random_weights_are_others(options, run, tmp_path, changed):
    oracle = changed(options, out=str(tmp_path / "oracle"), condition="oracle", observation=EnvironmentObservation(["oracle"]))
    other = fit(oracle).record
    assert other.budget == run.budget and other.more["cache"] == {}

    def model(random):
        return changed(options, observation__random=random).observation.open().identity["model"]

    one, same, two = (model(random) for random in (0, 0, 1))
    assert one == same != two and model(-1) not in (one, two)
