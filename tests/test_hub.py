"""Policies, models and data sets on the Hugging Face hub, with its own client against a stand-in of the server."""

import dataclasses
import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import published_openvla
import pytest
import timm
import torch
import yaml
from jsonargparse import Namespace
from safetensors.torch import save_file

from vla import cli, hub
from vla.commands.serve import names_and_paths
from vla.contract import PolicyContract
from vla.datasets.card import DatasetCard
from vla.datasets.formats.lerobot_source import LeRobotSource
from vla.datasets.questions import QuestionSource
from vla.datasets.robot import RobotSource, is_lerobot
from vla.errors import UserError
from vla.evaluation.facts import facts_of
from vla.language.encoders import load_encoder
from vla.models.load import load_vlm
from vla.models.tiny.from_scratch import VLMSpec
from vla.models.tiny.halves import load_language
from vla.observation import Observation
from vla.policies.load import load_policy
from vla.training.cli import _pin
from vla.training.model_card import Card, mixture_of, model_card
from vla.training.push import push_export

sys.path.insert(0, str(Path(__file__).parent))
from hub_server import OWNER, READER, HubServer, Repo

NET = {"vision_args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}}
EXPORT = Path(__file__).parent / "saved/export"


@pytest.fixture
def server(monkeypatch, tmp_path):
    """An empty hub, whose client is logged in as no one and whose cache is empty."""
    from huggingface_hub import constants

    server = HubServer()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr("vla.datasets.remote.HOME", str(tmp_path / "shards"))
    forget()
    yield server
    forget()
    server.stop()


def forget():
    """What a new process does not know."""
    hub._at_commit.cache_clear()
    hub._folder.cache_clear()
    hub.file_names.cache_clear()


def offline(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    forget()


@pytest.fixture
def policy(server):
    """A policy on the hub with much beside it; returns its commit."""
    return server.add("models/lab/lift", EXPORT)


def test_what_is_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/demo").mkdir(parents=True)
    here = (
        "tiny",
        "random",
        "runs/demo",
        "runs/none",
        "http://host/act",
        "ws://a/b",
        "a/b/c",
        "/a/b",
        "x/last.ckpt",
        "a/b.yaml",
        "",
    )
    assert not [name for name in here if hub.policy_address(name)]
    assert hub.policy_address("lab/lift@v1.0") == hub.Address("lab/lift", "model", "v1.0", bare=True)
    assert hub.policy_address("lab/lift@refs/pr/1").revision == "refs/pr/1"
    assert hub.address("hf://lab/lift") == hub.Address("lab/lift", "model")
    found = hub.address("hf://datasets/lab/own@v1/train/a")
    assert found == hub.Address("lab/own", "dataset", "v1", "train/a") and str(found) == "hf://datasets/lab/own@v1/train/a"
    assert hub.address("hf://datasets/lab/own@refs/convert/parquet/a").path == "a"
    assert hub.address("hf://datasets/lab/own@a%2Fb").revision == "a/b"
    assert hub.address("lab/own") is None  # data may be collected into a folder that is not there yet
    for wrong in ("hf://datasets/own", "hf://own", "hf://a/b/c"):
        with pytest.raises(UserError, match="give hf://"):
            hub.address(wrong)


def test_a_policy_acts_as_its_folder_does_and_its_record_has_the_commit(server, policy, tmp_path):
    extra = {
        "optimizer.pt": b"x",
        "optimizer.safetensors": b"x",
        "pytorch_model.bin": b"x",
        "checkpoint-9/model.safetensors": b"x",
    }
    repo = server.repos["models/lab/lift"]
    commit = repo.commit({**repo.head, **extra})
    mine, theirs = load_policy("lab/lift"), load_policy(EXPORT)
    assert mine.contract.hash == theirs.contract.hash
    assert all(a.equal(b) for a, b in zip(mine.model.state_dict().values(), theirs.model.state_dict().values(), strict=True))
    assert not {path.rpartition("/")[2] for path in extra if path != "checkpoint-9/model.safetensors"} & set(server.fetched())
    assert server.fetched().count("model.safetensors") == 1
    facts = facts_of("lab/lift", mine)
    assert facts == {**facts_of(str(EXPORT), theirs), "policy": f"lab/lift@{commit}"}
    # A later commit does not change what the name means in this process, and the commit is found again in another.
    repo.commit({**repo.head, "note.txt": b"x"})
    assert hub.pinned_policy("lab/lift") == f"lab/lift@{commit}"
    forget()
    assert hub.pinned_policy("lab/lift") != f"lab/lift@{commit}"
    assert load_policy(f"lab/lift@{commit}").contract.hash == theirs.contract.hash


def test_a_published_openvla_acts_as_its_folder_does(server, tmp_path):
    folder = published_openvla.save(tmp_path / "openvla-7b", published_openvla.parts())
    commit = server.add("models/lab/openvla-7b", folder)
    name, options = "lab/openvla-7b", "unnorm_key=bridge_orig"
    mine, theirs = load_policy(f"{name}?{options}"), load_policy(f"{folder}?{options}")
    assert mine.contract == theirs.contract and mine.contract.title == "openvla-7b"
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    observation = Observation("", {"image": image}, np.zeros(7), "lift the cube")
    assert np.array_equal(*(policy.act([observation])[0].actions for policy in (mine, theirs)))
    assert facts_of(f"{name}?{options}", mine)["policy"] == f"{name}@{commit}?{options}"
    with pytest.raises(UserError, match="statistics of 2 data sets") as error:
        load_policy(name)
    assert f"give {name}?unnorm_key=NAME" in error.value.fix


def test_an_openvla_oft_is_known_by_files_that_are_not_fetched(server, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(published_openvla.config(published_openvla.NORM_STATS)))
    for file in ("action_head--1_checkpoint.pt", "model.safetensors"):
        (tmp_path / file).write_bytes(b"x")
    server.add("models/lab/oft", tmp_path)
    for load in (load_vlm, load_policy):
        with pytest.raises(UserError, match="an OpenVLA-OFT checkpoint: it has an action head") as error:
            load("lab/oft")
        assert error.value.where == "lab/oft"
    assert set(server.fetched()) == {"config.json"}


def test_where_an_evaluation_is_asked_for_its_command_is_named(server, policy, capsys):
    assert cli.main(["compare", "lab/lift", "lab/lift"]) == 2
    said = capsys.readouterr().err
    assert "lab/lift: this is a policy on the hub, not an evaluation" in said
    assert "`vla rollout --policy lab/lift --suite rt2/seen --out runs/lift`" in said


def test_the_name_under_which_it_is_served_has_no_revision(server):
    assert names_and_paths("lab/lift@v1.0") == {"lift": "lab/lift@v1.0"}
    assert names_and_paths("a=lab/lift,b=lab/put@v1") == {"a": "lab/lift", "b": "lab/put@v1"}


def test_a_card_says_what_training_began_with(server, policy, shards, vlm):
    server.add("models/lab/base", vlm)
    repo = server.repos["models/lab/base"]
    base = repo.commit({**repo.head, "README.md": b"---\nlicense: gemma\n---\n"})
    folders = {"robot": "hf://datasets/lab/own/robot", "mine": "/a/b"}
    data = {"sources": {name: {"init_args": {"folder": folder}} for name, folder in folders.items()}}
    card = Card(**mixture_of(data, "lab/base"))
    assert card.data["robot"]["folder"] == f"hf://datasets/lab/own@{shards}/robot" and card.data["mine"]["folder"] == "b"
    contract = PolicyContract.load(EXPORT)
    text = model_card(contract, card)
    head = yaml.safe_load(text.split("---")[1])
    assert head["library_name"] == "vla" and head["base_model"] == "lab/base"
    assert head["license"] == "gemma" and head["datasets"] == ["lab/own"]
    assert f"| Trained from | `lab/base@{base}` |" in text
    unknown = yaml.safe_load(model_card(contract, Card()).split("---")[1])
    assert {"license", "base_model", "datasets"}.isdisjoint(unknown)


def test_a_model_is_loaded_from_the_hub(server, vlm):
    commit = server.add("models/lab/base", vlm)
    mine, theirs = (load_vlm(name)[0].state_dict() for name in (f"lab/base@{commit}", vlm))
    assert all(mine[name].equal(theirs[name]) for name in theirs)


def test_pretrained_halves_are_loaded_from_the_hub(server, tmp_path):
    halves = load_helper("models/halves.py")
    halves.llama(tmp_path / "tied")
    commit = server.add("models/lab/tied", tmp_path / "tied")
    network = timm.create_model("resnet10t", **NET["vision_args"])
    (tmp_path / "resnet10t.own").mkdir()
    save_file(network.state_dict(), tmp_path / "resnet10t.own/model.safetensors")
    (tmp_path / "resnet10t.own/config.json").write_text('{"architecture": "resnet10t"}')
    server.add("models/lab/resnet10t.own", tmp_path / "resnet10t.own")
    for name in ("lab/tied", "lab/tied@main", "hf://lab/tied"):
        language, _ = load_language(name)
    spec = VLMSpec(language_weights=f"lab/tied@{commit}", vision_weights="lab/resnet10t.own", vision_args=NET["vision_args"])
    model, _ = spec.make()
    theirs, own = language.get_input_embeddings().weight, model.config.own_words
    assert torch.equal(model.get_input_embeddings().weight[:own], theirs[:own])
    assert torch.equal(model.vision.network.state_dict()["conv1.0.weight"], network.state_dict()["conv1.0.weight"])
    (tmp_path / "tied/model.safetensors").rename(tmp_path / "tied/pytorch_model.bin")
    server.add("models/lab/pickled", tmp_path / "tied")
    for load in (load_language, load_encoder):
        with pytest.raises(UserError, match="no weights as safetensors"):
            load("lab/pickled")


def test_a_run_says_which_commits_it_read(server, policy, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    commit = server.add("models/lab/tied", tmp_path)
    names = {"language_weights": "lab/tied@main", "vision_weights": "hf://lab/tied", "text_encoder": "lab/tied"}
    spec = Namespace(**names, tokenizer="tiny")
    config = Namespace(model=Namespace(vlm=spec), contract=Namespace(source="lab/lift"), data=Namespace())
    _pin(config)
    assert {spec[name] for name in names} == {f"lab/tied@{commit}"} and spec.tokenizer == "tiny"
    assert config.contract.source == f"lab/lift@{policy}"


def load_helper(path):
    spec = importlib.util.spec_from_file_location("halves", Path(__file__).parent / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_cache_is_used_without_the_hub(server, policy, monkeypatch):
    load_policy("lab/lift")
    offline(monkeypatch)
    asked = len(server.asked)
    assert load_policy("lab/lift").contract.hash and hub.pinned_policy("lab/lift") == f"lab/lift@{policy}"
    assert len(server.asked) == asked
    with pytest.raises(UserError, match=r"lab/put: .*not in the hub's cache; HF_HUB_OFFLINE is set"):
        load_policy("lab/put")


def test_what_cannot_be_read_is_one_clear_error(server, policy, monkeypatch):
    server.add("models/lab/secret", EXPORT, private=True)
    server.add("models/lab/gated", EXPORT, gated=True)
    server.repos["models/lab/words"] = Repo()
    server.repos["models/lab/words"].commit({"config.json": b"{}", "pytorch_model.bin": b"x"})
    for name, text in {
        "lab/none": "lab/none: there is no such folder here, and the hub has no such repository for this account\nFix: check",
        "hf://lab/none": "lab/none: the hub has no such repository",
        "lab/secret": "the hub has no such repository for this account\nFix: .*if it is private, set HF_TOKEN",
        "lab/gated": "lab/gated@[0-9a-f]{40}: its owner gives access only to those who ask\nFix: accept the conditions on http",
        "lab/lift@v9": "lab/lift: there is no revision v9",
        f"lab/lift@{'0' * 40}": "lab/lift: there is no revision 0000",
        "lab/words": "lab/words@.*: not a policy: it has no contract.json",
    }.items():
        with pytest.raises(UserError) as raised:
            load_policy(name)
        assert re.search(text, str(raised.value))
    with pytest.raises(UserError, match="it has no weights as safetensors"):
        load_vlm("lab/words")
    monkeypatch.setenv("HF_TOKEN", OWNER)
    assert load_policy("lab/secret").contract.hash == load_policy("lab/gated").contract.hash


def test_a_connection_that_breaks_off_is_taken_up_again(server, policy, monkeypatch):
    server.cut = 2
    load_policy("lab/lift")
    server.cut = 1000
    commit = server.add("models/lab/other", EXPORT)
    with pytest.raises(UserError, match=rf"lab/other@{commit}: .*the hub cannot be reached"):
        load_policy("lab/other")
    server.cut = 0
    load_policy("lab/other")
    server.stop()
    forget()
    assert load_policy("lab/lift")  # of the cache
    with pytest.raises(UserError, match="there is no such folder here, and the hub cannot be reached"):
        load_policy("lab/third")


def test_an_export_is_pushed_and_comes_back(server, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", OWNER)
    assert cli.main(["export", "--ckpt", str(EXPORT), "--push", "lab/new"]) == 0
    repo = server.repos["models/lab/new"]
    commit = repo.refs["main"]
    assert f"pushed: {server.url}/lab/new (private), commit {commit}" in capsys.readouterr().out
    assert repo.private and repo.head["model.safetensors"] == (EXPORT / "model.safetensors").read_bytes()
    assert b"vla serve lab/new" in repo.head["README.md"]
    assert load_policy(f"lab/new@{commit}").contract.hash == load_policy(EXPORT).contract.hash


def test_a_later_push_replaces_the_weights_and_leaves_the_rest(server, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", OWNER)
    old = {"model-00001-of-00002.safetensors": b"x", "model.safetensors.index.json": b"{}", "film.mp4": b"x"}
    server.repos["models/lab/lift"] = Repo()
    server.repos["models/lab/lift"].commit(old)
    shutil.copytree(EXPORT, tmp_path / "export")
    for name in ("optimizer.pt", "notes.pkl"):
        (tmp_path / "export" / name).write_bytes(b"x")
    said = push_export(tmp_path / "export", "lab/lift")
    assert "(public; it was there and stays public)" in said
    assert set(server.repos["models/lab/lift"].head) == {p.name for p in EXPORT.iterdir()} | {"film.mp4"}


def test_a_push_that_is_refused_says_why(server, monkeypatch, tmp_path, capsys):
    with pytest.raises(UserError, match="there is no token of an account\nFix: set HF_TOKEN"):
        push_export(EXPORT, "lab/new")
    for token, name, text in (
        ("hf_wrong", "lab/new", "the hub does not accept the token"),
        (READER, "lab/new", "the token does not permit this"),
        (OWNER, "other/new", "the token does not permit this"),
        (OWNER, "new", "not a repository's name"),
    ):
        monkeypatch.setenv("HF_TOKEN", token)
        assert cli.main(["export", "--ckpt", str(EXPORT), "--push", name]) == 2
        assert text in capsys.readouterr().err
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/model.safetensors").write_bytes(b"x")
    asked = len(server.asked)
    assert cli.main(["export", "--ckpt", str(tmp_path / "folder"), "--push", "lab/new"]) == 2
    assert cli.main(["export", "--ckpt", "x.ckpt", "--out", str(tmp_path / "out"), "--public", "true"]) == 2
    assert "the folder is no export" in capsys.readouterr().err
    assert len(server.asked) == asked and not server.repos


@pytest.fixture
def shards(server, data, tmp_path):
    """Robot data and questions on the hub, in two folders of one repository."""
    folder = tmp_path / "own"
    for kind, samples in (("robot", 24), ("questions", 12)):
        shutil.copytree(data / kind, folder / kind)
        card = DatasetCard.load(folder / kind)
        dataclasses.replace(card, shards={"shard-000000.tar": samples}).save(folder / kind)
    return server.add("datasets/lab/own", folder)


def test_samples_of_shards_on_the_hub_are_those_of_the_folder(server, shards, data, tmp_path, monkeypatch):
    for kind, source in (("robot", RobotSource), ("questions", QuestionSource)):
        settings = {"chunk": 2} if kind == "robot" else {}
        mine, theirs = source(f"hf://datasets/lab/own/{kind}", **settings), source(data / kind, **settings)
        assert len(mine) == len(theirs)
        for i in range(len(mine)):
            a, b = mine.sample(i, np.random.default_rng(i)), theirs.sample(i, np.random.default_rng(i))
            assert all(np.array_equal(a.images[name], b.images[name]) for name in b.images)
    assert mine.remote.url == f"hf://datasets/lab/own@{shards}/questions"
    offline(monkeypatch)
    assert len(RobotSource("hf://datasets/lab/own/robot", chunk=2)) == len(RobotSource(data / "robot", chunk=2))


def test_a_busy_hub_does_not_end_a_training(server, shards):
    source = RobotSource("hf://datasets/lab/own/robot", chunk=2)
    assert source.card.name == "robot"
    server.busy = 8  # more often than the client itself tries
    assert len(source) == 24 and not server.busy


def test_a_later_commit_is_other_data(server, shards):
    name = "hf://datasets/lab/own/robot"
    assert RobotSource(name, chunk=2).card.name == "robot"
    repo = server.repos["datasets/lab/own"]
    repo.commit({**repo.head, "robot/card.yaml": repo.head["robot/card.yaml"].replace(b"name: robot", b"name: other")})
    forget()
    assert RobotSource(name, chunk=2).card.name == "other"
    assert RobotSource(f"hf://datasets/lab/own@{shards}/robot", chunk=2).card.name == "robot"


def test_data_that_are_not_there_are_named(server, shards):
    for name, text in {
        "hf://datasets/lab/none": "the hub has no such repository",
        "hf://datasets/lab/own@v9/robot": "hf://datasets/lab/own/robot: there is no revision v9",
        "hf://datasets/lab/own/none": "card.yaml: cannot be read: there is no such file",
    }.items():
        with pytest.raises(UserError, match=text):
            len(RobotSource(name, chunk=1))
    assert cli.main(["data", "inspect", "hf://datasets/lab/own/none"]) == 2


def test_lerobot_data_are_read_and_converted(server, shards, data, tmp_path, capsys):
    folder = tmp_path / "lerobot"
    assert cli.main(["data", "convert", str(data / "robot"), str(folder), "--to", "lerobot", "--workers", "1"]) == 0
    commit = server.add("datasets/lab/arm", folder)
    name = "hf://datasets/lab/arm"
    mine, theirs = LeRobotSource(name, chunk=2), LeRobotSource(folder, chunk=2)
    assert is_lerobot(name) and len(mine) == len(theirs)
    a, b = (source.sample(3, np.random.default_rng(0)) for source in (mine, theirs))
    assert np.array_equal(a.actions, b.actions) and all(np.array_equal(a.images[name], b.images[name]) for name in b.images)
    with pytest.raises(UserError, match="a LeRobot data set, not our shards"):
        len(RobotSource(name, chunk=2))
    capsys.readouterr()
    assert cli.main(["data", "inspect", name]) == cli.main(["data", "verify", name, "--workers", "1"]) == 0
    assert "format: lerobot" in capsys.readouterr().out
    assert cli.main(["data", "convert", name, str(tmp_path / "back"), "--workers", "1"]) == 0
    report = json.loads((tmp_path / "back/conversion.json").read_text())
    assert report["source"] == f"{name}@{commit}"
