"""`vla rollout`."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable
from typing import cast

from tqdm import tqdm

from vla.commands.sim import offer
from vla.errors import UserError
from vla.evaluation.films import actions_of, describe, film, film_path
from vla.evaluation.run import Evaluation, RolloutOptions, evaluate, open_policy, recording, seen_by
from vla.evaluation.text import outcome
from vla.folders import check_writable, check_writable_file
from vla.report.intervals import Rate
from vla.report.summary import rates
from vla.sim.engines import open_workers, worker_count
from vla.sim.episodes import KINDS, Kind, Result
from vla.sim.registry import find_task, simulator_of
from vla.sim.rollout import rollout as run_rollout
from vla.sim.suites import Suite, check_kinds, load_suite, overridden


@dataclasses.dataclass(frozen=True)
class Rollout(RolloutOptions):
    """The policy, the scenes, and the output of a rollout.

    Attributes:
        policy: an export's folder, OWNER/NAME on the hub, a checkpoint, the http address of `vla serve`, the ws address of an
            openpi server, openvla+http://… of an OpenVLA server, "expert" or "random".
        suite: name of a suite, e.g. "rt2/seen", or a .yaml file. It defines tasks, variations, kinds, seeds and horizon.
        task: "lift", "put", "push", "stack", a task of robosuite, e.g. "robosuite-Lift", of LIBERO, e.g. "libero-goal-3", or of
            another simulator.
        instruction: instruction for the robot, e.g. "lift the green cube"; the scene has the objects it names.
            "" draws goal and wording.
        episodes: number of scenes; 0 is 1, or the suite's number.
        kind: whether the instruction names the goal (correct) or another object, place or side (swapped), is empty, or is
            nonsense.
        kinds: kinds of instruction instead of the suite's, e.g. correct,swapped.
        protocol: the protocol of evaluation, of a simulator that has several; for LIBERO ours, openvla, openpi or lerobot.
        rendering: how images are drawn, of a simulator that has a choice; for LIBERO exact or fast.
        yes: install the simulator's packages without asking, if they are missing.
        seed: seed of the first scene; each further scene adds 1.
        horizon: maximum number of steps of an episode; 0 is the task's.
        video: MP4 file for the first episode; its actions are written beside it, as .json.
        out: folder for results.json, the episodes and report.html; run again to resume a stopped evaluation.
    """

    policy: str
    suite: str = ""
    task: str = "lift"
    instruction: str = ""
    episodes: int = 0
    kind: Kind = "correct"
    kinds: str = ""
    protocol: str = ""
    rendering: str = ""
    yes: bool = False
    seed: int = 0
    horizon: int = 0
    video: str = ""
    out: str = ""

    def __post_init__(self) -> None:
        numbers = {n: getattr(self, n) for n in ("episodes", "horizon", "workers", "batch", "execute", "videos")}
        if min(numbers.values()) < 0:
            text = ", ".join(f"{name} {value}" for name, value in numbers.items())
            raise UserError(text, "rollout", "give at least 0 each; 0 is the default")
        if self.suite and (self.instruction or (self.task, self.kind, self.seed, self.horizon) != ("lift", "correct", 0, 0)):
            raise UserError(
                "a suite defines its own tasks, instructions, kinds, seeds and horizon",
                "--suite",
                "leave out --task, --instruction, --kind, --seed and --horizon",
            )
        if not self.out and (self.suite or self.videos or (self.fresh and not self.record)):
            raise UserError("--suite, --videos and --fresh need a folder", "rollout", "add --out, e.g. --out runs/seen")
        if self.seed < 0:
            raise UserError(f"seed {self.seed}", "--seed", "give at least 0")
        if self.record and self.policy == "expert":
            raise UserError("the expert acts without images, so there is nothing to record", "--record", "use `vla collect`")


def rollout(chosen: Rollout) -> str:
    """Rolls a policy out in simulation and prints success rates."""
    for folder, option in ((chosen.out, "--out"), (chosen.record, "--record")):
        if folder:
            check_writable(folder, option)
    if chosen.video:
        check_writable_file(chosen.video, "--video")
    task, instruction = chosen.task, chosen.instruction
    check_kinds(find_task(task), (chosen.kind,), "--kind")
    if instruction and (note := simulator_of(task).note(task, instruction)):
        print(f"note: {note}")
    seen = simulator_of(task).read_variation("seen", None, "--task")
    single = Suite(
        task, (task,), (seen,), chosen.episodes or 1, chosen.horizon, (chosen.kind,), chosen.seed, instruction=instruction
    )
    suite = load_suite(chosen.suite, chosen.episodes) if chosen.suite else single
    settings = {name: value for name in ("protocol", "rendering") if (value := getattr(chosen, name))}
    suite = overridden(suite, settings, _kinds(chosen.kinds), chosen.episodes or int(not chosen.suite))
    offer(suite.tasks, chosen.yes)
    episodes = suite.all()
    bar: tqdm | None = None
    with contextlib.ExitStack() as held:

        def progress(result: Result | None, finished: int) -> None:
            nonlocal bar
            if bar is None:
                # Not earlier: a policy that is refused gets none.
                bar = held.enter_context(tqdm(total=len(episodes), desc=suite.name, unit="episode", disable=len(episodes) == 1))
            bar.update(finished - bar.n)
            if result is not None:
                bar.write(describe(result) + "".join(f"; repeated: {why}" for why in result.more["restarts"]))

        return _evaluate(chosen, suite, progress) if chosen.out else _roll_out(chosen, suite, progress)


def _kinds(text: str) -> tuple[Kind, ...]:
    """The kinds of instruction in a list, each once. Raises UserError for an unknown one."""
    kinds = tuple(dict.fromkeys(filter(None, text.replace(" ", "").split(","))))
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"unknown kind {kind!r}", "--kinds", f"one or more of {','.join(KINDS)}")
    return cast(tuple[Kind, ...], kinds)


Progress = Callable[[Result | None, int], None]


def _evaluate(chosen: Rollout, suite: Suite, progress: Progress) -> str:
    """Evaluates with results and a report in the folder `out`."""
    options = {field.name: getattr(chosen, field.name) for field in dataclasses.fields(RolloutOptions)}
    options["videos"] = max(chosen.videos, bool(chosen.video))
    record = evaluate(Evaluation(chosen.policy, suite, chosen.out, **options), progress)
    if chosen.video:
        film = film_path(chosen.out, record)
        shutil.copy2(film, chosen.video)
        shutil.copy2(actions_of(film), actions_of(chosen.video))
    return f"{outcome(record)}\nrecord: {chosen.out}/results.json, page: {chosen.out}/report.html"


def _roll_out(chosen: Rollout, suite: Suite, progress: Progress) -> str:
    """Rolls out without a folder; returns the success rates as text."""
    episodes = suite.all()
    count = worker_count(chosen.engine, chosen.workers, len(episodes))
    rows = chosen.batch or count
    policy = open_policy(chosen.policy, rows, suite.tasks, chosen.decode, chosen.execute, dtype=chosen.dtype)
    episodes = seen_by(policy, episodes)
    episodes[0] = dataclasses.replace(episodes[0], video=bool(chosen.video))
    finished = 0
    progress(None, finished)

    def count_one(result: Result) -> None:
        nonlocal finished
        finished += 1
        progress(result, finished)

    with open_workers(chosen.engine, count) as pool, recording(chosen.record, chosen.policy, chosen.fresh) as recorder:
        results = run_rollout(policy, episodes, pool, count_one, chosen.execute, recorder=recorder)
    if chosen.video:
        film(results[0], chosen.video)
        print(f"video: {chosen.video}")
    summary = rates(results)
    return "\n".join(f"{name.replace('_', ' ')}: {Rate(**rate)}" for name, rate in summary.items() if rate["n"])
