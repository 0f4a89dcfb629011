"""Measures two commands at once, and what it costs one alone that waiting threads soon sleep (`vla/openmp.py`).

Processes train as configs/demo.yaml does, roll that model out with two workers, or train a small head, each with as many threads
as torch takes. They get turns of some seconds, alone and two at once, in shuffled order; a process that has no turn does nothing.
Prints one JSON object. It collects its own few samples: neither `make demo` nor a trained model is needed.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import cycle
from pathlib import Path

from vla import openmp

ROOT = Path(__file__).resolve().parents[1]
SLOWDOWN, COST, STARVED = 2.3, 1.05, 4.0
"""Bars: of two at once, of one alone, and the slowdown that counts as starved."""
WAITING = {"package": {}, "torch": {"GOMP_SPINCOUNT": "300000"}}
"""How threads wait: as the package sets it, and as GNU's runtime does where nothing is set."""
PAIRS = (("training", "training"), ("training", "rollouts"), ("head", "head"), ("head", "rollouts"))


def collect(folder: Path) -> None:
    """Collects a few samples of the demo's data."""
    for words in (("--episodes", "4"), ("--task", "questions", "--images", "60", "--poses", "2")):
        out = folder / ("questions" if "questions" in words else "robot")
        command = [sys.executable, "-m", "vla", "collect", "--out", str(out), *words]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def training(folder: Path) -> Callable[[], None]:
    """A function that trains the demo's model on one batch."""
    import torch
    import yaml
    from train import build

    from vla.training.optimizer import make_optimizer, parameter_groups

    config = yaml.safe_load((ROOT / "vla/configs/demo.yaml").read_text())
    for name, source in config["data"]["sources"].items():
        source["init_args"] |= {"folder": str(folder / name), "cache": False, "holdout": 0.25}
    module, data = build(config)
    loader = iter(data.train_dataloader())
    batches = cycle([next(loader) for _ in range(4)])
    model, every = module.model.train(), config["trainer"]["accumulate_grad_batches"]
    groups = parameter_groups(model, module.learning_rate, module.weight_decay, {})
    optimizer, steps = make_optimizer("adamw", groups, fused=True), cycle(range(every))

    def step() -> None:
        batch = next(batches)
        logits, ids, answers = module._score(batch)
        module._loss(logits, ids, batch, answers).mean().backward()
        if next(steps) == every - 1:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return step


def rollouts(folder: Path) -> Callable[[], None]:
    """A function that runs two short episodes with the demo's model, which need not have learned anything for that."""
    from vla.contract import PolicyContract
    from vla.models.load import load_vlm
    from vla.policies.local import LocalPolicy
    from vla.sim.episodes import Episode
    from vla.sim.rollout import Workers, rollout
    from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME

    contract = PolicyContract({EMBODIMENT_NAME: EMBODIMENT}, chunk=2, execute=2, plan=("where", "reach"))
    policy, workers, seeds = LocalPolicy(*load_vlm("tiny"), contract, batch=2), Workers(2), cycle(range(0, 1000, 2))

    def run() -> None:
        first = next(seeds)
        rollout(policy, [Episode(first, horizon=8), Episode(first + 1, horizon=8)], workers)

    return run


def head(folder: Path) -> Callable[[], None]:
    """A function that takes a small step, of some milliseconds, as a head on a frozen model does."""
    import torch

    layers = [torch.nn.Linear(512, 256), torch.nn.LayerNorm(256), torch.nn.GELU(), torch.nn.Linear(256, 64)]
    net, states = torch.nn.Sequential(*layers), torch.randn(64, 16, 512)
    optimizer = torch.optim.AdamW(net.parameters())

    def step() -> None:
        net(states).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


KINDS = {"training": training, "rollouts": rollouts, "head": head}


def work(kind: str, folder: Path) -> None:
    """Works until the time that each line of standard input names, and prints the mean seconds of a unit."""
    unit = KINDS[kind](folder)
    for _ in range(3):
        unit()
    print("ready", flush=True)
    for line in sys.stdin:
        began, units = time.perf_counter(), 0
        while time.time() < float(line) or not units:
            unit()
            units += 1
        print((time.perf_counter() - began) / units, flush=True)


