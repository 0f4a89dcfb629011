"""Compares decoding with transformers' own `generate` under the same mask of allowed ids: same weights, batch, threads, dtype.

On a CPU: the demo's model alone, in a batch of 8 and writing a chunk at once, and a random model of 400 million weights
against what the machine allows. On a GPU (`--structure openvla-7b` or `paligemma-3b`) random weights of those structures in
bf16 and in 8-bit integers. `--toy` runs the same code on small models, wherever it is, in seconds. What writing chunks at
once does to success takes two trainings: it is read from what `vla compare` recorded of them. Prints one JSON object.
"""

import argparse
import dataclasses
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

from vla.contract import PolicyContract
from vla.models.decoding.decode import fast_steps, write
from vla.models.decoding.static import StaticSteps
from vla.models.families.hub_session import HubSession
from vla.models.inputs import ModelInputs
from vla.models.int8 import to_int8
from vla.observation import Observation
from vla.policies.local import LocalPolicy
from vla.report.provenance import provenance
from vla.sequences.encode import Encoder

RUN = Path("runs/demo")
PARTS = ["demo", "block", "400m"]
SUCCESS = Path(__file__).parent / "results/compare-block.json"
"""Result of `vla compare` for the demo with a chunk of 8, decoded at once and token by token, in this order."""
TOKENS = 7
"""Number of tokens of one of OpenVLA's actions."""
BATCH_OF_8 = {"AVX512": 2.9}
"""Bar of a batch of 8 by the CPU's instructions, 4 with others: with AVX-512 a single row is fast already."""


class Only(LogitsProcessor):
    """The same mask of allowed ids for transformers' own loop."""

    def __init__(self, allowed: list[list[int]], start: int, vocabulary: int, device: torch.device | str | None = None):
        self.start, self.masks = start, torch.full((len(allowed), vocabulary), -torch.inf, device=device)
        for mask, words in zip(self.masks, allowed, strict=True):
            mask[words] = 0

    def __call__(self, ids, scores):
        return scores + self.masks[ids.shape[1] - self.start]


def in_turns(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Returns the median seconds of each side, with one call each per round; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            synchronise()
            began = time.perf_counter()
            run()
            synchronise()
            if number:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(results) for name, results in times.items()}


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def acting(toy: bool) -> tuple[LocalPolicy, list[Observation]]:
    """Returns the demo's policy and eight held-out steps; as a toy, its initial model and noise."""
    if toy:
        from vla.models.load import load_vlm
        from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME

        contract = PolicyContract({EMBODIMENT_NAME: EMBODIMENT}, plan=("where", "reach"), chunk=2)
        rng = np.random.default_rng(0)
        images = [{c.name: rng.integers(0, 255, (64, 64, 3), np.uint8) for c in EMBODIMENT.cameras} for _ in range(8)]
        return LocalPolicy(*load_vlm("tiny"), contract), [Observation("", p, np.zeros(5), "lift the red cube") for p in images]
    from vla.datasets.robot import RobotSource

    policy = LocalPolicy.from_export(RUN / "export", device="cpu")
    source = RobotSource(RUN / "data/robot", chunk=1, split="val", holdout=0.05)
    samples = [source.sample(i, np.random.default_rng(0)) for i in np.linspace(0, len(source) - 1, 8).astype(int)]
    # One instruction, one length: transformers' loop wants its prompts padded on the other side.
    return policy, [Observation("", sample.images, sample.state, samples[0].instruction, sample.embodiment) for sample in samples]


def answer(policy: LocalPolicy, inputs: ModelInputs, **how: Any) -> torch.Tensor:
    """The ids that the policy's model writes, as `write` is told."""
    return write(policy.encoder.family.session(policy.model, inputs, policy.steps), **how).ids


def demo(policy: LocalPolicy, seen: list[Observation], rounds: int) -> dict:
    """Returns milliseconds per answer and per token after the first; for one row, for eight, and with the median for the mode."""
    contracts = [dataclasses.replace(policy.contract, decode=decode) for decode in ("mode", "median")]
    allowed, medians = (Encoder(one, policy.encoder.family).grammar.writing()["allowed"] for one in contracts)
    model = policy.model
    batches = {n: policy.encoder.batch([policy.encoder.act(o) for o in seen[:n]], 1).inputs for n in (1, 8)}

    def ours(n: int, steps: int, places: list = allowed) -> torch.Tensor:
        return answer(policy, batches[n], allowed=places[:steps])

    every, start = len(allowed), batches[1].ids.shape[1]
    only = [LogitsProcessorList([Only(allowed[:n], start, model.config.text_config.vocab_size)]) for n in (1, every)]

    def theirs(steps: int) -> torch.Tensor:
        one = batches[1]
        given = {"input_ids": one.ids, "attention_mask": one.attention, "prefix_mask": one.group, **one.images}
        how = {"do_sample": False, "eos_token_id": None, "logits_processor": only[steps > 1]}
        return model.generate(**given, max_new_tokens=steps, **how)[:, start:]

    same = bool(torch.equal(ours(1, every), theirs(every)))
    results = in_turns(
        {
            "ours": lambda: ours(1, every),
            "ours first": lambda: ours(1, 1),
            "theirs": lambda: theirs(every),
            "theirs first": lambda: theirs(1),
            "median": lambda: ours(1, every, medians),
            "median first": lambda: ours(1, 1, medians),
            "eight": lambda: ours(8, every),
            "eight first": lambda: ours(8, 1),
            "mass": lambda: answer(policy, batches[1], allowed=allowed, valid_mass=True),
        },
        rounds,
    )
    per_token = {side: (results[side] - results[f"{side} first"]) / (every - 1) for side in ("ours", "theirs", "median", "eight")}
    return {
        "same_ids": same,
        "tokens": every,
        "answer_ms": {name: 1e3 * value for name, value in results.items()},
        "token_ms": {name: 1e3 * value for name, value in per_token.items()},
        "end_to_end": results["theirs"] / results["ours"],
        "per_token": per_token["theirs"] / per_token["ours"],
        "median_per_token": per_token["median"] / per_token["ours"],
        "batch_8_decode": 8 * per_token["ours"] / per_token["eight"],
        "batch_8_end_to_end": 8 * results["ours"] / results["eight"],
    }


