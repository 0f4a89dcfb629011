"""In place of the benchmark's environment: a hand on a line, right of 0.25 the task's goal holds, left of -0.25 the other one."""

import functools
import hashlib

import numpy as np

from vla.errors import UserError
from vla.sim.libero.environment import Seen
from vla.sim.libero.simulation import LiberoSimulation


class StandIn:
    built: list[str] = []

    def __init__(self, task):
        self.task, self.data = task, None
        StandIn.built.append(task.name)

    def reset(self, protocol, scene, look=None):
        if scene > 49:
            raise UserError(f"initial state {scene}", self.task.name, "there are 50")
        self.scene, self.x, self.start = scene, scene / 1000, f"{protocol.hash}{scene}"
        self._observe(look)

    def step(self, action, look=None):
        self.x += 0.1 * float(action[0])
        self._observe(look)

    def _observe(self, look):
        self.seen = Seen(np.array([self.x, *[0.0] * 7]), look.seen(self, self.data) if look else {})

    def look(self, rendering):
        return Seen(self.seen.state, rendering.seen(self, self.data))

    def draw(self, data, camera, size):
        """As a `Drawer`: bright on the left."""
        image = np.full((size, size, 3), 20 + 5 * (camera == "agentview"), np.uint8)
        image[:, : size // 2] = 200
        return image

    def render(self, camera, size, drawing="exact"):
        return self.draw(None, camera, size)

    def holds(self, condition):
        return self.x > 0.25 if condition in self.task.goal.conditions else self.x < -0.25

    def knows(self, goal):
        return True

    def grasps(self):
        return False

    def objects(self):
        return ("bowl", "plate")

    def fixtures(self):
        return {"built": StandIn.built.copy()}

    def state_hash(self):
        return hashlib.sha256(self.start.encode()).hexdigest()

    def close(self):
        pass


make = functools.partial(LiberoSimulation, StandIn)
