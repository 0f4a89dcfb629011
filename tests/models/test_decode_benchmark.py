"""The benchmark of decoding, at toy size: the code that is measured on a GPU also runs here, without graphs."""

import importlib.util
import json
from pathlib import Path

import pytest


@pytest.mark.parametrize("structure", ["paligemma-3b", "openvla-7b"])
def test_the_part_for_a_gpu_runs_at_toy_size(structure, monkeypatch, capsys):
    path = Path(__file__).resolve().parents[2] / "benchmarks/decode.py"
    spec = importlib.util.spec_from_file_location("benchmark_decode", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("sys.argv", ["decode.py", "--structure", structure, "--toy", "--rounds", "1"])
    assert module.main() == 0
    report = json.loads(capsys.readouterr().out)
    result = report[structure]
    assert report["toy"] and set(report["bars"]) == {"of the floor", "against generate"} and result["same_ids"]
    assert result["weights"] < 5e6
    # No sign of a time: at this size a difference of two times may be negative on a busy machine.
    assert all(isinstance(value, float) for value in (result["floor_ms"], result["int8"]["token_ms"]))
