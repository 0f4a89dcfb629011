"""Does the decoded error of `vla evaluate` rank policies as their success does? Teacher-forced errors stand beside it.

`offline_ranking.py --cell NAME --policy CHECKPOINT [--decode mode] [--trained NOTE]` measures a policy of the tabletop on fresh
demonstrations, which it collects if they are missing, and in fresh scenes, and writes its record to
benchmarks/results/offline_ranking/NAME.json; run again, it resumes. Six cells of different quality come from one training: keep
its checkpoints (`vla.training.saving.Checkpoints` with `every: 90`, `keep: 10`), and measure those at 10, 20, 40, 70 and 100 %
of the steps, and the last one decoded by another statistic. Without --cell the recorded cells are merged and compared with the
bar, and a short form is repeated with runs/demo/export (run `make demo` first). Prints one JSON object.
"""

import argparse
import dataclasses
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from scipy.stats import spearmanr

import vla
from vla.evaluation.run import Evaluation, evaluate
from vla.report.provenance import provenance
from vla.sim.suites import load_suite
from vla.training.export import export

ROOT = Path(__file__).resolve().parents[1]
EXPORT, DATA = ROOT / "runs/demo/export", ROOT / "runs/demo/data/robot"
CELLS, RUNS = ROOT / "benchmarks/results/offline_ranking", ROOT / "runs/offline_ranking"
CONFIG = "configs/demo.yaml"
FRESH, SEED = 100, 1001
"""Demonstrations that no policy was trained on, and their seed. Four in five are replayed; the others give the baselines."""
POLICIES, RANK = 6, 0.8
"""The number of policies, and the bar of the rank correlation."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a policy is measured on.

    Attributes:
        data: robot data of the policy's training, for `vla validate`.
        config: the recipe of the training.
        episodes: scenes of rt2/seen.
        fresh: number of fresh demonstrations that are replayed; 0 is all.
        more: further arguments of `vla validate`.
    """

    data: Path = DATA
    config: str = CONFIG
    episodes: int = 120
    fresh: int = 0
    more: tuple[str, ...] = ()


def measure(policy: Path, setting: Setting, out: Path) -> dict:
    """Returns decoded error and teacher-forced error in half ranges, and success, of an export."""
    demonstrations = vla.open_dataset(fresh_demonstrations(), holdout=0.8)
    offline = vla.evaluate_offline(vla.load_policy(policy, batch=16), str(policy), demonstrations, setting.fresh)
    offline.record.save(out / "evaluation")
    forced = teacher_forced(policy, setting, out)
    suite = dataclasses.replace(load_suite("rt2/seen", setting.episodes), kinds=("correct",))
    done = evaluate(Evaluation(str(policy), suite, str(out / "rollout"))).episodes
    return {
        "decoded_error": offline.record.summary["error"]["policy"],
        "baselines": {name: rate["rate"] for name, rate in offline.record.summary["error"].items() if name != "policy"},
        "teacher_forced_error": forced,
        "success": sum(e.success for e in done) / len(done),
        "episodes": len(done),
    }


def fresh_demonstrations() -> Path:
    """The folder of the fresh demonstrations, which are collected if it is not there."""
    folder = RUNS / "demonstrations"
    if not (folder / "card.yaml").is_file():
        options = ["--out", str(folder), "--task", "lift", "--episodes", str(FRESH), "--seed", str(SEED)]
        subprocess.run([sys.executable, "-m", "vla", "collect", *options], check=True, cwd=ROOT, stdout=sys.stderr)
    return folder


def teacher_forced(policy: Path, setting: Setting, out: Path) -> float:
    """Runs `vla validate` on an export; returns its error of actions, each of whose tokens is predicted after the true ones."""
    line = [sys.executable, "-m", "vla", "validate", "-c", setting.config, f"--model.vlm={policy}", f"--contract.source={policy}"]
    line += [f"--data.sources.robot.init_args.folder={setting.data}", f"--trainer.default_root_dir={out}/validation"]
    line += ["--trainer.logger=false", "--trainer.callbacks=null", *setting.more]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    found = re.search(r"action_l1\W+([\d.e-]+)", done.stdout)
    if done.returncode or not found:
        raise SystemExit(f"vla validate: exit code {done.returncode}, no action_l1 in\n{done.stdout}")
    return float(found[1])


def ranks(cells: dict[str, dict]) -> dict[str, float | None]:
    """Returns Spearman's correlation of each error, small first, with success; None for fewer than three policies."""
    success = [cell["success"] for cell in cells.values()]
    if len(cells) < 3 or len(set(success)) < 2:
        return {"decoded": None, "teacher_forced": None}
    errors = {
        "decoded": [cell["decoded_error"]["rate"] for cell in cells.values()],
        "teacher_forced": [cell["teacher_forced_error"] for cell in cells.values()],
    }
    return {name: round(float(spearmanr([-e for e in each], success).statistic), 3) for name, each in errors.items()}


def bars_of(cells: dict[str, dict]) -> dict[str, dict]:
    """Returns the bars over the recorded cells."""
    rank = ranks(cells)["decoded"]
    return {
        "policies": {"value": len(cells), "bar": f">= {POLICIES}", "holds": len(cells) >= POLICIES},
        "decoded error ranks as success": {"value": rank, "bar": f">= {RANK}", "holds": rank is not None and rank >= RANK},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cell", default="", help="name of the cell to measure")
    parser.add_argument("--policy", type=Path, default=EXPORT, help="a checkpoint or an export")
    parser.add_argument("--decode", choices=["mode", "median", "local-mean"], default="", help="another statistic")
    parser.add_argument("--trained", default="", help="a note: how it was trained")
    parser.add_argument("--data", type=Path, default=DATA, help="the robot data of its training")
    parser.add_argument("--config", default=CONFIG, help="the recipe of its training")
    parser.add_argument("--episodes", type=int, default=120, help="scenes of rt2/seen")
    options = parser.parse_args()
    if not options.policy.exists():
        print(f"no {options.policy}: run make demo, or give --policy", file=sys.stderr)
        return 2
    setting = Setting(options.data.resolve(), options.config, options.episodes)
    if options.cell:
        out, policy = RUNS / options.cell, options.policy.resolve()
        if policy.is_file() or options.decode:
            print(export(str(policy), str(out / "export"), decode=options.decode), file=sys.stderr)
            policy = out / "export"
        cell = {"trained": options.trained, **measure(policy, setting, out), **provenance()}
        CELLS.mkdir(parents=True, exist_ok=True)
        (CELLS / f"{options.cell}.json").write_text(json.dumps(cell, indent=1) + "\n")
        print(json.dumps(cell, indent=1))
        return 0
    cells = {path.stem: json.loads(path.read_text()) for path in sorted(CELLS.glob("*.json"))}
    with tempfile.TemporaryDirectory() as folder:
        repeated = measure(options.policy.resolve(), dataclasses.replace(setting, episodes=10, fresh=4), Path(folder))
    shown = {n: {k: cell[k] for k in ("decoded_error", "teacher_forced_error", "success")} for n, cell in cells.items()}
    results = {"bars": bars_of(cells), "ranks": ranks(cells), "cells": shown, "repeated": repeated, **provenance()}
    print(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
