"""Policies and folders that have no evaluation yet are told the command that makes one."""

import pytest
import torch

from vla import cli
from vla.checkpoint import describe_model
from vla.contract import PolicyContract
from vla.datasets.card import DatasetCard
from vla.models.load import load_vlm
from vla.policies.trained_on import write_sources
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME


@pytest.fixture
def export(tmp_path, monkeypatch):
    """export(robot, folder): a folder that has a contract, and weights that cannot be loaded."""
    monkeypatch.chdir(tmp_path)

    def write(robot, folder="runs/own/export"):
        path = tmp_path / folder
        PolicyContract({robot: EMBODIMENT}, chunk=4, execute=2).save(path)
        (path / "model.safetensors").write_bytes(b"not weights")
        return folder

    return write


def refusal(capsys, *command):
    assert cli.main(list(command)) == 2
    return capsys.readouterr().err


def test_a_policy_of_an_unknown_robot_is_refused_before_its_weights_are_loaded(export, tmp_path, capsys):
    policy = export("my-arm")
    says = refusal(capsys, "rollout", "--policy", policy)
    assert "no simulator knows its robot, my-arm" in says and f"`vla evaluate {policy} DATA --out runs/own/evaluation`" in says
    write_sources(tmp_path / policy, {"web": {"folder": "web"}, "robot": {"folder": "own"}})
    assert f"`vla evaluate {policy} web --out" in refusal(capsys, "rollout", "--policy", policy), (
        "what it says, if nothing is found"
    )
    kinds = {"web": {"folder": "web", "kind": "questions"}, "robot": {"folder": "own", "kind": "robot"}}
    write_sources(tmp_path / policy, kinds)
    assert f"`vla evaluate {policy} own --out" in refusal(capsys, "rollout", "--policy", policy), "its robot data"
    for kind, folder in (("questions", "web"), ("robot", "own")):
        DatasetCard(folder, kind, "my-arm", EMBODIMENT).save(tmp_path / "data" / folder)
    suite = ["--suite", "rt2/seen", "--out", "runs/own/seen"]
    assert f"`vla evaluate {policy} data/own --out runs/own/evaluation`" in refusal(capsys, "rollout", "--policy", policy, *suite)
    assert not (tmp_path / "runs/own/seen").exists()
    assert refusal(capsys, "rollout", "--policy", policy, "--episodes", "3").startswith("error: "), "without a progress bar"
    assert refusal(capsys, "rollout", "--policy", policy, *suite).startswith("error: ")


def test_a_policy_of_another_robot_is_told_its_task(export, capsys):
    says = refusal(capsys, "rollout", "--policy", export("robosuite-panda"))
    assert f"for the robot robosuite-panda, not for {EMBODIMENT_NAME}" in says and "--task robosuite-" in says


def test_more_actions_than_a_chunk_has_are_refused_before_the_weights_are_loaded(export, data, capsys):
    policy = export(EMBODIMENT_NAME)
    for command in (["rollout", "--policy", policy], ["evaluate", policy, str(data / "robot")]):
        says = refusal(capsys, *command, "--execute", "5")
        assert "--execute 5, but a chunk has 4 actions" in says and "at most 4, or leave it out for the contract's 2" in says


def test_compare_tells_a_training_from_an_evaluation(export, vlm, tmp_path, capsys):
    rollout = "`vla rollout --policy {} --suite rt2/seen --out {}/evaluation`"
    policy = export(EMBODIMENT_NAME, "runs/a/export")
    for path, what in (("runs/a", "the folder of a training"), (policy, "an export")):
        says = refusal(capsys, "compare", path, path)
        assert f"{path}: this is {what}, not an evaluation" in says and rollout.format(policy, "runs/a") in says
    own = export("my-arm", "runs/own/export")
    assert f"`vla evaluate {own} DATA --out runs/own/evaluation`" in refusal(capsys, "compare", "runs/own", "runs/a")
    model, processor = load_vlm(vlm)
    content = {"state_dict": {}, "contract": PolicyContract({EMBODIMENT_NAME: EMBODIMENT}).to_dict()}
    (tmp_path / "runs/c/checkpoints").mkdir(parents=True)
    torch.save({**content, "vlm": describe_model(model, processor)}, tmp_path / "runs/c/checkpoints/last.ckpt")
    for path, what in (("runs/c/checkpoints/last.ckpt", "a checkpoint"), ("runs/c", "the folder of a training")):
        says = refusal(capsys, "compare", path, path)
        assert f"this is {what}" in says and rollout.format("runs/c/checkpoints/last.ckpt", "runs/c") in says


def test_compare_names_the_evaluations_in_a_training(export, tmp_path, capsys):
    export(EMBODIMENT_NAME)
    (tmp_path / "runs/own/seen").mkdir()
    (tmp_path / "runs/own/seen/results.json").write_text("{}")
    assert "give its evaluation: runs/own/seen" in refusal(capsys, "compare", "runs/own", "runs/other")
