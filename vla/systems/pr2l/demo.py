"""`vla demo-pr2l`: a short comparison of `vla demo`'s co-fine-tuned model with a head on a frozen model's prompted states."""

from __future__ import annotations

import json
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from vla.demo.folder import locked
from vla.demo.processes import Interrupted, interruptible
from vla.demo.report import program
from vla.demo.stages import Stages
from vla.errors import UserError
from vla.report.html import data_address, facts, write_page
from vla.report.intervals import Rate
from vla.report.plots import curves, read_metrics
from vla.report.provenance import Memory, provenance
from vla.report.wording import Table, points, rate, span

CONDITIONS = {
    "task": [],
    "irrelevant": ["prompts/tabletop/irrelevant"],
    "image encoder": ["conditions/image-encoder"],
}
"""Name -> overlays of `BASE`; the first one's head is compared with the co-fine-tuned model."""
BASE = ["tabletop", "learners/bc"]
CURVE = "val/action_l1"
POINTS = 10
"""Number of points of a learning curve."""


def demo_pr2l(
    out: str = "runs/demo-pr2l",
    demo: str = "runs/demo",
    scenes: int = 40,
    steps: int = 1500,
    fresh: bool = False,
) -> int:
    """Compares a head on a frozen, prompted model with the policy of `vla demo`. Run again, it resumes.

    Both learn from the same demonstrations and act in the same scenes. The folder gets report.html and report.json.

    Args:
        out: folder of the run.
        demo: folder of `vla demo`; its demonstrations and its policy are used.
        scenes: number of scenes not seen in training, each with the correct and with the swapped instruction.
        steps: training steps of each head.
        fresh: start over.
    """
    if min(scenes, steps) < 1:
        raise UserError(f"{scenes} scenes and {steps} steps", "demo-pr2l", "give positive numbers")
    missing = [part for part in ("export/contract.json", "data/robot/card.yaml") if not (Path(demo) / part).is_file()]
    if missing:
        raise UserError(f"no {missing[0]}", demo, f"first run {program()} demo --out {demo} (half an hour on two cores)")
    try:
        with interruptible(), locked(Path(out), fresh):
            memory = Memory()
            memory.start()
            stages = Stages(Path(out), {"demo": demo, "scenes": scenes, "steps": steps}, memory)
            if stages.changed:
                raise UserError("the folder holds a run with other options", out, "add --fresh, or choose another --out")
            _report(Path(out), _run(stages, Path(out), Path(demo), scenes, steps))
            memory.stop()
    except Interrupted as signal:
        print(f"\n{signal}: interrupted. To resume, run the same command without --fresh", file=sys.stderr)
        return 128 + signal.number
    return 0


def _run(stages: Stages, out: Path, demo: Path, scenes: int, steps: int) -> dict[str, dict[str, Any]]:
    text = f"training a head for {steps} steps"
    heads = {name: stages.run(name, text, lambda name=name: _train(out, demo, name, steps)) for name in CONDITIONS}
    text = f"both policies in {scenes} scenes, each with two instructions"
    return {**heads, "table": stages.run("table", text, lambda: _table(out, demo, scenes))}


def _train(out: Path, demo: Path, name: str, steps: int) -> dict[str, Any]:
    from vla.rl.runs.compose import read_options
    from vla.rl.runs.runner import fit

    folder, configs = _folder(out, name), resources.files("vla.configs") / "rl"
    files = [part for file in (*BASE, *CONDITIONS[name]) for part in ("-c", str(configs / f"{file}.yaml"))]
    budget = [f"--budget.steps={steps}", f"--budget.checkpoint={max(steps // POINTS, 1)}"]
    folders = [f"--out={folder}", f"--learner.data={demo / 'data/robot'}", f"--condition={name}"]
    # No folder for the cache: no other run needs these states.
    options = read_options([*files, *budget, *folders, "--observation.cache.folder="])
    summary = fit(options).summary
    prompt = options.observation.saved()["prompt"]
    return {"said": summary.partition(", ")[2], "prompt": prompt, "curve": read_metrics(folder / "logs")[CURVE]}


def _folder(out: Path, name: str) -> Path:
    return out / "heads" / name.replace(" ", "-")


def _table(out: Path, demo: Path, scenes: int) -> dict[str, Any]:
    from vla.systems.pr2l.table import FILE, table

    suite = out / "suite.yaml"
    content = {"tasks": ["lift"], "episodes": scenes, "horizon": 80, "kinds": ["correct", "swapped"], "variations": {"seen": {}}}
    suite.write_text(yaml.safe_dump(content))
    table([str(demo / "export"), str(_folder(out, "task") / "export")], str(suite), out=str(out / "table"))
    policies = json.loads((out / "table" / FILE).read_text())["policies"]
    return {"said": "; ".join(str(Rate(**one["success"])) for one in policies), "policies": policies}


def _report(out: Path, stages: dict[str, dict[str, Any]]) -> None:
    """Writes report.json and report.html, and prints the result."""
    from vla.systems.pr2l.table import readable_table

    whole, head = stages["table"]["policies"]
    names = ["co-fine-tuned model", "head on prompted states"]
    table = readable_table([{**one, "policy": name} for one, name in zip((whole, head), names, strict=True)])
    heads = {name: stage for name, stage in stages.items() if "curve" in stage}
    rows = [
        [name, one["prompt"] or "–", f"{one['curve'][0][-1]:.0f}", f"{one['curve'][1][-1]:.3f}", f"{one['seconds'] / 60:.1f} min"]
        for name, one in heads.items()
    ]
    header = ["condition", "prompt", "steps", "held-out error", "time"]
    note = "Held-out error: mean absolute error of the actions on held-out episodes, as a share of their limits."
    conditions = Table("Heads", note, header, rows)
    difference, origin = Rate(**head["first_minus_this"]), provenance()
    successes = ", ".join(f"{name} {rate(Rate(**one['success']))}" for name, one in zip(names, (whole, head), strict=True))
    margin = f"the first minus the second: {points(difference)} points (95 % interval {span(difference)})"
    sentences = [
        f"Success in the same {difference.n} scenes: {successes}; {margin}.",
        "Both learned from the same demonstrations and started from tiny, which was pre-trained on this simulator's questions.",
        "This is a short version of the comparison, with one seed and few scenes; docs/pr2l.md describes the full one.",
    ]
    lines = {name: one["curve"] for name, one in heads.items()}
    charts = curves(lines, {"Learning curves: held-out error of the actions": ("*",)})
    page = write_page(
        out / "report.html",
        "learning.html",
        title="Co-fine-tuning against promptable representations",
        headline=_headline(difference, names),
        sentences=sentences,
        charts={title: data_address("image/svg+xml", svg.encode()) for title, svg in charts.items()},
        tables=[table, conditions],
        facts=facts(origin),
    )
    content = {"policies": stages["table"]["policies"], "heads": heads, **origin}
    (out / "report.json").write_text(json.dumps(content, indent=1) + "\n")
    print("\n".join([*sentences, f"Report: {page}"]))


def _headline(difference: Rate, names: list[str]) -> str:
    if difference.low <= 0 <= difference.high:
        return f"{difference.n} scenes do not separate the {names[0]} and the {names[1]}"
    first, second = names if difference.low > 0 else names[::-1]
    return f"The {first} is better than the {second}"
