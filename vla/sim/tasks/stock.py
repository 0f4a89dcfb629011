"""robosuite's own tasks as data: what they are called, what the robot is told, who drives them. No simulator here."""

from __future__ import annotations

import dataclasses

from vla.errors import UserError
from vla.sim.variation import Variation

PREFIX = "robosuite-"


@dataclasses.dataclass(frozen=True)
class StockTask:
    """One of robosuite's tasks. It has one goal, which nothing in the scene can be mistaken for.

    Attributes:
        environment: as robosuite calls it.
        wordings: what the robot may be told.
        horizon: steps until an episode is given up.
        grasps: whether something must be held to do it.
        expert: whether it has a scripted one.
    """

    environment: str
    wordings: tuple[str, ...]
    horizon: int = 400
    grasps: bool = True
    expert: bool = True

    goals = 1

    @property
    def name(self) -> str:
        return PREFIX + self.environment

    def check(self, variation: Variation, where: str) -> None:
        """Raises UserError if anything differs from robosuite's own scenes."""
        if differs := [key for key in variation.to_dict() if key != "name"]:
            raise UserError(
                f"{self.name} cannot vary its {', '.join(differs)}", where, "leave it out: robosuite's scenes are as they are"
            )


STOCK_TASKS = {
    task.name: task
    for task in (
        StockTask("Lift", ("lift the red cube", "pick up the red cube", "raise the cube from the table"), 200),
        StockTask("Stack", ("stack the red cube on the green cube", "put the red cube on top of the green cube"), 300),
        StockTask("Door", ("open the door", "turn the handle and open the door", "pull the door open"), grasps=False),
        StockTask(
            "PickPlaceCan", ("put the can into its bin", "move the can to the empty bin", "place the can in the other bin")
        ),
        StockTask("NutAssemblySquare", ("put the square nut on the square peg", "fit the square nut over its peg"), expert=False),
        StockTask("Wipe", ("wipe the table", "wipe the marks off the table", "clean the table"), 500, grasps=False, expert=False),
    )
}