def at_once(policy: LocalPolicy, seen: list[Observation], rounds: int) -> dict:
    """Milliseconds of an answer with a chunk of 8: token by token and in a block, images and prompt included; with the policy's
    plan, and of the actions alone. The weights have not learned blocks, which changes what is written, not how fast."""
    results = {}
    for name, plan in {"with plan": policy.contract.plan, "actions alone": ()}.items():
        sides = {}
        for block in ("none", "bidirectional"):
            contract = dataclasses.replace(policy.contract, chunk=8, execute=8, block=block, plan=plan, modes=())
            examples = Encoder(contract, policy.encoder.family)
            inputs, how = examples.batch([examples.act(seen[0])], 1).inputs, examples.grammar.writing()
            sides[block] = lambda inputs=inputs, how=how: answer(policy, inputs, **how)
        tokens = sides["none"]().shape[1]
        times = in_turns(sides, rounds)
        faster = times["none"] / times["bidirectional"]
        results[name] = {"tokens": tokens, "ms": {k: 1e3 * v for k, v in times.items()}, "faster": faster}
    return results


def random_model(name: str, dtype: torch.dtype, device: str, toy: bool = False) -> Any:
    """Random weights as PaliGemma-3B has them, as OpenVLA-7B's language model behind a vision tower, or 400 million; or few."""
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
    kind: dict[str, Any] = (
        {"model_type": "llama", "num_key_value_heads": 32, "use_bidirectional_attention": False}
        if name == "openvla-7b"
        else {"model_type": "gemma", "num_key_value_heads": 1}
    )
    words = 2_000 if toy else {"400m": 32_000, "paligemma-3b": 257_216, "openvla-7b": 32_064}[name]
    if toy:
        few = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
        vision, text = vision | few, text | few | ({"head_dim": 64} if "head_dim" in text else {})
        kind |= {"num_key_value_heads": min(kind["num_key_value_heads"], 2)}
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
    """Returns inputs of 256 image tokens and 24 words."""
    words = model.config.text_config.vocab_size
    ids = torch.cat([torch.full((1, 256), words - 1), torch.randint(10, words - 600, (1, 24))], 1).to(device)
    images = torch.rand(1, 3, 224, 224, dtype=model.dtype, device=device)
    zeros = torch.zeros_like(ids)
    return {"input_ids": ids, "attention_mask": zeros + 1, "token_type_ids": zeros, "pixel_values": images}


