import dataclasses
import json

import pytest

from vla.errors import UserError
from vla.report.learning import LearningRun

pytest.importorskip("stable_baselines3")
pytest.importorskip("minigrid")

from vla.promptable.representation import Settings
from vla.rl.envs.observation import EnvironmentObservation
from vla.rl.envs.registry import EnvironmentOptions
from vla.rl.runs.options import RunOptions
from vla.systems.pr2l.observation import PromptedObservation
from vla.systems.pr2l.probing import draw_frames, probe, probe_all


def condition(name, vlm, prompt, **settings):
    return RunOptions("", name, observation=PromptedObservation(str(vlm), prompt=prompt, representation=Settings(**settings)))


def test_frames_are_balanced_and_true():
    frames = draw_frames("BabyAI-GoToLocal-v0", 20)
    assert len(frames.images) == 20 and int(frames.visible.sum()) == 10
    assert frames.cell.isnan().any(1).logical_not().equal(frames.visible.bool())
    again = draw_frames("BabyAI-GoToLocal-v0", 20)
    assert all((a == b).all() for a, b in zip(frames.images, again.images, strict=True)) and frames.fields == again.fields


def test_scores_of_all_conditions_are_said(vlm, tmp_path):
    one = condition("task", vlm, "Q: is there a {object}? A:", tokens=2, batch=8, words=40)
    none = condition("none", vlm, "Q: is there a {object}? A:", tokens=0, batch=8, words=40)
    table = probe_all([one, none], 40, out=str(tmp_path / "deep/probes.json"))
    assert "task" in table and "–" in table
    probes = json.loads((tmp_path / "deep/probes.json").read_text())["probes"]
    assert (
        set(probes[0]["present"]) == {"all", "written"} and set(probes[1]["present"]) == {"all"} and probes[1]["answer"] is None
    )
    assert all(0 <= score <= 1 for score in probes[0]["present"].values())
    with pytest.raises(UserError, match="the condition has no model"):
        probe_all([dataclasses.replace(one, observation=EnvironmentObservation(["oracle"]))], 20)


def test_an_answer_is_right_if_it_says_no_exactly_where_nothing_is(vlm, monkeypatch):
    frames = draw_frames("BabyAI-GoToLocal-v0", 20)
    prompts = ("Q: where is the {object}? A:", "Q: how many objects are there? A:")
    where, count = (condition("", vlm, prompt, words=40) for prompt in prompts)
    truth = ["<loc1> red ball" if there else "Nowhere." for there in frames.visible]
    monkeypatch.setattr("vla.promptable.representation.PromptableRepresentation.answers", lambda self, written: truth)
    assert probe(where, frames)[0]["answer"] == 1.0
    assert probe(count, frames)[0]["answer"] is None


@pytest.mark.parametrize(
    ("change", "amounts", "message"),
    [
        ({}, {"images": 2}, "at least 20"),
        ({"environment": EnvironmentOptions("tabletop/lift")}, {}, "probe levels of BabyAI"),
        ({"condition": "twice"}, {}, "two conditions are called 'twice'"),
    ],
)
def test_what_cannot_be_probed_is_said(change, amounts, message):
    one = RunOptions(**{"out": "", "condition": "one", **change})
    with pytest.raises(UserError, match=message):
        probe_all([one, dataclasses.replace(one, condition=change.get("condition", "other"))], **amounts)


def test_states_are_shown_on_a_page_and_scores_beside_what_was_reached(vlm, tmp_path):
    one = condition("task", vlm, "Q: is there a {object}? A:", tokens=1, batch=8, words=40)
    LearningRun("t", "task", 0, "b", 100, [50], [1]).save(tmp_path / "run")
    text = probe_all([one], 40, page=str(tmp_path / "deep/page.html"), runs=[str(tmp_path / "run")])
    page = (tmp_path / "deep/page.html").read_text()
    assert (
        "Fewer than 4" in text
        and 'alt="task"' in page
        and "data:image/svg+xml" in page
        and "http" not in page.split("</style>")[1]
    )
