"""One's own data and model: converted, trained, exported and asked, as the README says."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, PreTrainedTokenizerFast

from vla import cli
from vla.contract import PolicyContract
from vla.observation import Observation
from vla.policies.load import load_policy

SMALL = ["--data.batch_size=4", "--trainer.max_steps=2", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
LLAMA = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}


@pytest.fixture
def rlds(tmp_path):
    """A data set of one camera with its card."""
    pytest.importorskip("google_crc32c")
    path = Path(__file__).parents[1] / "datasets/formats/rlds_files.py"
    spec = importlib.util.spec_from_file_location("own_rlds_files", path)
    files = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(files)
    card = {
        "title": "toy",
        "embodiment": "toy-arm",
        "cameras": {"front": {"key": "observation/image"}},
        "state": [{"key": "observation/state", "names": ["x", "y"]}],
        "action": [{"key": "action", "names": ["dx", "dy", "dz", "drx", "dry", "drz", "gripper"]}],
        "instruction": "language_instruction",
        "control_hz": 5,
    }
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    return files.plain(tmp_path / "rlds")


@pytest.fixture
def web(tmp_path):
    """Images with questions, in LLaVA's form."""
    entries = []
    for i, (colour, value) in enumerate({"red": (200, 0, 0), "green": (0, 200, 0)}.items()):
        Image.new("RGB", (60, 40), value).save(tmp_path / f"{i}.jpg")
        turns = [{"from": "human", "value": "<image>\nWhat colour is it?"}, {"from": "gpt", "value": colour}]
        entries.append({"id": str(i), "image": f"{i}.jpg", "conversations": turns})
    (tmp_path / "web.json").write_text(json.dumps(entries))
    return tmp_path / "web.json"


@pytest.fixture
def words(tmp_path):
    """A tokenizer without integers, places or images."""
    plain = Tokenizer(models.WordLevel({"<eos>": 0, "<unk>": 1, "lift": 2, "object": 3}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<eos>", unk_token="<unk>").save_pretrained(tmp_path / "words")
    return tmp_path / "words"


def test_own_data_and_own_model_from_the_packaged_recipe(rlds, web, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", "convert", str(rlds), "data/own", "--card", "card.yaml", "--size", "48", "--workers", "1"]) == 0
    assert cli.main(["data", "convert", str(web), "data/web", "--camera", "front", "--size", "48", "--workers", "1"]) == 0
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump({"model": {"vlm": {"tokenizer": str(words), "text_config": LLAMA, "vision_name": "convnext_atto"}}})
    )
    network = '--model.vlm.vision_args={"depths": [1, 1, 1, 1], "dims": [8, 16, 16, 16]}'
    questions = {"class_path": "vla.datasets.questions.QuestionSource", "init_args": {"folder": "data/web", "holdout": 0.5}}
    more = [f"--data.sources.web={json.dumps(questions)}", network, "--model.vlm.image_size=64", "--model.vlm.prefix=causal"]
    recipe = ["-c", "configs/own.yaml", "-c", "configs/own-large.yaml", "-c", "mine.yaml"]
    assert cli.main(["fit", *recipe, *more, *SMALL, "--trainer.enable_progress_bar=true"]) == 0
    printed, shown = capsys.readouterr()
    assert re.search(r"evaluate: 100%.* \d+/\d+", shown)
    assert "half ranges" in printed and "export: runs/own/export" in printed
    assert "web, held-out images\ncorrect answers: conversation" in printed
    assert "next: vla evaluate runs/own/export data/own --questions data/web --out runs/own/evaluation" in printed
    card = Path("runs/own/export/README.md").read_text()
    assert "| Held-out demonstrations | robot: decoded error" in card and "- web: folder web" in card and "- command: vla" in card
    assert "; web: correct answers: conversation" in card
    evaluate = ["evaluate", "runs/own/export", "data/own", "--questions", "data/web", "--episodes=1"]
    evaluate += ["--out", "runs/own/evaluation"]
    assert cli.main(evaluate) == 0
    printed, shown = capsys.readouterr()
    assert re.search(r"evaluate: 100%.* \d+/\d+", shown)
    assert "does not say that it was trained on" not in printed and "\ncorrect answers: conversation" in printed
    assert json.loads(Path("runs/own/evaluation/results.json").read_text())["summary"]["questions"]["conversation"]["n"] == 1
    assert cli.main(["evaluate", "random", "data/own", "--questions", "data/web"]) == 2
    assert "the policy answers no questions" in capsys.readouterr().err

    said = AutoConfig.from_pretrained("runs/own/export")
    assert (said.text_config.model_type, said.text_config.hidden_size, said.vision_name) == ("llama", 32, "convnext_atto")
    assert (said.image_size, said.stride, said.pools, said.prefix) == (64, 16, [1], "causal")
    contract = PolicyContract.load("runs/own/export")
    assert list(contract.embodiments) == ["toy-arm"] and contract.plan == ()
    seen = Observation("a", {"front": np.zeros((48, 48, 3), np.uint8)}, np.zeros(2), "lift object 1")
    chunk = load_policy("runs/own/export").act([seen])[0]
    assert chunk.actions.shape == (4, 7) and not chunk.status


def test_a_small_model_is_printed_as_it_is_said(capsys):
    with pytest.raises(SystemExit):
        cli.main(["fit", "-c", "configs/demo.yaml", '--model.vlm={"text_config": {"hidden_size": 96}}', "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)["model"]["vlm"]
    assert printed["text_config"] == {"hidden_size": 96} and printed["vision_name"] == "resnet10t" and printed["stride"] == 8
