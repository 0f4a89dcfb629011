"""The command `vla demo`."""

from __future__ import annotations

import dataclasses
import inspect
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Literal

import psutil

from vla.demo.expected import expected_seconds, expected_text
from vla.demo.folder import locked
from vla.demo.job import Job
from vla.demo.processes import Interrupted, interruptible
from vla.demo.recipe import SMOKE, Amounts, configurations, relocated
from vla.demo.report import finish, program, read_report, summarise
from vla.demo.stages import Stages
from vla.doctor import DISK_GB
from vla.errors import UserError
from vla.report.bars import RECORDED
from vla.report.provenance import Memory


def demo(
    out: str = "runs/demo",
    episodes: int = 40,
    smoke: bool = False,
    fresh: bool = False,
    from_scratch: bool = False,
    seed: int = 0,
    precision: Literal["", "32-true", "bf16-mixed", "bf16-true"] = "",
    beside: str = "",
) -> int:
    """Collects, trains, corrects, rolls out, serves and reports. Run again, it resumes after the last finished stage.

    Args:
        out: folder of the run; it gets report.html and report.json.
        episodes: evaluation episodes with the correct instruction; half as many name the other object, a quarter have none.
        smoke: run the same stages on very little data, to check that they work.
        fresh: start over.
        from_scratch: train from random weights instead of the pre-trained `tiny`.
        seed: seed of the training; the data stay the same.
        precision: precision of the training, e.g. 32-true; the machine's fastest if it is not given.
        beside: folder of another demo, e.g. one from scratch; the report shows both, side by side.
    """
    options = {"smoke": smoke, "from_scratch": from_scratch, "seed": seed, "precision": precision}
    resume = _resume_command(out=out, episodes=episodes, **options, beside=beside)
    other = read_report(beside) if beside else None
    if episodes < 1:
        raise UserError(f"{episodes} episodes", "demo", "give at least 1")
    amounts = SMOKE if smoke else Amounts(episodes=episodes)
    recorded = amounts.episodes >= RECORDED
    try:
        with interruptible(), locked(Path(out), fresh) as lock:
            _run(Path(out), configurations(smoke, from_scratch, seed, precision), amounts, recorded, other, lock)
    except Interrupted as signal:
        print(f"\n{signal}: the demo was interrupted. To resume it, run: {resume}", file=sys.stderr)
        return 128 + signal.number
    return 0


def _resume_command(**options: str | int) -> str:
    """Returns the command that resumes a run: the user's own, without --fresh."""
    parameters = inspect.signature(demo).parameters
    chosen = {n.replace("_", "-"): value for n, value in options.items() if n == "out" or value != parameters[n].default}
    words = [word for name, value in chosen.items() for word in ([f"--{name}"] if value is True else [f"--{name}", str(value)])]
    return f"{program()} demo {shlex.join(words)}"


def _run(
    folder: Path, configs: list[dict[str, Any]], amounts: Amounts, recorded: bool, other: dict[str, Any] | None, lock: int
) -> None:
    free = shutil.disk_usage(folder).free / 2**30
    if free < DISK_GB:
        raise UserError(f"only {free:.1f} GiB of disk space is free", str(folder), f"the demo needs {DISK_GB:.0f} GiB")
    memory = Memory()
    # Collecting and training do not depend on the number of evaluation episodes.
    stages = Stages(folder, {"configs": configs, **dataclasses.asdict(dataclasses.replace(amounts, episodes=0))}, memory)
    if stages.changed:
        raise UserError(
            "the folder holds a demo with other options, or from another version",
            str(folder),
            "add --fresh to start over, or choose another --out",
        )
    job = Job(folder, [relocated(config, folder) for config in configs], amounts, recorded, stages, lock)
    print(expected_text(expected_seconds(configs, amounts.episodes, job.trained), *job.progress()), flush=True)
    memory.start()
    results = job.run()
    memory.stop()
    report = summarise(results, configs[0]["model"]["vlm"])
    # The life of this process so far, and the stages of earlier ones.
    own = {name.partition("-")[0] for name in stages.now}
    seconds = time.time() - psutil.Process().create_time()
    report["seconds"]["total"] = round(seconds + sum(one["seconds"] for name, one in results.items() if name not in own), 1)
    finish(folder, report, results, other)
