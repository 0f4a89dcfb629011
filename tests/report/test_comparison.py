import json
import math

import pytest

from vla.errors import UserError
from vla.report.comparison import compare_records
from vla.report.proportions import Counts
from vla.report.wording import sentences, tables, text, verdict

# Both succeed 20 times, only the first 12, only the second 2, neither 6.
A, B = "1" * 20 + "1" * 12 + "0" * 2 + "0" * 6, "1" * 20 + "0" * 12 + "1" * 2 + "0" * 6


def all_sentences(comparison):
    return " ".join([verdict(comparison), *sentences(comparison)])


def test_two_policies_that_differ(make):
    c = compare_records([make("runs/a/export", A), make("runs/b/export", B)])
    (p,) = c.pairs
    assert p.counts == Counts(20, 12, 2, 6) and p.p == p.p_holm == pytest.approx(0.01294, abs=1e-5) and p.separated
    assert p.difference.rate == pytest.approx(0.25) and p.more_episodes is None
    assert [x.letters for x in c.policies] == ["a", "b"] and c.ranking == [["a"], ["b"]]
    assert [x.failures for x in c.policies] == [{"dropped": 8}, {"dropped": 18}]
    assert "a is better than b" in all_sentences(c) and "a minus b: +25.0 points (95 % interval +" in all_sentences(c)
    assert "only a succeeded in 12 and only b in 2; p = 0.0129" in all_sentences(c) and "more episodes" not in all_sentences(c)
    turned = compare_records([make("b", B), make("a", A)])
    assert verdict(turned) == "a is better than b" and turned.pairs[0].difference.rate == pytest.approx(-0.25)
    json.dumps(c.to_dict(), allow_nan=False)


def test_malformed_answers_are_said_where_they_were_counted(make, episode):
    counted = [episode(i, i < 3, more={"malformed": i}) for i in range(4)]
    c = compare_records([make("a", counted), make("b", "1100")])
    assert [x.malformed for x in c.policies] == [6 / 160, None]
    assert "Malformed answers, at which the robot did not move: 3.8 % of the steps of a." in all_sentences(c)
    assert "Malformed" not in all_sentences(compare_records([make("a", "1100"), make("b", "1010")]))


def test_what_is_not_separated_is_not_ranked(make):
    c = compare_records([make("a", A), make("b", B)], alpha=0.01)
    assert c.ranking == [["a", "b"]] and [x.letters for x in c.policies] == ["a", "a"]
    assert verdict(c) == "The data do not separate a and b" and "better" not in all_sentences(c)
    assert f"About {c.pairs[0].more_episodes} more episodes would be needed" in all_sentences(c) and c.pairs[0].more_episodes > 0
    assert "99 % interval" in all_sentences(c) and "The interval excludes zero, but the exact test" in all_sentences(c)
    assert c.pairs[0].sequential.stop and "the verdict above is that of McNemar's test" in all_sentences(c)
    equal = compare_records([make("a", "1100"), make("b", "1010")])
    assert "would not have stopped yet" in all_sentences(equal)
    assert "at equal rates, no number of episodes separates them" in all_sentences(
        equal
    ) and "a minus b: 0.0 points" in all_sentences(equal)


def test_one_may_stop_early(make):
    c = compare_records([make("a", "1" * 40), make("b", "0" * 40)])
    assert c.pairs[0].sequential.stop == 8 and "could have stopped after 8 of 40" in all_sentences(c)


def test_several_policies(make):
    c = compare_records([make("low", "0" * 60), make("top", "1" * 60), make("high", "1" * 57 + "0" * 3)])
    assert c.ranking == [["top", "high"], ["low"]] and [x.letters for x in c.policies] == ["b", "a", "a"]
    assert verdict(c) == "Ranking: 1. top and high; 2. low" and "Policies that share a rank are not separated." in all_sentences(
        c
    )
    assert [row[0] for row in tables(c)[0].rows] == ["top", "high", "low"]
    # Three pairs: each has a third of alpha for stopping, and p-values are three times as large.
    alone = compare_records([make("low", "0" * 60), make("top", "1" * 60)])
    assert c.pairs[0].sequential.p == pytest.approx(3 * alone.pairs[0].sequential.p)
    assert c.pairs[0].sequential.stop == 10 and alone.pairs[0].sequential.stop == 8


def test_a_chain_that_overlaps_is_no_ranking(make):
    c = compare_records([make("x", "1" * 14 + "0" * 6), make("y", "1" * 9 + "0" * 11), make("z", "1" * 5 + "0" * 15)])
    assert [x.letters for x in c.policies] == ["a", "ab", "b"] and len(c.ranking) == 1
    assert verdict(c) == "The data do not rank these 3 policies"
    assert "Separated, although no ranking follows from it: x is better than z." in all_sentences(c)


