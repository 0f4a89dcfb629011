"""Which features of a LeRobot data set are cameras, and how large their images are."""

import json

import numpy as np
import pytest

pytest.importorskip("pyarrow")
from lerobot_files import IMAGE, SIZE, VIDEO, WRITERS, describe, features, frame, png, write_v2

from vla.datasets.formats.convert import run
from vla.datasets.formats.inspection.check import verify
from vla.datasets.formats.job import ConvertOptions, make_job
from vla.datasets.formats.lerobot_source import LeRobotSource
from vla.datasets.formats.readers.lerobot import LeRobotReader
from vla.datasets.robot import RobotSource

DEPTH = "observation.images.depth"


def described(folder, name, **changes):
    """Changes what info.json says of a feature."""
    info = json.loads((folder / "meta/info.json").read_text())
    describe(folder, features=info["features"] | {name: {**info["features"][name], **changes}})
    return folder


@pytest.mark.parametrize("version", WRITERS)
@pytest.mark.parametrize(
    ("marks", "depth"),
    [
        ({"info": {"is_depth_map": True}}, True),
        ({"info": {"video.is_depth_map": True}}, True),
        ({"info": None, "video_info": {"video.is_depth_map": True}}, True),
        ({"info": {"video.fps": 10}, "video_info": {"video.is_depth_map": True}}, True),
        ({"info": {"video.is_depth_map": False, "is_depth_map": True}}, True),
        ({"info": {"is_depth_map": False, "video.is_depth_map": False}}, False),
        ({"info": None}, False),
        ({"info": "unknown"}, False),
    ],
)
def test_depth_is_no_camera(tmp_path, version, marks, depth):
    folder = described(WRITERS[version](tmp_path / "a"), VIDEO, **marks)
    cameras = {"wrist"} if depth else {"top", "wrist"}
    reader = LeRobotReader(folder)
    assert set(reader.card().cameras) == cameras and verify(reader, reader.card()).images == 15 * len(cameras)
    run(make_job(ConvertOptions(str(folder), str(tmp_path / "out"))))
    for source in (RobotSource(tmp_path / "out", chunk=1), LeRobotSource(folder, chunk=1)):
        assert {camera.name for camera in source.card.spec.cameras} == cameras
        assert source.sample(3, np.random.default_rng(0)).images.keys() == cameras


def test_depth_in_tables_is_no_camera_either(tmp_path):
    folder = described(write_v2(tmp_path / "a"), IMAGE, info={"is_depth_map": True, "depth_unit": "mm"})
    assert set(LeRobotReader(folder).card().cameras) == {"top"}


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ([48, 64, 3], ["height", "width", "channels"]),
        ([48, 64, 3], ["height", "width", "rgb"]),
        ([3, 48, 64], ["channels", "height", "width"]),
        ([64, 48, 3], ["w", "h", "c"]),
        ([3, 64, 48], ["Channels", "Width", "Height"]),
        ([48, 64, 3], {"height": 48, "width": 64, "channels": 3}),
        ([3, 48, 64], None),
        ([48, 64, 3], None),
        ([48, 64, 3], ["observation.images.wrist"]),
        ([48, 64, 3], ["a", "b", "c"]),
        ([3, 48, 64], ["image_height", "image_width", "channel"]),
        # The names contradict the shape: images have no 64 channels.
        ([3, 48, 64], ["height", "width", "channels"]),
        ([3, 3, 3], None),
        ([1], None),
        ([48, 64], None),
        ([None, None, 3], ["height", "width", "channels"]),
        ("48x64", None),
    ],
)
def test_the_size_of_images(tmp_path, shape, names):
    import pyarrow as pa
    from lerobot_files import edit

    def change(table, episode):
        images = [{"bytes": png(frame(episode, t)[:48]), "path": None} for t in range(table.num_rows)]
        return table.set_column(table.column_names.index(IMAGE), IMAGE, pa.array(images))

    folder = described(write_v2(tmp_path / "a"), IMAGE, shape=shape, names=names)
    edit(folder, change)
    run(make_job(ConvertOptions(str(folder), str(tmp_path / "out"))))
    for source in (RobotSource(tmp_path / "out", chunk=1), LeRobotSource(folder, chunk=1)):
        sizes = {camera.name: (camera.height, camera.width) for camera in source.card.spec.cameras}
        assert sizes == {"wrist": (48, 64), "top": (SIZE, SIZE)}
        assert source.sample(4, np.random.default_rng(0)).images["wrist"].shape == (48, 64, 3)


def test_the_size_of_a_video_comes_from_a_frame_too(tmp_path):
    folder = described(write_v2(tmp_path / "a"), VIDEO, shape=[1], names=None)
    source = LeRobotSource(folder, chunk=1, width=32)
    assert [(c.name, c.height, c.width) for c in source.card.spec.cameras] == [("top", SIZE, 32), ("wrist", SIZE, 32)]


def test_a_camera_that_info_json_does_not_list(tmp_path):
    folder = write_v2(tmp_path / "a")
    listed = features()
    del listed[IMAGE]
    card = tmp_path / "card.yaml"
    card.write_text(f"cameras: {{wrist: {{key: {IMAGE}}}}}\naction: [{{key: action, names: [x, g]}}]\ntext: go\ncontrol_hz: 10\n")
    describe(folder, features=listed)
    source = LeRobotSource(folder, conventions=str(card), chunk=1)
    assert source.card.spec.cameras[0].height == SIZE
