"""The benchmark of one policy for four tasks: how cells are merged, and what of an episode a cell keeps."""

import importlib.util
import json
from pathlib import Path

import pytest

from vla.report.records import EpisodeRecord, Record
from vla.sim.suites import load_suite


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).resolve().parents[2] / "benchmarks/tabletop.py"
    spec = importlib.util.spec_from_file_location("benchmark_tabletop", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def episode(task, seed, kind, success, others=()):
    more = {"other_tasks": list(others)}
    return EpisodeRecord(task, "every task", seed, kind, "", "s", success, 9, "" if success else "timeout", more)


def test_cells_are_pooled_by_task_and_compared_with_the_bars(benchmark, tmp_path, monkeypatch, capsys):
    def record(good):
        # Of every ten episodes `good` succeed; one fails by pushing.
        episodes = [
            episode(task, seed, kind, seed % 10 < good, ["lift: a", "push: a to the left"] if seed % 10 == 9 else ())
            for task in load_suite(benchmark.SUITE).tasks
            for kind in ("correct", "swapped")
            for seed in range(40)
        ]
        return Record(benchmark.SUITE, "h", "p", "c", [2], {}, episodes)

    for name, good, minutes in (("seed0", 6, 51.0), ("seed1", 8, 52.0)):
        cell = {"outcomes": benchmark.measured(record(good)), "training_minutes": minutes}
        (tmp_path / f"{name}.json").write_text(json.dumps({**cell, "suite_hash": load_suite(benchmark.SUITE).hash}))
    assert benchmark.measured(record(6))["put"]["correct"]["done"] == {"put": 24, "timeout": 12, "push": 4}
    monkeypatch.setattr(benchmark, "CELLS", tmp_path)
    monkeypatch.setattr(benchmark, "RUNS", tmp_path)
    monkeypatch.setattr("sys.argv", ["tabletop.py"])
    assert benchmark.main() == 0
    report = json.loads(capsys.readouterr().out)
    assert {name: (one["value"], one["holds"]) for name, one in report["bars"].items()} == {
        "success, mean over tasks": (pytest.approx(0.7), True),
        "wrong task": (pytest.approx(0.1), True),
        "minutes of training": (52.0, True),
        "scenes per task": (40, True),
    }
    assert report["measured"]["swapped"]["stack"]["success"]["n"] == 80 and report["repeated"] == {}


def test_without_a_cell_no_bar_holds(benchmark, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "CELLS", tmp_path)
    monkeypatch.setattr(benchmark, "RUNS", tmp_path)
    monkeypatch.setattr("sys.argv", ["tabletop.py"])
    assert benchmark.main() == 0
    assert not any(one["holds"] for one in json.loads(capsys.readouterr().out)["bars"].values())