class Worker:
    """A process that works when it is asked to.

    Args:
        waiting: how its threads wait, a key of WAITING.
    """

    def __init__(self, kind: str, waiting: str, folder: Path):
        mine = {name: value for name, value in os.environ.items() if name not in (*openmp.WAITING, *openmp.OTHERS)}
        command = [sys.executable, __file__, "--work", kind, "--folder", str(folder)]
        self._process = subprocess.Popen(
            command,
            env=mine | WAITING[waiting],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._read() == "ready", f"{kind} ended before it began"

    def begin(self, until: float) -> None:
        assert self._process.stdin
        print(until, file=self._process.stdin, flush=True)

    def seconds(self) -> float:
        return float(self._read())

    def alone(self, seconds: float) -> float:
        self.begin(time.time() + seconds)
        return self.seconds()

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        self._process.kill()

    def _read(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()


@contextmanager
def workers(kinds: tuple[tuple[str, str], ...], folder: Path) -> Iterator[list[Worker]]:
    """Workers of these (kind, waiting), started one after the other."""
    started: list[Worker] = []
    try:
        for kind, waiting in kinds:
            started.append(Worker(kind, waiting, folder))
        yield started
    finally:
        for worker in started:
            worker.close()


def cost(kind: str, rounds: int, seconds: float, folder: Path) -> list[float]:
    """Returns the time of a unit with the package's setting against torch's own, per round, each alone."""
    ratios, order = [], random.Random(0)
    with workers(tuple((kind, waiting) for waiting in WAITING), folder) as (package, torch):
        for _ in range(rounds):
            turns = [package, torch]
            order.shuffle(turns)
            took = {turn: turn.alone(seconds) for turn in turns}
            ratios.append(took[package] / took[torch])
    return ratios


def slowdowns(kinds: tuple[str, str], waiting: str, rounds: int, seconds: float, folder: Path) -> list[tuple[float, float]]:
    """Returns how many times as long the units of both take while both work, per round."""
    ratios = []
    with workers(tuple((kind, waiting) for kind in kinds), folder) as both:
        for _ in range(rounds):
            alone = [worker.alone(seconds) for worker in both]
            until = time.time() + 2 * seconds
            for worker in both:
                worker.begin(until)
            one, other = (worker.seconds() / before for worker, before in zip(both, alone, strict=True))
            ratios.append((one, other))
    return ratios


def interval(values: list[float]) -> list[float]:
    """Returns the 95 % bootstrap interval of the median."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(2000))
    return [round(medians[50], 3), round(medians[-51], 3)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12, help="of one alone; of two at once a quarter of them")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a turn")
    parser.add_argument("--short", action="store_true", help="two rounds of a second: does it run?")
    parser.add_argument("--work", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.folder)
        return 0
    rounds, seconds = (2, 1.0) if options.short else (options.rounds, options.seconds)
    few = max(rounds // 4, 1)
    bars, measured = {}, {}

    def bar(name: str, value: float, most: float) -> None:
        bars[name] = {"value": round(value, 3), "bar": f"<= {most:g}", "holds": value <= most}

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        collect(folder)
        for kind in ("training", "rollouts"):
            ratios = cost(kind, rounds, seconds, folder)
            bar(f"{kind} alone, against torch's own waiting", statistics.median(ratios), COST)
            measured[f"{kind} alone"] = {"ratios": ratios, "interval of the median": interval(ratios)}
        starved = 0
        for pair in PAIRS:
            ratios = slowdowns(pair, "package", few, seconds, folder)
            starved += sum(max(slowed) > STARVED for slowed in ratios)
            bar(f"{' and '.join(pair)} at once, the slower", max(map(statistics.median, zip(*ratios, strict=True))), SLOWDOWN)
            measured[f"{' and '.join(pair)} at once"] = ratios
        bar(f"turns in which one of two was {STARVED:g} times slower", starved, 0)
        # For comparison; with torch's own waiting a turn may take long.
        measured["head and head at once, torch's own waiting"] = slowdowns(("head", "head"), "torch", 1, seconds, folder)
    from vla.report.provenance import provenance

    print(json.dumps({"bars": bars, "measured": measured, "rounds": rounds, "seconds": seconds, **provenance()}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
