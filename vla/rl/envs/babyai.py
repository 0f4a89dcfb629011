"""BabyAI's levels with one object to reach or fetch, as environments with an image and an instruction.

Chevalier-Boisvert et al. 2019 (arXiv 1810.08272); the `minigrid` package provides the levels.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import gymnasium
import minigrid  # noqa: F401 - registers the levels
import numpy as np
from gymnasium import spaces
from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT
from minigrid.minigrid_env import MiniGridEnv
from minigrid.wrappers import RGBImgPartialObsWrapper

from vla.errors import UserError

COLOURS = ("red", "green", "blue", "purple", "yellow", "grey")
SHAPES = ("key", "ball", "box", "door")
TILE, SIZE = 8, 64
"""Pixels of a cell of the view and of the whole image. The view has seven cells; a black margin to the right and below makes each
cell one token of a model with 8-px tokens."""


class BabyAI(gymnasium.Env):
    """A level whose mission names one object.

    Observation: "front", uint8 [64, 64, 3], the robot's partial view from above, with the robot at the bottom centre facing up;
    "state", float32 [10], the goal's colour and shape, one-hot over `COLOURS` and `SHAPES`; "oracle", float32 [1], 1 if the goal
    is in view. Actions are minigrid's seven. The reward is minigrid's: positive for success, smaller the later it comes.
    `info["fields"]` fills prompts.

    Args:
        name: name of the level, e.g. "BabyAI-GoToLocal-v0".

    Raises:
        UserError: there is no such level, or its mission is not to reach or fetch a single object.
    """

    fields = ("instruction", "object", "colour", "shape")
    needs_process = False

    @staticmethod
    def unfit(name: str) -> str:
        return f"it was trained in {name}, whose actions are not a robot's"

    def __init__(self, name: str):
        try:
            env = gymnasium.make(name)
        except gymnasium.error.Error as error:
            raise UserError(str(error), "environment", "give a level, e.g. BabyAI-GoToLocal-v0") from error
        level = env.unwrapped
        if not isinstance(level, MiniGridEnv):
            raise UserError(f"{name} is not a level of minigrid", "environment", "give a level, e.g. BabyAI-GoToLocal-v0")
        self._env = RGBImgPartialObsWrapper(env, tile_size=TILE)
        self._level = level
        self._name = name
        self._draw(0)
        self._goal()
        self.action_space = self._env.action_space
        self.observation_space = spaces.Dict(
            {
                "front": spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8),
                "state": spaces.Box(0.0, 1.0, (len(COLOURS) + len(SHAPES),), np.float32),
                "oracle": spaces.Box(0.0, 1.0, (1,), np.float32),
            }
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        return self._observation(self._draw(seed)), {"fields": self._fields()}

    def _draw(self, seed: int | None) -> dict[str, Any]:
        with contextlib.redirect_stdout(io.StringIO()):  # minigrid prints every room that it rejects
            return self._env.reset(seed=seed)[0]

    def step(self, action: int | np.integer) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        view, reward, terminated, truncated, _ = self._env.step(int(action))
        info = {"fields": self._fields(), "is_success": bool(terminated and float(reward) > 0)}
        return self._observation(view), float(reward), terminated, truncated, info

    def close(self) -> None:
        self._env.close()

    def _goal(self) -> tuple[str, str]:
        """Returns the colour ("" for any) and the shape of the goal."""
        goal = getattr(getattr(self._level, "instrs", None), "desc", None)
        if goal is None or goal.type not in SHAPES:
            fix = "choose another level, e.g. BabyAI-GoToLocal-v0"
            raise UserError(f"the mission of {self._name} does not name a single object", "environment", fix)
        return goal.color or "", goal.type

    def _fields(self) -> dict[str, str]:
        colour, shape = self._goal()
        words = {"colour": colour, "shape": shape, "object": f"{colour} {shape}".strip()}
        return {"instruction": str(self._level.mission), **words}

    def _observation(self, view: dict[str, Any]) -> dict[str, np.ndarray]:
        colour, shape = self._goal()
        front = np.zeros((SIZE, SIZE, 3), np.uint8)
        image = view["image"]
        front[: image.shape[0], : image.shape[1]] = image
        state = [float(one == colour) for one in COLOURS] + [float(one == shape) for one in SHAPES]
        oracle = np.array([self.goal_cell() is not None], np.float32)
        return {"front": front, "state": np.array(state, np.float32), "oracle": oracle}

    def goal_cell(self) -> tuple[int, int] | None:
        """Returns the goal's column and row in the view, those of the nearest if there are several; None if it is not in view."""
        name = self._fields()["object"]
        matching = [cell for cell, content in cells(self.symbols()).items() if name in (content, content.split()[-1])]
        return nearest(matching) if matching else None

    def symbols(self) -> np.ndarray:
        """Returns minigrid's own encoding of the view [7, 7, 3]: kind, colour and state of each cell, column by column."""
        return self._level.gen_obs()["image"]

    def wander(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Moves the robot to a random position and returns the image and the symbols of its view."""
        for _ in range(int(rng.integers(1, 4))):
            self._level.place_agent()
        view = self._env.observation(self._level.gen_obs())
        return self._observation(view)["front"], self.symbols()


def nearest(cells: list[tuple[int, int]]) -> tuple[int, int]:
    """Returns the cell (column, row) of the view that is the fewest steps from the robot."""
    return min(cells, key=lambda cell: abs(cell[0] - 3) + 6 - cell[1])


def cells(view: np.ndarray) -> dict[tuple[int, int], str]:
    """Returns the content of a view [7, 7, 3] in words: (column, row) -> "red ball" or "wall"; empty cells are left out."""
    names = {}
    for x, y in np.ndindex(view.shape[:2]):
        kind, colour = IDX_TO_OBJECT[int(view[x, y, 0])], IDX_TO_COLOR[int(view[x, y, 1])]
        if kind in SHAPES:
            names[x, y] = f"{colour} {kind}"
        elif kind == "wall":
            names[x, y] = kind
    return names
