"""What the commands do once they are chosen, and the hooks that training gets from the simulator."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from vla.errors import UserError
from vla.policies.base import Policy
from vla.report.intervals import Rate, wilson
from vla.report.video import caption, write_video
from vla.sim.collect import Collect
from vla.sim.collect import collect as run_collect
from vla.sim.embodiment import CONTROL_HZ
from vla.sim.episode import Episode
from vla.sim.rollout import Result, Workers
from vla.sim.rollout import rollout as run_rollout
from vla.sim.tasks import find_task
from vla.sim.tasks.wording import known_objects, named_object

TRAINING_ROLLOUTS = 500_000
"""Seeds of rollouts during training: choosing a checkpoint by them leaves evaluation's scenes unseen."""


def collect_with_progress(options: Collect) -> dict[str, int]:
    """Collects, with a progress bar."""
    total = options.pictures if options.task == "questions" else options.episodes
    with tqdm(total=total, desc=f"collect {options.task}", unit="picture" if options.task == "questions" else "episode") as bar:

        def report(done: int, _: int, word: str) -> None:
            bar.update(done - bar.n)
            bar.set_postfix_str(word)

        return run_collect(options, report)


def collect(
    out: str,
    task: str = "lift",
    episodes: int = 200,
    pictures: int = 4000,
    noise: float = Collect.noise,
    clean: float = Collect.clean,
    excursions: float = Collect.excursions,
    objects: int = Collect.objects,
    sizes: bool = Collect.sizes,
    poses: int = Collect.poses,
    seed: int = 0,
    workers: int = 0,
    overwrite: bool = False,
) -> str:
    """Records demonstrations of the scripted expert, or pictures with questions, as webdataset shards with a card.

    Args:
        out: folder to write.
        task: demonstrations of "lift", "put", "push" or "stack"; "questions" for pictures with questions.
        episodes: demonstrations.
        pictures: pictures, for questions.
        noise: standard deviation (m) of the disturbance of the expert's actions.
        clean: share of the episodes without disturbance.
        excursions: how often, per step, a disturbed episode goes astray for a while before it goes on.
        objects: on the table of a question picture; 0 draws one to four.
        sizes: make the objects of demonstrations small or large, and name them so.
        poses: expert episodes from which the robot's poses in question pictures are taken.
        seed: of everything drawn.
        workers: processes; 0 is one per core.
        overwrite: replace data that is already there.
    """
    if task != "questions":
        find_task(task)
    counts = collect_with_progress(
        Collect(
            out,
            task,
            episodes=episodes,
            pictures=pictures,
            noise=noise,
            clean=clean,
            excursions=excursions,
            objects=objects,
            sizes=sizes,
            poses=poses,
            seed=seed,
            workers=workers,
            overwrite=overwrite,
        )
    )
    return f"{out}: " + ", ".join(f"{value} {name}" for name, value in counts.items())


def new_tokenizer() -> Any:
    """A tokenizer that knows the words of the simulator's instructions and questions."""
    from vla.contract import PolicyContract
    from vla.models.text import train_tokenizer
    from vla.sim.questions import vocabulary_corpus

    words = vocabulary_corpus()
    prompts = [PolicyContract.prompt.format(instruction=w, state="") for w in words]
    return train_tokenizer(prompts + [PolicyContract.question.format(question=w) for w in words] + [f" {w}" for w in words])


def rates(results: list[Result]) -> dict[str, dict[str, Any]]:
    """Success, wrong object, execution and recognition with their 95 % Wilson intervals."""
    n, executed = len(results), [r for r in results if r.executed]
    return {
        "success": wilson(sum(r.success for r in results), n).to_dict(),
        "wrong_object": wilson(sum(r.failure == "wrong object" for r in results), n).to_dict(),
        "execution": wilson(len(executed), n).to_dict(),
        "recognition": wilson(sum(r.first == r.target for r in executed), len(executed)).to_dict(),
    }


