"""Collects images of BabyAI's rooms with questions about them, and prepares a `tiny` that has the words to answer them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla.contract import Camera, Embodiment
from vla.datasets.card import DatasetCard
from vla.datasets.shards import ShardWriter
from vla.errors import UserError
from vla.folders import check_writable
from vla.models.embeddings import append_tokens
from vla.models.load import load_vlm, new_tiny
from vla.rl.envs.babyai import COLOURS, SHAPES, SIZE, TILE, BabyAI, cells, nearest
from vla.space import Space

LEVELS = {
    "alone": ("BabyAI-GoToObj-v0",),
    "questions": ("BabyAI-GoToLocalS8N2-v0", "BabyAI-GoToLocalS8N4-v0", "BabyAI-GoToLocal-v0"),
}
"""Levels whose rooms have one object, where words are learned fastest, and levels with two, four and eight objects."""
NOUNS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES[:3])
COUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDINGS = {
    "present": "is there a {object}",
    "where": "where is the {object}",
    "colour": "what colour is the {object}",
    "shape": "what is the {object} object",
    "ahead": "what is ahead",
    "count": "how many objects are there",
    "wall": "is there a wall ahead",
    "list": "what is there and where",
}
START = "start"
"""Folder of the initial model, beside the folders of images."""

# A card needs an embodiment; nothing here uses its actions.
EMBODIMENT = Embodiment(
    cameras=(Camera("front", SIZE, SIZE),),
    state=Space(("nothing",), ("",), (0.0,), (1.0,)),
    action=Space(("nothing",), ("",), (0.0,), (1.0,)),
)


def ask(view: np.ndarray, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Returns questions about a view, minigrid's symbols [7, 7, 3], as `QuestionSource` reads them; the robot is at (3, 6)."""
    objects = {cell: name for cell, name in cells(view).items() if name != "wall"}
    present, absent = sorted(set(objects.values())), [name for name in NOUNS if name not in objects.values()]
    questions = []

    def point(cell: tuple[int, int]) -> list[float]:
        return [round((c + 0.5) * TILE / SIZE, 4) for c in cell]

    def add(kind: str, answer: str | list, name: str = "") -> None:
        questions.append({"type": kind, "question": WORDINGS[kind].format(object=name), "answer": answer})

    if present:
        add("present", "yes", str(rng.choice(present)))
        add("present", "no", str(rng.choice(absent)))
    for part, kind in ((1, "colour"), (0, "shape")):
        known = [name.split()[part] for name in objects.values()]
        for name in present:
            if known.count(word := name.split()[part]) == 1:
                add(kind, name.split()[1 - part], word)
    for name in present:
        add("where", [point(nearest([cell for cell, other in objects.items() if other == name]))], name)
    for name in rng.choice(absent, 2, replace=False):
        add("where", "nowhere", str(name))
    if objects:
        # The point comes first: each name is then read off a known point.
        add("list", [part for cell in sorted(objects, key=lambda c: c[::-1]) for part in (point(cell), objects[cell])])
    ahead = cells(view).get((3, 5), "nothing")
    add("ahead", ahead)
    add("wall", "yes" if ahead == "wall" else "no")
    add("count", COUNTS[min(len(objects), len(COUNTS) - 1)])
    return questions


def collect_questions(
    out: str, images: int = 20_000, alone: int = 5_000, seed: int = 0, overwrite: bool = False
) -> dict[str, int]:
    """Writes images with questions, each of a room of its own, and the initial model to train on them.

    Args:
        out: folder with the subfolders `questions`, `alone` (rooms with one object) and `start` (the model).
        images: number of images in `questions`.
        alone: number of images in `alone`.
        seed: random seed.
        overwrite: whether to replace existing data.

    Returns:
        Number of questions of each type.

    Raises:
        UserError: a number is too small, nothing can be written into the folder, or it has shards and `overwrite` is not set.
    """
    if min(images, alone) < 1 or seed < 0:
        raise UserError(
            f"{images} and {alone} images, seed {seed}", "rl questions", "give at least 1 image each, and a seed of 0 or more"
        )
    check_writable(out)
    folders = {"alone": alone, "questions": images}
    counts = {name: _collect(Path(out) / name, count, LEVELS[name], seed, overwrite) for name, count in folders.items()}
    for part in start():
        part.save_pretrained(Path(out) / START)
    return {kind: sum(one[kind] for one in counts.values()) for kind in WORDINGS}


def _collect(folder: Path, images: int, names: Sequence[str], seed: int, overwrite: bool) -> dict[str, int]:
    rng, levels = np.random.default_rng(seed), [BabyAI(name) for name in names]
    counts: dict[str, int] = dict.fromkeys(WORDINGS, 0)
    with ShardWriter(folder, per_shard=1000, overwrite=overwrite) as writer:
        for number in range(images):
            level = levels[number % len(levels)]
            level.reset(seed=int(rng.integers(2**31)))
            image, symbols = level.wander(rng)
            questions = ask(symbols, rng)
            for question in questions:
                counts[question["type"]] += 1
            writer.write(f"q{writer.count:07d}", {"front.jpg": image, "json": {"questions": questions}})
    for level in levels:
        level.close()
    total = {"pictures": images, "questions": sum(counts.values())}
    DatasetCard(
        "babyai-questions",
        "questions",
        "babyai",
        EMBODIMENT,
        total,
        writer.shards,
        counts,
        wordings=list(WORDINGS.values()),
        generator={"command": "vla rl questions", "levels": list(names), "seed": seed},
    ).save(folder)
    return counts


def start() -> tuple[Any, Any]:
    """Returns a `tiny` with one camera and a token for each word of these rooms that it lacks, and its processor.

    `tiny` can already find named objects on another simulator's tables. Learning that from random weights would take longer than
    the whole training here.
    """
    pretrained, processor = load_vlm("tiny")
    words = [f" {word}" for word in (*COLOURS, *SHAPES, *COUNTS, "yes", "no", "wall", "nothing", "nowhere", "ahead")]
    append_tokens(pretrained, processor.tokenizer, [w for w in words if len(processor.tokenizer(w)["input_ids"]) > 1])
    weights = pretrained.state_dict()
    weights["vision.camera"] = weights["vision.camera"][:1]
    model, processor = new_tiny(processor.tokenizer, pools=[1])
    model.load_state_dict(weights)
    return model, processor
