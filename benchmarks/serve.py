"""Measures serving: what it adds to a call, beside openpi's server; batching across clients; and a mixed load in which every
answer is checked.

Servers run in processes of their own, with one torch thread; so does the in-process side, which runs here, like all the clients.
"""

import argparse
import asyncio
import base64
import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import httpx
import numpy as np
import psutil
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from vla.contract import PolicyContract
from vla.errors import UserError
from vla.observation import ActionChunk, Observation
from vla.protocols.wire import encode_array, pack, unpack
from vla.report.provenance import provenance
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME

EXPORT = Path("runs/demo/export")
CLIENTS = 16
CAMERAS = [camera.name for camera in EMBODIMENT.cameras]


class StandIn:
    """A policy that takes 20 ms per call and 1 ms per observation, and answers the means of the images, and the state."""

    contract = PolicyContract({EMBODIMENT_NAME: EMBODIMENT}, chunk=2, execute=2)

    def __init__(self, fixed: float, each: float):
        self.fixed, self.each = fixed, each

    def reset(self, ids):
        pass

    def act(self, observations):
        time.sleep(self.fixed + self.each * len(observations))
        return [ActionChunk(np.array([expected(o.images, o.state)] * 2), np.zeros(2, bool)) for o in observations]


def expected(images: dict[str, np.ndarray], state: np.ndarray) -> list[float]:
    return [*(float(images[name].mean()) for name in CAMERAS), *map(float, state)]


def serve_stand_in(fixed: float, each: float, batch: int) -> None:
    from vla.serving.options import ServerOptions
    from vla.serving.server import serve

    serve({"stand-in": StandIn(fixed, each)}, port=0, options=ServerOptions(batch=batch))


@contextlib.contextmanager
def server(*arguments: str) -> Iterator[tuple[str, psutil.Process]]:
    """Runs a server in a separate process; yields its address and the process."""
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout
        match = re.search(r"http://(\S+)", process.stdout.readline())
        assert match, f"the server ended with exit code {process.wait()}"
        address = match[1]
        for _ in range(600):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://{address}/healthz").status_code == 200:
                    break
            time.sleep(0.1)
        yield address, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


def demo_server(export: Path, batch: int):
    return server(sys.executable, "-m", "vla", "serve", str(export), "--port", "0", "--threads", "1", "--batch", str(batch))


def stand_in(fixed: float, each: float, batch: int):
    return server(sys.executable, __file__, "--stand-in", str(fixed), str(each), str(batch))


