"""Compares what public models compute here with their own classes in transformers, on toys of the real classes; trains the toys,
kills and resumes runs, and times decoding against `generate` under the same mask. Prints one JSON object.

A toy has the published configuration of a named checkpoint, with small widths and depths (published.py). `families.py CELL ...`
runs a part and records it; without a cell it validates the record and repeats a short form.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import decode
import numpy as np
import published
import recorded_tests
import torch
from transformers import LogitsProcessorList

from vla.contract import Camera, Embodiment, PolicyContract
from vla.models.families.find import family_of
from vla.models.families.hub import left_padded
from vla.observation import Observation
from vla.policies.local import LocalPolicy
from vla.report.provenance import provenance
from vla.sequences.encode import Encoder
from vla.space import Space
from vla.training.contract import add_tokens, with_tokens

RESULTS = Path(__file__).parent / "results/families.json"
CELLS = {
    "same": ("models/test_families.py", "loss_is or generate or one_another or merged"),
    "openvla": ("models/test_openvla.py", "original"),
    "learn": ("training/test_public_models.py", "learns"),
    "resume": ("training/test_public_models.py", "goes_on"),
}
"""Cells that are tests: their file and pytest's expression for them."""
SHORT = ("models/test_families.py", "(loss_is or generate or one_another or merged) and smolvlm")
TOY = published.Toy(hidden=512, layers=8, heads=8, key_heads=4, words=0)
AXES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
SPACE = Space(names=AXES, units=("m",) * 3 + ("rad",) * 3 + ("",), low=(-1.0,) * 7, high=(1.0,) * 7)
ROBOT = Embodiment(cameras=(Camera("front", 224, 224), Camera("wrist", 224, 224)), state=SPACE, action=SPACE)


def against_generate(name: str, rounds: int) -> dict[str, Any]:
    """Milliseconds of an answer, images and prompt included: four actions of seven dimensions, as the recipes have them."""
    model, processor = published.make(name, TOY)
    contract = PolicyContract({"r": ROBOT}, plan=(), chat=bool(getattr(processor, "chat_template", None)), chunk=4, execute=2)
    contract = with_tokens(dataclasses.replace(contract, decode="mode", tokens=""), model, processor.tokenizer)
    add_tokens(contract, model, processor.tokenizer, points=False)
    encoder = Encoder(contract, family_of(model, processor))
    # As a policy loads an export.
    policy = LocalPolicy(model.requires_grad_(False), processor, contract, encoder=encoder)
    rng = np.random.default_rng(0)
    images = {camera.name: rng.integers(0, 256, (224, 224, 3), np.uint8) for camera in ROBOT.cameras}
    observation = Observation("", images, np.zeros(7, np.float32), "lift the red cube")
    writing = encoder.grammar.writing()
    inputs = encoder.batch([encoder.act(observation)]).inputs
    prompt = left_padded(inputs, encoder.tokenizer.pad_token_id or 0)
    begin, width = int((prompt.attention[0] == 0).sum()), prompt.ids.shape[1]
    allowed = encoder.grammar.allowed()
    fed = {"input_ids": prompt.ids[:, begin:], "attention_mask": prompt.attention[:, begin:], **prompt.images}
    fed |= encoder.family.token_types(dataclasses.replace(prompt, ids=prompt.ids[:, begin:]))
    only = LogitsProcessorList([decode.Only(allowed, width - begin, len(model.get_input_embeddings().weight))])
    settings = {"max_new_tokens": len(allowed), "min_new_tokens": len(allowed), "do_sample": False, "eos_token_id": None}

    def theirs() -> torch.Tensor:
        with torch.inference_mode():
            return model.generate(**fed, **settings, logits_processor=only)[:, width - begin :]

    def ours() -> torch.Tensor:
        return decode.answer(policy, inputs, **writing)

    same = bool(torch.equal(ours(), theirs()))
    times = decode.in_turns({"ours": ours, "generate": theirs}, rounds)
    return {
        "same_ids": same,
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(model.get_input_embeddings().weight),
        "prompt": width - begin,
        "tokens": len(allowed),
        "ms": {side: round(1e3 * seconds, 1) for side, seconds in times.items()},
        "faster": round(times["generate"] / times["ours"], 2),
    }


def bar(value: float, bound: str, holds: bool) -> dict[str, Any]:
    return {"value": value, "bar": bound, "holds": holds}


def bars_of(recorded: dict[str, dict]) -> dict[str, dict]:
    """Returns the bars over the recorded cells."""
    bars = {}
    tests = {cell: recorded[cell]["tests"] for cell in CELLS if cell in recorded}
    for cell, cases in tests.items():
        failed = [name for name, case in cases.items() if not case["passed"]]
        bars[f"{cell}: tests that fail"] = bar(len(failed), "== 0 of " + str(len(cases)), bool(cases) and not failed)
    for part, bound in {"loss_is": 1e-5, "one_another": 2e-5, "merged": 1e-4}.items():
        values = [
            float(case["difference"]) for name, case in tests.get("same", {}).items() if part in name and "difference" in case
        ]
        if values:
            bars[f"same: largest difference, {part}"] = bar(max(values), f"<= {bound}", max(values) <= bound)
    if learned := [float(case.get("token_accuracy", 0)) for case in tests.get("learn", {}).values()]:
        bars["learn: smallest token accuracy"] = bar(min(learned), ">= 0.95", min(learned) >= 0.95)
    if timed := recorded.get("decode", {}).get("families"):
        slowest = min(result["faster"] for result in timed.values())
        bars["decode: smallest speed-up over generate"] = bar(slowest, ">= 1.5", slowest >= 1.5)
        same = all(result["same_ids"] for result in timed.values())
        bars["decode: the same ids"] = bar(same, "== true", same)
    return bars


def run(cell: str, only: str) -> dict[str, Any]:
    if cell != "decode":
        file, wanted = CELLS[cell]
        return {"tests": recorded_tests.run(file, f"({wanted}) and {only}" if only else wanted)}
    torch.set_num_threads(1)
    return {"families": {name: against_generate(name, 5) for name in published.FAMILIES if only in name}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cells", nargs="*", metavar="CELL", help=f"to run and record: {', '.join([*CELLS, 'decode'])}")
    parser.add_argument("--only", default="", help="families with this in their names; nothing is recorded")
    options = parser.parse_args()
    if unknown := set(options.cells) - {*CELLS, "decode"}:
        parser.error(f"no cell {', '.join(unknown)}")
    where = provenance()
    recorded = json.loads(RESULTS.read_text()) if RESULTS.is_file() and not options.only else {}
    for cell in options.cells:
        began = time.monotonic()
        result = run(cell, options.only)
        recorded[cell] = {
            **result,
            "seconds": round(time.monotonic() - began),
            **where,
            "command": f"benchmarks/families.py {cell}",
        }
        if not options.only:
            RESULTS.write_text(json.dumps(recorded, indent=1) + "\n")
    repeated = {} if options.cells else {"tests": recorded_tests.run(*SHORT), "decode": against_generate("smolvlm", 3)}
    print(json.dumps({"bars": bars_of(recorded), "recorded": recorded, "repeated": repeated, **where}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
