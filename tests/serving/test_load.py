"""A short run of the benchmark's mixed load: clients of all protocols, and malformed messages between them."""

import asyncio
import importlib.util
from pathlib import Path


def test_under_a_mixed_load_every_request_gets_its_own_answer():
    path = Path(__file__).resolve().parents[2] / "benchmarks/serve.py"
    spec = importlib.util.spec_from_file_location("benchmark_serve", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    with benchmark.stand_in(0.002, 0.0002, 16) as (address, process):
        counts = asyncio.run(benchmark.load(address, process, 4.0))
    assert counts["answers"] > 50 and counts["rubbish refused"] > 2, counts
    assert counts["wrong"] == counts["lost"] == 0 and counts["growth (MiB)"] < 60, counts
