"""A stranger's robot, from a LeRobot data set to a policy that is judged and called, by README's commands alone.

The data are 50 demonstrations of the tabletop's robot under foreign names, in LeRobot's own layout, made beforehand (2 minutes,
not counted). Then the same evaluation judges a policy that was not trained, and one that was trained on a copy whose gripper says
the opposite.

`--record` measures all of it and writes benchmarks/results/own_robot.json; otherwise the record is compared with the bars, and
the commands are repeated with few steps. Prints one JSON object.
"""

import argparse
import json
import re
import tempfile
from pathlib import Path

from own.commands import Commands
from own.foreign import CARD, write_foreign

from vla.report.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
DEMONSTRATIONS = ROOT / "runs/own_robot/demonstrations"
MINUTES = 12
FLIPPED, SHORT = 300, 20
"""Steps of the training on flipped data, and of every training of the short form."""
RESULTS = ROOT / "benchmarks/results/own_robot.json"
FIT = ("fit", "-c", "configs/own.yaml")
EVALUATE = ("evaluate", "runs/own/export")
HANDS = {
    "before": [
        "vla data inspect SOURCE",
        "vla data preview SOURCE page --card CARD",
        "vla data convert SOURCE data/own --card CARD",
        "vla data verify data/own",
        "vla fit -c configs/own.yaml",
        "vla validate -c configs/own.yaml --ckpt_path last",
        "vla predict -c configs/own.yaml --ckpt_path last",
        "vla serve runs/own/export",
    ],
    "now": [
        "vla data card SOURCE --out card.yaml",
        "vla data convert SOURCE data/own --card CARD",
        "vla fit -c configs/own.yaml",
        "vla serve runs/own/export",
    ],
}
"""What a stranger types to a first policy, as README and docs/data.md say: before there was `vla evaluate`, whose numbers took
`validate` and `predict`, and now that `vla fit` ends with it."""


def path(folder: Path, steps: int) -> tuple[dict[str, float], str, str]:
    """The whole path; returns the seconds of each command, what the evaluation and what the client printed."""
    commands = Commands(folder)
    commands.vla("data", "card", "bench_arm", "--out", "begun.yaml")
    # As a person fills it in.
    (folder / "card.yaml").write_text(CARD)
    commands.vla("data", "convert", "bench_arm", "data/own", "--card", "card.yaml", "--size", "64")
    commands.vla(*FIT, *of(steps))
    printed = commands.vla(*EVALUATE, "data/own", "--out", "runs/own/evaluation")
    called = commands.serve_and_call("runs/own/export", "Pick up: red cube")
    return commands.seconds, printed, called


def untrained(folder: Path) -> str:
    """What the evaluation says of a policy with one step of training."""
    commands = Commands(folder / "untrained")
    (folder / "untrained/data").symlink_to(folder / "data")
    commands.vla(*FIT, *of(1), "--evaluate=0")
    return commands.vla(*EVALUATE, "data/own")


def flipped(folder: Path, steps: int) -> str:
    """What the evaluation on the right data says of a policy that was trained on a flipped gripper."""
    commands = Commands(folder / "flipped")
    commands.vla("data", "convert", "bench_arm", "data/own", "--card", "../card.yaml", "--size", "64")
    commands.vla(*FIT, *of(steps), "--evaluate=0")
    return commands.vla(*EVALUATE, "../data/own", "--out", "evaluation")


def of(steps: int) -> tuple[str, ...]:
    """The setting of a training of so many steps; 0 leaves the recipe's."""
    return (f"--trainer.max_steps={steps}",) if steps else ()


def bars_of(minutes: float, printed: dict[str, str], called: str) -> dict[str, dict]:
    """Returns the bars.

    Args:
        minutes: of the path.
        printed: policy (trained, untrained, flipped) -> what `vla evaluate` printed.
        called: what the client printed.
    """
    # A note may come before it.
    first = {name: "".join(re.findall(r"^The policy .*$", text, re.MULTILINE)[:1]) for name, text in printed.items()}
    beats = {name: line.startswith("The policy beats all three baselines") for name, line in first.items()}
    counts = {name: len(lines) for name, lines in HANDS.items()}
    truths = {
        "trained policy beats the baselines": beats["trained"],
        "untrained policy does not": not beats["untrained"],
        "flipped gripper is named": "In jaw it mostly does the opposite" in first["flipped"],
        "right gripper is not": "jaw" not in first["trained"],
        "client drove 20 steps": "20 actions" in called,
    }
    bars = {name: {"value": truth, "bar": True, "holds": truth} for name, truth in truths.items()}
    bars["minutes"] = {"value": round(minutes, 1), "bar": f"<= {MINUTES}", "holds": minutes <= MINUTES}
    half = counts["before"] / 2
    bars["commands"] = {"value": counts["now"], "bar": f"<= {half:g} of {counts['before']}", "holds": counts["now"] <= half}
    return bars


def measure(demonstrations: Path, folder: Path, steps: int) -> dict:
    """Runs everything in a folder; returns the bars, and how long the commands took and what they printed."""
    for name in ("bench_arm", "flipped/bench_arm"):
        write_foreign(demonstrations, folder / name, flipped=name.startswith("flipped"))
    seconds, trained, called = path(folder, steps)
    # The gripper is learned first, and half the steps are enough for it.
    printed = {"trained": trained, "untrained": untrained(folder), "flipped": flipped(folder, steps or FLIPPED)}
    return {"bars": bars_of(sum(seconds.values()) / 60, printed, called), "seconds": seconds, "printed": printed, **provenance()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demonstrations", type=Path, default=DEMONSTRATIONS, help="of `vla collect`; made if missing")
    parser.add_argument("--record", action="store_true", help="measure, and write the record")
    options = parser.parse_args()
    demonstrations = options.demonstrations.resolve()
    if not (demonstrations / "card.yaml").is_file():
        # Without excursions every episode is whole.
        Commands(ROOT / "runs").vla("collect", "--out", str(demonstrations), "--episodes", "50", "--excursions", "0")
    with tempfile.TemporaryDirectory(prefix="own-robot-") as folder:
        measured = measure(demonstrations, Path(folder), 0 if options.record else SHORT)
    if options.record:
        RESULTS.write_text(json.dumps(measured, indent=1) + "\n")
        recorded, repeated = measured, {}
    else:
        recorded, repeated = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"bars": {}}, measured["seconds"]
    results = {"bars": recorded["bars"], "recorded": recorded, "repeated": repeated, "hands": HANDS, **provenance()}
    print(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
