"""`vla collect`."""

from __future__ import annotations

from vla.sim.collect import collect_with_progress
from vla.sim.collect_options import Collect


def collect(options: Collect) -> str:
    """Records demonstrations of a scripted expert, or images with questions, as webdataset shards with a card."""
    counts = collect_with_progress(options)
    return f"{options.out}: " + ", ".join(f"{value} {name}" for name, value in counts.items())
