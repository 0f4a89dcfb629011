"""The record of an offline evaluation: words, page, comparison."""

import json

import numpy as np
import pytest

from vla import cli
from vla.errors import UserError
from vla.report.intervals import wilson
from vla.report.offline import OfflineRecord, findings, held_out, load_offline, text, verdict
from vla.report.offline_comparison import compare_offline, sentences
from vla.report.offline_page import write_offline


def rate(value, half=0.01, n=8):
    return {"rate": value, "n": n, "low": value - half, "high": value + half}


def summary(**changes):
    row = {"name": "x", "unit": "m", "error": 0.01, "half_ranges": 0.1, "baselines": {"mean": 0.4, "last": 0.2, "nearest": 0.3}}
    return {
        "episodes": 8, "steps": 80, "calls": 40, "malformed": 0,
        "error": {"policy": rate(0.1), "mean": rate(0.4), "last": rate(0.2), "nearest": rate(0.3)},
        "against": {"mean": rate(-0.3), "last": rate(-0.1), "nearest": rate(-0.2)},
        "dimensions": [{**row, "difference": {"mean": rate(-0.3)}}],
        "positions": [0.1, 0.12], "first_steps": {"policy": 0.1, "mean": 0.4, "last": 0.2, "nearest": 0.3},
        "gripper_changes": None, "grippers": [], "jerk": {"policy": 0.1, "demonstration": 0.1, "ratio": 1.0}, "calibration": None,
    } | changes  # fmt: skip


def record(policy="a", error=0.1, episodes=8, **changes):
    rng = np.random.default_rng(0)
    lines = [
        {"episode": i, "first": 0, "instruction": "go", "fingerprint": f"{i}", "calls": 5, "malformed": 0,
         "error": (error * rng.uniform(0.5, 1.5, (10, 1))).tolist()}
        for i in range(episodes)
    ]  # fmt: skip
    fields = {"data": {"title": "mine", "folder": "data/mine"}, "policy": policy, "contract": "c" * 64, "execute": 2}
    return OfflineRecord(**{**fields, "decode": "median", "summary": summary(), "episodes": lines, **changes})


def test_verdict_names_the_baselines_that_are_not_beaten():
    assert verdict(summary()).startswith("The policy beats all three baselines: its error is 0.100 half ranges")
    against = {"mean": rate(-0.3), "last": rate(0.1), "nearest": rate(0.005)}
    said = verdict(summary(against=against))
    assert "does not beat" in said and "worse than the last action repeated" in said
    assert "cannot be told from the actions after the nearest recorded state" in said
    assert "it cannot be told from the last action repeated. Its" in verdict(
        summary(against={**against, "last": rate(0.0), "nearest": rate(-1)})
    )
    assert verdict(summary(episodes=1)).startswith("One episode does not show")


def test_findings_name_a_flipped_gripper():
    row = {**summary()["dimensions"][0], "name": "gripper", "half_ranges": 1.9, "difference": {"mean": rate(1.2)}}
    gripper = {"name": "gripper", "values": [-1, 1], "counts": [[0, 9], [10, 1]], "agreement": 0.05}
    flipped = summary(dimensions=[summary()["dimensions"][0], row], grippers=[gripper])
    assert verdict(flipped).endswith(
        "8 episodes. In gripper it mostly does the opposite of what was demonstrated: compare the signs in the data"
    )
    worse = summary(dimensions=flipped["dimensions"], grippers=[{**gripper, "agreement": 0.6}])
    assert verdict(worse).endswith("over 8 episodes. In gripper it is worse than the mean action")
    lines = findings(flipped)
    assert lines[0] == "gripper is worse than its mean: 1.90 half ranges against 0.40"
    assert lines[1] == "gripper agrees with the demonstration in 5 % of the steps: it is mostly the opposite"


def test_names_stand_as_the_data_have_them_and_a_page_has_the_whole_verdict(tmp_path):
    long = "arm/Shoulder_pan.velocity"
    row = {**summary()["dimensions"][0], "name": long, "difference": {"mean": rate(0.2)}}
    poor = summary(dimensions=[row, *summary()["dimensions"]], against={name: rate(0.2) for name in ("mean", "last", "nearest")})
    *_, header, first, second = text(poor).splitlines()
    assert first.startswith(f"{long} ") and len(header) == len(first) == len(second)
    page = write_offline(tmp_path, record(summary=poor)).read_text()
    assert f"<p>{long} is worse than its mean" in page
    assert (
        f"<p>Its error is 0.100 half ranges, mean 0.400, last 0.200, nearest 0.300, over 8 episodes. In {long} it is worse"
        in page
    )
    assert "<p>Its error is 0.100 half ranges" in write_offline(tmp_path, record()).read_text()