def machine(dtype: torch.dtype, device: str, toy: bool) -> tuple[float, float]:
    """Returns bytes per second of a sum over a buffer of 1 GB, and operations per second of a product of large matrices."""
    size, side = (10**6, 64) if toy else (10**9, 8192 if device == "cuda" else 1536)
    buffer = torch.ones(size // dtype.itemsize, dtype=dtype, device=device)
    a = torch.rand(side, side, dtype=dtype, device=device)
    results = in_turns({"sum": buffer.sum, "product": lambda: a @ a}, 5)
    return size / results["sum"], 2 * side**3 / results["product"]


def structure(name: str, dtype: torch.dtype, device: str, rounds: int, compiled: bool = False, toy: bool = False) -> dict:
    """Times a random model's action of seven tokens, against `generate` and the time that its bytes and operations need here."""
    bandwidth, rate = machine(dtype, device, toy)
    model = random_model(name, dtype, device, toy)
    inputs = prompt(model, device)
    words = model.config.text_config.vocab_size
    allowed = [torch.arange(words - 300, words - 44, device=device)] * TOKENS
    start = inputs["input_ids"].shape[1]
    only = LogitsProcessorList([Only([w.tolist() for w in allowed], start, words, device)])

    def steps_of(model: Any) -> StaticSteps | None:
        # As a toy also what a GPU would record, where there is none.
        return StaticSteps(model.get_decoder(), compiled) if toy and name != "400m" else fast_steps(model, compiled)

    static = steps_of(model)

    def ours(steps: int = TOKENS) -> torch.Tensor:
        return write(HubSession(model, inputs, static), allowed[:steps]).ids

    def theirs() -> torch.Tensor:
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False, eos_token_id=None, logits_processor=only)
        return out[:, start:]

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.model(**inputs)
    read = sum(p.numel() for p in model.get_decoder().layers.parameters()) * dtype.itemsize
    read += 256 * model.config.text_config.hidden_size * dtype.itemsize
    floor = (TOKENS - 1) * read / bandwidth + counter.get_total_flops() / rate
    same = bool(torch.equal(ours(), theirs()))
    results = in_turns({"ours": ours, "theirs": theirs, "first": lambda: ours(1)}, rounds)
    token = (results["ours"] - results["first"]) / (TOKENS - 1)
    weights = sum(p.numel() for p in model.parameters())
    # Last: it changes the model.
    to_int8(model.get_decoder())
    static = steps_of(model)
    short = in_turns({"ours": ours, "first": lambda: ours(1)}, rounds)
    return {
        "weights": weights,
        "dtype": str(dtype),
        "same_ids": same,
        "graphs": static is not None and static.graphs,
        "ms": {key: 1e3 * value for key, value in results.items()},
        "hz": 1 / results["ours"],
        "token_ms": 1e3 * token,
        "achieved_gb_per_second": read / token / 1e9,
        "bandwidth_gb_per_second": bandwidth / 1e9,
        "gflops": rate / 1e9,
        "floor_ms": 1e3 * floor,
        "of_floor": results["ours"] / floor,
        "of_generate": results["theirs"] / results["ours"],
        "int8": {
            "ms": {key: 1e3 * value for key, value in short.items()},
            "token_ms": 1e3 * (short["ours"] - short["first"]) / (TOKENS - 1),
        },
    }


def at_least(value: float | None, bar: float) -> dict:
    return {"value": value, "bar": f">= {bar}", "holds": value is not None and value >= bar}


def at_most(value: float, bar: float) -> dict:
    return {"value": value, "bar": f"<= {bar}", "holds": value <= bar}


def bars(results: dict[str, Any]) -> dict[str, dict]:
    """Returns the bars of the parts that were measured."""
    bars = {}
    if small := results.get("demo"):
        bars |= {
            "demo model, end to end": at_least(small["end_to_end"], 1.5),
            "demo model, per token": at_least(small["per_token"], 3),
            "median instead of mode, per token": at_most(small["median_per_token"], 1.03),
            "batch of 8, decoding": at_least(small["batch_8_decode"], BATCH_OF_8.get(torch.backends.cpu.get_cpu_capability(), 4)),
            "batch of 8, end to end": at_least(small["batch_8_end_to_end"], 1.4),
        }
    if block := results.get("block"):
        bars["chunk of 8 at once"] = at_least(block["with plan"]["faster"], 2)
        (pair,) = json.loads(SUCCESS.read_text())["pairs"] if SUCCESS.is_file() else [None]
        bars["chunk of 8 at once, success"] = at_least(pair and pair["difference"]["high"], 0)
    if large := results.get("400m"):
        bars["400M weights, of the floor"] = at_most(large["of_floor"], 1.5)
    return bars


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--structure", choices=["openvla-7b", "paligemma-3b"], help="on a GPU")
    parser.add_argument("--compiled", action="store_true", help="fuse the structure's step with torch.compile")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS, help="of what is measured on a CPU; by default all")
    parser.add_argument("--toy", action="store_true", help="small models: does it run?")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    where = provenance()
    if options.structure:
        cuda = torch.cuda.is_available()
        if not cuda and not options.toy:
            print("no CUDA device: run it where there is one, or with --toy", file=sys.stderr)
            return 2
        where_to, dtype = "cuda" if cuda else "cpu", torch.float32 if options.toy else torch.bfloat16
        results = structure(options.structure, dtype, where_to, options.rounds, options.compiled, options.toy)
        reached = {"of the floor": at_most(results["of_floor"], 1.3), "against generate": at_least(results["of_generate"], 3)}
        device = torch.cuda.get_device_name() if cuda else "cpu"
        print(json.dumps({"bars": reached, options.structure: results, "device": device, "toy": options.toy, **where}, indent=1))
        return 0
    if not options.toy and options.part != ["400m"] and not (RUN / "export").is_dir():
        print(f"no {RUN}/export: run make demo", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    if "demo" in options.part or "block" in options.part:
        acts = acting(options.toy)
    if "demo" in options.part:
        results["demo"] = demo(*acts, options.rounds)
    if "block" in options.part:
        results["block"] = at_once(*acts, options.rounds)
    if "400m" in options.part:
        results["400m"] = structure("400m", torch.float32, "cpu", 3, toy=options.toy)
    said = {"bars": bars(results), **results, "threads": 1, "toy": options.toy}
    print(json.dumps({**said, **where}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
