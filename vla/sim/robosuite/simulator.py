"""robosuite's own tasks as a simulator (`vla.sim.simulator`): their scenes are as they are, hence no variations."""

from __future__ import annotations

from vla.contract import Embodiment
from vla.errors import UserError
from vla.sim.collect_options import Collect, Report
from vla.sim.robosuite.embodiment import embodiment
from vla.sim.robosuite.tasks import TASKS
from vla.sim.simulator import Simulation, Simulator


class Robosuite(Simulator):
    """See `Simulator`."""

    name = "robosuite"
    tasks = TASKS
    environments = {
        f"vla/{name}-v0": ("vla.sim.robosuite.gym:RobosuiteEnv", {"task": task.environment}) for name, task in TASKS.items()
    }

    def embodiment(self, task: str) -> tuple[str, Embodiment]:
        return embodiment(task)

    def simulation(self) -> Simulation:
        from vla.sim.robosuite.simulation import RobosuiteSimulation

        return RobosuiteSimulation()

    def check_collect(self, options: Collect) -> None:
        if options.sizes:
            raise UserError(f"{options.task} has objects of one size", "collect", "leave out --sizes")
        for name in ("every_task", "destinations"):
            if getattr(options, name):
                raise UserError(f"{options.task} with --{name}", "collect", "leave it out: only the tabletop's tasks have it")
        if options.step_questions:
            raise UserError(f"no questions are known about {options.task}", "collect", "leave out --step_questions")

    def collect(self, options: Collect, report: Report) -> dict[str, int]:
        from vla.sim.robosuite.collect import collect

        return collect(options, report)


ROBOSUITE = Robosuite()
