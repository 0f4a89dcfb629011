"""The benchmark of decoding, at toy size: what a GPU is measured with runs here too, without graphs."""

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
    said = json.loads(capsys.readouterr().out)
    found = said[structure]
    assert said["toy"] and set(said["bars"]) == {"of the floor", "against generate"} and found["same_ids"]
    assert found["weights"] < 5e6 and found["floor_ms"] > 0 and found["int8"]["token_ms"] > 0
