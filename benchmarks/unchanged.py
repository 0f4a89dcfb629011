"""Checks that the code gives the results of an earlier commit, bit for bit. Prints one JSON object.

`unchanged.py --against COMMIT` does the same work with both and compares: the losses of 30 steps of configs/demo.yaml, the
answers of the export to 64 observations in every protocol of the server, the episodes of a small suite with the expert, at
random and with the export, the bytes of the shards that collecting and conversions from every format write. Without --against
it prints what the present code does.

Only the command line and the server's protocols are used, so that modules may move. Both sides run on this machine: another
processor may compute other last digits.
"""

import argparse
import base64
import csv
import hashlib
import importlib.util
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import httpx
import msgpack
import numpy as np
import yaml
from PIL import Image
from websockets.sync.client import connect

ROOT = Path(__file__).resolve().parents[1]
OBSERVATIONS = 64
TIMES = ("data_wait", "samples_per_second", "tokens_per_second", "flops", "mfu", "seconds", "memory")
"""Parts of the names of metrics that are times."""
TOY_CARD = {
    "title": "toy",
    "embodiment": "toy-arm",
    "cameras": {"front": {"key": "observation/image"}},
    "state": [{"key": "observation/state", "names": ["x", "y"]}],
    "action": [
        {"key": "action", "pick": [0, 1, 2], "names": ["dx", "dy", "dz"], "units": ["m"], "role": "position"},
        {"key": "action", "pick": [3, 4, 5], "names": ["drx", "dry", "drz"], "units": ["rad"], "role": "rotation"},
        {"key": "action", "pick": [6], "names": ["gripper"], "role": "gripper", "low": 0, "high": 1},
    ],
    "instruction": "language_instruction",
    "gripper": "0 closed, 1 open",
    "control_hz": 5,
}


def digest(data: bytes | str) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()[:16]


def files(folder: Path) -> str:
    """Returns a hash of the names and bytes of the shards and cards in a folder, without conversion.json, which holds times."""
    chosen = [p for p in sorted(folder.rglob("*")) if p.suffix in (".tar", ".yaml", ".parquet", ".mp4")]
    return digest("".join(f"{p.relative_to(folder)} {digest(p.read_bytes())}\n" for p in chosen))


