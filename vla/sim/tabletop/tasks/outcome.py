"""How an episode stands: success, execution, recognition and the classes of failure, the same for every task."""

from __future__ import annotations

import dataclasses

from vla.sim.tabletop.tasks.base import HOLD_STEPS, Goal, Table, Task


@dataclasses.dataclass
class Outcome:
    """How an episode stands. Update once per step; it is over when `failure` is not None.

    Among the task's goals the first one whose condition held for HOLD_STEPS steps decides. Failures: "wrong object": it was
    another object's; "wrong object before": the one asked for, but another object was tried before; "wrong place": the right
    object's, but another place than asked for; "terminated early": the policy said that it was done; at the horizon "nothing
    grasped" if the task was begun with no object, "timeout" if it is under way with one, "dropped" if it no longer is.

    Attributes:
        goal: what was asked for; None where the instruction asks for nothing (control episodes).
        reached: the goal that was reached first; None while there is none.
        failure: "" for success, else its class.
    """

    task: Task
    goal: Goal | None
    horizon: int = 0
    reached: Goal | None = None
    failure: str | None = None
    steps: int = 0
    touched: bool = False
    spoiled: bool = False
    _held: dict[Goal, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.horizon = self.horizon or self.task.horizon

    @property
    def success(self) -> bool:
        return self.failure == ""

    @property
    def executed(self) -> bool:
        """Something that the task asks for was done to some object."""
        return self.reached is not None

    @property
    def first(self) -> int | None:
        """Index of the object to which it was done; it is recognition if that is the goal's target."""
        return None if self.reached is None else self.reached.target

    @property
    def over(self) -> bool:
        return self.failure is not None

    def update(self, table: Table, terminate: bool = False) -> None:
        """Takes note of the state after a step; `terminate` says that the policy declared the task done."""
        self.steps += 1
        under_way = any(self.task.begun(table, i) for i in range(len(table.scene)))
        self.touched |= under_way
        asked = None if self.goal is None else self.goal.target
        self.spoiled |= any(i != asked and self.task.spoils(table, i) for i in range(len(table.scene)))
        for goal in self._candidates(table):
            self._held[goal] = self._held.get(goal, 0) + 1 if self.task.holds(table, goal) else 0
            if self._held[goal] >= HOLD_STEPS and self.reached is None:
                self.reached = goal
        if self.reached is not None:
            right = self.goal is not None and self.reached.target == self.goal.target
            asked_for = "wrong object before" if self.spoiled else ""
            self.failure = asked_for if self.reached == self.goal else "wrong place" if right else "wrong object"
        elif terminate:
            self.failure = "terminated early"
        elif self.steps >= self.horizon:
            self.failure = "timeout" if under_way else "dropped" if self.touched else "nothing grasped"

    def _candidates(self, table: Table) -> list[Goal]:
        """The goal asked for comes first: it may be reached together with another."""
        goals = self.task.candidates(table.scene, self.goal)
        return [g for g in goals if g == self.goal] + [g for g in goals if g != self.goal]
