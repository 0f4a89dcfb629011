"""`vla rl table`: compares policies on the same episodes by success rate, training time and time per step."""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla.errors import UserError
from vla.evaluation.run import BATCH, Evaluation, evaluate, open_policy
from vla.folders import check_writable
from vla.observation import Observation
from vla.policies.base import Policy
from vla.report.compare import compare
from vla.report.comparison import compare_records
from vla.report.intervals import Rate
from vla.report.provenance import provenance
from vla.report.records import load
from vla.report.wording import Table, aligned
from vla.sim.suites import load_suite

FILE = "table.json"
ROUNDS = 10


def table(
    policies: Sequence[str],
    suite: str = "rt2/seen",
    episodes: int = 0,
    out: str = "runs/rl/table",
    batch: int = 0,
    workers: int = 0,
) -> str:
    """Evaluates the policies that are not evaluated yet and compares all of them with the first.

    Args:
        policies: policies as `vla rollout` takes them, e.g. the exports of a co-fine-tuned model and of a head.
        suite: name of a suite, or a .yaml file.
        episodes: scenes per task and variation; 0 takes the suite's number.
        out: folder for an evaluation of each policy, table.json, and the page of `vla compare`.
        batch: rows per call of a local model; 0 takes the default.
        workers: number of worker processes; 0 means one per core.

    Raises:
        UserError: there are fewer than two policies, or `vla.evaluation.run.evaluate` raises it.
    """
    if len(policies) < 2:
        raise UserError(f"number of policies: {len(policies)}", "--policy", "give two or more, each with its own --policy")
    if min(batch, workers) < 0:
        raise UserError(f"batch {batch}, workers {workers}", "rl table", "give at least 0 each; 0 is the default")
    check_writable(out)
    chosen, rows = load_suite(suite, episodes), batch or BATCH
    for policy in policies:
        # The last one is refused now, not after the evaluations of the others.
        open_policy(policy, rows, chosen.tasks)
    folders = [f"{out}/{number}-{_file_name(policy)}" for number, policy in enumerate(policies)]
    for policy, folder in zip(policies, folders, strict=True):
        evaluate(Evaluation(policy, chosen, folder, batch=rows, workers=workers))
    comparison = compare_records([load(folder) for folder in folders])
    # The first pairs are those of the first policy.
    differences: list[Rate | None] = [None, *(pair.difference for pair in comparison.pairs[: len(policies) - 1])]
    results = []
    for policy, one, difference in zip(policies, comparison.policies, differences, strict=True):
        loaded = open_policy(policy, rows, chosen.tasks)
        results.append(
            {
                "policy": policy,
                "success": one.success.to_dict(),
                "first_minus_this": difference and difference.to_dict(),
                "training_seconds": training_seconds(policy),
                "states_kept": states_kept(policy),
                "seconds_per_step": loaded and step_seconds(loaded, rows),
            }
        )
    scenes = {"suite": comparison.suite, "suite_hash": comparison.suite_hash}
    record = {**scenes, "policies": results, "batch": rows, **provenance()}
    (Path(out) / FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return f"{aligned(readable_table(results))}\n\n{compare(*folders, out=out)}"


def readable_table(policies: Sequence[dict[str, Any]]) -> Table:
    """Returns the policies of table.json as a table for display."""
    header = ["policy", "success", "first minus this one", "training time", "time per step"]
    return Table("Policies", "", header, [_row(one) for one in policies])


def training_seconds(policy: str) -> float | None:
    """Returns the training time recorded with an export of `vla rl fit` or `vla demo`; None if there is none."""
    records = (
        (Path(policy) / "rl.json", ("more", "seconds")),
        (Path(policy).parent / "stages.json", ("done", "train", "seconds")),
    )
    for file, keys in records:
        if file.is_file():
            value = json.loads(file.read_text(encoding="utf-8"))
            for key in keys:
                value = value.get(key, {})
            return float(value) if value else None
    return None


def states_kept(policy: str) -> bool | None:
    """Returns whether some of a head's states were in the cache before its training, which shortens it; None if unknown."""
    file = Path(policy) / "rl.json"
    record = json.loads(file.read_text(encoding="utf-8")).get("more", {}) if file.is_file() else {}
    return bool(record["cache"].get("disk")) if "cache" in record else None


def step_seconds(policy: Policy, rows: int) -> float:
    """Measures the median seconds of a call on grey images, per executed action."""
    embodiment = policy.contract.embodiment()
    grey = {c.name: np.full((c.height, c.width, 3), 128, np.uint8) for c in embodiment.cameras}
    state = np.add(embodiment.state.low, embodiment.state.high) / 2
    names = [f"cost/{row}" for row in range(rows)]
    observations = [Observation(name, grey, state, "lift the red cube") for name in names]
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        policy.act(observations)
        times.append(time.perf_counter() - began)
        policy.reset(names)
    return statistics.median(times) / rows / policy.contract.execute


def _row(one: dict[str, Any]) -> list[str]:
    lead, trained, step = one["first_minus_this"], one["training_seconds"], one["seconds_per_step"]
    return [
        one["policy"],
        str(Rate(**one["success"])),
        "–" if lead is None else f"{100 * lead['rate']:+.0f} points ({100 * lead['low']:+.0f} to {100 * lead['high']:+.0f})",
        "–" if trained is None else f"{trained / 60:.1f} min{', states cached before' * bool(one.get('states_kept'))}",
        "–" if step is None else f"{1000 * step:.1f} ms",
    ]


def _file_name(policy: str) -> str:
    return re.sub("[^A-Za-z0-9]+", "-", policy).strip("-")[-40:]
