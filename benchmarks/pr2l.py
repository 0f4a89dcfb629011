"""What prompted states cost: eight environments in one call against one at a time, and a warm cache against no representation.

The model is the packaged `tiny`, which knows the tabletop's questions; here only its cost matters. Prints one JSON object.
"""

import functools
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from vla.models.load import load_vlm
from vla.promptable.cache import CachedRepresentation
from vla.promptable.prompts import PromptTemplate
from vla.promptable.representation import PromptableRepresentation, Settings
from vla.report.provenance import provenance
from vla.rl.babyai import BabyAI
from vla.rl.vector import PromptedVecEnv

ENVIRONMENTS, STEPS = 8, 60
LEVEL = functools.partial(BabyAI, "BabyAI-GoToLocal-v0")
PROMPT = PromptTemplate("Q: where is the {object}? A:")


def median(run: Callable[[], object], rounds: int) -> float:
    """Median seconds of a call, the first one not counted."""
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def batching(rounds: int = 15) -> dict[str, float]:
    """Seconds per observation: reading and writing in one call for eight environments, and one at a time."""
    vlm = load_vlm("tiny", dtype=torch.float32)
    rng = np.random.default_rng(0)
    images = [[rng.integers(0, 255, (64, 64, 3), np.uint8)] for _ in range(ENVIRONMENTS)]
    fields = [{"object": "red ball"}] * ENVIRONMENTS
    found = {}
    for batch in (1, ENVIRONMENTS):
        for tokens in (0, 8):
            represent = PromptableRepresentation(*vlm, PROMPT, Settings(tokens=tokens, batch=batch))
            found[f"{batch} at a time, {tokens} tokens"] = median(lambda r=represent: r(images, fields), rounds) / ENVIRONMENTS
    return found


def replay(representation: CachedRepresentation | None) -> float:
    """Steps per second of eight environments with the same seeds and actions as ever."""
    made = PromptedVecEnv(
        DummyVecEnv([LEVEL] * ENVIRONMENTS), representation, ["states" if representation else "pixels"], BabyAI.fields
    )
    rng = np.random.default_rng(0)
    made.seed(0)
    made.reset()
    began = time.perf_counter()
    for _ in range(STEPS):
        made.step(rng.integers(0, 3, ENVIRONMENTS))
    taken = time.perf_counter() - began
    made.close()
    return ENVIRONMENTS * STEPS / taken


def main() -> int:
    torch.set_num_threads(1)
    cost = batching()
    cached = CachedRepresentation(PromptableRepresentation(*load_vlm("tiny"), PROMPT, Settings()))
    cold = replay(cached)
    first = cached.hits.rate
    plain = statistics.median(replay(None) for _ in range(3))
    warm = statistics.median(replay(cached) for _ in range(3))
    one, eight = "1 at a time", f"{ENVIRONMENTS} at a time"
    decode = (cost[f"{one}, 8 tokens"] - cost[f"{one}, 0 tokens"]) / (cost[f"{eight}, 8 tokens"] - cost[f"{eight}, 0 tokens"])
    values = {
        "decode phase, 8 environments in one call over one at a time": (decode, 3.0),
        "whole, 8 environments in one call over one at a time": (cost[f"{one}, 8 tokens"] / cost[f"{eight}, 8 tokens"], 1.5),
        "steps/s with a warm cache over no representation": (warm / plain, 0.5),
    }
    bars = {n: {"value": round(value, 3), "bar": f">= {least}", "holds": value >= least} for n, (value, least) in values.items()}
    seconds = {name: round(value, 5) for name, value in cost.items()}
    speed = {"no representation": round(plain, 1), "cold cache": round(cold, 1), "warm cache": round(warm, 1)}
    said = {"bars": bars, "seconds per observation": seconds, "steps/s": speed, "hit rate while cold": round(first, 3)}
    print(json.dumps({**said, "threads": 1, **provenance()}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
