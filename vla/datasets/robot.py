"""Robot episodes as a source. Reading a step collects the actions after it and the images before it."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vla import hub
from vla.contract import Camera, Mode, PolicyContract
from vla.datasets.card import DatasetCard
from vla.datasets.demonstrations import Demonstration
from vla.datasets.images import ImageStore
from vla.datasets.questions import QuestionRecord, parse_questions, points_in, with_points
from vla.datasets.remote import is_remote
from vla.datasets.samples import Images, RobotSample
from vla.datasets.sources import Source
from vla.datasets.steps import Steps, load_steps
from vla.errors import ContractMismatch, UserError
from vla.space import Space
from vla.transforms import Point

LEROBOT = """train on it directly, with this in a file after the recipe, e.g. -c configs/own.yaml -c lerobot.yaml:
data:
  sources:
    robot:
      class_path: vla.datasets.formats.lerobot_source.LeRobotSource
      init_args: {{folder: {folder}, conventions: card.yaml, height: 128, width: 128, holdout: 0.05}}
where card.yaml says what LeRobot does not: vla data card {folder} --out card.yaml
For a long training convert it, which reads several times faster: vla data convert {folder} data/own --card card.yaml"""
"""What to do with a LeRobot data set."""


def is_lerobot(folder: str | Path) -> bool:
    """Whether a folder, or a data set on the hub, is a LeRobot data set."""
    if is_remote(folder) and not hub.address(folder):
        return False
    return (hub.data_set(folder, ("meta/info.json", "card.yaml")) / "meta/info.json").is_file()


class RobotSource(Source[RobotSample]):
    """Robot episodes. A sample is one step with the actions from there on. Splits are by episode.

    Args:
        chunk: K, the actions per sample; None: `bind` sets it to the contract's before the first draw.
        modes: mode -> its relative frequency; None: always the contract's first mode.
        first_steps: number of steps at the start of each episode, where the task is decided, that are repeated.
        first_times: how many times they occur in an epoch of the training split.
        actors: how many times the steps of each actor occur in an epoch of the training split, e.g. {person: 3, policy: 0} for
            interventions; once where an actor is not named.
        state_noise: standard deviation of noise added to the states of the training split, as a share of each dimension's range
            from q01 to q99. Actions remain those of the true state. The policy then relies less on exact states and more on
            images.
        questions_per_step: number of different questions on a step's own images that the training split adds to its sample, as
            far as the data have them. The images pass through the model once for all of them and the actions.
    """

    kind = "robot"

    def __init__(
        self,
        folder: str | Path,
        weight: float = 1.0,
        loss_weight: float = 1.0,
        chunk: int | None = None,
        modes: dict[Mode, float] | None = None,
        first_steps: int = 0,
        first_times: int = 1,
        actors: dict[str, int] | None = None,
        state_noise: float = 0.0,
        questions_per_step: int = 0,
        **kwargs,
    ):
        super().__init__(folder, weight, loss_weight, **kwargs)
        if not 0 <= state_noise < 1:
            raise UserError(f"state_noise {state_noise}", str(folder), "give at least 0 and less than 1")
        if questions_per_step < 0:
            raise UserError(f"questions_per_step {questions_per_step}", str(folder), "give at least 0")
        if first_steps < 0 or first_times < 1:
            raise UserError(
                f"first_steps {first_steps}, first_times {first_times}", str(folder), "give at least 0 steps and at least 1 time"
            )
        if modes is not None and not (min(modes.values(), default=-1) >= 0 and sum(modes.values()) > 0):
            raise UserError(f"modes {modes}", str(folder), "give each mode at least 0, and one of them more")
        self.chunk, self.modes, self.first_steps, self.first_times = chunk, modes, first_steps, first_times
        if min((actors or {}).values(), default=0) < 0:
            raise UserError(f"actors {actors}", str(folder), "give each at least 0 times")
        self.state_noise, self.actors, self.questions_per_step = state_noise, actors or {}, questions_per_step
        self.history, self.spacing = 1, 1

    def settings(self) -> dict[str, Any]:
        # Left out at their defaults: a run that was begun before there were these settings goes on.
        later = ("actors", "questions_per_step")
        return {name: value for name, value in super().settings().items() if name not in later or value}

    def bind(self, contract: PolicyContract) -> None:
        """Takes chunk length, history and, of the data's cameras, the policy's from the contract.

        Raises:
            ContractMismatch: the contract lacks the robot, or has other cameras, states or actions for it.
            UserError: the contract lacks a mode.
        """
        if self.card.embodiment not in contract.embodiments:
            what = f"its robot is {self.card.embodiment}, the policy is for {', '.join(contract.embodiments)}"
            raise ContractMismatch(what, str(self.folder), "give data of the policy's robot")
        embodiment = contract.embodiment(self.card.embodiment)
        if set(_names(embodiment.cameras)) < set(_names(self.card.spec.cameras)):
            self.cameras = _names(embodiment.cameras)
            self.card = self.described(self.card)
            self.__dict__.pop("_images", None)
        for name in ("cameras", "state", "action"):
            policy_names, data_names = (_names(getattr(spec, name)) for spec in (embodiment, self.card.spec))
            if policy_names != data_names:
                raise ContractMismatch(
                    f"{name}: the policy has {', '.join(policy_names)}, the data {', '.join(data_names)}", str(self.folder)
                )
        self.check_modes(contract)
        self.chunk, self.history, self.spacing = contract.chunk, contract.history, contract.execute

    def check_modes(self, contract: PolicyContract) -> None:
        """Raises UserError if the contract lacks one of the modes."""
        unknown = set(self.modes or ()) - set(contract.modes)
        if unknown:
            raise UserError(
                f"modes {', '.join(sorted(unknown))}", str(self.folder), f"contract.modes has {', '.join(contract.modes)}"
            )

    @functools.cached_property
    def card(self) -> DatasetCard:
        """As of any source; UserError with what to do instead if the folder is a LeRobot data set."""
        if is_lerobot(self.folder):
            raise UserError("a LeRobot data set, not our shards", str(self.folder), LEROBOT.format(folder=self.folder))
        return super().card

    @functools.cached_property
    def _table(self) -> Steps:
        return load_steps(self.index, self.card.spec)

    @property
    def _left_out(self) -> tuple[np.ndarray, np.ndarray]:
        return self._table.unreadable, self._table.why

    def _all_rows(self) -> np.ndarray:
        episodes = np.unique(self._table.episode)
        rows = np.flatnonzero(np.isin(self._table.episode, episodes[self._part(len(episodes))]))
        if self.split == "val":
            return rows
        times = np.where(self._table.step[rows] < self.first_steps, self.first_times, 1)
        return np.repeat(rows, times * self._times_of_actors()[rows])

    def _times_of_actors(self) -> np.ndarray:
        """How many times each step occurs because of who acted, [N].

        Raises:
            UserError: a named actor acts in no step.
        """
        names = self._table.words[self._table.actor]
        times = np.ones(len(names), np.int64)
        for actor, count in self.actors.items():
            if not (names == actor).any():
                who = ", ".join(sorted({str(name) for name in names} - {""})) or "nobody: they do not say who acted"
                raise UserError(f"{actor} acts in no step", f"{self.folder}, actors", f"the data have {who}")
            times[names == actor] = count
        return times

    @property
    def _records(self) -> np.ndarray:
        return self._table.record[self._rows]

    @functools.cached_property
    def _images(self) -> ImageStore:
        return ImageStore(self.index, self.card.spec.cameras, np.unique(self._table.record[self._rows]) if self.cache else ())

    def of_shard(self, name: str) -> RobotSource:
        """The same source restricted to the steps of one shard. Chunks extend beyond the shard.

        Raises:
            UserError: there is no such shard.
        """
        first, end = self.index.span(name)
        other = copy.copy(self)
        other._rows = self._rows[(self._records >= first) & (self._records < end)]
        return other

    @property
    def actions(self) -> np.ndarray:
        """All actions of the split, float32 [N, A]."""
        return self._table.action[np.unique(self._rows)]

    @property
    def states(self) -> np.ndarray:
        """All states of the split, float32 [N, S]."""
        return self._table.state[np.unique(self._rows)]

    def texts(self, name: Literal["instruction", "target"]) -> list[str]:
        """The different instructions or targets of the split's steps."""
        numbers = np.unique(getattr(self._table, name)[np.unique(self._rows)])
        return [str(text) for text in self._table.words[numbers]]

    def demonstrations(self) -> list[Demonstration]:
        """The split's episodes in order; one that lacks steps is several demonstrations."""
        table, demonstrations = self._table, []
        for start in np.unique(table.start[np.unique(self._rows)]).tolist():
            rows = slice(start, int(table.end[start]))
            demonstrations.append(
                Demonstration(
                    int(table.episode[start]),
                    int(table.step[start]),
                    table.action[rows],
                    table.state[rows],
                    [str(text) for text in table.words[table.instruction[rows]]],
                    str(table.words[table.embodiment[start]]),
                    lambda step, start=start: self._images(int(table.record[start + step])),
                )
            )
        return demonstrations

    def sample(self, i: int, rng: np.random.Generator) -> RobotSample:
        if not self.chunk or self.chunk < 1:
            raise UserError(f"the chunk length is {self.chunk}", str(self.folder), "set `chunk` to the contract's")
        table, row = self._table, self._rows[i]
        ahead = row + np.arange(self.chunk)
        inside = np.minimum(ahead, table.end[row] - 1)
        description = table.description(row)
        if not self.keeps_points:
            description["point"] = None
        # The history does not extend into an earlier segment.
        before = [int(row) - k * self.spacing for k in range(self.history - 1, 0, -1)]
        frames = [self._images(int(table.record[r])) if r >= table.start[row] else None for r in (*before, row)]
        asked, target = self._questions(row, rng), [description["point"]] if description["point"] else []
        *past, (images, points) = self._augmented_alike(frames, [*target, *points_in(asked)], rng)
        description["point"] = points[0] if target else None
        return RobotSample(
            images=images,
            past=[frame and frame[0] for frame in past],
            state=self._state(table.state[row], rng),
            actions=table.action[inside],
            mask=ahead < table.end[row],
            terminate=table.terminate[inside],
            episode=int(table.episode[row]),
            step=int(table.step[row]),
            mode=self._mode(rng),
            questions=with_points(asked, points[len(target) :]),
            **description,
        )

    def _augmented_alike(self, frames: list[Images | None], points: list[Point], rng: np.random.Generator) -> list:
        """Augments all images of a sample in the same way; the points belong to the last."""
        if len(frames) == 1 or not self.augment:
            return [frame and self._augmented(frame, points, rng) for frame in frames]
        seed = int(rng.integers(2**63))
        return [frame and self._augmented(frame, points, np.random.default_rng(seed)) for frame in frames]

    def _questions(self, row: int, rng: np.random.Generator) -> list[QuestionRecord]:
        """Questions drawn for a step, with places in the images as saved."""
        if not self.questions_per_step or self.split != "train":
            return []
        record = int(self._table.record[row])
        questions = parse_questions(self.index.read(record, ("json",))["json"], self.index.where(record, "json"), optional=True)
        drawn = rng.permutation(len(questions))[: self.questions_per_step]
        asked = [questions[i] for i in drawn]
        if points_in(asked) and not self.keeps_points:
            raise self.points_are_elsewhere()
        return asked

    def _state(self, state: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if not self.state_noise or self.split != "train":
            return state
        return (state + self.state_noise * self._spread * rng.standard_normal(len(state))).astype(state.dtype)

    @functools.cached_property
    def _spread(self) -> np.ndarray:
        return np.subtract(*np.quantile(self.states, (0.99, 0.01), axis=0))

    def _mode(self, rng: np.random.Generator) -> str:
        names = list(self.modes or ())
        if len(names) < 2:
            return names[0] if names else ""
        weights = np.array([(self.modes or {})[name] for name in names], np.float64)
        return names[rng.choice(len(names), p=weights / weights.sum())]


def _names(part: tuple[Camera, ...] | Space) -> list[str]:
    """The names of cameras, or of a space's dimensions."""
    return list(part.names) if isinstance(part, Space) else [camera.name for camera in part]
