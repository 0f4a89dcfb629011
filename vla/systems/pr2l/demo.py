"""`vla demo-pr2l`: the co-fine-tuned model of `vla demo` against a head on a frozen model's prompted states, in short."""

from __future__ import annotations

import json
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from vla.demo.folder import held
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
"""Of a learning curve."""


def demo_pr2l(
    out: str = "runs/demo-pr2l",
    demo: str = "runs/demo",
    scenes: int = 40,
    steps: int = 1500,
    fresh: bool = False,
) -> int:
    """Compares a head on a frozen, prompted model with the policy of `vla demo`. Run it again to resume.

    Both learn from the same demonstrations and act in the same scenes. The folder gets report.html and report.json.

    Args:
        out: folder of the run.
        demo: folder of `vla demo` with the demonstrations and the policy to use.
        scenes: number of held-out scenes, each with the correct instruction and with that of another object.
        steps: training steps of each head.
        fresh: start over.
    """
    if min(scenes, steps) < 1:
        raise UserError(f"{scenes} scenes, {steps} steps", "demo-pr2l", "give positive numbers")
    missing = [part for part in ("export/contract.json", "data/robot/card.yaml") if not (Path(demo) / part).is_file()]
    if missing:
        raise UserError(f"no {missing[0]}", demo, f"make it first: {program()} demo --out {demo} (25 minutes on two cores)")
    try:
        with interruptible(), held(Path(out), fresh):
            memory = Memory()
            memory.start()
            stages = Stages(Path(out), {"demo": demo, "scenes": scenes, "steps": steps}, memory)
            if stages.changed:
                raise UserError("the folder holds a run with other options", out, "add --fresh, or choose another --out")
            _report(Path(out), _run(stages, Path(out), Path(demo), scenes, steps))
            memory.stop()
    except Interrupted as signal:
        print(f"\n{signal}: it has ended; the same command, without --fresh, goes on where it was", file=sys.stderr)
        return 128 + signal.number
    return 0


def _run(stages: Stages, out: Path, demo: Path, scenes: int, steps: int) -> dict[str, dict[str, Any]]:
    text = f"a head learns for {steps} steps"
    done = {name: stages.run(name, text, lambda name=name: _train(out, demo, name, steps)) for name in CONDITIONS}
    text = f"both policies in {scenes} scenes, each with two instructions"
    return {**done, "table": stages.run("table", text, lambda: _table(out, demo, scenes))}


def _train(out: Path, demo: Path, name: str, steps: int) -> dict[str, Any]:
    from vla.rl.runs.compose import read_options
    from vla.rl.runs.runner import fit

    folder, configs = _folder(out, name), resources.files("vla.configs") / "rl"
    files = [part for file in (*BASE, *CONDITIONS[name]) for part in ("-c", str(configs / f"{file}.yaml"))]
    budget = [f"--budget.steps={steps}", f"--budget.checkpoint={max(steps // POINTS, 1)}"]
    folders = [f"--out={folder}", f"--learner.data={demo / 'data/robot'}", f"--condition={name}"]
    # In memory alone: no other run asks for these states.
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


def _report(out: Path, done: dict[str, dict[str, Any]]) -> None:
    """report.json, report.html and the last lines on the terminal."""
    from vla.systems.pr2l.table import shown

    whole, head = done["table"]["policies"]
    names = ["co-fine-tuned model", "head on prompted states"]
    table = shown([{**one, "policy": name} for one, name in zip((whole, head), names, strict=True)])
    heads = {name: stage for name, stage in done.items() if "curve" in stage}
    rows = [
        [name, one["prompt"] or "–", f"{one['curve'][0][-1]:.0f}", f"{one['curve'][1][-1]:.3f}", f"{one['seconds'] / 60:.1f} min"]
        for name, one in heads.items()
    ]
    header = ["condition", "prompt", "steps", "held-out difference", "took"]
    conditions = Table("Heads", "Mean difference of the actions, as a share of their limits, on held-out episodes.", header, rows)
    apart, made = Rate(**head["first_minus_this"]), provenance()
    won = ", ".join(f"{name} {rate(Rate(**one['success']))}" for name, one in zip(names, (whole, head), strict=True))
    less = f"the first minus the second {points(apart)} points (95 % interval {span(apart)})"
    sentences = [
        f"Success in the same {apart.n} scenes: {won}; {less}.",
        "Both learned from the same demonstrations and begin with tiny, pre-trained on this simulator's own questions.",
        "One seed and few scenes: a short form of the comparison. docs/pr2l.md says how the long one is made.",
    ]
    lines = {name: one["curve"] for name, one in heads.items()}
    charts = curves(lines, {"Learning curves: held-out difference of actions": ("*",)})
    page = write_page(
        out / "report.html",
        "learning.html",
        title="Co-fine-tuning against promptable representations",
        headline=_headline(apart, names),
        sentences=sentences,
        charts={title: data_address("image/svg+xml", svg.encode()) for title, svg in charts.items()},
        tables=[table, conditions],
        facts=facts(made),
    )
    (out / "report.json").write_text(json.dumps({"policies": done["table"]["policies"], "heads": heads, **made}, indent=1) + "\n")
    print("\n".join([*sentences, f"Report: {page}"]))


def _headline(apart: Rate, names: list[str]) -> str:
    if apart.low <= 0 <= apart.high:
        return f"{apart.n} scenes do not separate the {names[0]} and the {names[1]}"
    first, second = names if apart.low > 0 else names[::-1]
    return f"The {first} is better than the {second}"
