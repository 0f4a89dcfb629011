"""What was played, as films and robot data."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vla.datasets.shards import decode_jpeg
from vla.evaluation.films import control_hz, film, film_grid
from vla.observation import ActionChunk, Observation
from vla.sim.episodes import Episode, Result
from vla.sim.record import Recorder


@dataclasses.dataclass
class Take:
    """An episode as it was played.

    Attributes:
        episode: its description.
        frames: what a person saw, before the first step and after each: camera name -> JPEG.
        steps: what the policy saw, what was done then (the first action of the chunk), and who did it.
        saved: whether it is on disk.
    """

    episode: Episode
    frames: list[dict[str, bytes]] = dataclasses.field(default_factory=list)
    steps: list[tuple[Observation, ActionChunk, str]] = dataclasses.field(default_factory=list)
    saved: bool = False

    def step(self, observation: Observation, chunk: ActionChunk, actor: str) -> None:
        """Takes a step."""
        self.steps.append((observation, chunk, actor))

    def filmed(self, result: Result) -> Result:
        """The result with frames and actions."""
        frames = [np.concatenate([decode_jpeg(image, name) for name, image in one.items()], 1) for one in self.frames]
        return dataclasses.replace(result, frames=frames, actions=[chunk.actions[0] for _, chunk, _ in self.steps])


class Takes:
    """The takes that were saved: a folder of films, and beside it robot data of each player.

    Args:
        folder: holds a folder for each session that saves something, named by the time.
    """

    def __init__(self, folder: str):
        self.folder = Path(folder) / time.strftime("%Y-%m-%d-%H%M%S")
        self._recorders: dict[str, Recorder] = {}
        self._open = contextlib.ExitStack()
        self._count = 0

    def save(self, takes: Mapping[str, tuple[Take, Result]]) -> str:
        """Writes the takes of one scene, by the player's name; returns the names of the files.

        Every step of the robot data has `actor` in its `json`. What is there is complete, whatever comes later.
        """
        self._count += 1
        films = []
        for name, (take, result) in takes.items():
            words = re.sub("[^a-z0-9]+", "-", result.instruction.lower()).strip("-")[:60] or "no-instruction"
            films.append(film(take.filmed(result), self.folder / f"films/{self._count:03d}-{words}-{name}.mp4"))
            self._record(name, take, result)
            take.saved = True
        if len(films) > 1:
            hz = control_hz(next(result for _, result in takes.values()))
            films.append(film_grid(films, self.folder / f"films/{self._count:03d}-side-by-side.mp4", hz))
        data = [str(self._recorders[name].folder) for name in takes]
        return ", ".join([*map(str, films), *data])

    def close(self) -> None:
        self._open.close()

    def _record(self, name: str, take: Take, result: Result) -> None:
        if name not in self._recorders:
            self._recorders[name] = self._open.enter_context(Recorder(self.folder / f"data/{name}", name, command="vla play"))
        recorder = self._recorders[name]
        recorder.expect([take.episode])
        recorder.begin(take.episode.id)
        for step in take.steps:
            recorder.step(*step)
        recorder.end(take.episode.id, result)
        recorder.keep()
