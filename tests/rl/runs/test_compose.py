"""Options from a base and overlays, from the command line, and by their old names."""

import hashlib
import json
from importlib import resources

import pytest
import yaml

pytest.importorskip("stable_baselines3")
pytest.importorskip("minigrid")

from vla.commands.configs import find_config
from vla.errors import UserError
from vla.rl.envs.observation import EnvironmentObservation
from vla.rl.runs.compose import read_options
from vla.rl.runs.old_names import NAMES
from vla.rl.runs.online import make_environments

# Of the options that each run had when it was one file without parts; recorded cells were made with them.
RUNS = {
    "babyai conditions/all-tokens": "5be90d599df0d2d2",
    "babyai prompts/babyai/answer-bit": "4686bf2a178ac9b3",
    "babyai prompts/babyai/chain-of-thought": "7bb9fe7a16f9b82f",
    "babyai conditions/image-encoder": "c722bd0158e4694b",
    "babyai prompts/babyai/irrelevant": "f66e0d8cf03c5d50",
    "babyai prompts/babyai/leaking": "ba2cb24574b70b51",
    "babyai conditions/no-generation": "0f5a124dc19a3c81",
    "babyai conditions/no-prompt": "a261a236ac25a304",
    "babyai conditions/oracle-bit": "c74042805de343b2",
    "babyai conditions/pixels": "6f1d8180723e2765",
    "babyai prompts/babyai/present": "cef55ea72b140e29",
    "babyai conditions/random": "dd1a318aea4971a2",
    "babyai prompts/babyai/task": "c457f453a440f1a9",
    "tabletop learners/bc conditions/all-tokens": "ca59df2cd6d5dbb1",
    "tabletop learners/bc conditions/image-encoder": "68ae16c56b1dfab7",
    "tabletop learners/bc prompts/tabletop/irrelevant": "e50e302bda0ac40a",
    "tabletop learners/bc conditions/no-generation": "4d1d44714c0ee17c",
    "tabletop learners/bc conditions/no-prompt": "11711699a0c7a6c2",
    "tabletop learners/bc conditions/pixels": "c808ce224a1d9634",
    "tabletop learners/bc conditions/random": "b5f397e428763362",
    "tabletop learners/bc": "f8ca0614faf2a70c",
    "tabletop learners/iql": "cd6a54965b1e2991",
    "tabletop learners/ppo conditions/oracle-bit": "83a65bce538f10f1",
}


def files(names):
    return [part for name in names.split() for part in ("-c", find_config(f"configs/rl/{name}.yaml"))]


def fingerprint(options):
    kept = options.to_dict()
    kept["cache"]["memory_mb"] = float(kept["cache"]["memory_mb"])
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


@pytest.mark.parametrize(("names", "expected"), RUNS.items())
def test_a_base_and_its_overlays_are_the_run_that_was_recorded(names, expected):
    options = read_options(files(names))
    assert fingerprint(options) == expected
    if isinstance(options.observation, EnvironmentObservation) and options.environment.name.startswith("BabyAI"):
        make_environments(options, None).close()


def test_every_configuration_is_part_of_a_documented_run():
    folder = resources.files("vla.configs") / "rl"
    packaged = {str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml")}
    assert packaged == {name for names in RUNS for name in names.split()}


def test_conditions_share_everything_but_what_is_seen():
    folder = resources.files("vla.configs") / "rl"
    overlays = [path for part in ("conditions", "prompts") for path in (folder / part).rglob("*.yaml")]
    assert len(overlays) == 14 and all(list(yaml.safe_load(path.read_text())) == ["observation"] for path in overlays)


OLD = {
    "out": "runs/mine",
    "environment": {"name": "BabyAI-GoToObj-v0", "count": 2},
    "vlm": "tiny",
    "random": 3,
    "prompt": "Q: {object}? A:",
    "representation": {"tokens": 1},
    "observe": ["states", "oracle"],
    "pooler": {"width": 8},
    "cache": {"folder": "runs/states"},
    "algorithm": "iql",
    "arguments": {"batch": 8},
    "data": "runs/data",
    "chunk": 3,
    "net": [4],
    "steps": 16,
    "checkpoint": 8,
}


def test_old_names_work_with_a_warning_each(tmp_path):
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(OLD))
    with pytest.warns(FutureWarning) as warned:
        options = read_options(["-c", str(tmp_path / "old.yaml")])
    assert sorted(str(one.message).split(": ")[1].split(";")[0] for one in warned) == sorted(
        f"{old} is now {new}" for old, new in NAMES.items()
    )
    kept = options.to_dict()
    for name, value in OLD.items():
        assert kept[name] == value if not isinstance(value, dict) else kept[name].items() >= value.items(), name
    assert options.condition == ""
    with pytest.warns(FutureWarning, match="--steps is now budget.steps"):
        assert read_options(["-c", str(tmp_path / "old.yaml"), "--steps=4"]).budget.steps == 4
    with pytest.warns(FutureWarning, match="--representation is now"):
        again = read_options(["-c", str(tmp_path / "old.yaml"), "--representation.tokens", "2"]).to_dict()
    assert again == {**kept, "representation": {**kept["representation"], "tokens": 2}}


def test_overlays_merge_and_what_comes_later_wins(tmp_path):
    (tmp_path / "mine.yaml").write_text("observation: {representation: {words: 50}}\nbudget: {steps: 7}\n")
    mine = ["-c", str(tmp_path / "mine.yaml")]
    options = read_options([*files("babyai"), *mine, "--observation.representation.tokens=2", "--learner.arguments.n_epochs=1"])
    base = read_options(files("babyai")).to_dict()
    changes = {"representation": {**base["representation"], "words": 50, "tokens": 2}, "steps": 7}
    named = {"condition": "mine", "out": "runs/rl/babyai-mine", "arguments": {**base["arguments"], "n_epochs": 1}}
    assert options.to_dict() == {**base, **changes, **named}


@pytest.mark.parametrize(("text", "message"), [("- 1", "it is not a mapping"), ("a: [", "not a configuration")])
def test_what_is_not_a_configuration_is_refused(tmp_path, text, message):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_options(["-c", str(tmp_path / "bad.yaml")])
