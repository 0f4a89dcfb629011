"""Rollouts as robot data: observations, actions and outcomes, in the form of demonstrations."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from vla.contract import Camera, Embodiment
from vla.datasets.card import DatasetCard
from vla.datasets.shards import ShardWriter, encode_member
from vla.datasets.statistics import space_with_statistics
from vla.errors import UserError
from vla.observation import ActionChunk, Observation
from vla.sim.episodes import Episode, Result
from vla.sim.registry import embodiment_of


class Recorder:
    """Writes the episodes of a rollout as shards with a card, always in the order of the episodes. A context manager.

    Every step has images, state, instruction and the action that was carried out; its `json` also has the plan that the policy
    wrote for it, how the episode ended (success, failure) and which one it is (task, variation, seed, kind).

    Args:
        folder: the folder to write; it must hold no shards unless `overwrite` is set.
        policy, command: name of the policy, and what it was run with, for the card.
    """

    def __init__(self, folder: str | Path, policy: str, overwrite: bool = False, command: str = "vla rollout"):
        self.folder, self.policy, self.command = Path(folder), policy, command
        self._writer = ShardWriter(folder, overwrite=overwrite)
        self._robots: dict[str, Embodiment] = {}
        self._tasks: list[str] = []
        self._shown: tuple[Camera, ...] = ()
        self._cameras: dict[str, Camera] = {}
        self._order: list[str] = []
        self._steps: dict[str, list[dict[str, Any]]] = {}
        self._ended: dict[str, Result] = {}
        self._actions: list[np.ndarray] = []
        self._states: list[np.ndarray] = []
        self._episodes = self._successes = 0

    def __enter__(self) -> Recorder:
        self._writer.__enter__()
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._writer.__exit__(kind, error, trace)
        if kind is None and self._episodes:
            self._card().save(self.folder)

    def expect(self, episodes: list[Episode]) -> None:
        """Announces the episodes, in the order in which they are written; UserError if they have several robots."""
        self._robots |= dict(embodiment_of(episode.task) for episode in episodes)
        self._shown = episodes[0].cameras or embodiment_of(episodes[0].task)[1].cameras
        if len(self._robots) > 1:
            raise UserError(
                f"the episodes are of {' and '.join(self._robots)}", "record", "one robot per folder: record them apart"
            )
        self._tasks = list(dict.fromkeys([*self._tasks, *(episode.task for episode in episodes)]))
        self._order += [episode.id for episode in episodes]

    def begin(self, stream: str) -> None:
        """An episode begins, or begins again."""
        self._steps[stream] = []

    def step(self, observation: Observation, chunk: ActionChunk, actor: str = "") -> None:
        """Takes an observation and the action carried out then, the first of the chunk.

        Args:
            actor: who acted, for the step's `json`: "policy" or "expert"; "" says nothing of it.
        """
        written: dict[str, Any] = {"terminate": int(chunk.terminate[0])}
        written |= ({"plan": chunk.plan} if chunk.plan else {}) | ({"actor": actor} if actor else {})
        for camera in self._shown if not self._cameras else ():
            height, width, _ = observation.images[camera.name].shape
            self._cameras[camera.name] = dataclasses.replace(camera, height=height, width=width)
        self._steps[observation.id].append(
            {
                **{f"{name}.jpg": encode_member(f"{name}.jpg", image) for name, image in observation.images.items()},
                "action.npy": np.asarray(chunk.actions[0], np.float32),
                "state.npy": np.asarray(observation.state, np.float32),
                "written": written,
            }
        )

    def end(self, stream: str, result: Result) -> None:
        """An episode is over. It is written once all episodes before it are."""
        self._ended[stream] = result
        while self._order and self._order[0] in self._ended:
            first = self._order.pop(0)
            self._write(self._steps.pop(first), self._ended.pop(first))

    def keep(self) -> None:
        """Completes on disk what has been written so far, with its card: whatever comes later, it can be used."""
        self._writer.cut()
        self._card().save(self.folder)

    def _write(self, steps: list[dict[str, Any]], result: Result) -> None:
        about = {
            "episode": self._episodes,
            "length": len(steps),
            "instruction": result.instruction,
            "embodiment": embodiment_of(result.task)[0],
            "target": result.target,
            "success": result.success,
            **{name: getattr(result, name) for name in ("failure", "task", "variation", "seed", "kind")},
        }
        for number, step in enumerate(steps):
            description = {**about, "step": number, **step.pop("written")}
            self._actions.append(step["action.npy"])
            self._states.append(step["state.npy"])
            self._writer.write(f"e{self._episodes:06d}_s{number:04d}", {**step, "json": description})
        self._episodes += 1
        self._successes += result.success

    def _card(self) -> DatasetCard:
        (name, spec), *_ = self._robots.items()
        spec = dataclasses.replace(
            spec,
            cameras=tuple(self._cameras.values()),
            action=space_with_statistics(spec.action, np.stack(self._actions)),
            state=space_with_statistics(spec.state, np.stack(self._states)),
        )
        counts = {"episodes": self._episodes, "steps": len(self._actions), "successes": self._successes}
        conventions = {"pictures": "upright RGB", "action": "what was carried out, by the policy unless `actor` says otherwise"}
        task = {"task": self._tasks[0]} if len(self._tasks) == 1 else {}
        return DatasetCard(
            self.folder.name, "robot", name, spec, counts, self._writer.shards,
            conventions=conventions, generator={"command": self.command, "policy": self.policy, **task},
        )  # fmt: skip
