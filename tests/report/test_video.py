import os
import subprocess
import sys

import av
import numpy as np
import pytest

from vla.report import video

WRITE = """
import sys
from pathlib import Path
import numpy as np
from vla.datasets.formats.video import write_video as write_lerobot
from vla.report.video import write_video

folder, rng = Path(sys.argv[1]), np.random.default_rng(0)
for height, width in ((64, 64), (65, 71), (96, 130)):
    frames = list(rng.integers(0, 256, (6, height, width, 3), np.uint8))
    write_video(folder / f"report-{height}.mp4", frames)
    for codec in ("h264", "av1"):
        even = [frame[: height // 2 * 2, : width // 2 * 2].copy() for frame in frames]
        write_lerobot(folder / f"{codec}-{height}.mp4", even, 10, codec)
"""


def frames(n=12, height=64, width=64):
    ramp = np.linspace(0, 200, width, dtype=np.uint8)
    return [np.broadcast_to((ramp + 4 * t)[None, :, None], (height, width, 3)).copy() for t in range(n)]


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 71)])
def test_a_video_reads_back_with_its_frames_rate_and_browser_format(tmp_path, height, width):
    written = frames(height=height, width=width)
    path = video.write_video(tmp_path / "deep" / "a.mp4", written, fps=10)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 10)
        back = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(back) == len(written) and back[0].shape[0] % 2 == back[0].shape[1] % 2 == 0
    for a, b in zip(written, back, strict=True):
        assert np.abs(a.astype(int) - b[:height, :width].astype(int)).mean() < 6
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat"), "plays while it loads"
    assert difference(path, video.write_video(tmp_path / "b.mp4", written)) == ""


def difference(first, second):
    """Where two videos differ: "" if in no byte."""
    a, b = first.read_bytes(), second.read_bytes()
    if a == b:
        return ""
    bytes_ = [i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y]
    packets = [[(packet.pts, packet.size, bytes(packet)) for packet in av.open(str(p)).demux()] for p in (first, second)]
    frames = [np.array(video.read_video(p), int) for p in (first, second)]
    return (
        f"{len(a)} and {len(b)} bytes, {len(bytes_)} of them different, the first at {bytes_[:5]}; packets "
        f"{[x[:2] for x, y in zip(*packets, strict=False) if x != y]}; frames {np.argwhere(frames[0] != frames[1])[:5].tolist()}"
    )


def test_bytes_depend_on_the_frames_and_not_on_what_memory_held(tmp_path):
    """What malloc hands out is filled with another byte in either process: alignment padding that is read would show."""
    folders = [tmp_path / fill for fill in ("85", "170")]
    for folder in folders:
        folder.mkdir()
        subprocess.run([sys.executable, "-c", WRITE, folder], env={**os.environ, "MALLOC_PERTURB_": folder.name}, check=True)
    names = sorted(p.name for p in folders[0].iterdir())
    assert len(names) == 9
    for name in names:
        assert difference(folders[0] / name, folders[1] / name) == "", name


def test_a_failed_write_leaves_no_file(tmp_path):
    for bad in ([], [frames(1)[0], frames(1, 32)[0]], [np.zeros((8, 8, 3))], [np.zeros((8, 8), np.uint8)]):
        with pytest.raises(ValueError):
            video.write_video(tmp_path / "a.mp4", bad)
    assert not list(tmp_path.iterdir())


def test_caption_keeps_the_image_and_wraps_within_the_width():
    frame = frames(1)[0]
    short, long = video.caption(frame, ["lift"]), video.caption(frame, ["lift the red cube " * 4, "wrong object"], "failure")
    assert short.shape[1] == long.shape[1] == 256 and long.shape[0] > short.shape[0] > 256
    assert np.array_equal(long[-256:], video.enlarge(frame)), "the image itself is untouched"
    band = long[:-256]
    assert (band == video.OUTCOMES["failure"]).all(-1).any() and (band[:, -4:][:8] == 255).all()
    assert video.enlarge(np.zeros((256, 256, 3), np.uint8)).shape == (256, 256, 3)


def test_grid_keeps_every_video_and_holds_the_last_frame_of_a_short_one():
    videos = [frames(3), frames(5), frames(4, 32, 48)]
    joined = video.grid(videos, gap=4)
    assert len(joined) == 5 and joined[0].shape == (2 * 64 + 4, 2 * 64 + 4, 3)
    assert np.array_equal(joined[4][:64, :64], videos[0][-1]) and np.array_equal(joined[4][:64, 68:], videos[1][4])
    assert np.array_equal(joined[1][100:, :48], videos[2][1])
    assert video.side_by_side(videos[0], videos[1])[0].shape == (64, 64 * 2 + 8, 3)