class Checkout:
    """A checkout whose package runs in this environment.

    Args:
        code: its root.
        out: where its work goes; the folder of the other checkout has the same layout.
    """

    def __init__(self, code: Path, out: Path):
        self.code, self.out = code, out
        threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
        self.environment = {**os.environ, **threads, "PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}

    def vla(self, *words: str | Path) -> None:
        """Runs a command in the folder `out`."""
        done = subprocess.run(
            [sys.executable, "-m", "vla", *map(str, words)], cwd=self.out, env=self.environment, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{self.code}: vla {' '.join(map(str, words))} ended with {done.returncode}\n{done.stderr[-3000:]}")

    @contextmanager
    def serving(self, policy: str) -> Iterator[str]:
        """Serves a policy; its address without the scheme."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "vla", "serve", policy, "--port", str(port), "--threads", "1"]
        with open(self.out / "serve.log", "w") as log:
            process = subprocess.Popen(command, cwd=self.out, env=self.environment, stdout=log, stderr=log)
        try:
            for _ in range(600):
                try:
                    httpx.get(f"http://127.0.0.1:{port}/healthz").raise_for_status()
                    break
                except httpx.HTTPError:
                    if process.poll() is not None:
                        raise SystemExit(f"{self.code}: the server ended\n{(self.out / 'serve.log').read_text()}") from None
                    time.sleep(0.2)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def collecting(side: Checkout) -> dict[str, str]:
    what = {
        "robot": ("--task", "lift", "--episodes", "8"),
        "questions": ("--task", "questions", "--pictures", "40", "--poses", "2"),
        "push": ("--task", "push", "--episodes", "2"),
        "stock": ("--task", "robosuite-Lift", "--episodes", "1"),
    }
    for name, options in what.items():
        side.vla("collect", "--out", f"data/{name}", "--seed", "1", *options)
    return {f"shards of vla collect: {name}": files(side.out / "data" / name) for name in what}


def training(side: Checkout) -> dict[str, str]:
    """Returns the losses of 30 steps, the metrics on held-out samples, and the weights."""
    config = yaml.safe_load((side.code / "vla/configs/demo.yaml").read_text())
    del config["collect"]
    config["data"] |= {"val_samples": 32, "batch_size": 8}
    for name, source in config["data"]["sources"].items():
        source["init_args"]["folder"] = f"data/{name}"
    logger = {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": "train", "name": "", "version": "logs"},
    }
    config["trainer"] |= {
        "max_steps": 30, "accumulate_grad_batches": 1, "log_every_n_steps": 1, "val_check_interval": 30, "callbacks": [],
        "logger": logger, "default_root_dir": "train", "enable_checkpointing": False,
    }  # fmt: skip
    (side.out / "demo.yaml").write_text(yaml.safe_dump(config))
    side.vla("fit", "-c", "demo.yaml", "--export", "export")
    with open(side.out / "train/logs/metrics.csv") as file:
        rows = [{k: v for k, v in row.items() if not any(t in k for t in TIMES)} for row in csv.DictReader(file)]
    losses = [row["loss"] for row in rows if row.get("loss")]
    assert len(losses) == 30, f"{len(losses)} losses"
    return {
        "loss of 30 steps": digest(json.dumps(losses)),
        "what is logged": digest(json.dumps(rows, sort_keys=True)),
        "weights of the export": digest((side.out / "export/model.safetensors").read_bytes()),
        "contract of the export": digest((side.out / "export/contract.json").read_bytes()),
    }


def observations() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    words = ["lift the red cube", "pick up the blue ball", "lift the green cylinder", "go"]
    low, high = np.array([-0.2, -0.2, 0.0, -1.0, 0.0]), np.array([0.2, 0.2, 0.3, 1.0, 0.08])
    return [
        {
            "images": {name: rng.integers(0, 256, (64, 64, 3), np.uint8) for name in ("front", "wrist")},
            "state": rng.uniform(low, high),
            "instruction": words[number % len(words)],
        }
        for number in range(OBSERVATIONS)
    ]


def png(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def ndarray(values: np.ndarray) -> dict[bytes, Any]:
    return {b"__ndarray__": True, b"data": values.tobytes(), b"dtype": values.dtype.str, b"shape": values.shape}


def numpy_json(values: np.ndarray) -> dict[str, Any]:
    return {"__numpy__": base64.b64encode(values.tobytes()).decode(), "dtype": values.dtype.str, "shape": list(values.shape)}


def untimed(answer: Any) -> Any:
    """Returns an answer without times and request counters, and without the state that earlier commits sent back."""
    if isinstance(answer, dict):
        kept = {str(k): v for k, v in answer.items() if k not in ("server_timing", "request_id", "calls", "id")}
        if "actions" in kept:
            kept.pop("state", None)
        return {k: untimed(v) for k, v in kept.items() if not k.endswith("_ms")}
    return [untimed(v) for v in answer] if isinstance(answer, list) else answer.hex() if isinstance(answer, bytes) else answer


def serving(side: Checkout) -> dict[str, str]:
    """Returns the answers in every protocol, without times."""
    told: dict[str, list[Any]] = {name: [] for name in ("json", "ask", "openpi", "starvla", "openvla", "refused")}
    with side.serving("export") as address, httpx.Client(base_url=f"http://{address}", timeout=60) as client:
        seen = observations()
        for one in seen:
            body = {"images": {k: png(v) for k, v in one["images"].items()}, "state": one["state"].tolist()}
            told["json"].append(client.post("/act", json={**body, "instruction": one["instruction"]}).json())
            if len(told["ask"]) < 16:
                told["ask"].append(
                    client.post("/ask", json={"images": body["images"], "question": "where is the red cube"}).json()
                )
        with connect(f"ws://{address}", compression=None, max_size=None) as socket_:
            told["openpi"].append(msgpack.unpackb(socket_.recv()))
            for one in seen:
                message = {
                    "observation/image": ndarray(one["images"]["front"]),
                    "observation/wrist_image": ndarray(one["images"]["wrist"]),
                    "observation/state": ndarray(one["state"]),
                    "prompt": one["instruction"],
                }
                socket_.send(msgpack.packb(message))
                told["openpi"].append(msgpack.unpackb(socket_.recv(), strict_map_key=False))
                if len(told["starvla"]) < 16:
                    socket_.send(msgpack.packb({"type": "infer", "request_id": "1", "payload": message}))
                    told["starvla"].append(msgpack.unpackb(socket_.recv(), strict_map_key=False))
        for one in seen[:16]:
            images = {"image": numpy_json(one["images"]["front"]), "wrist_image": numpy_json(one["images"]["wrist"])}
            asked = {**images, "state": one["state"].tolist(), "instruction": one["instruction"]}
            told["openvla"].append(client.post("/act", json=asked).json())
        told["refused"] += [client.get(path).status_code for path in ("/contract", "/policies", "/openapi.json", "/nowhere")]
        told["refused"] += [client.post("/act", json=body).status_code for body in ({}, {"images": {}}, {"state": [1]})]
    assert all("actions" in answer for answer in told["json"] + told["openpi"][1:]), "an answer without actions"
    return {f"server: {name}": digest(json.dumps(untimed(answers), sort_keys=True)) for name, answers in told.items()}


def rolling_out(side: Checkout) -> dict[str, str]:
    suite = {
        "tasks": ["lift", "push"], "episodes": 2, "horizon": 40, "kinds": ["correct", "swapped", "empty"],
        "variations": {"seen": {}, "dark": {"light": [0.5, 0.5, 0.5]}},
    }  # fmt: skip
    stock = {"tasks": ["robosuite-Lift"], "episodes": 2, "horizon": 30, "kinds": ["correct"], "variations": {"seen": {}}}
    found = {}
    for name, told in (("small", suite), ("stock", stock)):
        (side.out / f"{name}.yaml").write_text(yaml.safe_dump({"about": name, **told}))
        for policy in ("expert", "random", *(["export"] if name == "small" else [])):
            out = f"rollout/{name}-{policy}"
            side.vla("rollout", "--policy", policy, "--suite", f"{name}.yaml", "--out", out, "--workers", "2")
            record = json.loads((side.out / out / "results.json").read_text())
            same = {
                key: record[key] for key in ("suite", "suite_hash", "contract", "batch", "episodes", "summary") if key in record
            }
            found[f"results.json: {name}, {policy}"] = digest(json.dumps(same, sort_keys=True))
    return found


def tests_module(name: str) -> Any:
    path = ROOT / "tests/datasets/formats" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fixtures(folder: Path) -> None:
    """Writes a small data set of every format without the package."""
    rlds, lerobot = tests_module("rlds_files"), tests_module("lerobot_files")
    folder.mkdir(parents=True)
    (folder / "card.yaml").write_text(yaml.safe_dump(TOY_CARD))
    rlds.plain(folder / "rlds")
    lerobot.write_v2(folder / "lerobot2")
    lerobot.write_v3(folder / "lerobot3")
    with h5py.File(folder / "libero.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs.update({"env_name": "Libero_Kitchen", "macros_image_convention": "opengl", "num_demos": 2, "total": 7})
        data.attrs["problem_info"] = json.dumps({"language_instruction": "open the drawer"})
        data.attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": 20}})
        for name, length in {"demo_0": 4, "demo_1": 3}.items():
            demo = data.create_group(name)
            demo.attrs["num_samples"] = length
            actions = np.random.default_rng(length).uniform(-1, 1, (length, 7))
            frames = np.full((length, 12, 16, 3), 60, np.uint8)
            frames[:, :6] = (np.arange(length) * 20 + 100)[:, None, None, None]
            demo["actions"], demo["dones"] = actions, np.zeros(length, np.uint8)
            demo["obs/agentview_rgb"], demo["obs/eye_in_hand_rgb"] = frames, frames[:, ::-1]
            demo["obs/ee_states"] = np.tile(np.arange(length)[:, None], (1, 6)) / 7
            demo["obs/gripper_states"] = np.zeros((length, 2))
    (folder / "pairs").mkdir()
    with tarfile.open(folder / "pairs/pairs-000.tar", "w") as tar:
        for number in range(4):
            for member, data in (
                (f"{number:03d}.jpg", rlds.jpeg(number * 40)),
                (f"{number:03d}.txt", f"a picture {number}".encode()),
            ):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    for number in range(2):
        (folder / f"{number}.jpg").write_bytes(rlds.jpeg(number * 100))
    said = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cup."}]
    entries = [{"id": str(number), "image": f"{number}.jpg", "conversations": said} for number in range(2)]
    (folder / "llava.json").write_text(json.dumps(entries))


def converting(side: Checkout, made: Path) -> dict[str, str]:
    what: dict[str, tuple[str, ...]] = {
        "rlds": ("--card", str(made / "card.yaml"), "--size", "32"),
        "lerobot2": (),
        "lerobot3": (),
        "libero.hdf5": (),
        "pairs": (),
        "llava.json": (),
    }
    found = {}
    for name, options in what.items():
        side.vla("data", "convert", made / name, f"converted/{name}", *options)
        found[f"shards from {name}"] = files(side.out / "converted" / name)
    side.vla("data", "convert", "data/robot", "converted/to-lerobot", "--to", "lerobot", "--video", "none")
    return {**found, "LeRobot from shards": files(side.out / "converted/to-lerobot")}


def everything(code: Path, out: Path, made: Path) -> dict[str, str]:
    out.mkdir(parents=True)
    side = Checkout(code, out)
    return {**collecting(side), **training(side), **serving(side), **rolling_out(side), **converting(side, made)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", default="", help="commit to compare with")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        fixtures(root / "fixtures")
        now = everything(ROOT, root / "now", root / "fixtures")
        before = {}
        if options.against:
            code = root / "code"
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(code)], check=True)
            subprocess.run(["git", "checkout", "--quiet", options.against], cwd=code, check=True)
            before = everything(code, root / "before", root / "fixtures")
    bars = {name: {"value": now.get(name), "bar": value, "holds": now.get(name) == value} for name, value in before.items()}
    from vla.report.provenance import provenance

    print(json.dumps({"bars": bars, "against": options.against, "now": now, **provenance()}, indent=1))
    return int(not all(bar["holds"] for bar in bars.values()))


if __name__ == "__main__":
    raise SystemExit(main())