class Evaluator:
    """Rolls out fixed episodes during training; its workers start at the first use and stay."""

    def __init__(self) -> None:
        self.workers: Workers | None = None

    def __call__(self, policy: Policy, episodes: int) -> dict[str, float]:
        self.workers = self.workers or Workers()
        results = run_rollout(policy, [Episode(TRAINING_ROLLOUTS + i) for i in range(episodes)], self.workers)
        return {name: rate["rate"] for name, rate in rates(results).items()}

    def close(self) -> None:
        if self.workers is not None:
            self.workers.close()


def describe(result: Result) -> str:
    """One line on how an episode went."""
    said = f"“{result.instruction}”" if result.instruction else "no instruction"
    how = "success" if result.success else result.failure
    return f"{said}: {how} after {result.steps} steps (on the table: {', '.join(result.objects)})"


def film(result: Result, path: str | Path) -> Path:
    """Writes an episode's frames with instruction and outcome drawn in; front and wrist side by side."""
    outcome = "success" if result.success else result.failure
    side = result.frames[0].shape[0]
    frames = []
    for number, frame in enumerate(result.frames):
        last = number == len(result.frames) - 1
        frames.append(caption(frame, [result.instruction or "(no instruction)"], outcome if last else "", side))
    return write_video(path, frames + frames[-1:] * 10, fps=CONTROL_HZ)


def rollout(
    policy: str,
    task: str = "lift",
    instruction: str = "",
    episodes: int = 1,
    kind: Literal["correct", "swapped", "empty"] = "correct",
    seed: int = 0,
    horizon: int = 0,
    sizes: bool = False,
    video: str = "",
    out: str = "",
    workers: int = 0,
) -> str:
    """Drives the simulated robot with a policy and says how it went.

    Args:
        policy: an export's folder, a checkpoint, the http address of a server, or "expert".
        task: "lift", "put", "push" or "stack".
        instruction: a sentence for the robot, e.g. "lift the green cube"; the objects it names are put on the
            table. "" draws goal and wording.
        episodes: scenes to try.
        kind: whether the drawn goal is asked for, the swapped one (another object, place or side), or nothing is said.
        seed: of the first scene; the next ones follow.
        horizon: steps until an episode is given up; 0 is the task's.
        sizes: make objects small or large, and name them so.
        video: MP4 of the first episode.
        out: folder for results.json and one line per episode.
        workers: processes; 0 is one per core.
    """
    find_task(task)
    if instruction and named_object(instruction) is None:
        print(f"note: the instruction names none of {', '.join(known_objects())}; nothing counts as success")
    if episodes < 1 or horizon < 0:
        raise UserError(f"{episodes} episodes, horizon {horizon}", "rollout", "ask for at least 1")
    from vla.policies.load import load_policy

    count = min(workers or os.cpu_count() or 1, episodes)
    acting = None if policy == "expert" else load_policy(policy, batch=count)
    todo = [Episode(seed + i, kind, instruction, bool(video) and i == 0, horizon, task, sizes) for i in range(episodes)]
    with Workers(count) as pool, tqdm(total=episodes, desc="rollout", unit="episode", disable=episodes == 1) as bar:

        def progress(result: Result) -> None:
            bar.update()
            bar.write(describe(result))

        results = run_rollout(acting, todo, pool, progress)
    if video:
        if not results[0].frames:
            raise UserError("the expert acts without pictures, there is nothing to film", "rollout", "leave out --video")
        film(results[0], video)
        print(f"video: {video}")
    summary = rates(results)
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        record = {"policy": policy, "task": task, "kind": kind, "contract": acting.contract.hash if acting else None, **summary}
        (Path(out) / "results.json").write_text(json.dumps(record, indent=1) + "\n")
        lines = [json.dumps(r.to_dict()) + "\n" for r in results]
        (Path(out) / "episodes.jsonl").write_text("".join(lines))
    return "\n".join(f"{name.replace('_', ' ')}: {Rate(**rate)}" for name, rate in summary.items() if rate["n"])


def serve(policy: str, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Answers clients with a policy's actions, over HTTP and websocket, until it is stopped.

    Args:
        policy: an export's folder or a checkpoint.
        host: address to listen on.
        port: port to listen on.
    """
    from vla.policies.load import load_policy
    from vla.serving.server import serve as run

    run(load_policy(policy), host, port)
