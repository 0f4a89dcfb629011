"""Which goal a sentence asks for, and what has been reached."""

from __future__ import annotations

from collections.abc import Callable

from vla.sim.libero.tasks import Condition, Goal, LiberoTask


def goals_of(task: LiberoTask) -> list[Goal]:
    """The goals that can be asked for in a task's scene: its own, and the other one."""
    return [task.goal, *([task.other] if task.other else [])]


def goal_of(task: LiberoTask, instruction: str) -> Goal | None:
    """The goal of the scene that a sentence asks for, whatever its case and spaces; None if it asks for neither."""
    said = _plain(instruction)
    return next((goal for goal in goals_of(task) if _plain(goal.instruction) == said), None)


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
