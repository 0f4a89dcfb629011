import dataclasses
import json

import pytest

from vla.errors import UserError

pytest.importorskip("stable_baselines3")
pytest.importorskip("minigrid")

from vla.promptable.representation import Settings
from vla.rl.options import RLOptions
from vla.rl.probing import draw_frames, probe_all


def test_frames_are_balanced_and_true():
    frames = draw_frames("BabyAI-GoToLocal-v0", 20)
    assert len(frames.pictures) == 20 and int(frames.visible.sum()) == 10
    assert frames.place.isnan().any(1).logical_not().equal(frames.visible.bool())
    again = draw_frames("BabyAI-GoToLocal-v0", 20)
    assert all((a == b).all() for a, b in zip(frames.pictures, again.pictures, strict=True)) and frames.fields == again.fields


def test_scores_of_all_conditions_are_said(vlm, tmp_path):
    settings = Settings(tokens=2, batch=8, words=40)
    one = RLOptions(out="", condition="task", vlm=str(vlm), prompt="Q: is there a {object}? A:", representation=settings)
    none = dataclasses.replace(one, condition="none", representation=dataclasses.replace(settings, tokens=0))
    table = probe_all([one, none], 40, out=str(tmp_path / "deep/probes.json"))
    assert "task" in table and "–" in table
    said = json.loads((tmp_path / "deep/probes.json").read_text())["probes"]
    assert set(said[0]["present"]) == {"all", "written"} and set(said[1]["present"]) == {"all"} and said[1]["answer"] is None
    assert all(0 <= score <= 1 for score in said[0]["present"].values())
    with pytest.raises(UserError, match="nothing asks a model"):
        probe_all([dataclasses.replace(one, observe=["oracle"])], 10)
