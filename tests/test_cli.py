"""The command line: help, errors without tracebacks, configurations."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from vla import cli
from vla.commands.configs import find_config
from vla.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(p.name for p in (ROOT / "vla/configs").glob("*.yaml"))
NAMES = [*cli.COMMANDS, *cli.LIGHTNING]


def vla(*arguments: str, timeout: int = 120):
    return subprocess.run([sys.executable, "-m", "vla", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout)


def test_help_lists_every_command():
    run = vla("--help")
    assert run.returncode == 0 and all(name in run.stdout for name in NAMES)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_command_has_its_own_help(name, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0 and "--" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "unknown command 'fly'"),
        (["collect", "--out", "{tmp}/x", "--task", "fly"], "unknown task 'fly'"),
        (["rollout", "--policy", "{tmp}/nothing"], "no such policy"),
        (["export", "--ckpt", "{tmp}/nothing.ckpt", "--out", "{tmp}/e"], "no such checkpoint"),
        (["serve", "{tmp}/nothing"], "no such policy"),
        (["study"], "vla study: the following arguments are required: recipe, arms, suites, out"),
        (["study", "-c", "{tmp}/nothing.yaml"], "no such configuration"),
        (["study", "-c", "{tmp}/torn.yaml"], "torn.yaml: not YAML"),
        (["fit", "-c", "configs/nothing.yaml"], "no such configuration"),
        (["fit", "-c", "{tmp}/torn.yaml"], "torn.yaml: not YAML"),
        (["fit", "-c", "configs/demo.yaml", "--model.colour=blue"], "colour"),
        (["fit", "-c", "configs/demo.yaml", "--trainer.max_steps=many"], "max_steps"),
        (["demo", "--out", "{tmp}/d", "--episodes", "0"], "0 episodes"),
        (["demo", "--out", "{tmp}/d", "--beside", "{tmp}"], "no report of a demo"),
        (["demo", "--out", "{tmp}", "--fresh"], "something other than a demo"),
        (["demo", "--episodes", "many"], "vla demo: episodes: expected int, got many"),
        (["demo", "--out", "{tmp}/torn.yaml"], "Not a directory"),
        (["rollout"], "vla rollout: the following arguments are required: policy"),
        (
            ["rollout", "--policy", "random", "--kind", "odd"],
            "kind: expected one of 'correct', 'swapped', 'empty', 'nonsense', got odd",
        ),
        (["rollout", "--policy", "random", "--seed", "-1"], "--seed: seed -1"),
        (["rollout", "--policy", "random", "--out", "{tmp}/torn.yaml"], "torn.yaml: nothing can be written there"),
        (["rollout", "--policy", "random", "--record", "{tmp}/torn.yaml/x"], "choose another --record"),
        (["rollout", "--policy", "random", "--video", "{tmp}"], "a folder is there"),
        (["rollout", "--policy", "expert", "--record", "{tmp}/x"], "nothing to record"),
        (["rollout", "--policy="], "no such policy"),
        (["serve", "{tmp}/torn.yaml", "--threads", "-1"], "threads -1"),
        (["serve", "{tmp}/torn.yaml"], "torn.yaml: not a readable checkpoint"),
        (["collect", "--out", "{tmp}/x", "--episodes", "many"], "vla collect: episodes: expected int, got many"),
        (["collect", "--out", "{tmp}/x", "--seed", "-1"], "collect: seed -1"),
        (["collect", "--out", "{tmp}/x", "--noise", "-1"], "collect: noise -1"),
        (["collect", "--out", "{tmp}/x", "--clean", "1.5"], "collect: clean 1.5"),
        (["collect", "--out", "{tmp}/x", "--objects", "5"], "objects 5"),
        (["collect", "--out", "{tmp}/x", "--task", "robosuite-Lift", "--sizes"], "objects of one size"),
        (["collect", "--out", "{tmp}/x", "--every_task", "--sizes"], "--every_task with --sizes"),
        (["collect", "--out", "{tmp}/x", "--destinations"], "lift with --destinations"),
        (["collect", "--out", "{tmp}/x", "--task", "robosuite-Lift", "--every_task"], "robosuite-Lift with --every_task"),
        (["collect", "--out", "{tmp}/torn.yaml"], "torn.yaml: nothing can be written there"),
        (["collect", "--out="], "no folder is named"),
        (["export", "--ckpt", "{tmp}/nothing.ckpt", "--out", "{tmp}/torn.yaml"], "torn.yaml: nothing can be written there"),
        (["export", "--ckpt", "{tmp}/nothing.ckpt", "--out", "{tmp}"], "is no export"),
        (["data", "convert", "{tmp}"], "vla data convert: the following arguments are required: out"),
        (["data", "convert", "{data}/robot", "{tmp}/torn.yaml"], "torn.yaml: nothing can be written there"),
        (["data", "convert", "{data}/robot", "{tmp}/x", "--rate", "-1"], "--rate: rate -1"),
        (["data", "convert", "{data}/robot", "{tmp}/x", "--workers", "-1"], "--workers: workers -1"),
        (["data", "verify", "{data}/robot", "--workers", "-1"], "--workers: workers -1"),
        (["data", "stats", "{data}/robot", "--out", "{tmp}"], "a folder is there"),
        (["data", "preview", "{data}/robot", "{tmp}/torn.yaml"], "torn.yaml: nothing can be written there"),
        (["data", "preview", "{data}/robot", "{tmp}/x", "--episodes", "0"], "--episodes: episodes 0"),
    ],
)
def test_mistake_is_explained_without_a_traceback(arguments, message, tmp_path, data, capsys):
    (tmp_path / "torn.yaml").write_text("a: [1\nb: }")
    code = cli.main([a.format(tmp=tmp_path, data=data) for a in arguments])
    errors = capsys.readouterr().err
    # What is wrong is one line, the advice another.
    said = [line for line in errors.splitlines() if line.strip()]
    assert code == 2 and message in errors and said[0].startswith("error: ")
    assert len(said) == 1 or (len(said) == 2 and said[1].startswith("Fix: "))
    assert not (tmp_path / "x").exists()


def test_configuration_is_found_on_disk_first_then_in_the_package(tmp_path, monkeypatch):
    assert Path(find_config("configs/demo.yaml")).is_file()
    monkeypatch.chdir(tmp_path)
    assert Path(find_config("configs/demo.yaml")) == ROOT / "vla/configs/demo.yaml"
    (tmp_path / "mine.yaml").write_text("{}")
    assert find_config("mine.yaml") == "mine.yaml"
    with pytest.raises(UserError, match="no such configuration"):
        find_config("configs/other.yaml")


@pytest.mark.parametrize("config", CONFIGS)
def test_every_configuration_can_be_instantiated(config, monkeypatch):
    """Instantiates every class that it names; nothing is read, collected or trained."""
    from lightning.pytorch.cli import LightningCLI

    from vla.training import cli as training

    instances = []

    class InstantiateOnly(training.VLACLI):
        def instantiate_classes(self):
            LightningCLI.instantiate_classes(self)
            instances.append(self)

        def _run_subcommand(self, subcommand): ...

    monkeypatch.setattr(training, "VLACLI", InstantiateOnly)
    # A public model's commit would be asked for.
    public = "/" in str(yaml.safe_load((ROOT / "vla/configs" / config).read_text()).get("model", {}).get("vlm", ""))
    model = ["--model.vlm=tiny"] if public else []
    assert cli.main(["fit", "-c", f"configs/{config}", "--trainer.accelerator=cpu", *model]) == 0
    assert instances[0].datamodule.sources and instances[0].trainer.max_steps > 0


@pytest.mark.parametrize("config", CONFIGS)
def test_every_configuration_can_be_printed(config, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["fit", "-c", f"configs/{config}", "--print_config"])
    assert end.value.code == 0 and "max_steps" in capsys.readouterr().out


def test_switches_need_no_value_and_hyphens_are_fine():
    defaults = {"smoke": False, "from_scratch": False, "out": ""}
    given = ["--smoke", "--out", "x", "--from-scratch", "false", "--out=y-z"]
    assert cli._normalise(defaults, given) == ["--smoke=true", "--out", "x", "--from_scratch", "false", "--out=y-z"]


def test_a_list_takes_the_values_that_follow():
    defaults = {"cells": [], "out": ""}
    given = ["--cells", "a", "b-1", "--out", "x", "--cells=c"]
    assert cli._normalise(defaults, given, several=True) == ["--cells+=a", "--cells+=b-1", "--out", "x", "--cells+=c"]
    # A command whose main argument is positional takes one at a time.
    assert cli._normalise(defaults, given[:2]) == ["--cells+", "a"]


def test_a_closed_pipe_is_not_an_error():
    """As with `vla doctor | head -1`."""
    process = subprocess.Popen([sys.executable, "-m", "vla", "--help"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(60) == 141
    process.stderr.close()


def test_renamed_settings_are_accepted_by_their_old_names(tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "elsewhere/a.png")
    turns = [{"from": "human", "value": "<image>\nwhat is it"}, {"from": "gpt", "value": "a square"}]
    (tmp_path / "llava.json").write_text(json.dumps([{"image": "a.png", "conversations": turns}]))
    assert cli.main(["data", "verify", str(tmp_path / "llava.json"), "--pictures", str(tmp_path / "elsewhere")]) == 0
    assert "--pictures: `pictures` is now called `images`" in capsys.readouterr().err
    recipe = tmp_path / "old.yaml"
    recipe.write_text(yaml.safe_dump({"collect": {"questions": {"out": "x", "task": "questions", "pictures": 5}}}))
    with pytest.raises(SystemExit, match="0"):
        cli.main(["fit", "-c", "demo.yaml", "-c", str(recipe), "--print_config"])
    printed = capsys.readouterr()
    assert "images: 5" in printed.out and f"{recipe}: `pictures` is now called" in printed.err


def test_a_full_disk_is_told_in_one_line(monkeypatch, capsys):
    def fill(_):
        raise OSError(errno.ENOSPC, "No space left on device", "out/shard-000000.tar")

    monkeypatch.setattr(cli, "_load", fill)
    assert cli.main(["doctor"]) == 2
    assert capsys.readouterr().err == "error: out/shard-000000.tar: No space left on device\nFix: free some space\n"

    def fail(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(cli, "_load", fail)
    with pytest.raises(OSError, match="Input/output"):
        cli.main(["doctor"])
