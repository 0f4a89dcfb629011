"""Which goal a sentence asks for, and what has been reached."""

from __future__ import annotations

import re
from collections.abc import Callable

from vla.sim.libero.tasks import TASKS, Condition, Goal, LiberoTask, base_of


def goals_of(task: LiberoTask) -> list[Goal]:
    """The two goals of an evaluation: the task's own, and the other one."""
    return [task.goal, *([task.other] if task.other else [])]


def goal_of(task: LiberoTask, instruction: str) -> Goal | None:
    """The goal that a sentence asks for, whatever its case and spaces: of the task, or of another task of the same scene.

    Returns:
        the goal; its conditions may name what this scene lacks. None: no task of the scene has the sentence.
    """
    said, scene = _plain(instruction), _scene(task)
    others = sorted((one for one in TASKS.values() if _scene(one) == scene), key=lambda one: one.suite != task.suite)
    goals = [*goals_of(task), *(one.goal for one in others)]
    return next((goal for goal in goals if _plain(goal.instruction) == said), None)


def _scene(task: LiberoTask) -> str:
    """Tasks of the same scene have the same; in spatial a sentence means another bowl in each task."""
    if numbered := re.match(r".*SCENE\d+_", task.file):
        return numbered[0]
    base = base_of(task.suite)
    return task.name if base == "spatial" else base


def _plain(sentence: str) -> str:
    return " ".join(sentence.lower().split()).rstrip(".!")


class Progress:
    """Counts for how long each goal of a scene has held.

    Args:
        goals: the goals that are watched.
        hold: steps for which one must hold.

    Attributes:
        reached: the first goal that has held for so long; None so far.
    """

    def __init__(self, goals: list[Goal], hold: int):
        self._held = dict.fromkeys(goals, 0)
        self._hold = hold
        self.done: list[Goal] = []

    @property
    def reached(self) -> Goal | None:
        return self.done[0] if self.done else None

    def update(self, holds: Callable[[Condition], bool]) -> None:
        """Looks once, after each step."""
        for goal in self._held:
            # All of them: a condition may also change what is seen, such as a burner's glow.
            held = all([holds(condition) for condition in goal.conditions])  # noqa: C419
            self._held[goal] = self._held[goal] + 1 if held else 0
            if self._held[goal] >= self._hold and goal not in self.done:
                self.done.append(goal)
