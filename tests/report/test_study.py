"""The result of a study from the records of its cells: the table's numbers by hand, what is refused, and the page."""

import dataclasses
import json

import pytest

from vla.errors import UserError
from vla.report.intervals import wilson
from vla.report.proportions import Counts, difference
from vla.report.several_runs import pooled_rate
from vla.report.study import CellRecord, Scenes, SuiteScenes, load_cell, load_cells
from vla.report.study_comparison import compare_cells
from vla.report.study_outcomes import Outcomes
from vla.report.study_page import arm_curves, write_study
from vla.report.study_plan import SourceData, TrainingPlan, unequal
from vla.report.study_wording import headline, sentences, text

PLAN = TrainingPlan(900, {"robot": SourceData("robot", "data/robot", "c0ffee" * 8, "holdout 0.05", 35400)}, "tiny", "panda")
ORIGIN = {"command": "vla study", "commit": "0" * 40, "hardware": "2 cores", "versions": {"numpy": "2.4"}}


def scenes(success, kind="correct", executed=None, right=None, variation="seen"):
    executed = executed or "1" * len(success)
    hashes = " ".join(f"{variation}{i}" for i in range(len(success)))
    return Scenes("lift", variation, kind, 0, hashes, success, executed, right or success, {})


def cell(arm, seed, suites, **other):
    """suites: name -> the outcomes of its scenes as digits, or its groups."""
    groups = {name: [scenes(one)] if isinstance(one, str) else one for name, one in suites.items()}
    values = {
        "about": f"the arm {arm}",
        "differs": [],
        "config": f"{arm}" * 16,
        "settings": {"trainer": {"max_steps": 900}},
        "recipe": "demo.yaml",
        "changes": {"data.batch_size": ["16", "13"]},
        "plan": PLAN,
        "training": {"seconds": 60.0, "commit": "0" * 40, "hardware": "2 cores"},
        "curves": {"val/robot_loss": [[450, 900], [2.0, 1.0 + seed]]},
        "questions": {},
        "suites": {name: SuiteScenes("5111e", "scenes", 2, 10.0, one) for name, one in groups.items()},
        **other,
    }
    return CellRecord(arm=arm, seed=seed, **values)


def test_numbers_of_one_seed_are_those_of_a_comparison():
    c = compare_cells([cell("robot", 0, {"rt2/seen": "1100000000"}), cell("wide", 0, {"rt2/seen": "1011111110"})])
    base, wide = c.suites[0].arms
    assert (base.success, wide.success) == (wilson(2, 10), wilson(8, 10))
    assert wide.difference == difference(Counts(1, 7, 1, 1)) and wide.only == [7, 1] and base.difference is None
    assert c.baseline == "robot" and c.suites[0].scenes == 10
    assert headline(c) == "wide beats robot" and "one training only" in " ".join(sentences(c))


def test_seeds_are_pooled_and_paired_seed_by_seed():
    cells = [
        cell("robot", 1, {"rt2/seen": "110000"}),
        cell("robot", 0, {"rt2/seen": "100000"}),
        cell("wide", 0, {"rt2/seen": "111100"}),
        cell("wide", 2, {"rt2/seen": "000000"}),
    ]
    wide = compare_cells(cells).suites[0].arms[1]
    assert wide.seeds == [0, 2] and (wide.success.rate, wide.success.n) == (4 / 12, 12)
    # Seed 0 alone is in both arms.
    assert wide.difference == difference(Counts(1, 3, 0, 2)) and wide.only == [3, 0]
    cells[3] = cell("wide", 1, {"rt2/seen": "001100"})
    wide = compare_cells(cells).suites[0].arms[1]
    # 6 of 12 against 3 of 12.
    assert wide.difference.rate == pytest.approx(3 / 12) and wide.difference.n == 12 and wide.only == [5, 2]
    assert wide.difference.low < 3 / 12 < wide.difference.high


def test_recognition_is_a_share_of_what_was_executed_and_instructions_are_kept_apart():
    groups = [
        scenes("1100", executed="1110", right="1100"),
        scenes("1000", kind="swapped"),
        scenes("0000", kind="empty", executed="0100", right="0000"),
    ]
    one, two = cell("robot", 0, {"rt2/seen": groups}), cell("robot", 1, {"rt2/seen": groups})
    result = compare_cells([one, two]).suites[0]
    (arm,) = result.arms
    assert result.kind == "correct" and arm.success.rate == 0.5
    assert (arm.recognition.rate, arm.recognition.n) == (4 / 6, 6)
    outcomes = Outcomes.of([one, two], "rt2/seen", groups[0].keys)
    assert arm.recognition == pooled_rate(outcomes.right, outcomes.executed)
    assert {kind: rate.rate for kind, rate in arm.kinds.items()} == {"correct": 0.5, "swapped": 0.25, "empty": 0.25}


def test_only_scenes_that_every_cell_ran_count():
    c = compare_cells([cell("robot", 0, {"rt2/seen": "1000"}), cell("wide", 0, {"rt2/seen": "11"})])
    assert c.suites[0].scenes == 2 and c.suites[0].arms[0].success == wilson(1, 2)


def test_questions_are_paired_before_and_after():
    answers = {"colour": {"before": "1111", "after": "1100"}, "where": {"before": "10", "after": "11"}}
    arm = cell("robot", 0, {"rt2/seen": "1"}, questions={"held out": answers})
    (one,) = compare_cells([arm]).questions["held out"]
    assert (one.before, one.after) == (wilson(5, 6), wilson(4, 6))
    assert one.change == difference(Counts(3, 1, 2, 0)) and one.types["colour"] == [wilson(4, 4), wilson(2, 4)]
    # From random weights nothing was asked before.
    answers = {"colour": {"before": "", "after": "10"}}
    (one,) = compare_cells([cell("robot", 0, {"rt2/seen": "1"}, questions={"q": answers})]).questions["q"]
    assert one.before is None and one.change is None and one.after == wilson(1, 2)


