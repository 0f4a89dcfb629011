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
from vla.rl.runs.build import make_agent, make_environments, make_representation
from vla.rl.policies.export import act, read_agent
from vla.rl.runs.online import fit
from vla.rl.runs.options import CacheOptions, EnvironmentOptions, PoolerOptions, RLOptions


@pytest.fixture(scope="module")
def options(vlm, tmp_path_factory):
    """A run of 64 steps in two parts."""
    return RLOptions(
        out=str(tmp_path_factory.mktemp("rl") / "run"),
        condition="task",
        environment=EnvironmentOptions("BabyAI-GoToObj-v0", 2),
        vlm=str(vlm),
        prompt="Q: is there a {object}? A:",
        representation=Settings(tokens=2, batch=2, image=False, words=40),
        pooler=PoolerOptions(width=16, hidden=16, out=8),
        cache=CacheOptions(str(tmp_path_factory.mktemp("cache")), 64),
        arguments={"n_steps": 16, "batch_size": 16, "n_epochs": 1},
        net=[8],
        steps=64,
        checkpoint=32,
    )


@pytest.fixture(scope="module")
def run(options):
    return fit(options)


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
    half = dataclasses.replace(options, out=str(tmp_path / "half"), steps=32)
    fit(half)
    resumed = fit(dataclasses.replace(half, steps=64))
    whole, again = weights(options.out), weights(half.out)
    assert whole["steps"] == again["steps"] == 64 and (resumed.ends, resumed.success) == (run.ends, run.success)
    assert all(torch.equal(whole["policy"][name], again["policy"][name]) for name in whole["policy"])


def test_a_finished_run_is_only_read(options, run):
    before = weights(options.out)
    again = fit(options)
    assert (again.ends, again.more["cache"]) == (run.ends, run.more["cache"])
    assert all(torch.equal(before["policy"][name], weights(options.out)["policy"][name]) for name in before["policy"])


def test_a_run_that_was_killed_while_it_wrote_is_finished(options, run, tmp_path):
    done = dataclasses.replace(options, out=str(shutil.copytree(options.out, tmp_path / "run")))
    record = tmp_path / "run/results.json"
    # The record is written last: without it the export may be an earlier one's.
    record.unlink()
    shutil.rmtree(tmp_path / "run/export")
    assert fit(done).ends == run.ends and (tmp_path / "run/export/rl.json").is_file() and record.is_file()
    record.write_text(json.dumps({**json.loads(record.read_text()), "steps": 32}))
    assert fit(done).steps == 64 == load_run(done.out).steps
    assert fit(dataclasses.replace(done, steps=8)).steps == 64


def test_a_run_does_not_go_on_with_another_model(options, run, vlm, tmp_path):
    model = shutil.copytree(vlm, tmp_path / "vlm")
    mine = dataclasses.replace(options, out=str(tmp_path / "run"), vlm=str(model), steps=32)
    fit(mine)
    change_weights(model)
    with pytest.raises(UserError, match="another model"):
        fit(dataclasses.replace(mine, steps=64))


def change_weights(folder):
    from safetensors.torch import load_file, save_file

    kept = load_file(folder / "model.safetensors")
    name = next(iter(kept))
    save_file({**kept, name: kept[name] + 1}, folder / "model.safetensors", {"format": "pt"})


def test_the_export_acts_as_the_trained_head(options, run):
    policy, said, more = read_agent(f"{options.out}/export")
    assert said == options and more["kind"] == "pr2l" and more["representation"]["tokens"] == 2
    representation = make_representation(options)
    environments = make_environments(options, representation)
    agent = make_agent(options, environments, representation)
    agent.policy.load_state_dict(weights(options.out)["policy"])
    environments.seed(5)
    seen = environments.reset()
    for _ in range(5):
        expected, _ = agent.predict(seen, deterministic=True)
        found = act(policy, seen)
        assert np.array_equal(found, expected)
        seen = environments.step(found)[0]
    environments.close()


def test_a_damaged_export_is_named(options, run, tmp_path):
    folder = shutil.copytree(f"{options.out}/export", tmp_path / "export")
    (folder / "policy.safetensors").write_bytes(b"123")
    with pytest.raises(UserError, match="no export of an RL head"):
        read_agent(folder)
    (folder / "rl.json").write_text(json.dumps({"kind": "pr2l"}))
    with pytest.raises(UserError, match="no export of an RL head"):
        read_agent(folder)


@pytest.mark.parametrize(
    "make", [lambda: PoolerOptions(width=0), lambda: PoolerOptions(out=0), lambda: CacheOptions(memory_mb=-1)]
)
def test_sizes_that_are_none_are_refused(make):
    with pytest.raises(UserError, match="pooler|cache"):
        make()


@pytest.mark.parametrize("change", [{"prompt": "Q: {instruction}? A:"}, {"seed": 1}, {"net": [9]}])
def test_another_run_in_the_folder_is_refused(options, run, change):
    with pytest.raises(UserError, match=f"another {next(iter(change))}"):
        fit(dataclasses.replace(options, **change))


def test_options_from_before_a_statistic_could_be_chosen_stay_the_same(options):
    """Runs and recorded cells of then go on and are merged."""
    for told in (options.identity(), options.to_dict()):
        assert "decode" not in told["representation"] and told["representation"]["tokens"] == 2
    median = dataclasses.replace(options, representation=dataclasses.replace(options.representation, decode="median"))
    assert median.identity()["representation"]["decode"] == "median"


def test_a_damaged_checkpoint_is_named(options, run, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"no")
    with pytest.raises(UserError, match="not a checkpoint"):
        fit(dataclasses.replace(options, out=str(tmp_path)))
    torch.save({"state_dict": {}}, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match="not a checkpoint"):
        fit(dataclasses.replace(options, out=str(tmp_path)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vlm": ""}, "no model is named"),
        ({"algorithm": "sac", "arguments": {}}, "Discrete"),
        ({"arguments": {"n_stepps": 16}}, "n_stepps"),
        ({"prompt": "{nothing}"}, "unknown field"),
        ({"arguments": {"n_steps": 0}}, "n_steps"),
        ({"seed": -1}, "seed is 0 or more"),
        ({"random": -5}, "seed is 0 or more"),
        ({"net": [0]}, "no layer empty"),
        ({"observe": ["answer"], "representation": Settings(tokens=0)}, "none is written"),
    ],
)
def test_contradictions_are_refused(options, change, said, tmp_path):
    with pytest.raises(UserError, match=said):
        fit(dataclasses.replace(options, out=str(tmp_path), **change))


def test_conditions_share_the_budget_and_random_weights_are_others(options, run, tmp_path):
    other = fit(dataclasses.replace(options, out=str(tmp_path / "oracle"), condition="oracle", observe=["oracle"]))
    assert other.budget == run.budget and other.more["cache"] == {}
    one, same, two = (make_representation(dataclasses.replace(options, random=r)).identity["model"] for r in (0, 0, 1))
    assert one == same != two and make_representation(options).identity["model"] not in (one, two)
