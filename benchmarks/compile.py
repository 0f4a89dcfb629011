"""Compares training steps with compiled blocks (`model.compile: true`) and without, on this machine's CPU: the structure of
SmolLM2-135M and the one of `tiny`'s language model, forward and backward. Prints one JSON object."""

import contextlib
import json
import statistics
import sys
import time

# It says how torch's threads wait, which they read when torch is loaded.
import vla  # noqa: F401

# isort: split
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from vla.models.blocks import blocks
from vla.report.provenance import provenance

ROWS, REPEATS = 8, 7
SMOLLM2 = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
}
TINY = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 749}
CASES = {"smollm2-135m": (SMOLLM2, 136), "tiny": (TINY, 136)}


def measure(settings: dict, length: int, precision: torch.dtype) -> dict:
    """Seconds of a step: not compiled, compiled, the first compiled one, and the ratio of the medians."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**settings))
    ids = torch.randint(0, settings["vocab_size"], (ROWS, length))
    mixed = torch.autocast("cpu", torch.bfloat16) if precision is torch.bfloat16 else contextlib.nullcontext()

    def step() -> float:
        began = time.perf_counter()
        model.zero_grad()
        with mixed:
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        return time.perf_counter() - began

    step()
    eager = [step() for _ in range(REPEATS)]
    for block in blocks(model):
        block.compile()
    first = step()
    step()
    compiled = [step() for _ in range(REPEATS)]
    ratio = statistics.median(eager) / statistics.median(compiled)
    return {"eager_s": eager, "compiled_s": compiled, "first_s": first, "ratio": ratio}


def main() -> int:
    results = {}
    for name, (settings, length) in CASES.items():
        for precision in (torch.bfloat16, torch.float32):
            torch._dynamo.reset()
            results[f"{name}, {str(precision).removeprefix('torch.')}"] = measure(settings, length, precision)
    said = {name: round(one["ratio"], 2) for name, one in results.items()}
    print(json.dumps({"bars": {}, "times_faster": said, "cases": results, "rows": ROWS, **provenance()}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
