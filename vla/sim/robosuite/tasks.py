"""robosuite's own tasks as data: names, instructions, horizons, and which have an expert. No simulator here."""

from __future__ import annotations

import dataclasses

from vla.sim.simulator import TaskSpec

PREFIX = "robosuite-"


@dataclasses.dataclass(frozen=True)
class RobosuiteTask(TaskSpec):
    """One of robosuite's tasks. It has one goal, which nothing in the scene can be mistaken for.

    Attributes:
        grasps: whether something must be held to do it.
    """

    grasps: bool = True

    @property
    def environment(self) -> str:
        """As robosuite calls it."""
        return self.name.removeprefix(PREFIX)


def _task(environment: str, *wordings: str, horizon: int = 400, expert: bool = True, grasps: bool = True) -> RobosuiteTask:
    return RobosuiteTask(PREFIX + environment, wordings, horizon, expert=expert, grasps=grasps)


TASKS = {
    task.name: task
    for task in (
        _task("Lift", "lift the red cube", "pick up the red cube", "raise the cube from the table", horizon=200),
        _task("Stack", "stack the red cube on the green cube", "put the red cube on top of the green cube", horizon=300),
        _task("Door", "open the door", "turn the handle and open the door", "pull the door open", grasps=False),
        _task("PickPlaceCan", "put the can into its bin", "move the can to the empty bin", "place the can in the other bin"),
        _task("NutAssemblySquare", "put the square nut on the square peg", "fit the square nut over its peg", expert=False),
        _task(
            "Wipe", "wipe the table", "wipe the marks off the table", "clean the table", horizon=500, expert=False, grasps=False
        ),
    )
}
