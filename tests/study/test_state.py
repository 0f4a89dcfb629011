"""Which cells are done, which of their results still count, and what is put aside."""

import dataclasses
from types import SimpleNamespace

import pytest

from vla.errors import UserError
from vla.report.study import CellRecord, Scenes, SuiteScenes
from vla.report.study_plan import SourceData, TrainingPlan
from vla.sim.suites import load_suite
from vla.study.fairness import other_data
from vla.study.options import Arm, Study
from vla.study.state import check_unchanged, put_aside, state_of

SUITE = dataclasses.replace(load_suite("rt2/seen", 2), kinds=("correct",))
PLAN = TrainingPlan(9, {"robot": SourceData("robot", "data/robot", "c0ffee", "holdout 0.05", 100)}, "tiny", "panda")


def arm(name="robot", **settings):
    settings = {"model": {"vlm": "tiny"}, **settings}
    return SimpleNamespace(name=name, settings=settings, config=str(settings), changes={}, arm=Arm(about=f"the arm {name}"))


def record(seed, scenes=2, suite=SUITE, batch=2, of=None, **other):
    of = of or arm()
    digits = "1" * scenes
    groups = [Scenes("lift", "seen", "correct", 0, " ".join("abc"[:scenes]), digits, digits, digits, {})]
    values = {"recipe": "r", "changes": {}, "plan": PLAN, "training": {"seconds": 1.0}, "curves": {}, "questions": {"q": {}}}
    suites = {"gone": SuiteScenes("x", "", 2, 1.0, groups), "rt2/seen": SuiteScenes(suite.hash, "", batch, 1.0, groups)}
    values |= {"suites": suites, "config": of.config, "settings": of.settings, "differs": [], "about": "as it was", **other}
    return CellRecord(of.name, seed, **values)


@pytest.fixture
def study(tmp_path):
    return Study("recipe.yaml", {"robot": Arm(), "wide": Arm()}, ["rt2/seen"], str(tmp_path), seeds=[0, 1, 2])


def state(study, *records, arms=None, questions=("q",)):
    for one in records:
        one.save(f"{study.out}/cells")
    return state_of(study, arms or {name: arm(name) for name in study.arms}, {"rt2/seen": SUITE}, questions)


def test_a_cell_is_done_with_every_scene_and_question_of_the_study(study):
    other = dataclasses.replace(SUITE, kinds=("swapped",))
    found = state(study, record(0), record(1, scenes=1), record(2, suite=other), record(7))
    assert found.done("robot-0") and not found.done("wide-0") and found.strangers == ["robot-7"]
    # Fewer scenes count; another version of the suite, or a suite that the study does not have, does not.
    assert found.lacking["robot-1"] == ["rt2/seen"] and list(found.records["robot-1"].suites) == ["rt2/seen"]
    assert found.lacking["robot-2"] == ["rt2/seen"] and not found.records["robot-2"].suites
    assert found.records["robot-0"].about == "the arm robot"
    assert state(study, questions=("q", "more")).lacking["robot-0"] == ["more"]


def test_another_batch_is_another_result(study):
    assert state(study, record(0, batch=4)).lacking["robot-0"] == ["rt2/seen"]


def test_cells_of_other_settings_or_data_are_named(study):
    changed = {name: arm(name, data={"batch_size": 32}) for name in study.arms}
    found = state(study, record(0), record(1), arms=changed)
    assert found.changed == dict.fromkeys(("robot-0", "robot-1"), "data.batch_size off and 32") and not found.records
    with pytest.raises(UserError, match=r"the cell robot-0 was trained otherwise \(and 1 more\): data.batch_size off and 32"):
        check_unchanged(found, study)
    here = dataclasses.replace(PLAN, sources={"robot": dataclasses.replace(PLAN.sources["robot"], content="beef")})
    unknown = dataclasses.replace(PLAN, sources={"robot": dataclasses.replace(PLAN.sources["robot"], content="")})
    records = [record(0)]
    assert other_data(records, {"robot": PLAN}) == other_data(records, {"robot": unknown}) == {}
    assert "data/robot (c0ffee), holdout 0.05; here they are data/robot (beef)" in other_data(records, {"robot": here})["robot-0"]


def test_what_is_put_aside_is_kept(study, tmp_path):
    for number in (1, 2):
        record(0).save(tmp_path / "cells")
        (tmp_path / "runs/robot-0").mkdir(parents=True)
        put_aside(study, "robot-0")
        assert (tmp_path / f"before-{number}/cells/robot-0.json").is_file() and (
            tmp_path / f"before-{number}/runs/robot-0"
        ).is_dir()
    assert not (tmp_path / "cells/robot-0.json").exists()
