"""Records of training runs, their comparison, the command and its page."""

import dataclasses
import json
import re

import numpy as np
import pytest

from vla import cli
from vla.errors import UserError
from vla.report.learning import LearningRun, load_run
from vla.report.learning_comparison import compare_runs, verdict


def run(condition="task", seed=0, rate=0.5, task="GoTo", budget="b", episodes=200, steps=1000):
    rng = np.random.default_rng([seed, int(rate * 100)])
    ends = np.sort(rng.integers(1, steps + 1, episodes)).tolist()
    rising = rate * np.array(ends) / steps * 2
    return LearningRun(task, condition, seed, budget, steps, ends, [int(x) for x in rng.random(episodes) < rising])


def test_a_curve_is_success_over_equal_parts_of_the_run():
    one = LearningRun("t", "c", 0, "b", 100, [10, 20, 60, 100], [0, 1, 1, 1])
    assert one.curve(4).tolist() == [0.5, 0.5, 1.0, 1.0] and one.area() == one.curve().mean()
    assert LearningRun("t", "c", 0, "b", 100, [], []).area() == 0.0
    # What ends after the run's steps, in its last rollout, belongs to the last part.
    assert LearningRun("t", "c", 0, "b", 100, [120], [1]).curve(2).tolist() == [0.0, 1.0]


def test_the_first_steps_of_a_run_are_the_run_that_ended_there():
    whole, half = LearningRun("t", "c", 0, "b", 100, [10, 50, 60], [0, 1, 0]), LearningRun("t", "c", 0, "b", 50, [10, 50], [0, 1])
    assert whole.until(50) == half and half.until(100) == half


def test_a_record_comes_back(tmp_path):
    one = run()
    one.save(tmp_path)
    back = load_run(tmp_path)
    assert (back.ends, back.success, back.condition) == (one.ends, one.success, one.condition) and back.source == str(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ends": [3, 1]}, "in order"),
        ({"ends": [1, 2, 3]}, "one for each of"),
        ({"success": [0, 2]}, "0 and 1"),
        ({"seed": "0"}, "`seed`"),
        ({"kind": "rollout"}, "not a record of kind"),
        ({"steps": 0}, "`steps` must be positive"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path, change, message):
    LearningRun("t", "c", 0, "b", 100, [1, 2], [0, 1]).save(tmp_path)
    file = tmp_path / "results.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        load_run(tmp_path)


def test_the_better_condition_is_found_and_equal_ones_are_not_separated():
    runs = [run(c, s, r) for c, r in (("task", 0.5), ("same", 0.5), ("weak", 0.2)) for s in range(5)]
    comparison = compare_runs(runs)
    same, weak = comparison.against
    assert weak.ratio.low > 1.3 and weak.improvement.rate == 1.0
    assert same.ratio.low < 1 < same.ratio.high or abs(same.ratio.rate - 1) < 1e-9
    assert verdict(comparison) == "task learns faster than weak; is not separated from same"
    assert all(len(one.curve[0]) == 25 and one.runs == 5 for one in comparison.conditions)
    json.dumps(comparison.to_dict(), allow_nan=False)


def prompted_run(prompt, seed):
    return dataclasses.replace(run(seed=seed), more={"options": {"prompt": prompt, "seed": seed}})


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([run(), run(seed=1)], "one condition"),
        ([run(), run("other", budget="c")], "different budgets"),
        ([run(), run("other", steps=500)], "different budgets"),
        ([run(), run(), run("other")], "given twice"),
        ([prompted_run("a", 0), prompted_run("b", 1), run("other")], "runs of task differ in prompt"),
        ([run(), run("other"), run("other", 1, task="Pickup")], "unequal numbers"),
    ],
)
def test_what_cannot_be_compared_is_refused(runs, message):
    with pytest.raises(UserError, match=message):
        compare_runs(runs)


def test_the_command_says_and_writes_what_came_out(tmp_path, capsys):
    folders = []
    for condition, rate in (("<task>", 0.5), ("never", 0.0)):
        for seed in range(3):
            folders.append(tmp_path / f"{len(folders)}")
            run(condition, seed, rate).save(folders[-1])
    assert cli.main(["compare", *map(str, folders), "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "never: infinite" in shown and "learns faster than never" in shown and "five or more" in shown
    data = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert data["kind"] == "rl" and data["verdict"] in shown and data["against"][0]["ratio"]["rate"] is None
    page = (tmp_path / "out" / "compare.html").read_text()
    assert all(address.startswith("data:") for address in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert "&lt;task&gt;" in page and page.count("data:image/svg") == 2


def test_episodes_of_a_robot_and_runs_do_not_mix(tmp_path, make, capsys):
    make("runs/demo/export", "0101").save(tmp_path / "rollout")
    run().save(tmp_path / "run")
    assert cli.main(["compare", str(tmp_path / "rollout"), str(tmp_path / "run")]) == 2
    assert "not a record of kind 'rl'" in capsys.readouterr().err
