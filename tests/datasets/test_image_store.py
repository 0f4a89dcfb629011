"""Cached images: equal to the originals, once in memory for all processes, none for unreadable records."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import vla
from vla.datasets.robot import RobotSource
from vla.errors import Unreadable

RNG = np.random.default_rng(0)


READER = """
import sys
from pathlib import Path
import numpy as np
from vla.datasets.robot import RobotSource

source = RobotSource(sys.argv[1], chunk=1, cache=True)
for i in range(len(source)):
    source.sample(i, np.random.default_rng(0)).images["front"].sum()
print("ready", flush=True)
sys.stdin.readline()
in_cache, totals = False, {"Pss": 0, "Private_Clean": 0, "Private_Dirty": 0}
for line in Path("/proc/self/smaps").read_text().splitlines():
    name, _, value = line.partition(":")
    if "-" in line.split()[0]:
        in_cache = line.endswith(".pixels")
    elif in_cache and name in totals:
        totals[name] += int(value.split()[0])
print(*totals.values(), flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_processes_share_the_cache(make, tmp_path):
    """Two processes that open the data set independently, like loader processes and ranks."""
    make(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(Path(vla.__file__).parents[1])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    readers = [subprocess.Popen([sys.executable, "-c", READER, str(tmp_path)], **pipes) for _ in range(2)]
    assert [reader.stdout.readline() for reader in readers] == ["ready\n"] * 2
    usage = []
    for reader in readers:
        reader.stdin.write("\n")
        reader.stdin.flush()
        usage.append([int(kib) for kib in reader.stdout.readline().split()])
    for reader in readers:
        reader.communicate("\n", timeout=60)
    (file,) = tmp_path.glob("*.pixels")
    size = file.stat().st_size / 1024
    assert sum(pss for pss, *_ in usage) <= size + 4, (usage, size)
    assert all(pss and not clean and not dirty for pss, clean, dirty in usage), usage


def test_they_are_decoded_once_and_again_when_a_shard_changes(make, tmp_path, monkeypatch):
    source = RobotSource(make(tmp_path), chunk=1, cache=True)
    images = [source.sample(i, RNG).images for i in range(45)]
    (file,) = tmp_path.glob("*.pixels")
    with monkeypatch.context() as patched:
        patched.setattr("vla.datasets.images.decode_jpeg", None)  # must not be decoded again
        again = RobotSource(tmp_path, chunk=1, cache=True)
        assert all(np.array_equal(again.sample(i, RNG).images[c], frame) for i in range(45) for c, frame in images[i].items())
    # Another split has its own.
    RobotSource(tmp_path, chunk=1, cache=True, split="train").sample(0, RNG)
    assert len(list(tmp_path.glob("*.pixels"))) == 2
    shard = tmp_path / "shard-000000.tar"
    os.utime(shard, (1, 1))
    RobotSource(tmp_path, chunk=1, cache=True).sample(0, RNG)
    (other,) = tmp_path.glob("*.pixels")
    assert other != file


def test_a_folder_that_cannot_be_written_to_is_read_all_the_same(make, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    make(tmp_path)
    monkeypatch.setattr("vla.datasets.images._write", full)
    source, plain = RobotSource(tmp_path, chunk=1, cache=True), RobotSource(tmp_path, chunk=1)
    assert all(
        np.array_equal(source.sample(i, RNG).images[c], plain.sample(i, RNG).images[c])
        for i in range(45)
        for c in ("front", "wrist")
    )


def test_an_unreadable_image_is_named_when_it_is_read(make, tmp_path):
    def spoil(members):
        return {**members, "front.jpg": b"nothing"} if members["json"]["step"] == 2 else members

    source = RobotSource(make(tmp_path, change=spoil), chunk=1, cache=True)
    assert source.sample(1, RNG).step == 1
    with pytest.raises(Unreadable, match="e000000_s0002.front.jpg: the image cannot be decoded"):
        source.sample(2, RNG)
