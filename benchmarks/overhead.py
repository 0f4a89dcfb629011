"""Whether the present code is as fast as an earlier commit's, where the structure could cost time. Prints one JSON object.

`overhead.py --against COMMIT` measures both in turn on this machine: the start of `vla --help`, samples on their way to a batch,
answers of a small export through the server, and the server's own part of them. All are CPU seconds, which other processes
disturb less than the clock, and the smallest of several rounds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgpack
import psutil
from unchanged import Checkout, ndarray, observations
from websockets.sync.client import connect

ROOT = Path(__file__).resolve().parents[1]
BAR = 1.03
ROUNDS = 5
REQUESTS = 60
DATA = """
import time
from vla.datasets.mixture import Mixture
from vla.datasets.questions import QuestionSource
from vla.datasets.robot import RobotSource
from vla.models.load import load_vlm
from vla.training.contract import ContractOptions, resolve
try:
    from vla.models.families.find import family_of
    from vla.sequences.encode import Encoder
    from vla.training.rows import Draws, collate
except ImportError:
    # Commits before the model families.
    from vla.examples import Examples as Encoder
    from vla.training.data import Draws, collate
    family_of = lambda model, processor: processor
sources = {"robot": RobotSource("data/robot"), "questions": QuestionSource("data/questions")}
contract = resolve(ContractOptions(), {name: source.card for name, source in sources.items()}, sources)
sources["robot"].bind(contract)
encoder = Encoder(contract, family_of(*load_vlm("tiny")))
draws = Draws(Mixture(sources, 0, 1000, {"robot": 0.5, "questions": 0.5}), encoder)
batches = lambda first, last: [collate(encoder, [draws[16 * k + i] for i in range(16)]) for k in range(first, last)]
batches(0, 4)
began = time.process_time()
batches(4, 44)
print(time.process_time() - began)
"""


def cpu_seconds(side: Checkout, *command: str) -> float:
    """CPU seconds of a process and its children."""
    process = subprocess.Popen([sys.executable, *command], cwd=side.out, env=side.environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, f"{side.code}: {command} ended with {status}"
    return usage.ru_utime + usage.ru_stime


def data_seconds(side: Checkout) -> float:
    done = subprocess.run(
        [sys.executable, "-c", DATA], cwd=side.out, env=side.environment, capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def answer_seconds(address: str, process: psutil.Process) -> tuple[float, float]:
    """CPU seconds of the server for some answers, and of its own part: what it took beyond the policy's calls."""
    with connect(f"ws://{address}", compression=None, max_size=None) as socket:
        socket.recv()
        policy, before = 0.0, sum(process.cpu_times()[:2])
        for one in observations()[:REQUESTS]:
            message = {
                "observation/image": ndarray(one["images"]["front"]),
                "observation/wrist_image": ndarray(one["images"]["wrist"]),
                "observation/state": ndarray(one["state"]),
                "prompt": one["instruction"],
            }
            socket.send(msgpack.packb(message))
            answer = msgpack.unpackb(socket.recv(), strict_map_key=False)
            policy += answer["policy_timing"]["infer_ms"] / 1e3
        total = sum(process.cpu_times()[:2]) - before
    return total, total - policy


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", required=True, help="commit to compare with")
    against = parser.parse_args().against
    best: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(root / "code")], check=True)
        subprocess.run(["git", "checkout", "--quiet", against], cwd=root / "code", check=True)
        sides = {"now": Checkout(ROOT, root / "now"), "before": Checkout(root / "code", root / "before")}
        for side in sides.values():
            side.out.mkdir()
        sides["now"].vla("collect", "--out", "data/robot", "--episodes", "4", "--seed", "1")
        sides["now"].vla("collect", "--task", "questions", "--out", "data/questions", "--pictures", "60", "--poses", "2")
        (sides["before"].out / "data").symlink_to(sides["now"].out / "data")

        def note(name: str, side: str, seconds: float) -> None:
            found = best.setdefault(name, {})
            found[side] = min(seconds, found.get(side, seconds))

        for turn in range(ROUNDS):
            # Each side comes first in turn.
            for name, side in list(sides.items())[:: 1 if turn % 2 else -1]:
                note("vla --help", name, cpu_seconds(side, "-m", "vla", "--help"))
                note("data, 40 batches of 16", name, data_seconds(side))
        export = str(ROOT / "tests/saved/export")
        with sides["now"].serving(export) as one, sides["before"].serving(export) as other:
            addresses = {"now": one, "before": other}
            ports = {name: int(address.rpartition(":")[2]) for name, address in addresses.items()}
            servers = {
                name: next(
                    psutil.Process(c.pid) for c in psutil.net_connections("tcp4") if c.laddr.port == port and c.status == "LISTEN"
                )
                for name, port in ports.items()
            }
            for turn in range(2 * ROUNDS):
                for name, address in list(addresses.items())[:: 1 if turn % 2 else -1]:
                    total, own = answer_seconds(address, servers[name])
                    note(f"decoding, {REQUESTS} answers through the server", name, total)
                    note(f"serving, {REQUESTS} answers without the policy's calls", name, own)
    bars = {}
    for name, seconds in best.items():
        ratio = seconds["now"] / seconds["before"]
        bars[name] = {"value": round(ratio, 4), "bar": BAR, "holds": ratio <= BAR, "cpu_seconds": seconds}
    from vla.report.provenance import provenance

    print(json.dumps({"bars": bars, "against": against, **provenance()}, indent=1))
    return int(not all(bar["holds"] for bar in bars.values()))


if __name__ == "__main__":
    raise SystemExit(main())
