"""The tabletop as a simulator (`vla.sim.simulator`)."""

from __future__ import annotations

from vla.contract import Embodiment
from vla.errors import UserError
from vla.sim.collect_options import Collect, Report
from vla.sim.simulator import Simulation, Simulator, TaskSpec
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME
from vla.sim.tabletop.scene import SLOTS
from vla.sim.tabletop.tasks import TASKS
from vla.sim.tabletop.tasks.wording import known_objects, named_object
from vla.sim.tabletop.variation import TabletopVariation, read_variation
from vla.sim.variation import Json, Variation


class Tabletop(Simulator):
    """See `Simulator`."""

    name = "tabletop"
    tasks = {name: TaskSpec(name, task.wordings, task.horizon, goals=2, expert=True) for name, task in TASKS.items()}
    questions = ("questions",)
    environments = {f"vla/{name.title()}-v0": ("vla.sim.tabletop.gym:TabletopEnv", {"task": name}) for name in TASKS}

    def embodiment(self, task: str) -> tuple[str, Embodiment]:
        return EMBODIMENT_NAME, EMBODIMENT

    def simulation(self) -> Simulation:
        from vla.sim.tabletop.simulation import TabletopSimulation

        return TabletopSimulation()

    def read_variation(self, name: str, settings: Json, where: str) -> TabletopVariation:
        return read_variation(name, settings, where)

    def check(self, task: str, variation: Variation, where: str) -> None:
        TASKS[task].check(TabletopVariation.of(variation, where), where)

    def note(self, task: str, instruction: str) -> str:
        if named_object(instruction) is None:
            return f"the instruction names none of {', '.join(known_objects())}; nothing counts as success"
        return ""

    def check_collect(self, options: Collect) -> None:
        if options.objects > SLOTS:
            raise UserError(f"objects {options.objects}", "collect", f"give 0 to {SLOTS}")
        for name in ("sizes", "wide"):
            if options.every_task and getattr(options, name):
                raise UserError(f"--every_task with --{name}", "collect", "leave one of them out: they are about other scenes")
        if options.destinations and options.task not in ("put", "push", "stack"):
            raise UserError(f"{options.task} with --destinations", "collect", "leave it out: only put, push and stack have them")

    def collect(self, options: Collect, report: Report) -> dict[str, int]:
        from vla.sim.tabletop.collect import collect

        return collect(options, report)


TABLETOP = Tabletop()
