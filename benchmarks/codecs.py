"""Measures action codecs on demonstrations: their error, the tokens per chunk, the speed of encoding and decoding.

Codecs are fitted on the training episodes and measured on the held-out ones. Errors are in half ranges of a dimension (1 is the
distance from the middle to a limit), over the dimensions that vary; for each dimension also in its own unit.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from vla.contract import PolicyContract
from vla.datasets.robot import RobotSource
from vla.report.provenance import provenance
from vla.tokenization.base import ActionCodec
from vla.tokenization.codecs import SETTINGS, action_codec
from vla.training.contract import ContractOptions, chunks, resolve

DATA = Path("runs/demo/data/robot")
SUCCESS = Path(__file__).parent / "results/compare-quantile.json"
"""Result of `vla compare` for the demo trained with quantile bins and with uniform bins, in this order."""


def demonstrations(folder: str) -> Path:
    """Returns the folder of the demo's demonstrations, or collects a few."""
    if folder or DATA.is_dir():
        return Path(folder or DATA)
    from vla.sim.collect import collect
    from vla.sim.collect_options import Collect

    out = Path(tempfile.mkdtemp()) / "robot"
    collect(Collect(str(out), "lift", episodes=20), lambda *_: None)
    return out


def contract_of(codec: str, chunk: int, source: RobotSource) -> PolicyContract:
    options = ContractOptions(codec=codec, chunk=chunk, execute=1)
    return resolve(options, {"robot": source.card}, {"robot": source})


def microseconds(work, samples: list, rounds: int = 3) -> float:
    """Returns the microseconds per sample, the median of several rounds."""
    results = []
    for _ in range(rounds):
        began = time.perf_counter()
        for sample in samples:
            work(sample)
        results.append(1e6 * (time.perf_counter() - began) / len(samples))
    return statistics.median(results)


def measure(codec: ActionCodec, held_out: np.ndarray) -> dict[str, object]:
    flags = np.zeros(codec.chunk, bool)
    written = [codec.encode(chunk, flags)[0] for chunk in held_out]
    off = np.stack([abs(codec.decode(symbols)[0] - chunk) for symbols, chunk in zip(written, held_out, strict=True)])
    half = (np.array(codec.space.high) - np.array(codec.space.low)) / 2
    relative = (off / half)[..., codec.varies]
    named = zip(codec.space.names, codec.space.units, off.mean((0, 1)), codec.varies, strict=True)
    return {
        "mean_error": round(float(relative.mean()), 6),
        "largest_error": round(float(relative.max()), 6),
        "mean_error_by_dimension": {f"{n} ({u})" if u else n: float(f"{e:.3g}") for n, u, e, varies in named if varies},
        "tokens_per_chunk": round(statistics.mean(map(len, written)), 2),
        "most_tokens": max(map(len, written)),
        "symbols": codec.size,
        "encode_us": round(microseconds(lambda chunk: codec.encode(chunk, flags), list(held_out)), 1),
        "decode_us": round(microseconds(codec.decode, written), 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="", help=f"a robot data set; by default {DATA}, or a few new episodes")
    parser.add_argument("--chunks", type=int, nargs="+", default=[2, 8, 16], help="chunk lengths")
    parser.add_argument("--samples", type=int, default=500, help="held-out chunks")
    options = parser.parse_args()
    source = RobotSource(demonstrations(options.data), holdout=0.05)
    results: dict[str, dict[str, object]] = {}
    for chunk in options.chunks:
        held_out = chunks(source, chunk, "val")
        held_out = held_out[np.linspace(0, len(held_out) - 1, min(options.samples, len(held_out))).astype(int)]
        rows: dict[str, object] = {}
        for codec in SETTINGS:
            began = time.perf_counter()
            contract = contract_of(codec, chunk, source)
            seconds = time.perf_counter() - began
            rows[codec] = {**measure(action_codec(contract), held_out), "fit_s": round(seconds, 2)}
        results[f"chunk {chunk}"] = rows
    compared = json.loads(SUCCESS.read_text())["pairs"][0] if SUCCESS.is_file() else None
    success = compared and compared["difference"]
    content = {"bars": {}, "measured": results, "success": success, "held_out_chunks": options.samples, "data": source.card.name}
    print(json.dumps({**content, **provenance(), "command": " ".join(sys.argv)}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
