"""What serving adds to a policy's call, against what openpi's server adds: the same policy, the same published client, one run.

A request is answered three times, in shuffled order: by the policy in this process, by this project's server, and by openpi's or
its equal. Servers are started anew for every round, since one start is faster than another.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from beside.openpi_server import CAMERAS, SIDE, Adapted, make_policy

from vla.sim.tabletop.embodiment import EMBODIMENT

ROUNDS, WARM = 5, 10
PROGRAM = str(Path(__file__).with_name("openpi_server.py"))
LOCAL, OURS, OTHER = "in process", "ours", "openpi's"
Times = dict[str, np.ndarray]
"""Seconds of each side [triples]."""


def triples(policy: Any, ours: str, other: str, count: int, seed: int) -> Times:
    """Times the policy in this process and through the servers at these addresses."""
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    rng, order = np.random.default_rng(seed), random.Random(seed)
    sides = {LOCAL: Adapted(policy), OURS: WebsocketClientPolicy(f"ws://{ours}"), OTHER: WebsocketClientPolicy(f"ws://{other}")}
    took: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(WARM + count):
        request = {key: rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8) for key in CAMERAS.values()}
        request |= {"observation/state": rng.uniform(EMBODIMENT.state.low, EMBODIMENT.state.high), "prompt": "lift the red cube"}
        for name in order.sample(list(sides), 3):
            began = time.perf_counter()
            answer = sides[name].infer(request)
            took[name].append(time.perf_counter() - began)
            assert answer["actions"].shape[1] == 7
    return {name: np.array(seconds[WARM:]) for name, seconds in took.items()}


def ratio(times: Times, chosen: Any = slice(None)) -> float:
    """Returns how many times what openpi's server adds ours adds, by the medians of these triples."""
    added = {name: np.median((times[name] - times[LOCAL])[chosen]) for name in (OURS, OTHER)}
    return float(added[OURS] / added[OTHER])


def interval(times: Times) -> tuple[float, float]:
    """Returns the ends of the ratio's 95 % interval, by a bootstrap over triples."""
    rng, n = np.random.default_rng(0), len(times[LOCAL])
    low, high = np.percentile([ratio(times, rng.integers(0, n, n)) for _ in range(1000)], [2.5, 97.5])
    return float(low), float(high)


def compare(server: Any, export: str, other: str, count: int) -> Times:
    """Times `count` triples in several rounds.

    Args:
        server: `serve.server`, which starts a program and yields its address.
        export: the policy's folder; "" is a policy that returns at once.
        other: "equal", or the path of a checkout of openpi.
    """
    policy, found = make_policy(export), []
    for seed in range(ROUNDS):
        started = [server(sys.executable, PROGRAM, side, export) for side in ("ours", other)]
        with started[0] as (ours, _), started[1] as (theirs, _):
            found.append(triples(policy, ours, theirs, -(-count // ROUNDS), seed))
    return {name: np.concatenate([times[name] for times in found]) for name in found[0]}
