"""LIBERO and LIBERO-PRO as a simulator (`vla.sim.simulator`)."""

from __future__ import annotations

from collections.abc import Mapping

from vla.contract import Embodiment
from vla.errors import UserError
from vla.sim.collect_options import Collect
from vla.sim.libero.embodiment import EMBODIMENT, EMBODIMENT_NAME
from vla.sim.libero.package import PACKAGE
from vla.sim.libero.protocols import PROTOCOLS
from vla.sim.libero.tasks import TASKS, suites
from vla.sim.libero.variation import LiberoVariation, changed, read_variation
from vla.sim.simulator import Simulation, Simulator
from vla.sim.variation import Json, Variation


class Libero(Simulator):
    """See `Simulator`. Its variations choose the protocol and how images are drawn."""

    name = "libero"
    tasks = TASKS
    environments = {f"vla/{name}-v0": ("vla.sim.libero.gym:LiberoEnv", {"task": name}) for name in TASKS}
    packages = PACKAGE
    suites = suites()
    one_task = True
    adapts = True

    def embodiment(self, task: str) -> tuple[str, Embodiment]:
        return EMBODIMENT_NAME, EMBODIMENT

    def simulation(self) -> Simulation:
        from vla.sim.libero.simulation import LiberoSimulation

        return LiberoSimulation()

    def read_variation(self, name: str, settings: Json, where: str) -> LiberoVariation:
        return read_variation(name, settings, where)

    def override(self, variation: Variation, settings: Mapping[str, str], where: str) -> LiberoVariation:
        return changed(LiberoVariation.of(variation), settings, where)

    def check(self, task: str, variation: Variation, where: str) -> None:
        if variation.changes and not isinstance(variation, LiberoVariation):
            raise UserError(f"{task} cannot vary its {', '.join(variation.changes)}", where, "known are protocol, rendering")
        chosen, suite = LiberoVariation.of(variation), TASKS[task].suite
        if chosen.rules.horizon(suite) is None:
            knowing = ", ".join(name for name, protocol in PROTOCOLS.items() if protocol.horizon(suite) is not None)
            raise UserError(f"protocol {chosen.protocol} does not know the suite libero/{suite}", where, f"take {knowing}")

    def horizon(self, task: str, variation: Variation) -> int:
        return LiberoVariation.of(variation).rules.horizon(TASKS[task].suite) or TASKS[task].horizon

    def episodes(self, variation: Variation) -> int:
        return LiberoVariation.of(variation).rules.episodes

    def conditions(self, variation: Variation) -> dict[str, str]:
        chosen = LiberoVariation.of(variation)
        return {"protocol": chosen.protocol, "protocol_hash": chosen.rules.hash, "rendering": chosen.rendering}

    def check_collect(self, options: Collect) -> None:
        raise UserError(f"{self.name} collects no data", "collect", "`vla rollout --record` records a policy's episodes")

    def note(self, task: str, instruction: str) -> str:
        from vla.sim.libero.goals import goal_of

        if goal_of(TASKS[task], instruction) is None:
            return "no task of this scene has this instruction; nothing counts as success"
        return ""


LIBERO = Libero()
