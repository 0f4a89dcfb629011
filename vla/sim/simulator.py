"""What a simulator is: its tasks and robots as plain data, which any process may know, and the simulation in a worker process."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from vla.contract import Embodiment
from vla.errors import UserError
from vla.observation import Observation
from vla.sim.collect_options import Collect, Report
from vla.sim.episodes import Episode, Result
from vla.sim.packages import PackageFolder
from vla.sim.variation import Json, Variation

VIDEO_SIZE = 256
"""Edge, in pixels, of each camera's image in a film."""


@dataclasses.dataclass(frozen=True)
class TaskSpec:
    """A task as users, suites and the evaluation know it.

    Attributes:
        name: by which it is chosen; no other simulator has it.
        wordings: its instructions, or their templates.
        horizon: steps until an episode is given up.
        goals: how many goals a scene has; with two, the other one can be asked for (kind "swapped").
        scenes: how many scenes it has, whose seeds are 0, 1 …; 0 is any number.
        expert: whether it has a scripted expert.
    """

    name: str
    wordings: tuple[str, ...]
    horizon: int = 400
    goals: int = 1
    expert: bool = False
    scenes: int = 0


@dataclasses.dataclass(frozen=True)
class Advice:
    """What the scripted expert would do in the present state.

    Attributes:
        action: [A], in the embodiment's units, without noise.
        done: whether it would declare the task done.
        about: what else a robot sample says of the state: `target`, and `point` and `reach` where the simulator knows them.
    """

    action: np.ndarray
    done: bool
    about: dict[str, object]


@dataclasses.dataclass(frozen=True)
class View:
    """What a person sees of an episode.

    Attributes:
        images: camera name -> upright RGB, uint8 [H, W, 3].
        objects: the names of what is there.
        goal: what counts as success, in short; "" is nothing.
    """

    images: dict[str, np.ndarray]
    objects: tuple[str, ...] = ()
    goal: str = ""


class Simulation(Protocol):
    """Runs one episode at a time, of any of the simulator's tasks. It lives in a worker process, without torch.

    An episode is a function of its description and of the actions. Observations carry its `id`; its `Result` has the hash of the
    initial state and, if `episode.video`, frames and actions.

    `vla play` also asks for what the package's own simulations have besides, and goes without where it is missing
    (`vla.sim.simulator_worker`): `view`, `instruct`, `advise`.
    """

    def start(self, episode: Episode, look: bool = True) -> Observation:
        """Sets the episode up and returns the first observation, with images if `look`."""
        ...

    def step(self, action: np.ndarray, terminate: bool, look: bool) -> Observation | Result:
        """Carries out one action [A] in the embodiment's units; `terminate` says that the policy declared the task done.

        Returns:
            the next observation, with images if `look`, or how the episode ended.
        """
        ...

    def expert(self, episode: Episode) -> Result:
        """Runs a whole episode with the scripted expert, without images; only called if the task has one."""
        ...

    def advise(self) -> Advice | None:
        """What the expert would do now; None where nothing is asked for, or the task has no expert."""
        ...


class Simulator(Protocol):
    """A simulator's description. Importing it loads neither the simulator nor torch; `simulation` loads the simulator.

    Subclass it for the defaults: no variations, no data to collect, no Gymnasium environments. `vla.sim.registry` says how it is
    made known.

    Attributes:
        name: for messages.
        tasks: by name. Where data does not name its task, the first task for its embodiment is rolled out during training.
        questions: what `vla collect --task` accepts besides the tasks, for images with questions.
        environments: Gymnasium id -> (entry point "module:class", arguments).
        packages: the packages that its worker processes need and no others may have; None: nothing needs to be installed.
        suites: the suites that it brings: name -> what a suite's YAML would hold.
        one_task: whether a worker holds one task at a time and takes seconds to change it.
        adapts: whether its images take the size and orientation of the policy's cameras (`Episode.cameras`).
    """

    name: str
    tasks: Mapping[str, TaskSpec]
    questions: tuple[str, ...] = ()
    environments: Mapping[str, tuple[str, dict[str, str]]] = {}
    packages: PackageFolder | None = None
    suites: Mapping[str, dict[str, Json]] = {}
    one_task: bool = False
    adapts: bool = False

    @abstractmethod
    def embodiment(self, task: str) -> tuple[str, Embodiment]:
        """Name and description of the robot that a task is for."""

    @abstractmethod
    def simulation(self) -> Simulation:
        """A simulation; called once in each worker process that needs it."""

    def read_variation(self, name: str, settings: Json, where: str) -> Variation:
        """A variation from what a suite's YAML holds under its name (None is nothing).

        Raises:
            UserError: the simulator cannot vary this.
        """
        if settings:
            keys = ", ".join(map(str, settings)) if isinstance(settings, dict) else repr(settings)
            raise UserError(
                f"{self.name} cannot vary its {keys}",
                f"{where}: variation {name!r}",
                f"leave it out: {self.name} has no variations",
            )
        return Variation(name)

    def check(self, task: str, variation: Variation, where: str) -> None:
        """Raises UserError if the task cannot have the variation, which another simulator of the suite may have read."""
        if variation.changes:
            raise UserError(
                f"{task} cannot vary its {', '.join(variation.changes)}",
                where,
                f"leave it out: {self.name} has no variations",
            )

    def override(self, variation: Variation, settings: Mapping[str, str], where: str) -> Variation:
        """The variation with settings of the command line: `protocol`, `rendering`.

        Raises:
            UserError: the simulator has no such settings, or no such value.
        """
        raise UserError(f"{self.name} has no {' and no '.join(settings)} to choose", where, "leave it out")

    def horizon(self, task: str, variation: Variation) -> int:
        """Steps until an episode of the task is given up, unless the suite or the user says otherwise."""
        return self.tasks[task].horizon

    def episodes(self, variation: Variation) -> int:
        """How many scenes of each task are run unless the user says otherwise; 0 is the suite's number."""
        return 0

    def conditions(self, variation: Variation) -> dict[str, str]:
        """What a record says of how the episodes of a variation are run, e.g. the protocol's name and hash."""
        return {}

    def note(self, task: str, instruction: str) -> str:
        """What a user should know before the task is run with this sentence of theirs; "" is nothing."""
        return ""

    def check_collect(self, options: Collect) -> None:
        """Raises UserError for options of `collect` that the simulator cannot follow. It is called before anything is done."""

    def collect(self, options: Collect, report: Report) -> dict[str, int]:
        """Collects demonstrations of `options.task`, or what else its name stands for, into a folder with a card.

        Returns:
            counts, e.g. episodes and steps.
        """
        raise UserError(f"{self.name} collects no data", "collect", "`vla rollout --record` records a policy's episodes")
