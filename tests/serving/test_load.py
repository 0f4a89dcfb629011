"""The benchmark's mixed load in its short form: clients of all protocols, and rubbish between them."""

import asyncio
import importlib.util
from pathlib import Path


def test_under_a_mixed_load_every_request_gets_its_own_answer():
    path = Path(__file__).resolve().parents[2] / "benchmarks/serve.py"
    spec = importlib.util.spec_from_file_location("benchmark_serve", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    with benchmark.stand_in(0.002, 0.0002, 16) as (address, process):
        found = asyncio.run(benchmark.load(address, process, 8.0))
    assert found["answers"] > 100 and found["rubbish refused"] > 5, found
    assert found["wrong"] == found["lost"] == 0 and found["growth (MiB)"] < 60, found