def observation(rng: np.random.Generator, side: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    images = {name: rng.integers(0, 256, (side, side, 3), np.uint8) for name in CAMERAS}
    return images, rng.uniform(EMBODIMENT.state.low, EMBODIMENT.state.high)


def message(images: dict[str, np.ndarray], state: np.ndarray) -> bytes:
    return pack({"images": images, "state": state, "prompt": "lift the red cube"})


def quantiles(seconds: list[float]) -> dict[str, float]:
    return {f"p{share}": 1e3 * float(np.percentile(seconds, share)) for share in (50, 99)}


async def throughput(address: str, count: int, clients: int = CLIENTS) -> dict[str, float]:
    """Returns requests per second of clients that send the next request after each answer, and their latencies (ms)."""
    side, took = EMBODIMENT.cameras[0].height, []

    async def one(seed: int) -> None:
        messages = [message(*observation(np.random.default_rng((seed, i)), side)) for i in range(4)]
        async with connect(f"ws://{address}", compression=None, max_size=None) as client:
            await client.recv()
            for i in range(warm + -(-count // clients)):
                began = time.perf_counter()
                await client.send(messages[i % 4])
                answer = await client.recv()
                assert isinstance(answer, bytes), answer
                if i >= warm:
                    took.append((began, time.perf_counter() - began))

    warm = 5
    await asyncio.gather(*(one(seed) for seed in range(clients)))
    span = max(b + t for b, t in took) - min(b for b, _ in took)
    return {"rate": len(took) / span, **quantiles([t for _, t in took])}


def batch_rate(policy, count: int) -> float:
    """Returns observations per second of in-process calls with 16 rows."""
    rng = np.random.default_rng(0)
    seen = []
    for i in range(CLIENTS):
        images, state = observation(rng, EMBODIMENT.cameras[0].height)
        seen.append(Observation(str(i), images, state, "lift the red cube"))
    for _ in range(3):
        policy.act(seen)
    began = time.perf_counter()
    for _ in range(-(-count // CLIENTS)):
        policy.act(seen)
    return -(-count // CLIENTS) * CLIENTS / (time.perf_counter() - began)


BROKEN = (b"", b"\xc1", b"\x81\xa1a", pack({"images": 3}), pack({"prompt": "x" * 5000}), pack([1, 2]), os.urandom(500))


TROUBLE = (httpx.HTTPError, ConnectionClosed, OSError, KeyError, UserError)


async def load(address: str, process: psutil.Process, seconds: float) -> dict[str, float]:
    """Runs clients of all protocols, and some that send rubbish, for some time. Growth counts from a tenth of the time on.

    A request without an answer is lost; an answer that does not say what its own request showed is wrong.
    """
    end, counts = time.monotonic() + seconds, {"requests": 0, "answers": 0, "wrong": 0, "rubbish refused": 0}
    side = EMBODIMENT.cameras[0].height

    def seen(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
        counts["requests"] += 1
        return observation(rng, side)

    def check(actions: list[float], images: dict[str, np.ndarray], state: np.ndarray) -> None:
        counts["answers"] += 1
        counts["wrong"] += not np.allclose(actions, expected(images, state), atol=1e-9)

    async def openpi(rng: np.random.Generator) -> None:
        async with connect(f"ws://{address}", compression=None) as client:
            await client.recv()
            for _ in range(50):
                images, state = seen(rng)
                await client.send(message(images, state))
                check(unpack(bytes(await client.recv()))["actions"][0], images, state)

    async def http(rng: np.random.Generator) -> None:
        async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
            for _ in range(50):
                images, state = seen(rng)
                content = {"id": str(rng.integers(20)), "images": {n: encode_array(i) for n, i in images.items()}}
                answer = await client.post(
                    f"http://{address}/act", json={**content, "state": state.tolist(), "instruction": "go"}
                )
                check(answer.json()["actions"][0], images, state)

    async def openvla(rng: np.random.Generator) -> None:
        async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
            for _ in range(50):
                images, state = seen(rng)
                encoded = {"image": encode_array(images["front"]), "wrist_image": encode_array(images["wrist"])}
                answer = await client.post(
                    f"http://{address}/act", json={**encoded, "state": state.tolist(), "instruction": "go"}
                )
                actions = np.frombuffer(base64.b64decode(answer.json()["__numpy__"])).copy()
                # The gripper, here the last number of the state, is converted back from 1 open, 0 closed.
                actions[-1] = 1 - 2 * actions[-1]
                check(actions.tolist(), images, state)

    async def rubbish(rng: np.random.Generator) -> None:
        async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
            content = BROKEN[rng.integers(len(BROKEN))]
            answer = await client.post(f"http://{address}/act", content=content)
        async with connect(f"ws://{address}", compression=None) as socket:
            await socket.recv()
            await socket.send(content)
            counts["rubbish refused"] += isinstance(await socket.recv(), str) and 400 <= answer.status_code < 500
        await asyncio.sleep(0.01)

    async def again(kind, rng: np.random.Generator) -> None:
        while time.monotonic() < end:
            # Whatever goes wrong leaves a request without its answer.
            with contextlib.suppress(*TROUBLE):
                await kind(rng)
            await asyncio.sleep(0)

    async def watched() -> float:
        await asyncio.sleep(seconds / 10)
        before = process.memory_info().rss
        await asyncio.sleep(max(end - time.monotonic() - 0.5, 0))
        return (process.memory_info().rss - before) / 2**20

    kinds = [openpi] * 6 + [http] * 3 + [openvla] * 2 + [rubbish]
    growth, *_ = await asyncio.gather(watched(), *(again(kind, np.random.default_rng(i)) for i, kind in enumerate(kinds)))
    return {**counts, "lost": counts["requests"] - counts["answers"], "growth (MiB)": growth, "seconds": seconds}


Part = tuple[dict[str, Any], dict[str, tuple[float, str, float]]]
"""The measurements, and for each bar its value, sign and limit."""


def beside_openpi(_, options) -> Part:
    """What serving adds to a call of the policy, against what openpi's own server adds."""
    from beside import openpi

    results, bars = {}, {}
    requests = options.requests
    work = {"equal work": (str(options.export), 1.1, requests // 2), "a policy that returns at once": ("", 1.25, requests)}
    for case, (export, bar, count) in work.items():
        times = openpi.compare(server, export, str(options.openpi or "equal"), count)
        low, high = openpi.interval(times)
        ratio = {"ratio": openpi.ratio(times), "interval": [low, high], "triples": len(times[openpi.OURS])}
        sides = {f"{name} (ms)": quantiles(list(seconds)) for name, seconds in times.items()}
        results[f"beside openpi, {case}"] = {**sides, "of what is added": ratio}
        bars[f"added, against openpi's server, {case}, upper end"] = (high, "<=", bar)
        if export:
            added = np.percentile(times[openpi.OURS], 99) - np.percentile(times[openpi.LOCAL], 99)
            bars["added latency, p99 (ms)"] = (1e3 * float(added), "<=", 10.0)
    return results, bars


def many_clients(policy, options) -> Part:
    count = options.requests
    with demo_server(options.export, CLIENTS) as (address, _):
        # Before and after: the machine may not be the same all the time.
        inside = batch_rate(policy, count // 2)
        batched = asyncio.run(throughput(address, count))
        inside = (inside + batch_rate(policy, count // 2)) / 2
    with demo_server(options.export, 1) as (address, _):
        single = asyncio.run(throughput(address, count))
    measured = {"in-process batches of 16 (observations/s)": inside, "16 clients": batched, "16 clients, batching off": single}
    return measured, {
        "16 clients / in-process batches of 16": (batched["rate"] / inside, ">=", 0.7),
        "batching on / off": (batched["rate"] / single["rate"], ">=", 1.0),
        "16 clients, p99 / p50": (batched["p99"] / batched["p50"], "<=", 3.0),
    }


def stand_ins(_, options) -> Part:
    results = {}
    for name, batch in (("stand-in", CLIENTS), ("stand-in, batching off", 1)):
        with stand_in(0.02, 0.001, batch) as (address, _):
            results[name] = asyncio.run(throughput(address, options.requests))
    on, off = results.values()
    return results, {
        "stand-in of 20 ms + 1 ms, batching on / off": (on["rate"] / off["rate"], ">=", 6.0),
        "stand-in, p99 / p50": (on["p99"] / on["p50"], "<=", 3.0),
    }


def mixed_load(_, options) -> Part:
    with stand_in(0.0, 0.0, CLIENTS) as (address, process):
        results = asyncio.run(load(address, process, options.seconds))
    return {"mixed load": results}, {
        "growth under mixed load (MiB)": (results["growth (MiB)"], "<=", 20.0),
        "answers that are not their request's own": (results["wrong"], "<=", 0.0),
        "requests without an answer": (results["lost"], "<=", 0.0),
    }


PARTS = {"openpi": beside_openpi, "clients": many_clients, "stand-in": stand_ins, "mixed": mixed_load}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--export", type=Path, default=EXPORT)
    parser.add_argument("--requests", type=int, default=2000, help="per figure")
    parser.add_argument("--seconds", type=float, default=60, help="of mixed load; the whole form is 600")
    parser.add_argument("--short", action="store_true", help="160 requests and ten seconds: does it run?")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--beside", choices=["openpi"], help="only the comparison with openpi's server")
    parser.add_argument("--openpi", type=Path, help="a checkout of openpi, whose own server is used instead of an equal of it")
    parser.add_argument("--stand-in", nargs=3, metavar=("FIXED", "EACH", "BATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.short:
        options.requests, options.seconds = 160, 10
    if options.stand_in:
        fixed, each, batch = options.stand_in
        serve_stand_in(float(fixed), float(each), int(batch))
        return 0
    policy = None
    if options.beside:
        options.parts = [options.beside]
    if "openpi" in options.parts and not importlib.util.find_spec("openpi_client"):
        print("there is no openpi_client: run make setup, or pip install --no-deps openpi-client", file=sys.stderr)
        return 2
    if {"openpi", "clients"} & set(options.parts):
        if not (options.export / "contract.json").is_file():
            print(f"there is no {options.export}: run make demo", file=sys.stderr)
            return 2
        import torch

        from vla.policies.local import LocalPolicy
        from vla.serving.options import ladder

        torch.set_num_threads(1)
        policy = LocalPolicy.from_export(options.export, ladder(CLIENTS))
    made = provenance()
    measured: dict[str, Any] = {}
    bars = {}
    for part in options.parts:
        results, values = PARTS[part](policy, options)
        measured |= results
        for name, (value, sign, bar) in values.items():
            holds = value >= bar if sign == ">=" else value <= bar
            bars[name] = {"value": round(value, 3), "bar": f"{sign} {bar:g}", "holds": bool(holds)}
    told = {"bars": bars, "measured": measured, "requests": options.requests, "short": options.short, **made}
    print(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
