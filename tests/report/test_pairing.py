import pytest

from vla.errors import UserError
from vla.report.pairing import interleaved, pair, short_names


def test_episodes_are_paired_by_key_whatever_their_order(make, episode):
    a = make("a", [episode(i, i % 2 == 0) for i in range(6)])
    b = make("b", [episode(i, i < 3) for i in reversed(range(2, 9))])
    paired = pair([a, b])
    assert paired.left_out == [2, 3] and len(paired.episodes[0]) == 4
    for one, two in zip(*paired.episodes, strict=True):
        assert one.key == two.key and one.success == (one.seed % 2 == 0) and two.success == (two.seed < 3)
    assert paired.success("correct").shape == (2, 4) and paired.success("empty").shape == (2, 0)


def test_what_does_not_belong_together_is_refused(make, episode):
    a = make("a", "1100", source="runs/a")
    cases = [
        ([a], "1 record"),
        ([a, a], "given twice"),
        ([a, make("b", "1", suite_hash="other")], "different suites: rt2/seen (5111e) and rt2/seen (other)"),
        ([a, make("b", "1", kind="curve")], "records of different kinds, 'rollout' and 'curve'"),
        ([a, make("b", "1", task="push")], "runs/a and b: no episode in common"),
        ([a, make("b", [])], "no episode in common"),
        (
            [a, make("b", [episode(0), episode(1, state="?"), episode(2, state="!")])],
            "2 of 3 episodes began in different states, so they cannot be paired: lift / seen, seed 1, correct instruction: "
            "'lift-seen-1' and '?'",
        ),
        ([a, make("b", [episode(0, instruction="lift it")])], "1 of 1 episodes had different instructions"),
    ]
    for records, message in cases:
        with pytest.raises(UserError) as error:
            pair(records)
        assert message in str(error.value), message


def test_how_many_scenes_were_run_makes_no_other_suite(make):
    paired = pair([make("a", "1100", more={"scenes": 4}), make("b", "10", more={"scenes": 2})])
    assert len(paired.episodes[0]) == 2 and paired.left_out == [2, 0]


def test_records_of_earlier_versions_pair_with_one_another_and_with_todays(make):
    """Their hash also depended on the number of scenes, which they did not write."""

    def earlier(policy, outcomes, suite_hash, horizon=80, **other):
        record = make(policy, outcomes, suite_hash=suite_hash, **other)
        record.more.pop("scenes")
        record.more["horizon"] = horizon
        return record

    ten, two = earlier("a", "1100110011", "ten"), earlier("b", "10", "two")
    assert pair([ten, two]).left_out == [8, 0]
    assert pair([ten, make("c", "101", more={"scenes": 3, "horizon": 80})]).left_out == [7, 0]
    for other in (earlier("b", "10", "two", 200), earlier("b", "10", "two", suite="mine")):
        with pytest.raises(UserError, match="different suites"):
            pair([ten, other])


def test_the_order_mixes_tasks_ignores_the_file_and_keeps_its_beginning_when_it_grows():
    keys = [(task, "seen", seed, "correct") for task in "abcd" for seed in range(8)]
    order = interleaved(keys)
    assert sorted(order) == sorted(keys)
    for start in range(0, 32, 4):
        assert {key[0] for key in order[start : start + 4]} == set("abcd")
    assert len({tuple(key[0] for key in order[start : start + 4]) for start in range(0, 32, 4)}) > 3
    assert interleaved([key for key in keys if key[2] < 5]) == order[:20]
    by_seed = sorted(keys, key=lambda key: key[2])
    assert interleaved(by_seed) == order


def test_names_are_the_shortest_that_tell_policies_apart(make):
    assert short_names(["runs/demo/export", "runs/other/export"]) == ["demo", "other"]
    assert short_names(["runs/demo/export", "expert"]) == ["demo", "expert"]
    assert short_names(["a/x/1/last.ckpt", "a/x/2/last.ckpt", "b/x/1/last.ckpt"]) == ["a/x/1", "a/x/2", "b/x/1"]
    assert short_names(["http://one:8000/", "http://two:8000"]) == ["one:8000", "two:8000"]
    assert short_names(["same", "same"]) == ["same", "same"]
    same = [make("p", "1", source=f"out/{name}") for name in ("first", "second")]
    assert pair(same).names == ["first", "second"], "one policy evaluated twice is known by its records"
