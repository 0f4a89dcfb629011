"""The command: which folder, what for how long, and how it ended."""

from __future__ import annotations

import dataclasses
import inspect
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from vla.demo.expected import expected_seconds, said
from vla.demo.folder import held
from vla.demo.job import Job
from vla.demo.processes import Interrupted, interruptible
from vla.demo.recipe import SMOKE, Amounts, configuration, moved
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
    beside: str = "",
) -> int:
    """Collects, trains, rolls out, exports, serves and reports. Run it again to resume after the last finished stage.

    Args:
        out: folder of the run, with report.html and report.json.
        episodes: evaluation episodes with the correct instruction; half as many name another object, a quarter have none.
        smoke: run all stages on a small scale, as a test.
        fresh: start over.
        from_scratch: start training from random weights instead of the pre-trained `tiny`.
        beside: folder of another demo, e.g. one from scratch, to show beside this one in the report.
    """
    again = _again(out=out, episodes=episodes, smoke=smoke, from_scratch=from_scratch, beside=beside)
    other = read_report(beside) if beside else None
    if episodes < 1:
        raise UserError(f"{episodes} episodes", "demo", "ask for at least 1")
    amounts = SMOKE if smoke else Amounts(episodes=episodes)
    recorded = amounts.episodes >= RECORDED
    try:
        with interruptible(), held(Path(out), fresh) as lock:
            _run(Path(out), configuration(smoke, from_scratch), amounts, recorded, other, lock)
    except Interrupted as signal:
        print(f"\n{signal}: the demo has ended. To go on where it was: {again}", file=sys.stderr)
        return 128 + signal.number
    return 0


def _again(**options: Any) -> str:
    """The command that goes on with a run: as it was called, but never with --fresh."""
    known = inspect.signature(demo).parameters
    chosen = {name.replace("_", "-"): value for name, value in options.items() if name == "out" or value != known[name].default}
    words = [word for name, value in chosen.items() for word in ([f"--{name}"] if value is True else [f"--{name}", str(value)])]
    return f"{program()} demo {shlex.join(words)}"


def _run(folder: Path, config: dict[str, Any], amounts: Amounts, recorded: bool, other: dict[str, Any] | None, lock: int) -> None:
    free = shutil.disk_usage(folder).free / 2**30
    if free < DISK_GB:
        raise UserError(f"only {free:.1f} GiB of disk are free", str(folder), f"the demo needs {DISK_GB:.0f} GiB")
    memory = Memory()
    # The number of evaluation episodes does not touch what was collected and trained.
    stages = Stages(folder, {"config": config, **dataclasses.asdict(dataclasses.replace(amounts, episodes=0))}, memory)
    if stages.changed:
        raise UserError(
            "the folder holds a demo with other options, or of another version",
            str(folder),
            "add --fresh to start over, or choose another --out",
        )
    job = Job(folder, moved(config, folder), amounts, recorded, stages, lock)
    print(said(expected_seconds(config, amounts.episodes, job.trained), *job.progress()), flush=True)
    memory.start()
    done = job.run()
    memory.stop()
    report = summarise(done, config["model"]["vlm"])
    # From the start of the program to here, and what earlier attempts took.
    mine = {name.partition("-")[0] for name in stages.now}
    now = time.time() - psutil.Process().create_time()
    report["seconds"]["total"] = round(now + sum(stage["seconds"] for name, stage in done.items() if name not in mine), 1)
    finish(folder, report, done, other)
