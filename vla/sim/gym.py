"""The simulators' tasks as Gymnasium environments: `import vla.sim.gym`, then e.g. `gymnasium.make("vla/Lift-v0")`.

Importing this registers their ids; `gymnasium.make` imports the environment itself.
"""

import gymnasium

from vla.sim.registry import simulators

for _simulator in simulators():
    for _id, (_entry_point, _arguments) in _simulator.environments.items():
        gymnasium.register(_id, entry_point=_entry_point, kwargs=_arguments)