def test_questions_are_said_by_type_with_n_and_interval(tmp_path):
    asked = summary(questions={"colour": wilson(45, 50).to_dict(), "where": wilson(50, 50).to_dict()})
    said = "correct answers: colour 90 % of 50 (79 to 96 %), where 100 % of 50 (93 to 100 %)"
    assert text(asked).endswith(f"\n\n{said}") and held_out(asked).endswith(f"nearest 0.300; {said}")
    assert "correct answers" not in text(summary()) + held_out(summary())
    row = "<td>colour</td><td>90 %</td><td>79 to 96 %</td><td>50</td>"
    assert row in write_offline(tmp_path, record(summary=asked)).read_text()


def test_a_record_survives_saving_and_a_page_is_written(tmp_path):
    one = record()
    one.save(tmp_path)
    assert load_offline(tmp_path).episodes == one.episodes
    page = write_offline(tmp_path, one, {"worst": "<svg/>"}).read_text()
    assert "The policy beats all three baselines" in page and "the mean action" in page.lower()
    (tmp_path / "results.json").write_text(json.dumps({"kind": "offline"}))
    with pytest.raises(UserError, match="`data` is missing"):
        load_offline(tmp_path)


def test_policies_are_paired_by_episode(tmp_path, capsys):
    for name, error, episodes in (("a", 0.1, 8), ("b", 0.2, 6)):
        record(name, error, episodes).save(tmp_path / name)
    compared = compare_offline([load_offline(tmp_path / name) for name in "ab"])
    assert compared.episodes == 6 and compared.settings.differ == {"policy": ["a", "b"]}
    assert compared.settings.same["execute"] == "2" and compared.settings.same["decode"] == "median"
    (pair,) = compared.pairs
    assert pair.separated and pair.difference.rate == pytest.approx(compared.errors[0].rate - compared.errors[1].rate)
    assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c")]) == 0
    assert "a is closer to the demonstrations than b" in capsys.readouterr().out
    assert "is closer to the demonstrations" in (tmp_path / "c/compare.html").read_text()


def test_how_policies_were_asked_is_shown_where_it_differs(tmp_path, capsys):
    own = {"contract_settings": {"execute": 2}, "versions": {"torch": "2.9"}}
    for name, execute, hardware in (("a", 2, "2 cores"), ("b", 4, "one GPU")):
        record(name, execute=execute, more={**own, "hardware": hardware}).save(tmp_path / name)
    assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c")]) == 0
    shown, page = capsys.readouterr().out, (tmp_path / "c/compare.html").read_text()
    for words in ("The evaluations differ in execute, hardware", "4 actions were executed of each chunk, its contract says 2"):
        assert words in shown and words in page
    assert "The same for all: contract cccccccccccc, decode median, torch 2.9" in shown and "torch 2.9" in page
    assert json.loads((tmp_path / "c/compare.json").read_text())["settings"]["differ"]["execute"] == ["2", "4"]


def test_errors_are_in_the_same_unit_whatever_the_contracts_limits(tmp_path):
    """The same actions under limits twice as wide have half the error in half ranges."""
    wide = [{**row, "half_ranges": row["half_ranges"] / 2} for row in summary()["dimensions"]]
    record("a", 0.1).save(tmp_path / "a")
    record("b", 0.05, summary=summary(dimensions=wide)).save(tmp_path / "b")
    compared = compare_offline([load_offline(tmp_path / name) for name in "ab"])
    assert compared.errors[0].rate == pytest.approx(compared.errors[1].rate) and not compared.pairs[0].separated
    assert compared.dimensions["x"][0] == pytest.approx(compared.dimensions["x"][1])
    said = "The contract of b has other limits of x: all errors are in half ranges of the limits of a."
    assert said in sentences(compared)
    same = compare_offline([load_offline(tmp_path / "a"), load_offline(record("c", 0.05).save(tmp_path / "c"))])
    assert same.pairs[0].separated and not same.other_limits
    exact = summary(dimensions=[{**row, "error": 0.0, "half_ranges": 0.0} for row in wide])
    record("d", 0.0, summary=exact).save(tmp_path / "d")
    assert compare_offline([load_offline(tmp_path / name) for name in "ad"]).errors[1].rate == 0


def test_other_demonstrations_are_no_pairs(tmp_path):
    one, other = record("a"), record("b")
    other.episodes[:] = [{**line, "fingerprint": "other"} for line in other.episodes]
    one.save(tmp_path / "a"), other.save(tmp_path / "b")
    with pytest.raises(UserError, match="0 episodes in common"):
        compare_offline([load_offline(tmp_path / name) for name in "ab"])


@pytest.mark.parametrize("content", ["[]", "3", '{"kind": "rollout"}', "no JSON"])
def test_other_records_are_refused_in_one_line(tmp_path, capsys, content):
    record("a").save(tmp_path / "a")
    (tmp_path / "other.json").write_text(content)
    assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "other.json")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/other.json: ")


def test_policies_with_other_constant_dimensions_are_no_pairs(tmp_path):
    record("a").save(tmp_path / "a")
    row = summary()["dimensions"][0]
    record("b", summary=summary(dimensions=[row, {**row, "name": "y"}])).save(tmp_path / "b")
    with pytest.raises(UserError, match="errors of x and of x, y"):
        compare_offline([load_offline(tmp_path / name) for name in "ab"])
