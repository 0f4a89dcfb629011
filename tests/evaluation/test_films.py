import numpy as np
import pytest

from vla.contract import Camera, Embodiment
from vla.evaluation import films
from vla.sim.episodes import Episode, Result
from vla.space import Space

POINT = Embodiment(
    cameras=(Camera("top", 32, 32),),
    state=Space(("x",), ("m",), (-1.0,), (1.0,)),
    action=Space(("dx", "dy"), ("m", "m"), (-0.1,) * 2, (0.1,) * 2),
    control_hz=2.0,
)


def test_actions_of_few_dimensions_are_captioned_by_name(monkeypatch):
    monkeypatch.setattr(films, "embodiment_of", lambda task: ("point", POINT))
    assert films._action_text(np.array([0.05, -0.1]), "point") == "dx +0.05  dy -0.10"
    result = Result.of(
        Episode(0, task="point"),
        instruction="go left",
        state="",
        steps=1,
        failure="",
        executed=True,
        frames=[np.zeros((64, 128, 3), np.uint8)] * 2,
        actions=[np.array([0.05, -0.1])],
    )
    frames = films.captioned(result)
    assert len(frames) == 3 and len({frame.shape for frame in frames}) == 1


@pytest.mark.parametrize(("task", "size", "gripper"), [("lift", 7, "open"), ("robosuite-Wipe", 6, "")])
def test_actions_of_arms_are_captioned_in_centimetres(task, size, gripper):
    words = films._action_text(np.array([0.01, 0, -0.02, 0, 0, 0, -1.0])[:size], task)
    assert words.startswith("x +") and "cm   turn +0°" in words and words.endswith(gripper)
