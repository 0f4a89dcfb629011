"""Pictures of BabyAI's rooms with questions about them, and a small model of random weights that can learn to answer them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vla.contract import Camera, Embodiment, PolicyContract, Space
from vla.datasets.card import DatasetCard
from vla.datasets.shards import ShardWriter
from vla.models.load import new_tiny
from vla.models.text import train_tokenizer
from vla.rl.babyai import COLOURS, SHAPES, SIZE, TILE, BabyAI, cells

LEVELS = {"alone": "BabyAI-GoToObj-v0", "questions": "BabyAI-GoToLocal-v0"}
"""Rooms of one object, from which the words are learned at once, and rooms of eight: with those alone presence and place of an
object are guessed for longer than a training lasts."""
NOUNS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES[:3])
COUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDINGS = {
    "present": "is there a {object}",
    "where": "where is the {object}",
    "ahead": "what is ahead",
    "count": "how many objects are there",
    "wall": "is there a wall ahead",
    "list": "what is there and where",
}
MADE = "runs/babyai/vlm"
"""The model that `configs/pretrain-babyai.yaml` makes of them."""
START = "start"
"""Folder of the model of random weights, beside those of the pictures."""

# A contract needs a body; nobody learns its actions from questions.
EMBODIMENT = Embodiment(
    cameras=(Camera("front", SIZE, SIZE),),
    state=Space(("nothing",), ("",), (0.0,), (1.0,)),
    action=Space(("nothing",), ("",), (0.0,), (1.0,)),
)


def ask(view: np.ndarray, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Questions about what minigrid's symbols [7, 7, 3] show, as `QuestionSource` reads them; the robot is at (3, 6)."""
    seen = {place: name for place, name in cells(view).items() if name != "wall"}
    here, absent = sorted(set(seen.values())), [name for name in NOUNS if name not in seen.values()]
    questions = []

    def spot(place: tuple[int, int]) -> list[float]:
        return [round((c + 0.5) * TILE / SIZE, 4) for c in place]

    def say(kind: str, answer: str | list, name: str = "") -> None:
        questions.append({"type": kind, "question": WORDINGS[kind].format(object=name), "answer": answer})

    if here:
        say("present", "yes", str(rng.choice(here)))
        say("present", "no", str(rng.choice(absent)))
    for name in here:
        places = [place for place, other in seen.items() if other == name]
        if len(places) == 1:
            say("where", [spot(places[0])], name)
    if seen:
        # The place first: then each name is read off a place that is known.
        say("list", [part for place in sorted(seen, key=lambda p: p[::-1]) for part in (spot(place), seen[place])])
    ahead = cells(view).get((3, 5), "nothing")
    say("ahead", ahead)
    say("wall", "yes" if ahead == "wall" else "no")
    say("count", COUNTS[min(len(seen), len(COUNTS) - 1)])
    return questions


def collect_questions(
    out: str, pictures: int = 20_000, alone: int = 5_000, seed: int = 0, overwrite: bool = False
) -> dict[str, int]:
    """Writes pictures with questions, each of a room of its own (`questions`; `alone`: rooms of one object), and a model to be
    trained on them (`start`).

    Args:
        out: folder to write.
        pictures: how many.
        alone: how many of rooms of one object.
        seed: of everything drawn.
        overwrite: replace what is there.

    Returns:
        How many questions of each type.
    """
    folders = {"alone": alone, "questions": pictures}
    counts = {name: _collect(Path(out) / name, count, LEVELS[name], seed, overwrite) for name, count in folders.items()}
    model, processor = new_tiny(train_tokenizer(corpus()), pools=[1])
    for part in (model, processor):
        part.save_pretrained(Path(out) / START)
    return {kind: sum(one[kind] for one in counts.values()) for kind in WORDINGS}


def _collect(folder: Path, pictures: int, name: str, seed: int, overwrite: bool) -> dict[str, int]:
    rng, level = np.random.default_rng(seed), BabyAI(name)
    counts: dict[str, int] = dict.fromkeys(WORDINGS, 0)
    with ShardWriter(folder, per_shard=1000, overwrite=overwrite) as writer:
        for _ in range(pictures):
            level.reset(seed=int(rng.integers(2**31)))
            picture, symbols = level.wander(rng)
            questions = ask(symbols, rng)
            for question in questions:
                counts[question["type"]] += 1
            writer.write(f"q{writer.count:07d}", {"front.jpg": picture, "json": {"questions": questions}})
    level.close()
    total = {"pictures": pictures, "questions": sum(counts.values())}
    DatasetCard(
        "babyai-questions",
        "questions",
        "babyai",
        EMBODIMENT,
        total,
        writer.shards,
        counts,
        wordings=list(WORDINGS.values()),
        generator={"command": "vla rl questions", "level": name, "seed": seed},
    ).save(folder)
    return counts


def corpus() -> list[str]:
    """Every wording with every noun, as prompts and as answers."""
    asked = [wording.format(object=name) for wording in WORDINGS.values() for name in NOUNS]
    told = [*NOUNS, *COUNTS, "yes", "no", "wall", "nothing", "would a red ball be found here? why or why not?"]
    return [PolicyContract.question.format(question=one) for one in asked] + [f" {one}" for one in told]
