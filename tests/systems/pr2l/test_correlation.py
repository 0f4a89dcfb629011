import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("minigrid")

from vla.systems.pr2l.correlation import correlations


def test_scores_are_ranked_against_areas():
    probes = [
        {"condition": c, "answer": a, "present": {"all": p}, "place": {}}
        for c, a, p in zip("abcd", (1, 2, 3, 4), (4, 3, 2, 1), strict=True)
    ]
    result = correlations(probes, {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.9, "e": 1.0})
    assert set(result) == {"answer", "present, all"} and result["answer"]["n"] == 4
    assert (result["answer"]["rank_correlation"], result["present, all"]["rank_correlation"]) == (
        pytest.approx(1),
        pytest.approx(-1),
    )
    assert correlations(probes[:3], {"a": 0.1, "b": 0.2, "c": 0.3}) == {}
