"""`vla demo`: the whole main job, stage by stage, resumable, with a report at the end."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import yaml
from tqdm import tqdm

from vla.commands import collect_with_progress, rates
from vla.demo_report import finish, read_report, summarise
from vla.doctor import DISK_GB
from vla.errors import UserError
from vla.filming import captioned, film
from vla.report.intervals import Rate, wilson
from vla.report.plots import read_metrics
from vla.report.provenance import Memory
from vla.report.video import side_by_side, write_video
from vla.sim.collect import Collect
from vla.sim.embodiment import CONTROL_HZ
from vla.sim.rollout import Episode, Result, Workers, rollout
from vla.stages import Stages

if TYPE_CHECKING:
    from vla.policies.quiz import Asked

CONFIG = "configs/demo.yaml"
EXPERT_SCENES = 200
FAILURES_FILMED = 2
QUIZ_BATCH = 16


@dataclasses.dataclass(frozen=True)
class Amounts:
    """How much is tested; how much is collected and trained, the configuration says."""

    episodes: int = 40
    horizon: int = 80
    pictures: int = 600
    poses: int = 12
    per_type: int = 100


SMOKE = Amounts(episodes=2, horizon=12, pictures=50, poses=1, per_type=4)


def configuration(folder: Path, smoke: bool = False, from_scratch: bool = False) -> dict[str, Any]:
    """configs/demo.yaml with its folders under `folder`; with `smoke`, a little of everything."""

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: moved(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [moved(inner) for inner in value]
        return value.replace("runs/demo", str(folder)) if isinstance(value, str) else value

    config = moved(yaml.safe_load(resources.files("vla.configs").joinpath(Path(CONFIG).name).read_text()))
    if from_scratch:
        config["model"]["vlm"] = "scratch"
    if smoke:
        config["collect"]["robot"]["episodes"] = 4
        config["collect"]["questions"] |= {"pictures": 50, "poses": 2}
        config["data"] |= {"batch_size": 16, "val_samples": 16, "epoch_steps": 4}
        config["trainer"] |= {"max_steps": 4, "accumulate_grad_batches": 1, "val_check_interval": 4, "log_every_n_steps": 2}
        few = {"RolloutCallback": {"every": 4, "episodes": 2}, "Checkpoints": {"every": 4}}
        for callback in config["trainer"]["callbacks"]:
            callback.setdefault("init_args", {}).update(few.get(callback["class_path"].rsplit(".", 1)[1], {}))
    return config


def expected_minutes(config: dict[str, Any], episodes: int, recorded: bool) -> float:
    """Minutes that this machine will need, from the rate of its matrix products against the one the shares were measured on."""
    import torch

    a = torch.randn(768, 768)
    torch.mm(a, a)
    began = time.perf_counter()
    for _ in range(20):
        torch.mm(a, a)
    gflops = 20 * 2 * 768**3 / (time.perf_counter() - began) / 1e9
    cores = os.cpu_count() or 1
    trainer, collected = config["trainer"], config["collect"]
    samples = trainer["max_steps"] * trainer["accumulate_grad_batches"] * config["data"]["batch_size"]
    training = samples * 0.024 * max(177.0 / gflops, 0.1)
    recording = collected["robot"]["episodes"] * 0.75 + collected["questions"]["pictures"] * 0.01
    simulation = (recording + episodes * 1.75 * 1.6 + recorded * 120) * 2 / cores
    return (training + simulation + 90) / 60


def demo(
    out: str = "runs/demo",
    episodes: int = 40,
    smoke: bool = False,
    fresh: bool = False,
    from_scratch: bool = False,
    beside: str = "",
) -> int:
    """Collects, trains, rolls out, exports, serves and reports. Interrupted or repeated, it goes on from the last whole stage.

    Args:
        out: folder of the run; report.html and report.json end up there.
        episodes: evaluation episodes with the right instruction; half as many with the other object's, a quarter with none.
        smoke: all the same stages in little, to see that they work.
        fresh: start over.
        from_scratch: start training from random weights instead of the pre-trained `tiny`.
        beside: folder of another demo, e.g. one from scratch; the report shows both, side by side.
    """
    other = read_report(beside) if beside else None
    if episodes < 1:
        raise UserError(f"{episodes} episodes", "demo", "ask for at least 1")
    folder = Path(out)
    amounts = SMOKE if smoke else Amounts(episodes=episodes)
    config = configuration(folder, smoke, from_scratch)
    recorded = not smoke and episodes >= 120
    if fresh and folder.exists():
        if any(folder.iterdir()) and not (folder / "stages.json").is_file():
            raise UserError("the folder holds something else than a demo", str(folder), "choose another")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free / 2**30
    if free < DISK_GB:
        raise UserError(f"only {free:.1f} GiB of disk are free", str(folder), f"the demo needs {DISK_GB:.0f} GiB")
    print(
        f"About {expected_minutes(config, amounts.episodes, recorded):.0f} minutes and 0.2 GiB of disk on this machine.",
        flush=True,
    )
    memory = Memory()
    # The number of evaluation episodes does not touch what was collected and trained.
    stages = Stages(folder, {"config": config, **dataclasses.asdict(dataclasses.replace(amounts, episodes=0))}, memory)
    if stages.changed:
        raise UserError(
            "the folder holds a demo of another kind", str(folder), "add --fresh to start over, or choose another --out"
        )
    memory.start()
    done = _Demo(folder, config, amounts, stages, recorded).run()
    memory.stop()
    report = summarise(done, config["model"]["vlm"])
    # From the start of the program to here, and what earlier attempts took.
    mine = {name.partition("-")[0] for name in stages.now}
    now = time.time() - psutil.Process().create_time()
    report["seconds"]["total"] = round(now + sum(stage["seconds"] for name, stage in done.items() if name not in mine), 1)
    finish(folder, report, done, other)
    return 0


class _Demo:
    """The stages, in order."""

    def __init__(self, folder: Path, config: dict[str, Any], amounts: Amounts, stages: Stages, recorded: bool):
        self.folder, self.config, self.amounts, self.stages, self.recorded = folder, config, amounts, stages, recorded
        self.export, self.checkpoint = folder / "export", folder / "train" / "checkpoints" / "last.ckpt"

    def run(self) -> dict[str, dict[str, Any]]:
        """Does what is not done yet; every stage with what it found."""
        run, a = self.stages.run, self.amounts
        amounts = self.config["collect"]
        demonstrations, pictures = amounts["robot"]["episodes"], amounts["questions"]["pictures"]
        run("collect", f"{demonstrations} demonstrations, {pictures} pictures with questions", self.collect)
        run("train", f"co-fine-tuning for {self.config['trainer']['max_steps']} steps: vla fit -c {CONFIG}", self.train)
        run("export", "a self-contained folder", self.write_export)
        run("questions", "held-out scenes, with the picture and with a blank one", self.questions)
        rollouts = f"rollout-{a.episodes}"
        run(
            rollouts,
            f"{a.episodes} episodes, {a.episodes // 2} with the other object named, {a.episodes // 4} unsaid",
            self.rollout,
        )
        run("serve", "one action through the server", self.serve)
        if self.recorded:
            run("expert", f"{EXPERT_SCENES} scenes with the scripted expert", self.expert)
        # Other amounts of episodes may have been run in this folder before.
        other = [name for name in self.stages.done if name.startswith("rollout-") and name != rollouts]
        left_out = {*other, *(() if self.recorded else ("expert",))}
        return {name.split("-")[0]: stage for name, stage in self.stages.done.items() if name not in left_out}

    def collect(self) -> dict[str, Any]:
        held_out = {"out": str(self.folder / "data" / "held-out"), "task": "questions", "seed": 3}
        wanted = {
            **self.config["collect"],
            "held_out": {**held_out, "pictures": self.amounts.pictures, "poses": self.amounts.poses},
        }
        counts = {name: collect_with_progress(Collect(**options, overwrite=True)) for name, options in wanted.items()}
        robot = counts["robot"]
        said = f"{robot['episodes']} episodes, {robot['steps']} steps, {robot['discarded']} failed attempts discarded"
        return {"said": said, "counts": counts}

    def train(self) -> dict[str, Any]:
        path = self.folder / "demo.yaml"
        path.write_text(yaml.safe_dump(self.config, sort_keys=False))
        command = [sys.executable, "-m", "vla", "fit", "-c", str(path)]
        if any(self.checkpoint.parent.glob("*.ckpt")):
            command += ["--ckpt_path=last"]
        done = subprocess.run(command, env=_environment())
        if done.returncode:
            raise UserError(f"training ended with exit code {done.returncode}", "demo", "run the same command again to go on")
        metrics = read_metrics(self.folder / "train" / "logs")
        last = {name: values[-1] for name, (_, values) in metrics.items() if values}
        keep = {k: round(float(v), 5) for k, v in last.items() if k.startswith(("val/", "rollout/", "train/"))}
        return {"said": f"held-out robot loss {keep.get('val/robot_loss', float('nan')):.2f}", "metrics": keep}

    def write_export(self) -> dict[str, Any]:
        from vla.training.export import export

        return {"said": export(str(self.checkpoint), str(self.export))}

    def questions(self) -> dict[str, Any]:
        from PIL import Image

        from vla.datasets.questions import QuestionSource
        from vla.policies.local import LocalPolicy
        from vla.policies.quiz import accuracy, balanced, quiz

        policy = LocalPolicy.from_export(self.export, batch=QUIZ_BATCH)
        items = balanced(QuestionSource(self.folder / "data" / "held-out"), self.amounts.per_type)
        asked = quiz(policy, items)
        (share, types), (blank, _) = accuracy(asked), accuracy(quiz(policy, items, blank=True))
        shown = self.folder / "questions"
        shown.mkdir(exist_ok=True)
        samples, seen = [], set()
        for kind in types:
            # The same picture may be asked several things: two different ones of a type, and others for each type.
            for one in _different([q for q in asked if q.question.type == kind], seen, 2):
                path = shown / f"{len(samples)}.png"
                Image.fromarray(np.concatenate(list(one.images.values()), 1)).save(path)
                place = one.question.point is not None
                samples.append(
                    {
                        "image": str(path.relative_to(self.folder)),
                        "question": one.question.text + "?",
                        "answer": _place(one.answer.point) if place else one.answer.text,
                        "truth": _place(one.question.point) if place else one.question.answer[0],
                        "correct": one.correct,
                        "point": _left(one.answer.point) if place else None,
                        "truth_point": _left(one.question.point) if place else None,
                    }
                )
        said = f"{100 * share:.1f} % right, {100 * blank:.1f} % with a blank picture"
        return {"said": said, "accuracy": share, "blank_accuracy": blank, "types": types, "samples": samples, "batch": QUIZ_BATCH}

    def rollout(self) -> dict[str, Any]:
        from vla.policies.local import LocalPolicy

        n, horizon = self.amounts.episodes, self.amounts.horizon
        filmed = 8
        todo = [Episode(i, "correct", video=i < filmed, horizon=horizon) for i in range(n)]
        todo += [Episode(i, "swapped", video=i < 2, horizon=horizon) for i in range(max(n // 2, 1))]
        todo += [Episode(i, "empty", horizon=horizon) for i in range(max(n // 4, 1))]
        count = os.cpu_count() or 1
        policy = LocalPolicy.from_export(self.export, batch=count)
        with Workers(count) as workers, tqdm(total=len(todo), desc="rollout", unit="episode") as bar:
            results = rollout(policy, todo, workers, lambda _: _tick(bar))
            correct, swapped, empty = ([r for r in results if r.kind == k] for k in ("correct", "swapped", "empty"))
            # Failures are known afterwards only; an episode goes the same way again.
            missed = [r.seed for r in correct if not r.success and not r.frames]
            missed = missed[: max(FAILURES_FILMED - sum(not r.success for r in correct[:filmed]), 0)]
            again = rollout(policy, [Episode(i, "correct", video=True, horizon=horizon) for i in missed], workers)
        (self.folder / "episodes.jsonl").write_text("".join(json.dumps(r.to_dict()) + "\n" for r in results))
        # Unsaid: how often the object is lifted that would have been named.
        unsaid = wilson(sum(r.first == r.objects[0] for r in empty), len(empty)).to_dict()
        found = {
            **rates(correct),
            "swapped_instruction": wilson(sum(r.success for r in swapped), len(swapped)).to_dict(),
            "empty_instruction": unsaid,
        }
        said = f"success {Rate(**found['success'])}, wrong object {Rate(**found['wrong_object'])}"
        return {"said": said, **found, "batch": count, "videos": self._videos(correct + again, swapped)}

    def _videos(self, correct: list[Result], swapped: list[Result]) -> list[dict[str, Any]]:
        folder = self.folder / "videos"
        folder.mkdir(exist_ok=True)
        filmed = [r for r in correct if r.frames]
        chosen = [r for r in filmed if r.success][:3] + [r for r in filmed if not r.success][:FAILURES_FILMED]
        videos = []
        for result in chosen:
            path = film(result, folder / f"{'success' if result.success else 'failure'}-{result.seed}.mp4")
            outcome = "success" if result.success else "failure"
            videos.append(
                {"path": f"videos/{path.name}", "title": result.instruction, "note": result.failure, "outcome": outcome}
            )
        both = [(a, b) for a in filmed for b in swapped if b.frames and a.seed == b.seed]
        if both:
            one, other = max(both, key=lambda pair: pair[0].success + pair[1].success)
            path = write_video(folder / "both-instructions.mp4", side_by_side(captioned(one), captioned(other)), fps=CONTROL_HZ)
            title = f"One scene, two instructions: {one.instruction} / {other.instruction}"
            videos.insert(0, {"path": f"videos/{path.name}", "title": title, "wide": True})
        return videos

    def serve(self) -> dict[str, Any]:
        """A server in a process of its own answers what the local policy answers."""
        from vla.datasets.robot import RobotSource
        from vla.policies.base import Observation
        from vla.policies.local import LocalPolicy
        from vla.policies.remote import RemotePolicy

        port = _free_port()
        server = subprocess.Popen(
            [sys.executable, "-m", "vla", "serve", str(self.export), "--port", str(port)],
            env=_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            source = RobotSource(self.folder / "data" / "robot", chunk=1)
            item = source.item(0, np.random.default_rng(0))
            observation = Observation("demo", item.images, item.state, item.instruction, item.embodiment)
            local = LocalPolicy.from_export(self.export)
            remote = _connect(RemotePolicy, f"http://127.0.0.1:{port}", server)
            same = bool(np.array_equal(remote.act([observation])[0].actions, local.act([observation])[0].actions))
            agreed = remote.contract.hash == local.contract.hash
        finally:
            server.terminate()
            server.wait(20)
        if not (same and agreed):
            raise UserError("the server answers something else than the local policy", "demo", "please report this")
        return {"said": f"the server answers what the local policy answers, contract {local.contract.hash[:12]}", "same": same}

    def expert(self) -> dict[str, Any]:
        with Workers() as workers, tqdm(total=EXPERT_SCENES, desc="expert", unit="episode") as bar:
            results = rollout(None, [Episode(i) for i in range(EXPERT_SCENES)], workers, lambda _: _tick(bar))
        rate = wilson(sum(r.success for r in results), len(results))
        return {"said": str(rate), "rate": rate.to_dict()}


def _tick(bar: tqdm) -> None:
    bar.update()


def _different(asked: list[Asked], seen: set[bytes], count: int) -> list[Asked]:
    """The first few whose first picture was not seen yet; adds them to what was seen."""
    chosen = []
    for one in asked:
        picture = next(iter(one.images.values())).tobytes()
        if len(chosen) < count and picture not in seen:
            seen.add(picture)
            chosen.append(one)
    return chosen


def _left(point: tuple[float, float] | None) -> tuple[float, float] | None:
    """A place of the first camera's picture in the picture of both."""
    return None if point is None else (point[0] / 2, point[1])


def _place(point: tuple[float, float] | None) -> str:
    return "no place" if point is None else f"({point[0]:.2f}, {point[1]:.2f})"


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


def _free_port() -> int:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _connect(remote: Callable[[str], Any], url: str, server: subprocess.Popen) -> Any:
    """Waits until the server answers."""
    for _ in range(240):
        if server.poll() is not None:
            raise UserError(f"the server ended with exit code {server.returncode}", "demo", "`vla serve` says why")
        try:
            return remote(url)
        except UserError:
            time.sleep(0.25)
    raise UserError("the server did not answer within a minute", url)
