"""Decoding against transformers' own `generate` under the same mask of allowed ids: same weights, batch, threads and dtype.

On a CPU: the demo's model, alone and in a batch of 8, and a random model of 400 million weights against what the machine allows.
On a GPU (`--structure openvla-7b` or `paligemma-3b`) random weights of those structures in bf16. Prints one JSON object.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LogitsProcessor, LogitsProcessorList, PaliGemmaConfig, PaliGemmaForConditionalGeneration

from vla.models.decode import generate, generate_from
from vla.report.provenance import provenance

RUN = Path("runs/demo")
TOKENS = 7
"""Of one action, as OpenVLA writes it."""


class Only(LogitsProcessor):
    """The same restriction for transformers' own loop."""

    def __init__(self, allowed: list[list[int]], start: int, vocabulary: int, device: Any = None):
        self.start, self.masks = start, torch.full((len(allowed), vocabulary), -torch.inf, device=device)
        for mask, words in zip(self.masks, allowed, strict=True):
            mask[words] = 0

    def __call__(self, ids, scores):
        return scores + self.masks[ids.shape[1] - self.start]


def in_turns(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each side, one call each per round, after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            synchronise()
            began = time.perf_counter()
            run()
            synchronise()
            if number:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(found) for name, found in times.items()}


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def demo(rounds: int) -> dict:
    """The demo's policy on held-out steps: milliseconds of an answer, and of a token after the first."""
    from vla.datasets.robot import RobotSource
    from vla.policies.base import Observation
    from vla.policies.local import LocalPolicy

    policy = LocalPolicy.from_export(RUN / "export")
    source = RobotSource(RUN / "data/robot", chunk=1, split="val", holdout=0.05)
    items = [source.item(i, np.random.default_rng(0)) for i in np.linspace(0, len(source) - 1, 8).astype(int)]
    seen = [Observation("", item.images, item.state, item.instruction, item.embodiment) for item in items]
    # One instruction, one length: transformers' loop wants its prompts padded on the other side.
    seen = [Observation("", o.images, o.state, seen[0].instruction, o.embodiment) for o in seen]
    allowed = policy.examples.allowed()
    model, batches = policy.model, {n: policy.examples.batch([policy.examples.act(o) for o in seen[:n]], 1) for n in (1, 8)}
    names = ("input_ids", "prefix_mask", "attention_mask", "pixel_values")

    def ours(n: int, steps: int) -> torch.Tensor:
        return generate(model, *(batches[n][name] for name in names), allowed[:steps]).ids

    def theirs(steps: int) -> torch.Tensor:
        start = batches[1]["input_ids"].shape[1]
        only = LogitsProcessorList([Only(allowed[:steps], start, model.config.text_config.vocab_size)])
        given = {name: batches[1][name] for name in names}
        return model.generate(**given, max_new_tokens=steps, do_sample=False, eos_token_id=None, logits_processor=only)[:, start:]

    every = len(allowed)
    same = bool(torch.equal(ours(1, every), theirs(every)))
    found = in_turns(
        {
            "ours": lambda: ours(1, every),
            "ours first": lambda: ours(1, 1),
            "theirs": lambda: theirs(every),
            "theirs first": lambda: theirs(1),
            "eight": lambda: ours(8, every),
            "eight first": lambda: ours(8, 1),
            "mass": lambda: generate(model, *(batches[1][name] for name in names), allowed, valid_mass=True),
        },
        rounds,
    )
    per_token = {side: (found[side] - found[f"{side} first"]) / (every - 1) for side in ("ours", "theirs", "eight")}
    return {
        "same_ids": same,
        "tokens": every,
        "answer_ms": {name: 1e3 * value for name, value in found.items()},
        "token_ms": {name: 1e3 * value for name, value in per_token.items()},
        "end_to_end": found["theirs"] / found["ours"],
        "per_token": per_token["theirs"] / per_token["ours"],
        "batch_8_decode": 8 * per_token["ours"] / per_token["eight"],
        "batch_8_end_to_end": 8 * found["ours"] / found["eight"],
    }


