"""Measures the scripted experts' success on 200 evaluation scenes per task. Prints one JSON object.

`experts.py TASK ...` measures and records; without a task it validates the record and repeats 10 scenes of each task.
"""

import argparse
import json
import sys
from pathlib import Path

from vla.report.intervals import wilson
from vla.report.provenance import provenance
from vla.sim.episodes import Episode
from vla.sim.registry import find_task, task_names
from vla.sim.rollout import Workers, rollout

RESULTS = Path(__file__).resolve().parent / "results" / "experts.json"
BAR, SCENES, SHORT = 0.95, 200, 10
KNOWN = [task for task in task_names() if find_task(task).expert]


def measure(task: str, episodes: int, workers: Workers) -> dict:
    """Returns how often the expert reaches a task's goal (every other scene the swapped goal, if any), and the failures."""
    goals = find_task(task).goals
    todo = [Episode(i, "swapped" if goals > 1 and i % 2 else "correct", task=task) for i in range(episodes)]
    results = rollout(None, todo, workers)
    failures = {f"{r.seed} {r.kind}": r.failure for r in results if not r.success}
    steps = sorted(r.steps for r in results)
    return {
        **wilson(sum(r.success for r in results), episodes).to_dict(),
        "median_steps": steps[len(steps) // 2],
        "failures": failures,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", help="tasks to measure and record")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    for task in options.tasks:
        find_task(task)
    recorded = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    # Before anything is written, which would make the checkout dirty.
    where = {**provenance(), "command": " ".join(["benchmarks/experts.py", *sys.argv[1:]])}
    with Workers(options.workers) as workers:
        where = {**provenance(), "command": "benchmarks/" + " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])}
        for task in options.tasks:
            recorded[task] = {**measure(task, SCENES, workers), **where}
            RESULTS.write_text(json.dumps(recorded, indent=1) + "\n")
        repeated = {} if options.tasks else {task: measure(task, SHORT, workers) for task in recorded}
    results = {task: recorded.get(task, {}) for task in options.tasks or KNOWN}
    bars = {
        f"{task}.expert": {
            "value": one.get("rate"),
            "bar": f">= {BAR}",
            "holds": one.get("n", 0) >= SCENES and one["rate"] >= BAR,
        }
        for task, one in results.items()
    }
    print(json.dumps({"bars": bars, "recorded": results, "repeated": repeated, **where}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
