"""How an episode stands: success, execution, recognition, the classes of failure and other tasks' goals, the same for every task.

**Other tasks' goals.** An episode in which the goal of another task than the one asked for was reached did the wrong task. Such a
goal is any that a sentence can name in the scene, about whatever object, whose condition held for HOLD_STEPS steps and did not
hold at the start. It neither ends the episode nor changes its success or failure: outcomes are what they were before these goals
were noted. By what was asked for (rows) and what was reached:

| Asked for | lift | put | stack | push |
|---|---|---|---|---|
| lift | | counts | counts | counts if the object was never carried |
| put | is a part of it: does not count | | counts | likewise |
| stack | likewise | counts | | likewise |
| push | counts | counts | counts | |

Lifting an object, the right or the wrong one, is how putting and stacking begin, so it cannot be told from them. The other way
round, an episode of lifting ends once an object was up for long enough, and what would have followed is not seen: putting and
stacking count there only where the object was up more briefly. An object that was carried and let go of elsewhere has moved along
the table as if pushed; that is why pushing counts only for objects that were never carried.
"""

from __future__ import annotations

import dataclasses

from vla.sim.tabletop.tasks import TASKS
from vla.sim.tabletop.tasks.base import HOLD_STEPS, Goal, Table, Task
from vla.sim.tabletop.tasks.place import PICKED


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
        others: goals of other tasks that were reached, in their order; see above. None are noted where nothing was asked for.
    """

    task: Task
    goal: Goal | None
    horizon: int = 0
    reached: Goal | None = None
    failure: str | None = None
    steps: int = 0
    touched: bool = False
    spoiled: bool = False
    others: list[Goal] = dataclasses.field(default_factory=list)
    _held: dict[Goal, int] = dataclasses.field(default_factory=dict)
    _carried: set[int] = dataclasses.field(default_factory=set)
    _possible: list[Goal] | None = None

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
        movable = [i for i, item in enumerate(table.scene) if item.movable]
        under_way = any(self.task.begun(table, i) for i in movable)
        self.touched |= under_way
        asked = None if self.goal is None else self.goal.target
        self.spoiled |= any(i != asked and self.task.spoils(table, i) for i in movable)
        for goal in self._candidates(table):
            if self._has_held(table, self.task, goal) and self.reached is None:
                self.reached = goal
        if self.reached is None and self.goal is not None:
            self._carried |= {i for i in movable if table.lift(i) >= PICKED and table.grasped(i)}
            self._note_others(table)
        if self.reached is not None:
            right = self.goal is not None and self.reached.target == self.goal.target
            asked_for = "wrong object before" if self.spoiled else ""
            self.failure = asked_for if self.reached == self.goal else "wrong place" if right else "wrong object"
        elif terminate:
            self.failure = "terminated early"
        elif self.steps >= self.horizon:
            self.failure = "timeout" if under_way else "dropped" if self.touched else "nothing grasped"

    def _has_held(self, table: Table, task: Task, goal: Goal) -> bool:
        """Counts the steps for which the goal's condition has held; whether they are enough."""
        self._held[goal] = self._held.get(goal, 0) + 1 if task.holds(table, goal) else 0
        return self._held[goal] >= HOLD_STEPS

    def _note_others(self, table: Table) -> None:
        if self._possible is None:
            others = [task for name, task in TASKS.items() if name not in (self.task.name, *self.task.parts)]
            self._possible = [goal for task in others for goal in task.open_goals(table.scene)]
        for goal in self._possible:
            task = TASKS[goal.task]
            if not task.carries and goal.target in self._carried:
                continue
            if self._has_held(table, task, goal) and goal not in self.others:
                self.others.append(goal)

    def _candidates(self, table: Table) -> list[Goal]:
        """The goal asked for comes first: it may be reached together with another."""
        goals = self.task.candidates(table.scene, self.goal)
        return [g for g in goals if g == self.goal] + [g for g in goals if g != self.goal]
