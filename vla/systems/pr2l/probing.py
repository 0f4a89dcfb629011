"""Ranks prompts, layers and poolings without reinforcement learning, by what their states and answers tell of BabyAI's rooms."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vla.errors import UserError
from vla.promptable.probe import POOLINGS, Probe, classify, pooled, regress
from vla.report.learning import load_run
from vla.report.provenance import provenance
from vla.report.wording import Table, aligned
from vla.rl.envs.babyai import BabyAI
from vla.rl.envs.registry import environment_class
from vla.rl.runs.options import RunOptions
from vla.systems.pr2l.correlation import LEAST, SCORES, correlations, reached, score
from vla.systems.pr2l.probing_page import write_probes

NOTE = (
    "Accuracy of answer and presence (0.5 is guessing), R² of the place of the goal; over all tokens, and over the written ones. "
    "An answer counts as no if it begins so (nowhere …); of questions that do not name the goal there is none."
)

PROBING = 1
FEWEST = 20
"""Rooms from which on both halves show the goal."""


@dataclasses.dataclass(frozen=True)
class Frames:
    """Views, each of another room: images, the fields of prompts, and the truth.

    Attributes:
        visible: [N] int, 1 where the goal is in view.
        cell: [N, 2] its column and row in the view, NaN where it is not.
    """

    images: list[np.ndarray]
    fields: list[dict[str, str]]
    visible: torch.Tensor
    cell: torch.Tensor


def draw_frames(level: str, count: int, seed: int = 0) -> Frames:
    """Views from where a robot may stand; half of them show the goal, so that guessing is right in half the cases."""
    # The second number makes other rooms than those of `babyai_questions` with an equal seed.
    env, rng = BabyAI(level), np.random.default_rng([seed, PROBING])
    images, fields, visible, goal_cells = [], [], [], []
    wanted = {True: count - count // 2, False: count // 2}
    for _ in range(100 * count):
        if not any(wanted.values()):
            break
        _, info = env.reset(seed=int(rng.integers(2**31)))
        image, _ = env.wander(rng)
        cell = env.goal_cell()
        if wanted[cell is not None]:
            wanted[cell is not None] -= 1
            images.append(image)
            fields.append(info["fields"])
            visible.append(int(cell is not None))
            goal_cells.append(cell or (np.nan, np.nan))
    env.close()
    if any(wanted.values()):
        raise UserError("the goal is always, or never, in view", level, "choose another level")
    order = rng.permutation(count)
    return Frames(
        [images[i] for i in order],
        [fields[i] for i in order],
        torch.tensor(visible)[order],
        torch.tensor(goal_cells, dtype=torch.float32)[order],
    )


def probe(options: RunOptions, frames: Frames) -> tuple[dict[str, Any], torch.Tensor]:
    """Scores of one condition's model, half of the rooms held out.

    Returns:
        "answer": share of the rooms in which the written answer begins with no (nowhere …) exactly where the goal is not in view
        (None where nothing is written, or the question does not name the goal); "present" and "place": for each pooling the
        linear probe's accuracy of presence, and R² of the goal's place where it is in view. Beside it the means of all tokens'
        states [N, layers * D].
    """
    representation = options.observation.open()
    if representation is None:
        raise UserError("nothing asks a model", options.condition, "probe conditions with observe: [states]")
    states = representation([[image] for image in frames.images], frames.fields)
    half, layers = len(frames.images) // 2, len(representation.representation.layers)
    scores: dict[str, Any] = {"condition": options.condition, "prompt": representation.prompt.text}
    scores |= {"answer": None, "present": {}, "place": {}}
    if states.written.shape[1]:
        no = torch.tensor([answer.lower().startswith("no") for answer in representation.answers(states.written)])
        if "object" in representation.prompt.fields:
            scores["answer"] = float((no != frames.visible.bool()).float().mean())
    visible = frames.visible.bool()
    train, test = torch.arange(len(visible)) < half, torch.arange(len(visible)) >= half
    for pooling in POOLINGS if states.written.shape[1] else POOLINGS[:1]:
        x = pooled(states, pooling, layers)
        present: Probe = classify(x[train], frames.visible[train], x[test], frames.visible[test])
        place = regress(x[train & visible], frames.cell[train & visible], x[test & visible], frames.cell[test & visible])
        scores["present"][pooling], scores["place"][pooling] = present.score, place.score
    return scores, pooled(states, POOLINGS[0], layers)


def probe_all(
    conditions: Sequence[RunOptions],
    pictures: int = 1000,
    seed: int = 0,
    out: str = "",
    page: str = "",
    runs: Sequence[str] = (),
) -> str:
    """A table of all conditions on the same rooms.

    Args:
        conditions: as `vla rl fit` takes them.
        pictures: number of images, each of another room; half of them are held out.
        seed: seed of the rooms.
        out: JSON file for the scores.
        page: HTML file for the scores and plots of the states' principal components, coloured by facts about the goal.
        runs: folders of `vla rl fit`; the scores are correlated with the areas under their learning curves.
    """
    if pictures < FEWEST or seed < 0:
        raise UserError(f"{pictures} pictures, seed {seed}", "rl probe", f"at least {FEWEST}, and no negative seed")
    repeated = [name for name, n in collections.Counter(one.condition for one in conditions).items() if n > 1]
    if repeated:
        raise UserError(f"two conditions are called {repeated[0]!r}", "rl probe", "give each its own `condition`")
    others = [one for one in conditions if environment_class(one.environment.name) is not BabyAI]
    if others:
        raise UserError(f"{others[0].environment.name} is not probed", others[0].condition, "probe levels of BabyAI")
    levels = {level: draw_frames(level, pictures, seed) for level in {one.environment.name for one in conditions}}
    probes, states = [], {}
    for one in conditions:
        frames = levels[one.environment.name]
        scores, vectors = probe(one, frames)
        probes.append(scores)
        states[one.condition] = vectors, frames.visible, frames.cell
    rows = [[one["condition"], *("–" if (x := score(one, name)) is None else f"{x:.3f}" for name in SCORES)] for one in probes]
    table = Table("Probes", NOTE, ["condition", *SCORES], rows)
    related = correlations(probes, reached([load_run(run) for run in runs])) if runs else {}
    sentences = [
        f"{name}: rank correlation {one['rank_correlation']:+.2f} with the area under the learning curve "
        f"({one['n']} conditions, p {one['p']:.2f})."
        for name, one in related.items()
    ] or ([f"Fewer than {LEAST} of these conditions were trained: no correlation."] if runs else [])
    if out:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        record = {"pictures": pictures, "seed": seed, "probes": probes, "correlations": related, **provenance()}
        Path(out).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if page:
        sentences.append(f"page: {write_probes(Path(page), table, [NOTE, *sentences], states, provenance())}")
    return "\n".join([aligned(table), *sentences])
