"""`vla study` as a whole: interrupted and resumed, its records and its table, and what is added or changed later."""

import json
import shutil

import pytest

from vla.demo.folder import locked
from vla.report.intervals import wilson
from vla.report.records import load
from vla.report.study import load_cells

pytestmark = pytest.mark.timeout(900)


def test_told_to_end_it_saves_and_the_same_command_resumes(finished):
    _, (code, told, saved), then = finished
    assert code == 143 and "nothing is lost. To go on, run the same command again." in told and "Traceback" not in told
    assert saved and f"resuming from {finished[0]}/runs/robot-0/train/checkpoints/{saved[-1]}" in then


def test_a_record_has_what_the_table_needs(finished):
    out = finished[0]
    both, robot = load_cells(out / "cells")
    assert (both.name, robot.name) == ("both-0", "robot-0") and robot.about == "robot data alone"
    assert robot.plan.robot_samples == both.plan.robot_samples == 40 and robot.plan.sources["questions"].samples == 0
    assert robot.changes == {"data.sources.questions.init_args.weight": ["0.5", "0.0"], "data.batch_size": ["4", "2"]}
    for cell in (both, robot):
        assert cell.training["seconds"] > 0 and cell.training["commit"] and cell.training["hardware"] and len(cell.config) == 64
        assert "val/robot_loss" in cell.curves and cell.plan.sources["robot"].content
        (answers,) = cell.questions.values()
        assert all(len(one["before"]) == len(one["after"]) > 0 for one in answers.values()) and "colour" in answers
        (group,) = cell.suites["few"].groups
        evaluation = load(next((out / "runs" / cell.name / "evaluation").iterdir()))
        assert group.keys == [e.key for e in evaluation.episodes]
        assert group.success == "".join(str(int(e.success)) for e in evaluation.episodes)
    assert robot.training["interrupted"] and not both.training["interrupted"]
    assert robot.training["weights"] != both.training["weights"]
    # Small enough to be committed, with a line for each setting.
    assert (out / "cells/robot-0.json").stat().st_size < 20_000


def test_table_and_page_are_written(finished):
    out = finished[0]
    result = json.loads((out / "results.json").read_text())
    assert result["baseline"] == "robot" and [arm["name"] for arm in result["arms"]] == ["robot", "both"]
    both = result["suites"][0]["arms"][1]
    wins = load_cells(out / "cells")[0].suites["few"].groups[0].success.count("1")
    assert both["success"] == wilson(wins, 2).to_dict() and both["difference"]["n"] == 2
    page = (out / "report.html").read_text()
    assert "with questions" in page and "val/robot_loss" in page and "(theirs)" not in page
    assert "The data do not separate both from robot." in finished[2]


def test_records_alone_make_the_table_again(run, copied):
    """Without trainings and policies, as in a checkout in which records were committed."""
    before = json.loads((copied / "results.json").read_text())
    shutil.rmtree(copied / "runs")
    (copied / "results.json").unlink()
    code, said, _ = run()
    after = json.loads((copied / "results.json").read_text())
    assert (
        code == 0 and "to run" not in said and before["suites"] == after["suites"] and before["questions"] == after["questions"]
    )
    assert not (copied / "runs").exists()


def test_more_scenes_are_evaluated_without_training_and_separating_ones_are_filmed(run, copied):
    for name in ("robot-0", "both-0"):
        path = copied / f"cells/{name}.json"
        record = json.loads(path.read_text())
        # As if one arm had succeeded in the first scene.
        record["suites"]["few"]["groups"][0]["success"] = "10" if name == "both-0" else "00"
        path.write_text(json.dumps(record))
    code, said, _ = run(films=1)
    result = json.loads((copied / "results.json").read_text())
    (film,) = result["films"]
    assert code == 0 and film["title"] == "both succeeds, robot fails" and (copied / film["path"]).stat().st_size > 1000
    assert film["path"] in (copied / "report.html").read_text()
    code, said, _ = run("--cells", "robot", scenes=3, films=0)
    assert code == 0 and "[train] already done" in said and "3 episodes" in said
    assert len(load_cells(copied / "cells")[1].suites["few"].groups[0].success) == 3
    result = json.loads((copied / "results.json").read_text())
    # The other cell still has two.
    assert result["missing"] == ["both-0"] and result["suites"][0]["scenes"] == 2


def test_a_changed_arm_is_named_and_nothing_is_overwritten(run, copied, content):
    content["arms"]["both"]["overlay"] = {"model.learning_rate": 0.5}
    before = (copied / "cells/both-0.json").read_bytes()
    code, _, errors = run()
    said = "the cell both-0 was trained otherwise: model.learning_rate 0.001 and 0.5\nFix: add --again"
    assert code == 2 and said in errors
    assert (copied / "cells/both-0.json").read_bytes() == before
    code, said, _ = run("--again", "--dry-run")
    assert code == 0 and "to run: both-0" in said and (copied / "cells/both-0.json").read_bytes() == before


def test_a_cell_that_another_process_runs_is_left_to_it(run, copied):
    (copied / "cells/both-0.json").unlink()
    with locked(copied / "runs/both-0"):
        code, said, errors = run()
    assert code == 0 and "both-0 is being run by another process" in errors and "Not done yet: both-0" in said


def test_what_a_later_version_does_not_know_of_a_cell_is_told(run, copied):
    (copied / "cells/both-0.json").write_text("{}")
    code, _, errors = run()
    assert code == 2 and f"{copied}/cells/both-0.json: not the record of a cell" in errors
