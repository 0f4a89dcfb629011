"""Contact sheets: a wrong convention looks different from a right one."""

import collections

import numpy as np
from PIL import ImageColor

from vla.datasets.formats.conventions.prepare import PreparedEpisode
from vla.datasets.formats.conventions.source_card import source_card
from vla.datasets.formats.inspection import sheets
from vla.datasets.formats.readers.base import InMemoryFrames


def card(gripper="0 closed, 1 open", orientation="upright"):
    return source_card(
        {
            "cameras": {"front": {"key": "image", "orientation": orientation}},
            "state": [{"key": "state", "names": ["gap"], "role": "gripper"}],
            "action": [
                {"key": "action", "pick": [0], "names": ["dx"], "units": ["m"], "role": "position"},
                {"key": "action", "pick": [1], "names": ["gripper"], "role": "gripper"},
            ],
            "gripper": gripper,
        },
        "test",
    )


def episode(gripper):
    length = len(gripper)
    frames = np.zeros((length, 32, 32, 3), np.uint8)
    # Bright at the top, red at the right.
    frames[:, :16], frames[:, :, 16:, 0] = 160, 250
    action = np.stack([np.zeros(length), np.asarray(gripper, float)], 1).astype(np.float32)
    images = {"front": (InMemoryFrames(frames), np.arange(length))}
    return PreparedEpisode(
        action, action[:, 1:], ["go"] * length, np.zeros(length, bool), images, [{}] * length, collections.Counter()
    )


def test_every_long_time_of_the_gripper_is_shown():
    # Closed so shortly that even steps would miss it.
    opened = np.ones(200)
    opened[60:70] = opened[150:160] = 0
    steps = sheets.shown_steps(card(), episode(opened))
    assert len(steps) <= sheets.COLUMNS and {0, 65, 155, 199} <= set(steps.tolist())
    assert sheets.shown_steps(card(), episode(np.ones(200))).tolist() == np.linspace(0, 199, 8).round().astype(int).tolist()
    assert sheets.shown_steps(card(), episode([1, 0, 1])).tolist() == [0, 1, 2]


def test_an_inverted_gripper_says_the_opposite():
    recorded = episode([1, 1, 0])
    for convention, commands in (("0 closed, 1 open", ["open", "closed"]), ("0 open, 1 closed", ["closed", "open"])):
        shown = [sheets.command(card(convention), recorded.action[step]) for step in (0, 2)]
        assert [word for word, _ in shown] == commands
        sheet = np.asarray(sheets.contact_sheet(card(convention), recorded, np.array([0, 2]), "test"))
        for column, (_, colour) in enumerate(shown):
            assert tuple(sheet[-2, (column + 1) * sheets.TILE - 3]) == ImageColor.getrgb(colour)
    assert sheets.command(card("-1 open, +1 closed"), np.array([0, -0.7]))[0] == "open"
    assert sheets.command(card("not said"), np.array([0, 0.25]))[0] == "gripper 0.25"


def test_the_cards_orientation_is_framed_among_all():
    for chosen, name in enumerate(("upright", "raw_opengl", "rot180", "mirrored")):
        recorded = episode([1, 0])
        sheet = np.asarray(sheets.orientations(card(orientation=name), {"front": recorded.images["front"][0].frames[0]}, "test"))
        wide = sheets.LARGE + 2 * sheets.EDGE
        framed = [tuple(sheet[1, k * wide + 60]) == ImageColor.getrgb(sheets.OPEN) for k in range(3)]
        assert framed == [k == chosen for k in range(3)]
        # Bright at the top and red at the right; upside down; both round.
        tiles = [sheet[sheets.EDGE :, k * wide + sheets.EDGE :][: sheets.LARGE, : sheets.LARGE].astype(int) for k in range(3)]
        assert [tile[:40].mean() > tile[-40:].mean() for tile in tiles] == [True, False, False]
        assert [tile[:, :40, 0].mean() < tile[:, -40:, 0].mean() for tile in tiles] == [True, True, False]


def test_values_are_drawn(tmp_path):
    recorded = episode(np.arange(30) > 10)
    sheets.plot(card(), recorded, np.array([0, 20]), tmp_path / "values.png")
    # No gripper, and nothing but a gripper.
    bare = source_card({"action": [{"key": "action", "names": ["dx", "dy"]}]}, "test")
    sheets.plot(bare, recorded, np.array([0]), tmp_path / "bare.png")
    alone = source_card({"action": [{"key": "a", "names": ["left", "right"], "role": "gripper"}]}, "test")
    sheets.plot(alone, recorded, np.array([0]), tmp_path / "alone.png")
    assert all((tmp_path / f"{name}.png").stat().st_size > 1000 for name in ("values", "bare", "alone"))