def test_controls_are_shown_apart_from_what_is_compared(make, episode):
    def policy(name, correct, swapped):
        rows = [
            episode(i, c == "1", kind=kind)
            for kind, all_ in (("swapped", swapped), ("correct", correct))
            for i, c in enumerate(all_)
        ]
        return make(name, rows)

    c = compare_records([policy("a", "1111", "0000"), policy("b", "0000", "1111")])
    assert c.instruction == "correct" and c.episodes == 4 and [p.success.rate for p in c.policies] == [1, 0]
    kinds = {g.name: [r.rate for r in g.rates] for g in c.groups["instruction"]}
    assert kinds == {"correct": [1, 0], "swapped": [0, 1]} and "By instruction" in text(c)
    only = compare_records([make("a", [episode(0, kind="empty")]), make("b", [episode(0, kind="empty")])])
    assert "no episodes with the correct instruction; the comparison uses those with the 'empty' one" in all_sentences(only)


def test_tables_by_task_and_variation(make, episode):
    def policy(name, rate):
        rows = [
            episode(i, i % 5 < rate[task], task=task, variation=v, failure=None if i % 5 < rate[task] else "")
            for task in ("lift", "push")
            for v in ("seen", "unseen")
            for i in range(10)
        ]
        return make(name, rows)

    c = compare_records([policy("a", {"lift": 5, "push": 2}), policy("b", {"lift": 3, "push": 2})])
    by = {name: {g.name: (g.rates[0].rate, g.rates[1].rate, g.rates[0].n) for g in groups} for name, groups in c.groups.items()}
    assert by["task"] == {"lift": (1.0, 0.6, 20), "push": (0.4, 0.4, 20)}
    assert by["variation"]["lift / unseen"] == (1.0, 0.6, 10) and len(by["variation"]) == 4
    assert c.groups["task"][0].difference.rate == pytest.approx(0.4)
    assert c.policies[0].failures == {"not classified": 12}
    assert {t.title for t in tables(c)} == {"Policies", "Differences", "Failures", "By task", "By variation", "Settings"}


def test_everything_that_differs_is_shown_and_what_is_equal_is_said_once(make):
    contract = {"execute": 2, "decode": "median", "codec": "uniform", "bins": 256}
    said = {"execute": 2, "protocol": "http", "contract_settings": contract}
    other = {**said, "execute": 8, "contract_settings": {**contract, "codec": "quantile"}, "run": {"hardware": "GPU"}}
    c = compare_records(
        [
            make("a", "110", more=said, versions={"mujoco": "3.3.1"}),
            make("b", "11", more=other, batch=[16], contract="c1" * 32, versions={"mujoco": "3.3.2", "numpy": "2.4"}),
        ]
    )
    assert c.settings.differ == {
        "policy": ["a", "b"],
        "contract": ["c0", "c1" * 32],
        "execute": ["2", "8"],
        "batch": ["4", "16"],
        "hardware": ["not recorded", "GPU"],
        "codec": ["uniform", "quantile"],
        "mujoco": ["3.3.1", "3.3.2"],
        "numpy": ["not recorded", "2.4"],
    }
    assert c.settings.same == {"protocol": "http", "decode": "median", "scenes": "4"}, "the contract's own only where they differ"
    assert "Episodes left out because not every record has them: 1 of a." in all_sentences(c)
    assert "The evaluations differ in execute, batch, hardware, mujoco, numpy: see the settings." in all_sentences(c)
    assert "b was not evaluated as it is exported: 8 actions were executed of each chunk, its contract says 2." in all_sentences(
        c
    )
    (table,) = [t for t in tables(c) if t.title == "Settings"]
    assert ["contract", "c0", "c1c1c1c1c1c1"] in table.rows
    shown = text(c)
    assert shown.endswith("The same for all: protocol http, decode median, scenes 4") and shown.count("median") == 1


def test_equal_conditions_are_not_mentioned(make):
    c = compare_records([make("a", "110"), make("b", "111")])
    assert list(c.settings.differ) == ["policy"] and "The evaluations differ" not in all_sentences(c)


def test_an_earlier_record_says_only_the_option(make):
    for execute, said in ((0, ""), (2, "--execute 2 was given, and the record does not have the contract's")):
        earlier = make("a", "1", more={"execute": execute})
        del earlier.more["scenes"]
        assert compare_records([earlier, make("b", "1")]).policies[0].other_execute == said


def test_alpha_is_a_probability(make):
    for alpha in (0, 1, -0.1, math.nan):
        with pytest.raises(UserError, match="alpha"):
            compare_records([make("a", "1"), make("b", "1")], alpha)
