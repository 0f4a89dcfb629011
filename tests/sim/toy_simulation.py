"""A simulation without a simulator, that fails where it is told to. Worker processes import it by this name."""

import hashlib
import os
import signal

import numpy as np

from vla.observation import Observation
from vla.sim.episodes import Result
from vla.sim.simulator import Advice, View
from vla.sim.tabletop.episodes import set_up
from vla.sim.tabletop.tasks.base import Goal
from vla.sim.tabletop.tasks.wording import named_of


class ToySimulation:
    """Images are noise by (seed, step); the record's state is a hash of all actions, so that equal records had equal actions.

    Args:
        trouble: what happens at step 2 of seed 1: "kill", "stop", "raise"; "" nothing.
        marker: a file; once it is there the trouble is over. "" is never.

    The record's seconds are how often images were rendered.
    """

    def __init__(self, trouble="", marker=""):
        self.trouble, self.marker = trouble, marker

    def start(self, episode, look):
        self.episode, self.steps, self.looks, self.actions = episode, 0, 0, hashlib.sha256()
        self.scene, self.goal, self.instruction = set_up(episode)
        return self._observe(look)

    def step(self, action, terminate, look):
        self.steps += 1
        self.actions.update(np.asarray(action).tobytes() + bytes([look]))
        if self.steps == 2 and self.episode.seed == 1:
            self._fail()
        return self._result() if self.steps >= (self.episode.horizon or 5) else self._observe(look)

    def instruct(self, episode):
        named = named_of([o.name for o in self.scene], episode.instruction)
        self.goal = Goal("lift", named[0]) if named else None
        self.episode, self.instruction, self.steps = episode, episode.instruction, 0
        return self._observe(True)

    def view(self):
        goal = "" if self.goal is None else self.scene[self.goal.target].name
        return View(self._observe(True).images, tuple(o.name for o in self.scene), goal)

    def expert(self, episode):
        self.start(episode, False)
        return self._result()

    def advise(self):
        """The number of the step, in every dimension."""
        return self.goal and Advice(
            np.full(7, self.steps / 100), self.steps + 2 >= (self.episode.horizon or 5), {"target": "red cube"}
        )

    def _fail(self):
        if not self.trouble:
            return
        if self.marker:
            try:
                # Two workers may come here at once: the first one has the trouble.
                open(self.marker, "x").close()
            except FileExistsError:
                return
        if self.trouble == "raise":
            raise RuntimeError("the OpenGL context is lost")
        os.kill(os.getpid(), signal.SIGKILL if self.trouble == "kill" else signal.SIGSTOP)

    def _observe(self, look):
        self.looks += look
        rng = np.random.default_rng((self.episode.seed, self.steps))
        images = {c: rng.integers(0, 255, (64, 64, 3), np.uint8) for c in ("front", "wrist")} if look else {}
        return Observation(self.episode.id, images, rng.uniform(0, 0.05, 5), self.instruction, "panda-tabletop")

    def _result(self):
        names = [o.name for o in self.scene]
        target = "" if self.goal is None else names[self.goal.target]
        lifted = names[self.episode.seed % 2]
        return Result.of(
            self.episode, self.instruction, self.actions.hexdigest(), self.steps,
            "" if lifted == target else "wrong object", True, target, lifted, names, float(self.looks),
            frames=[np.full((32, 64, 3), 40 * t, np.uint8) for t in range(3)] if self.episode.video else [],
        )  # fmt: skip
