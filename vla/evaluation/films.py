"""Describes an episode in one line and writes it as a film; arranges the films of an evaluation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla.report.records import EpisodeRecord, Key, Record
from vla.report.video import caption, grid, read_video, write_video
from vla.sim.episodes import Result
from vla.sim.registry import embodiment_of


def describe(result: Result) -> str:
    """Returns one line about how an episode went."""
    instruction = f"“{result.instruction}”" if result.instruction else "no instruction"
    ending = "success" if result.success else result.failure
    objects = result.more["objects"]
    table = f" (on the table: {', '.join(objects)})" if objects else ""
    return f"{instruction}: {ending} after {result.steps} steps{table}"


def captioned(result: Result) -> list[np.ndarray]:
    """Returns an episode's frames with captions: the instruction, and the action that led to the frame or, at last, the outcome.

    The last frame is repeated for a second.
    """
    side = result.frames[0].shape[0]
    outcome, ending = ("success", "success") if result.success else ("failure", result.failure)
    instruction = result.instruction or "(no instruction)"
    actions = [" ", *(_action_text(action, result.task) for action in result.actions)]
    pairs = zip(result.frames[:-1], actions, strict=False)
    frames = [caption(frame, [instruction, action], side=side) for frame, action in pairs]
    last = caption(result.frames[-1], [instruction, f"{ending} after {result.steps} steps"], outcome, side)
    # A caption of more lines makes its frame higher.
    height = max(frame.shape[0] for frame in [*frames, last])
    even = [np.pad(f, ((height - f.shape[0], 0), (0, 0), (0, 0)), constant_values=255) for f in [*frames, last]]
    return even + even[-1:] * (round(control_hz(result)) - 1)


def _action_text(action: np.ndarray, task: str) -> str:
    """Returns an action as text: centimetres, degrees, and what the gripper does; else its values by name."""
    _, embodiment = embodiment_of(task)
    if len(action) < 6:
        return "  ".join(f"{name} {value:+.2f}" for name, value in zip(embodiment.action.names, action, strict=True))
    # A unit is "m", or a multiple of it such as "0.05 m".
    sizes = [float(number or 1) for number, _, _ in (unit.rpartition(" ") for unit in embodiment.action.units[:6])]
    (x, y, z), turn = 100 * action[:3] * sizes[:3], np.degrees(action[5] * sizes[5])
    gripper = ("close" if action[6] > 0 else "open") if len(action) > 6 else ""
    return f"x {x:+.1f}  y {y:+.1f}  z {z:+.1f} cm   turn {turn:+.0f}°   {gripper}"


def control_hz(result: Result) -> float:
    """Returns the number of actions, and frames, per second of an episode."""
    return embodiment_of(result.task)[1].control_hz


def film(result: Result, path: str | Path) -> Path:
    """Writes an episode as a film, and its actions beside it, which the console of `vla serve` shows while the film plays."""
    # The actions come first, so that every film has them.
    actions_of(path).parent.mkdir(parents=True, exist_ok=True)
    actions = {"hz": control_hz(result), "actions": [np.round(action, 5).tolist() for action in result.actions]}
    actions_of(path).write_text(json.dumps(actions) + "\n", encoding="utf-8")
    return write_video(path, captioned(result), fps=control_hz(result))


def actions_of(film: str | Path) -> Path:
    """Returns the path of a film's actions."""
    return Path(film).with_suffix(".json")


def film_grid(films: Iterable[str | Path], path: str | Path, fps: float) -> Path:
    """Joins films into one, arranged in a grid at half their size."""
    return write_video(path, grid([[frame[::2, ::2] for frame in read_video(one)] for one in films]), fps=fps)


def film_name(key: Key) -> str:
    """Returns the path of an episode's film within the folder of its evaluation."""
    return f"videos/{re.sub('[^A-Za-z0-9]+', '-', '-'.join(map(str, key)))}.mp4"


def film_path(folder: str | Path, record: Record) -> Path:
    """Returns the path of the first film of the record's episodes."""
    paths = [Path(folder) / film_name(episode.key) for episode in record.episodes]
    return next(path for path in paths if path.is_file())


def film_list(folder: Path, episodes: Sequence[EpisodeRecord]) -> list[dict[str, Any]]:
    """Returns the existing films in the order of the episodes, as the page takes them; a grid of all of them comes first."""
    filmed = [episode for episode in episodes if (folder / film_name(episode.key)).is_file()]
    films: list[dict[str, Any]] = [
        {
            "path": film_name(episode.key),
            "title": episode.instruction or "(no instruction)",
            "outcome": "success" if episode.success else "failure",
            "note": episode.variation + (f", {episode.failure}" if episode.failure else ""),
        }
        for episode in filmed
    ]
    if len(films) > 1:
        hz = embodiment_of(episodes[0].task)[1].control_hz
        film_grid([folder / one["path"] for one in films], folder / "videos/grid.mp4", hz)
        films.insert(0, {"path": "videos/grid.mp4", "title": f"{len(films)} episodes", "wide": True})
    return films