def random_model(name: str, dtype: torch.dtype, device: str) -> Any:
    """Random weights as PaliGemma-3B has them, as OpenVLA-7B's language model behind a vision tower, or 400 million."""
    tower = {"model_type": "siglip_vision_model", "image_size": 224, "patch_size": 14}
    sizes: dict[str, tuple[dict, dict]] = {
        "400m": (
            {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 6},
            {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 8, "head_dim": 128},
        ),
        "paligemma-3b": (
            {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16},
            {"hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 18, "num_attention_heads": 8, "head_dim": 256},
        ),
        "openvla-7b": (
            {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16},
            {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
        ),
    }
    vision, text = sizes[name]
    kind = (
        {"model_type": "llama", "num_key_value_heads": 32}
        if name == "openvla-7b"
        else {"model_type": "gemma", "num_key_value_heads": 1}
    )
    words = {"400m": 32_000, "paligemma-3b": 257_216, "openvla-7b": 32_064}[name]
    config = PaliGemmaConfig(
        vision_config=tower | vision, text_config=text | kind | {"vocab_size": words}, image_token_index=words - 1,
        projection_dim=text["hidden_size"],
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        torch.set_default_dtype(dtype)
        try:
            return PaliGemmaForConditionalGeneration(config).eval()
        finally:
            torch.set_default_dtype(torch.float32)


def prompt(model: Any, device: str) -> dict[str, torch.Tensor]:
    """256 image tokens and 24 words."""
    words = model.config.text_config.vocab_size
    ids = torch.cat([torch.full((1, 256), words - 1), torch.randint(10, words - 600, (1, 24))], 1).to(device)
    pictures = torch.rand(1, 3, 224, 224, dtype=model.dtype, device=device)
    zeros = torch.zeros_like(ids)
    return {"input_ids": ids, "attention_mask": zeros + 1, "token_type_ids": zeros, "pixel_values": pictures}


def machine(dtype: torch.dtype, device: str) -> tuple[float, float]:
    """Bytes a second that a sum over a buffer of 1 GB reads, and operations a second of a product of large matrices."""
    buffer = torch.ones(10**9 // dtype.itemsize, dtype=dtype, device=device)
    side = 8192 if device == "cuda" else 1536
    a = torch.rand(side, side, dtype=dtype, device=device)
    found = in_turns({"sum": buffer.sum, "product": lambda: a @ a}, 5)
    return 10**9 / found["sum"], 2 * side**3 / found["product"]


def structure(name: str, dtype: torch.dtype, device: str, rounds: int) -> dict:
    """A random model's action of seven tokens, against the time that its bytes and operations take here, and `generate`."""
    bandwidth, rate = machine(dtype, device)
    model = random_model(name, dtype, device)
    inputs = prompt(model, device)
    words = model.config.text_config.vocab_size
    allowed = [list(range(words - 300, words - 44))] * TOKENS
    start = inputs["input_ids"].shape[1]
    only = LogitsProcessorList([Only(allowed, start, words, device)])

    def ours() -> torch.Tensor:
        return generate_from(model, inputs, allowed).ids

    def theirs() -> torch.Tensor:
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False, eos_token_id=None, logits_processor=only)
        return out[:, start:]

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.model(**inputs)
    read = sum(p.numel() for p in model.model.language_model.layers.parameters()) * dtype.itemsize
    read += 256 * model.config.text_config.hidden_size * dtype.itemsize
    floor = (TOKENS - 1) * read / bandwidth + counter.get_total_flops() / rate
    same = bool(torch.equal(ours(), theirs()))
    found = in_turns({"ours": ours, "theirs": theirs, "first": lambda: generate_from(model, inputs, allowed[:1])}, rounds)
    token = (found["ours"] - found["first"]) / (TOKENS - 1)
    return {
        "weights": sum(p.numel() for p in model.parameters()),
        "dtype": str(dtype),
        "same_ids": same,
        "ms": {name: 1e3 * value for name, value in found.items()},
        "hz": 1 / found["ours"],
        "token_ms": 1e3 * token,
        "achieved_gb_per_second": read / token / 1e9,
        "bandwidth_gb_per_second": bandwidth / 1e9,
        "gflops": rate / 1e9,
        "floor_ms": 1e3 * floor,
        "of_floor": found["ours"] / floor,
        "of_generate": found["theirs"] / found["ours"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--structure", choices=["openvla-7b", "paligemma-3b"], help="on a GPU")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    where = {**provenance(), "command": " ".join(["benchmarks/decode.py", *sys.argv[1:]])}
    if options.structure:
        if not torch.cuda.is_available():
            print("no CUDA device: run it where there is one", file=sys.stderr)
            return 2
        found = structure(options.structure, torch.bfloat16, "cuda", options.rounds)
        bars = {
            "of the floor": {"value": found["of_floor"], "bar": "<= 1.3", "holds": found["of_floor"] <= 1.3},
            "against generate": {"value": found["of_generate"], "bar": ">= 3", "holds": found["of_generate"] >= 3},
        }
        print(json.dumps({"bars": bars, options.structure: found, "device": torch.cuda.get_device_name(), **where}, indent=1))
        return 0
    if not (RUN / "export").is_dir():
        print(f"no {RUN}/export: run make demo", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    small, large = demo(options.rounds), structure("400m", torch.float32, "cpu", 3)
    limits = {
        "demo model, end to end": (small["end_to_end"], 1.5),
        "demo model, per token": (small["per_token"], 3),
        "batch of 8, decoding": (small["batch_8_decode"], 4),
        "batch of 8, end to end": (small["batch_8_end_to_end"], 1.4),
    }
    bars = {name: {"value": value, "bar": f">= {least}", "holds": value >= least} for name, (value, least) in limits.items()}
    bars["400M weights, of the floor"] = {"value": large["of_floor"], "bar": "<= 1.5", "holds": large["of_floor"] <= 1.5}
    print(json.dumps({"bars": bars, "demo": small, "400m": large, "threads": 1, **where}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
