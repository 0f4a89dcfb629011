"""Stages: which run a folder holds, how long is left, and what questions and the server come to."""

from pathlib import Path

import numpy as np
import pytest

from vla.demo.expected import expected_seconds, expected_text
from vla.demo.questions import accuracies
from vla.demo.recipe import FOLDER, configurations, relocated
from vla.demo.server import served
from vla.demo.stages import Stages
from vla.errors import UserError
from vla.report.provenance import Memory


def test_a_run_is_known_by_what_it_does(tmp_path):
    Stages(tmp_path, {"config": configurations()}, Memory()).run("collect", "", lambda: {"said": "much"})
    same, other = Stages(tmp_path, {"config": configurations()}, Memory()), Stages(tmp_path, {"config": 1}, Memory())
    assert "collect" in same.done and not same.changed and other.changed and not other.done


def test_every_folder_of_the_configuration_moves():
    configs = configurations(smoke=True)
    text = str([relocated(config, Path("/elsewhere")) for config in configs])
    assert FOLDER not in text and text.count("/elsewhere/") == str(configs).count(f"{FOLDER}/") > 10


def test_what_is_left_takes_less():
    configs = configurations()
    whole, half = (
        expected_seconds(configs, 40),
        expected_seconds(configs, 40, trained=(configs[0]["trainer"]["max_steps"] // 2, 0)),
    )
    assert half["train"] < 0.8 * whole["train"] and min(whole.values()) > 0
    seconds = {"collect": 240.0, "train": 1200.0, "serve": 20.0}
    assert expected_text(seconds, list(seconds), []) == "About 25 minutes and 0.2 GiB of disk on this machine."
    assert (
        expected_text(seconds, ["serve"], ["collect", "train"])
        == "About 1 minute more on this machine; already done: collect, train."
    )
    assert "less than a minute" in expected_text(seconds, [], list(seconds))


def test_a_server_that_does_not_start_says_why(tmp_path):
    with pytest.raises(UserError) as caught, served(tmp_path / "no-export", tmp_path / "serve.log") as connect:
        connect()
    message = str(caught.value)
    assert "exit code 2" in message and "End of the server's log" in message and "no-export" in message


def test_accuracies_have_n_and_an_interval_overall_and_by_type():
    rng = np.random.default_rng(0)
    correct = {"where": rng.random(50) < 0.9, "colour": rng.random(96) < 0.95}
    blank = {"where": rng.random(50) < 0.05, "colour": rng.random(96) < 0.5}
    vqa = accuracies(correct, blank)
    assert vqa["accuracy"] == pytest.approx((correct["where"].mean() + correct["colour"].mean()) / 2) and vqa["n"] == 146
    assert vqa["lead"]["rate"] == pytest.approx(vqa["accuracy"] - vqa["blank_accuracy"]) and vqa["lead"]["low"] > 0.3
    for one in (vqa, *vqa["types"].values()):
        assert one["low"] < one["accuracy"] < one["high"] and one["blank"]["low"] <= one["blank"]["rate"]
    assert [vqa["types"][kind]["n"] for kind in ("where", "colour")] == [50, 96]
