"""Measures what pre-training is worth for words: *where* questions in words that no training text has, asked of models that
differ in their language model alone. Prints one JSON object.

`words.py --cell NAME EXPORT` asks an export of configs/pretrain-tiny.yaml, pretrain-minilm.yaml or pretrain-smol-lora.yaml 300
questions of each kind about fresh scenes, which it collects if they are missing, and writes its record to
benchmarks/results/words/NAME.json. A name is MODEL-SEED: tiny-0, minilm-1, smol-0. The shipped `tiny` is
tiny-0. Without --cell the recorded cells are merged and compared with the bars.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import vla  # noqa: F401  (before torch)

# isort: split
import numpy as np
import torch

from vla.contract import PolicyContract
from vla.datasets.questions import QuestionSource
from vla.datasets.samples import Question
from vla.models.load import SHIPPED, load_vlm
from vla.policies.load import load_policy
from vla.policies.local import LocalPolicy
from vla.policies.vqa_accuracy import balanced, is_correct
from vla.report.intervals import wilson
from vla.report.proportions import Counts, difference
from vla.report.provenance import provenance
from vla.sim.collect import collect_with_progress
from vla.sim.collect_options import Collect
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME
from vla.sim.tabletop.questions import TYPES
from vla.sim.tabletop.tasks.wording import named_object

ROOT = Path(__file__).resolve().parents[1]
CELLS, DATA = ROOT / "benchmarks/results/words", ROOT / "runs/words"
PER_KIND, BATCH, SEED = 300, 25, 907
NOUNS = {"cube": ("block", "box", "brick"), "cylinder": ("can", "tin", "tube")}
COLOURS = {
    "red": ("crimson", "scarlet", "ruby"),
    "green": ("emerald", "lime", "olive"),
    "blue": ("navy", "azure", "sapphire"),
    "yellow": ("golden", "lemon", "amber"),
    "purple": ("violet", "lilac", "plum"),
    "white": ("snowy", "ivory", "pale"),
}
VERBS = ("find the {}", "look for the {}", "show me the {}", "spot the {}")
"""Other words for those of the questions: in no training text, and in no instruction."""


UNSEEN = ("nouns", "colours", "verbs")
KINDS = ("as trained", *UNSEEN)


def reworded(name: str, kind: str, rng: np.random.Generator) -> str:
    """A *where* question about an object ("red cube"), as in training or with other words of one kind."""
    colour, noun = name.split()
    if kind == "nouns":
        noun = str(rng.choice(NOUNS[noun]))
    if kind == "colours":
        colour = str(rng.choice(COLOURS[colour]))
    asked = str(rng.choice(VERBS)) if kind == "verbs" else "where is the {}"
    return asked.format(f"{colour} {noun}")


def scenes(count: int) -> list[tuple[dict[str, np.ndarray], Question, str]]:
    """Images of fresh scenes, each with a *where* question of its own and the name of its object."""
    if not (DATA / "card.yaml").is_file():
        collect_with_progress(Collect(str(DATA), task="questions", images=2 * PER_KIND, poses=8, seed=SEED))
    source = QuestionSource(DATA, types=dict.fromkeys(TYPES, 0.0) | {"where": 1.0}).restricted("all")
    samples = balanced(source, count)
    names = [named_object(sample.questions[0].text) for sample in samples]
    return [(sample.images, sample.questions[0], name) for sample, name in zip(samples, names, strict=True) if name]


def asked(policy: LocalPolicy, count: int) -> dict[str, str]:
    """Kind -> a digit for each question, 1 if it was answered right. "blank" is asked as trained, with grey images."""
    torch.set_num_threads(2)
    rng, answered = np.random.default_rng(SEED), {}
    drawn = scenes(count)
    for kind in (*KINDS, "blank"):
        texts = [reworded(name, kind, rng) for _, _, name in drawn]
        images = [{k: np.full_like(v, 128) for k, v in one.items()} if kind == "blank" else one for one, _, _ in drawn]
        hits = []
        for at in range(0, len(drawn), BATCH):
            answers = policy.ask(images[at : at + BATCH], texts[at : at + BATCH])
            hits += [is_correct(q, a) for (_, q, _), a in zip(drawn[at : at + BATCH], answers, strict=True)]
        answered[kind] = "".join(str(int(hit)) for hit in hits)
        print(f"{kind}: {sum(hits)} of {len(hits)}, e.g. {texts[0]!r}", file=sys.stderr)
    return answered


def merged(cells: dict[str, dict]) -> tuple[dict[str, Any], dict[str, dict]]:
    """Accuracies with intervals by model and kind, the differences to `tiny` of the same seeds, and the bars."""
    models = sorted({name.rpartition("-")[0] for name in cells})
    seeds = {model: [name.rpartition("-")[2] for name in cells if name.startswith(f"{model}-")] for model in models}

    def hits(model: str, kinds: tuple[str, ...], chosen: list[str]) -> np.ndarray:
        answers = (cells[f"{model}-{seed}"]["answers"][kind] for seed in chosen for kind in kinds)
        return np.array([digit == "1" for one in answers for digit in one])

    def rate(model: str, kind: str) -> dict[str, Any]:
        right = hits(model, (kind,), seeds[model])
        return wilson(int(right.sum()), len(right)).to_dict()

    table: dict[str, Any] = {model: {kind: rate(model, kind) for kind in (*KINDS, "blank")} for model in models}
    bars = {}
    for model in models:
        both = [seed for seed in seeds[model] if seed in seeds.get("tiny", [])]
        if model != "tiny" and both:
            gap = difference(Counts.of(*(hits(one, UNSEEN, both) for one in (model, "tiny"))))
            table[f"{model} less tiny, unseen words"] = {**gap.to_dict(), "seeds": both}
            if model == "minilm":
                bars["minilm: unseen words, above tiny"] = at_least(gap.rate, 0.2)
    if "minilm" in models:
        bars["minilm: where, as trained"] = at_least(table["minilm"]["as trained"]["rate"], 0.9)
    if "smol" in models:
        seen, blank = (table["smol"][kind]["rate"] for kind in ("as trained", "blank"))
        bars["smol: where, above the same model shown a blank image"] = at_least(seen - blank, 0.2)
    return table, bars


def at_least(value: float, bar: float) -> dict[str, Any]:
    return {"value": value, "bar": f">= {bar}", "holds": value >= bar}


def opened(export: str) -> LocalPolicy:
    """An export; or the shipped `tiny`, which is the pre-training of seed 0."""
    if export in SHIPPED:
        return LocalPolicy(*load_vlm(export), PolicyContract({EMBODIMENT_NAME: EMBODIMENT}, chunk=1, execute=1), batch=BATCH)
    policy = load_policy(export, batch=BATCH)
    assert isinstance(policy, LocalPolicy)
    return policy


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", nargs=2, metavar=("NAME", "EXPORT"), help="MODEL-SEED and the export to ask")
    options = parser.parse_args()
    if options.cell:
        name, export = options.cell
        policy = opened(export)
        record = {"answers": asked(policy, PER_KIND), "contract": policy.contract.hash, "per kind": PER_KIND, **provenance()}
        CELLS.mkdir(parents=True, exist_ok=True)
        (CELLS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    cells = {path.stem: json.loads(path.read_text()) for path in sorted(CELLS.glob("*.json"))}
    table, bars = merged(cells)
    print(json.dumps({"bars": bars, "measured": table, **provenance()}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