def replaced(plan, **changes):
    sources = {"robot": dataclasses.replace(plan.sources["robot"], **changes)}
    return dataclasses.replace(plan, sources=sources)


@pytest.mark.parametrize(
    ("plan", "key"),
    [
        (replaced(PLAN, content="beef"), "data"),
        (replaced(PLAN, part="holdout 0.5"), "data"),
        (replaced(PLAN, samples=30000), "robot_samples"),
        (dataclasses.replace(PLAN, steps=800), "steps"),
        (dataclasses.replace(PLAN, start="scratch"), "start"),
        (dataclasses.replace(PLAN, robot="arm"), "robot"),
    ],
)
def test_an_arm_that_is_not_comparable_is_refused_unless_it_is_declared(plan, key):
    assert list(unequal(PLAN, plan)) == [key]
    cells = [cell("robot", 0, {"rt2/seen": "10"}), cell("wide", 0, {"rt2/seen": "11"}, plan=plan)]
    with pytest.raises(UserError) as caught:
        compare_cells(cells)
    one, two = unequal(PLAN, plan)[key]
    assert caught.value.where == "arm wide" and one in str(caught.value) and two in str(caught.value)
    cells[1] = dataclasses.replace(cells[1], differs=[key])
    if key == "robot":
        with pytest.raises(UserError, match="policies of one robot"):
            compare_cells([cells[0], dataclasses.replace(cells[1], differs=[])])
    else:
        assert "As declared, wide differs" in " ".join(sentences(compare_cells(cells)))


def test_whole_batches_make_no_difference_and_neither_does_the_folder():
    assert unequal(PLAN, replaced(PLAN, samples=35100, folder="elsewhere/robot")) == {}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"config": "other", "settings": {"trainer": {"max_steps": 1200}}}, "trainer.max_steps 900 and 1200"),
        ({"plan": replaced(PLAN, content="beef")}, "robot-1 has robot data"),
    ],
)
def test_cells_of_one_arm_are_alike(other, said):
    with pytest.raises(UserError, match=said):
        compare_cells([cell("robot", 0, {"rt2/seen": "10"}), cell("robot", 1, {"rt2/seen": "11"}, **other)])


def test_scenes_that_began_otherwise_are_named():
    other = dataclasses.replace(scenes("11"), scenes="seen0 moved")
    with pytest.raises(UserError, match=r"1 episodes of rt2/seen began otherwise than those of robot-0, first .*1, 'correct'"):
        compare_cells([cell("robot", 0, {"rt2/seen": "10"}), cell("wide", 0, {"rt2/seen": [other]})])


def test_what_is_missing_is_said():
    c = compare_cells([cell("robot", 0, {"a": "1", "b": "1"}), cell("robot", 1, {"a": "1"})], missing=["wide-0"])
    assert c.missing == ["wide-0", "robot-1"] and "Not done yet: wide-0 and robot-1." in sentences(c)
    with pytest.raises(UserError, match="no cell of the baseline wide is done"):
        compare_cells([cell("robot", 0, {"a": "1"})], baseline="wide")


def test_a_record_is_read_as_it_was_written(tmp_path):
    one = cell("robot", 3, {"rt2/seen": "1011"}, questions={"q": {"colour": {"before": "1", "after": "0"}}})
    path = one.save(tmp_path)
    assert path.name == "robot-3.json" and load_cells(tmp_path) == [dataclasses.replace(one, source=str(path))]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data.pop("plan"), "'plan'"),
        (lambda data: data.update(seed="1"), "`seed` is not of type int"),
        (lambda data: data.update(kind="rollout"), "not the record of a cell"),
        (lambda data: data["suites"]["rt2/seen"]["groups"][0].update(success="10"), "a hash for each scene"),
    ],
)
def test_a_spoilt_record_is_named(tmp_path, spoil, said):
    path = cell("robot", 0, {"rt2/seen": "101"}).save(tmp_path)
    data = json.loads(path.read_text())
    spoil(data)
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=said) as caught:
        load_cell(path)
    assert str(path) in str(caught.value)


def test_a_line_of_an_arm_is_the_mean_of_its_seeds():
    cells = [cell(arm, seed, {"a": "1"}) for arm in ("robot", "wide") for seed in (0, 1)]
    (svg,) = arm_curves(cells, ["robot", "wide"]).values()
    assert svg.count("robot") == svg.count("wide") > 0


def test_page_has_every_number_and_marks_what_is_published(tmp_path):
    cells = [cell(arm, s, {"rt2/seen": row}) for arm, row in (("robot", "1000000000"), ("wide", "1111111110")) for s in (0, 1, 2)]
    c = compare_cells(cells)
    page = write_study(tmp_path / "report.html", c, cells, [], ORIGIN).read_text()
    assert headline(c) in page and "RT-2&#39;s own numbers" in page and "(theirs)" in page
    assert "90 %" in page and "+80.0" in page and "data.batch_size: 13 (recipe 16)" in page
    assert "wide beats robot" in text(c)
    mine = [dataclasses.replace(one, suites={"mine": one.suites["rt2/seen"]}) for one in cells]
    assert "(theirs)" not in write_study(tmp_path / "mine.html", compare_cells(mine), mine, [], ORIGIN).read_text()
