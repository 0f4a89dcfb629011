"""Ranks prompts, layers and poolings without reinforcement learning, by what their states and answers reveal about BabyAI."""

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
from vla.folders import check_writable_file
from vla.promptable.probe import POOLINGS, Probe, classify, pooled, regress
from vla.report.learning import load_run
from vla.report.provenance import provenance
from vla.report.wording import Table, aligned
from vla.rl.envs.babyai import BabyAI
from vla.rl.envs.registry import environment_class
from vla.rl.runs.options import RunOptions
from vla.systems.pr2l.correlation import LEAST, SCORES, correlations, mean_areas, score
from vla.systems.pr2l.probing_page import write_probes

NOTE = (
    "Accuracy of the answer and of the goal's presence (chance is 0.5), R² of the goal's place; over all tokens, and over the "
    "written ones. An answer that begins with “no” (“nowhere” …) counts as no; questions that do not name the goal have no score."
)

PROBING = 1
"""Second number of the seed of probed rooms."""
FEWEST = 20
"""Smallest number of rooms for which both halves show the goal."""


@dataclasses.dataclass(frozen=True)
class Frames:
    """Views, each of a different room.

    Attributes:
        images: [N] images of the views.
        fields: [N] values of the prompts' fields.
        visible: [N] int, 1 if the goal is in view.
        cell: [N, 2] the goal's column and row in the view, NaN if it is not in view.
    """

    images: list[np.ndarray]
    fields: list[dict[str, str]]
    visible: torch.Tensor
    cell: torch.Tensor


def draw_frames(level: str, count: int, seed: int = 0) -> Frames:
    """Draws views from random positions of the robot; half of them show the goal, so that chance is 0.5.

    Raises:
        UserError: the goal is always, or never, in view.
    """
    # The second number keeps these rooms apart from those of `babyai_questions` with an equal seed.
    env, rng = BabyAI(level), np.random.default_rng([seed, PROBING])
    images, fields, visible, goal_cells = [], [], [], []
    missing = {True: count - count // 2, False: count // 2}
    for _ in range(100 * count):
        if not any(missing.values()):
            break
        _, info = env.reset(seed=int(rng.integers(2**31)))
        image, _ = env.wander(rng)
        cell = env.goal_cell()
        if missing[cell is not None]:
            missing[cell is not None] -= 1
            images.append(image)
            fields.append(info["fields"])
            visible.append(int(cell is not None))
            goal_cells.append(cell or (np.nan, np.nan))
    env.close()
    if any(missing.values()):
        raise UserError("the goal is always, or never, in view", level, "choose another level")
    order = rng.permutation(count)
    return Frames(
        [images[i] for i in order],
        [fields[i] for i in order],
        torch.tensor(visible)[order],
        torch.tensor(goal_cells, dtype=torch.float32)[order],
    )


def probe(options: RunOptions, frames: Frames) -> tuple[dict[str, Any], torch.Tensor]:
    """Scores one condition's model, with half of the rooms held out.

    Returns:
        A pair of the scores and the means of all tokens' states [N, layers * D]. The scores are "answer": share of the rooms in
        which the written answer begins with "no" ("nowhere" …) if and only if the goal is not in view (None if nothing is
        written, or the question does not name the goal); "present": for each pooling, the linear probe's accuracy of presence;
        "place": for each pooling, R² of the goal's place in the views that show it.

    Raises:
        UserError: the condition has no model.
    """
    representation = options.observation.open()
    if representation is None:
        raise UserError("the condition has no model", options.condition, "probe conditions with observe: [states]")
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
        presence: Probe = classify(x[train], frames.visible[train], x[test], frames.visible[test])
        position = regress(x[train & visible], frames.cell[train & visible], x[test & visible], frames.cell[test & visible])
        scores["present"][pooling], scores["place"][pooling] = presence.score, position.score
    return scores, pooled(states, POOLINGS[0], layers)


def probe_all(
    conditions: Sequence[RunOptions],
    images: int = 1000,
    seed: int = 0,
    out: str = "",
    page: str = "",
    runs: Sequence[str] = (),
) -> str:
    """Scores all conditions on the same rooms and returns a table.

    Args:
        conditions: options as `vla rl fit` takes them.
        images: number of images, each of a different room; half are held out.
        seed: random seed of the rooms.
        out: JSON file for the scores.
        page: HTML file for the scores and the states' principal components, coloured by the truth about the goal.
        runs: folders of `vla rl fit`; the scores are correlated with the areas under their learning curves.

    Raises:
        UserError: there are too few images, two conditions share a name, or one is not a level of BabyAI.
    """
    if images < FEWEST or seed < 0:
        raise UserError(f"{images} images and seed {seed}", "rl probe", f"give at least {FEWEST} images and a seed of 0 or more")
    repeated = [name for name, n in collections.Counter(one.condition for one in conditions).items() if n > 1]
    if repeated:
        raise UserError(f"two conditions are called {repeated[0]!r}", "rl probe", "give each its own `condition`")
    others = [one for one in conditions if environment_class(one.environment.name) is not BabyAI]
    if others:
        raise UserError(f"{others[0].environment.name} cannot be probed", others[0].condition, "probe levels of BabyAI")
    for path, option in ((out, "--out"), (page, "--page")):
        if path:
            check_writable_file(path, option)
    areas = mean_areas([load_run(run) for run in runs])
    levels = {level: draw_frames(level, images, seed) for level in {one.environment.name for one in conditions}}
    probes, states = [], {}
    for one in conditions:
        frames = levels[one.environment.name]
        scores, vectors = probe(one, frames)
        probes.append(scores)
        states[one.condition] = vectors, frames.visible, frames.cell
    rows = [[one["condition"], *("–" if (x := score(one, name)) is None else f"{x:.3f}" for name in SCORES)] for one in probes]
    table = Table("Probes", NOTE, ["condition", *SCORES], rows)
    correlated = correlations(probes, areas) if runs else {}
    sentences = [
        f"{name}: rank correlation {one['rank_correlation']:+.2f} with the area under the learning curve "
        f"({one['n']} conditions, p = {one['p']:.2f})."
        for name, one in correlated.items()
    ] or ([f"Fewer than {LEAST} of these conditions were trained, too few for a correlation."] if runs else [])
    if out:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        record = {"pictures": images, "seed": seed, "probes": probes, "correlations": correlated, **provenance()}
        Path(out).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if page:
        sentences.append(f"page: {write_probes(Path(page), table, [NOTE, *sentences], states, provenance())}")
    return "\n".join([aligned(table), *sentences])
