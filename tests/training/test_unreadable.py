"""A run over data of which some cannot be read: it goes on, says what it left out, and ends where there is too much of it."""

import csv
import shutil

import pytest
import torch

from vla import cli
from vla.datasets.index import ShardIndex
from vla.datasets.shards import ShardWriter


def spoil(source, folder, change):
    """A copy of a data set with members changed by `change(number, key)`."""
    index = ShardIndex(source)
    with ShardWriter(folder) as writer:
        for i, key in enumerate(index.keys):
            writer.write(key, {**index.read(i), **change(i, key)})
    shutil.copy(source / "card.yaml", folder)
    return folder


# With loader processes: test_resume.py, whose data has an image that cannot be read, and the slow suite.
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_what_cannot_be_read_is_named_counted_and_left_out(config, data, tmp_path, capsys, workers):
    bad = {3: {"front.jpg": b"nothing"}, 7: {"action.npy": b"rubbish"}, 21: {"wrist.jpg": b"nothing"}}  # 21 is held out
    folder = spoil(data / "robot", tmp_path / "robot", lambda i, _: bad.get(i, {}))
    chosen = [f"--data.sources.robot.init_args.folder={folder}", f"--data.workers={workers}", "--trainer.max_steps=10"]
    assert cli.main(["fit", "-c", str(config), *chosen]) == 0
    shown = capsys.readouterr().err
    assert shown.count("e000000_s0003.front.jpg: the image cannot be decoded") == 1
    assert shown.count("e000001_s0001: not an array") == 2 and "e000003_s0003.wrist.jpg: the image cannot be decoded" in shown
    assert "robot: 3 samples could not be read, the first of them" in shown
    rows = list(csv.DictReader((tmp_path / "run/logs/metrics.csv").open()))
    counts = [float(row["data/robot_unreadable"]) for row in rows if row["data/robot_unreadable"]]
    assert counts[0] >= 1 and counts[-1] == 3 and {row["data/questions_unreadable"] for row in rows} <= {"", "0.0"}
    # A resumed run knows what was found before.
    saved = torch.load(tmp_path / "run/checkpoints/step=0000010.ckpt", weights_only=True)["VLAData"]
    assert len(saved["unreadable"]["robot"]) == 3 and not saved["unreadable"]["questions"]


def test_too_much_of_it_ends_the_run(config, data, tmp_path, capsys):
    folder = spoil(data / "robot", tmp_path / "robot", lambda i, _: {"front.jpg": b"nothing"} if i % 3 < 2 and i < 18 else {})
    code = cli.main(["fit", "-c", str(config), f"--data.sources.robot.init_args.folder={folder}", "--trainer.max_steps=60"])
    shown = capsys.readouterr().err
    assert code == 2 and "error: " in shown and "11 samples of 18 cannot be read, the first of them" in shown
    assert shown.count("the next sample stands in for it") == 10 and "further ones are only counted" in shown
