"""Resets without compiling the model anew, with the draws of the benchmark's own resets, which compile it.

What is drawn are the places of cabinets, stoves and racks: initial states do not hold them. The draws come from numpy's global
generator.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vla.sim.libero.protocols import Protocol

ATTEMPTS = 100
"""Draws of a scene in which the benchmark finds no place for all objects, after which it is given up."""


class Resets:
    """The resets of one task's environment.

    Args:
        environment: as `make_environment` returns it.
    """

    def __init__(self, environment: Any):
        self.environment = environment
        # One for each drawer or knob that does not begin closed; the benchmark's own resets add them anew each time.
        self._drawers = list(environment.object_property_initializers)
        # Protocol's seed -> states of numpy's generator before the first, second … reset after seeding.
        self._before: dict[int, list[Any]] = {}

    def reset(self, protocol: Protocol, episode: int) -> None:
        """Puts the environment where the protocol's episode of that number begins, before its initial state is set."""
        if protocol.seeded == "episode":
            np.random.seed(protocol.seed + episode)
            self._reset(protocol.loads)
            return
        before = self._before.setdefault(protocol.seed, [])
        if not before:
            np.random.seed(protocol.seed)
            before.append((np.random.get_state(), protocol.loads))
        while len(before) <= episode:
            state, loads = before[-1]
            np.random.set_state(state)
            loads = self._reset(loads)
            before.append((np.random.get_state(), loads + 1))
        state, loads = before[episode]
        np.random.set_state(state)
        self._reset(loads)

    def _reset(self, loads: int) -> int:
        """One reset, which is the environment's load of that number. It is repeated, as in the benchmark, where no place is found
        for all objects. Returns the number of the last one."""
        from robosuite.utils.errors import RandomizationError  # pyright: ignore[reportMissingImports]

        for attempt in range(ATTEMPTS):
            try:
                self._once(loads + attempt)
            except RandomizationError:
                continue
            return loads + attempt
        raise RuntimeError(f"no place was found for all objects in {ATTEMPTS} draws")

    def _once(self, loads: int) -> None:
        environment = self.environment
        model, sim = environment.sim.model, environment.sim
        for name, value in environment.as_compiled.items():
            getattr(model, name)[:] = value
        sim.reset()
        sim.forward()
        # robosuite's own soft reset forgets this one.
        gripper = environment.robots[0].gripper
        gripper.current_action = np.zeros_like(gripper.current_action)
        environment.object_property_initializers = self._drawers * loads
        environment._reset_internal()
        sim.forward()
        environment._obs_cache = {}
        environment.visualize(vis_settings=dict.fromkeys(environment._visualizations, False))
        # Its timer, by which observations are taken, goes on with each.
        environment._update_observables(force=True)
