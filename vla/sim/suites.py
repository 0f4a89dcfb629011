"""Suites: the episodes of an evaluation, as YAML in `vla/configs/suites` or in a user's file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import cast

import yaml

from vla import yaml12
from vla.errors import UserError
from vla.sim.episodes import KINDS, Episode, Kind
from vla.sim.registry import find_task, known_tasks, packaged_suites, simulator_of, task_names
from vla.sim.simulator import TaskSpec
from vla.sim.variation import Json, Variation

FIELDS = ("about", "tasks", "variations", "episodes", "horizon", "kinds", "seed")


@dataclasses.dataclass(frozen=True)
class Suite:
    """Every task in every variation, `episodes` scenes each, each scene once per kind of instruction.

    Attributes:
        name: e.g. "rt2/seen".
        about: description, for people.
        episodes: scenes per task, variation and kind of instruction; or one such number for each kind.
        horizon: steps until an episode is given up; 0 is each task's own.
        seed: of the first scene; a scene has the same seed in every task, variation and kind, so that they pair.
        instruction: a user's sentence instead of the drawn ones; no suite of the package has one.
    """

    name: str
    tasks: tuple[str, ...]
    variations: tuple[Variation, ...]
    episodes: int | tuple[int, ...] = 50
    horizon: int = 0
    kinds: tuple[Kind, ...] = ("correct", "swapped")
    seed: int = 0
    about: str = ""
    instruction: str = ""

    @property
    def hash(self) -> str:
        """SHA-256 over what its episodes are: not how many are run, nor the name and the description.

        A variation's default values are left out, so a field that is added later does not change the hash of existing suites.
        """
        data = {key: getattr(self, key) for key in ("tasks", "kinds", "seed")}
        data["horizon"] = self.horizons
        data |= {"instruction": self.instruction} if self.instruction else {}
        data["variations"] = [variation.to_dict() for variation in self.variations]
        return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def horizons(self) -> int | dict[str, int]:
        """Steps until an episode is given up; by task where they differ."""
        variation = self.variations[0]
        horizons = {task: self.horizon or simulator_of(task).horizon(task, variation) for task in self.tasks}
        return horizons if len(set(horizons.values())) > 1 else horizons[self.tasks[0]]

    @property
    def _counts(self) -> tuple[int, ...]:
        return self.episodes if isinstance(self.episodes, tuple) else (self.episodes,) * len(self.kinds)

    def all(self) -> list[Episode]:
        """Its episodes, in the order of the record."""
        return [
            Episode(self.seed + i, kind, self.instruction, horizon=self.horizon, task=task, variation=variation)
            for task in self.tasks
            for variation in self.variations
            for kind, count in zip(self.kinds, self._counts, strict=True)
            for i in range(count)
        ]


def known_suites() -> list[str]:
    """Names of the suites in the package."""
    return sorted([*_names(_folder(), ""), *packaged_suites()])


def _folder() -> Traversable:
    return resources.files("vla.configs").joinpath("suites")


def _names(folder: Traversable, prefix: str) -> list[str]:
    names = []
    for entry in folder.iterdir():
        if entry.is_dir():
            names += _names(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".yaml"):
            names.append(prefix + entry.name.removesuffix(".yaml"))
    return names


def load_suite(name: str, episodes: int = 0) -> Suite:
    """A suite by its name in the package, or from a .yaml file.

    Args:
        episodes: scenes per task, variation and kind instead of the suite's own number; 0 keeps it.

    Raises:
        UserError: there is no such suite, or a field is missing, unknown or of the wrong kind; the field is named.
    """
    if name.endswith((".yaml", ".yml")) or Path(name).is_file():
        path = Path(name)
        if not path.is_file():
            raise UserError("no such suite", name, f"give a file, or one of {', '.join(known_suites())}")
        name, text, where = path.stem, path.read_text(encoding="utf-8"), str(path)
    elif brought := packaged_suites().get(name):
        return read_suite(name, brought | ({"episodes": episodes} if episodes else {}), f"suite {name}")
    elif name in known_suites():
        text, where = _folder().joinpath(f"{name}.yaml").read_text(encoding="utf-8"), f"suite {name}"
    else:
        raise UserError(f"unknown suite {name!r}", "--suite", f"one of {', '.join(known_suites())}, or a .yaml file")
    try:
        data = yaml12.load(text)
    except yaml.YAMLError as error:
        raise UserError(f"not YAML: {error}", where) from error
    if isinstance(data, dict) and episodes:
        data["episodes"] = episodes
    return read_suite(name, data, where)


def read_suite(name: str, data: Json, where: str) -> Suite:
    """Reads a suite from parsed YAML; see `load_suite`."""
    if not isinstance(data, dict):
        raise UserError("not a mapping", where, f"give {', '.join(FIELDS)}")
    for key in data:
        if key not in FIELDS:
            raise UserError(f"unknown field {key!r}", where, f"known are {', '.join(FIELDS)}")
    for key in ("tasks", "variations"):
        if not data.get(key):
            raise UserError(f"`{key}` is missing", where, "a suite has tasks and variations")
    tasks = _choices(data["tasks"], "tasks", tuple(task_names()), where, known_tasks())
    check_together(tasks, where)
    kinds = cast(tuple[Kind, ...], _choices(data.get("kinds", ["correct", "swapped"]), "kinds", KINDS, where))
    numbers = {}
    for key, least in (("episodes", 1), ("horizon", 1), ("seed", 0)):
        if key in data:
            number = data[key]
            if type(number) is not int or number < least:
                raise UserError(f"`{key}` is {number!r}", where, f"give a whole number, at least {least}")
            numbers[key] = number
    if not isinstance(data["variations"], dict):
        raise UserError("`variations` is not a mapping", where, "variation name -> what differs from training")
    reader = simulator_of(tasks[0])
    variations = tuple(reader.read_variation(str(key), value, where) for key, value in data["variations"].items())
    for task in tasks:
        check_kinds(find_task(task), kinds, where)
        for variation in variations:
            simulator_of(task).check(task, variation, f"{where}: variation {variation.name!r}")
    suite = Suite(name, tasks, variations, kinds=kinds, about=str(data.get("about", "")), **numbers)
    check_scenes(suite, where)
    return suite


def overridden(suite: Suite, settings: dict[str, str], kinds: tuple[Kind, ...], episodes: int) -> Suite:
    """The suite as options of the command line change it.

    Args:
        settings: option -> value, for the simulator's variations: protocol, rendering.
        kinds: kinds of instruction instead of the suite's; () keeps them.
        episodes: what the user said; 0: nothing, so that a protocol's own number holds.

    Raises:
        UserError: the simulator has no such setting or value, a task cannot have it, or has fewer scenes.
    """
    where = " and ".join(f"--{name}" for name in settings)
    if settings:
        reader = simulator_of(suite.tasks[0])
        variations = tuple(reader.override(variation, settings, where) for variation in suite.variations)
        count = episodes or reader.episodes(variations[0]) or suite.episodes
        suite = dataclasses.replace(suite, variations=variations, episodes=count)
    if kinds:
        count = suite.episodes if isinstance(suite.episodes, int) else max(suite.episodes)
        suite = dataclasses.replace(suite, kinds=kinds, episodes=count)
    for task in suite.tasks:
        check_kinds(find_task(task), suite.kinds, "--kinds")
        for variation in suite.variations:
            simulator_of(task).check(task, variation, where or f"suite {suite.name}")
    check_scenes(suite, "--episodes" if episodes else f"suite {suite.name}")
    return suite


def check_together(tasks: tuple[str, ...], where: str) -> None:
    """Raises UserError for tasks whose simulators cannot be in one process, as each has its own version of a package."""
    simulators = {simulator.name: simulator for simulator in map(simulator_of, tasks)}
    if len(simulators) > 1 and (alone := [name for name, simulator in simulators.items() if simulator.packages is not None]):
        raise UserError(
            f"tasks of {' and '.join(simulators)} in one suite", where, f"{alone[0]} needs processes of its own: make two suites"
        )


def check_scenes(suite: Suite, where: str) -> None:
    """Raises UserError if a task has fewer scenes than the suite asks for."""
    last = suite.seed + max(suite._counts) - 1
    for task in map(find_task, suite.tasks):
        if task.scenes and last >= task.scenes:
            raise UserError(
                f"{task.name} has {task.scenes} initial states, 0 to {task.scenes - 1}; {last} is asked for",
                where,
                f"seed + episodes may be at most {task.scenes}",
            )


def check_kinds(task: TaskSpec, kinds: tuple[Kind, ...], where: str) -> None:
    """Raises UserError for a kind of instruction that the task cannot have."""
    if "swapped" in kinds and task.goals < 2:
        raise UserError(f"{task.name} has one goal, there is no other to ask for", where, "leave out the kind swapped")


def _choices(value: Json, key: str, known: tuple[str, ...], where: str, listed: str = "") -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    for one in values:
        if one not in known:
            raise UserError(f"`{key}` has {one!r}", where, f"known are {listed or ', '.join(known)}")
    if not values or len(set(map(str, values))) < len(values):
        raise UserError(f"`{key}` is {values!r}", where, "name each once, and at least one")
    return tuple(cast(list[str], values))
