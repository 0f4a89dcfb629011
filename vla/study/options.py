"""The file of a study: its recipe, its arms and how they are compared."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from vla.errors import UserError
from vla.evaluation.run import BATCH
from vla.report.study import cell_name
from vla.report.study_plan import Shared
from vla.sim.episodes import Kind
from vla.sim.registry import find_task
from vla.sim.suites import Suite, check_kinds, load_suite

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
Overlay = list[str | dict[str, Any]] | dict[str, Any] | str
"""Configurations that are laid over the recipe, in order: files, or settings as in a configuration. A setting may also have a
dotted name, which changes one entry of a table: `data.sources.robot.init_args.weight: 0.5`."""


def recipe_name(recipe: Overlay) -> str:
    """Returns the names of a recipe's files."""
    parts = recipe if isinstance(recipe, list) else [recipe]
    return ", ".join(part for part in parts if isinstance(part, str)) or "settings"


@dataclasses.dataclass(frozen=True)
class Arm:
    """One of the recipes that are compared.

    Attributes:
        overlay: configurations laid over the recipe, in order: files, or settings in place. A setting with a dotted name changes
            one entry of a table, e.g. `data.sources.questions.init_args.weight: 0`.
        about: what the arm is, in a sentence.
        differs: in what it may differ from the baseline: data, steps, robot_samples, start. Undeclared differences are refused.
    """

    overlay: Overlay = dataclasses.field(default_factory=list)
    about: str = ""
    differs: list[Shared] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class ChosenSuite:
    """A suite with numbers of its own.

    Attributes:
        suite: its name, or a .yaml file.
        scenes: scenes of each variation and kind of instruction; 0 is the study's.
        instructions: kinds of instruction; none are the study's.
    """

    suite: str
    scenes: int = 0
    instructions: list[Kind] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Study:
    """What is compared, on what, and where the results go.

    Attributes:
        recipe: the training that all arms are variants of: a file as of `vla fit -c`, e.g. configs/demo.yaml; or a list of files
            and settings, as an overlay.
        arms: name -> overlay, about, differs.
        suites: suites of `vla rollout --suite`; each a name, a file, or {suite: NAME, scenes: 10, instructions: [correct]}.
        out: folder of the study: records in `cells`, trainings in `runs`, results.json and report.html.
        seeds: each arm is trained once with each.
        baseline: the arm that all others are compared with; "" is the first.
        scenes: scenes of each variation and kind of instruction; 0 is the suite's number.
        instructions: kinds of instruction: correct, swapped, empty, nonsense; none are the suite's.
        questions: folders of images with questions, asked before and after each training; none are those that the arms train on.
        held_out: words, phrases or colours ([r, g, b]) that robot data must not have, as `vla data held-out` checks it.
        films: number of scenes that separate two arms, to film.
        batch: rows per call of a policy, part of the result.
        workers: number of simulation processes; 0 is one per core.
        cells: the cells to run, ARM or ARM-SEED; none are all.
        again: put records and runs aside that were made with other settings, and run these cells again.
        dry_run: only print the plan.
    """

    recipe: Overlay
    arms: dict[str, Arm]
    suites: list[str | ChosenSuite]
    out: str
    seeds: list[int] = dataclasses.field(default_factory=lambda: [0, 1, 2])
    baseline: str = ""
    scenes: int = 0
    instructions: list[Kind] = dataclasses.field(default_factory=list)
    questions: list[str] = dataclasses.field(default_factory=list)
    held_out: list[str | list[float]] = dataclasses.field(default_factory=list)
    films: int = 4
    batch: int = BATCH
    workers: int = 0
    cells: list[str] = dataclasses.field(default_factory=list)
    again: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        if not self.arms:
            raise UserError("there are no arms", "study", "name at least one under `arms`")
        for name in self.arms:
            if not NAME.fullmatch(name):
                raise UserError(
                    f"arm {name!r}", "arms", "use letters, digits, - and _ in names, which files have; say more in `about`"
                )
        if self.baseline and self.baseline not in self.arms:
            raise UserError(f"unknown arm {self.baseline!r}", "baseline", f"one of {', '.join(self.arms)}")
        for what, values in (("seeds", self.seeds), ("suites", [suite.suite for suite in chosen(self)])):
            if not values or len(set(values)) < len(values):
                raise UserError(f"{what} {values}", what, "name each once, and at least one")
        names = cell_names(self)
        if len(set(names)) < len(names) or set(names) & set(self.arms):
            raise UserError("an arm's name is that of another arm's cell, NAME-SEED", "arms", "rename it")
        numbers = {name: getattr(self, name) for name in ("scenes", "films", "workers")}
        if min(*numbers.values(), *self.seeds) < 0 or self.batch < 1:
            given = ", ".join(f"{name} {value}" for name, value in numbers.items())
            raise UserError(
                f"{given}, batch {self.batch}, seeds {self.seeds}", "study", "give at least 0 each, and a batch of at least 1"
            )
        selected(self)


def chosen(study: Study) -> list[ChosenSuite]:
    """Returns the suites, each with its own numbers."""
    return [ChosenSuite(one) if isinstance(one, str) else one for one in study.suites]


def baseline_of(study: Study) -> str:
    """Returns the name of the baseline."""
    return study.baseline or next(iter(study.arms))


def cell_names(study: Study) -> list[str]:
    """Returns the names of all cells, a seed of all arms before the next: an interrupted study has as much of each arm."""
    return [cell_name(arm, seed) for seed in study.seeds for arm in study.arms]


def all_cells(study: Study) -> dict[str, tuple[str, int]]:
    """Returns name of the cell -> its arm and seed, in the order of `cell_names`."""
    return {cell_name(arm, seed): (arm, seed) for seed in study.seeds for arm in study.arms}


def selected(study: Study) -> list[str]:
    """Returns the names of the cells to run.

    Raises:
        UserError: one of `cells` is neither an arm nor a cell.
    """
    every = all_cells(study)
    for name in study.cells:
        if name not in every and name not in study.arms:
            fix = f"arms: {', '.join(study.arms)}; seeds: {', '.join(map(str, study.seeds))}"
            raise UserError(f"unknown cell {name!r}", "--cells", f"name an arm, or ARM-SEED; {fix}")
    return [name for name, (arm, _) in every.items() if not study.cells or name in study.cells or arm in study.cells]


def load_suites(study: Study) -> dict[str, Suite]:
    """Returns the suites by name, with the study's numbers of scenes and kinds of instruction.

    Raises:
        UserError: there is no such suite, or a task of it cannot have such an instruction.
    """
    suites = {}
    for one in chosen(study):
        suite = load_suite(one.suite, one.scenes or study.scenes)
        if kinds := tuple(one.instructions or study.instructions):
            for task in suite.tasks:
                check_kinds(find_task(task), kinds, f"suite {suite.name}")
            suite = dataclasses.replace(suite, kinds=kinds)
        suites[suite.name] = suite
    return suites
