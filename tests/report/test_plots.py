import math
from xml.etree import ElementTree

import numpy as np
import pytest

from vla.errors import UserError
from vla.report.plots import curves, read_metrics, smooth


def test_reads_csv_and_tensorboard_logs(tmp_path):
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    (tmp_path / "csv" / "version_0").mkdir(parents=True)
    rows = ["epoch,step,train/robot_loss,val/robot_loss", "0,20,0.05,", "0,10,0.1,", "0,30,,0.5"]
    (tmp_path / "csv" / "version_0" / "metrics.csv").write_text("\n".join(rows) + "\n")
    writer = EventFileWriter(str(tmp_path / "board"))
    for step, name, value in [(10, "train/robot_loss", 0.1), (20, "train/robot_loss", 0.05), (30, "val/robot_loss", 0.5)]:
        writer.add_event(Event(step=step, summary=Summary(value=[Summary.Value(tag=name, simple_value=value)])))
    writer.close()
    for folder in ("csv", "board"):
        metrics = read_metrics(tmp_path / folder)
        assert metrics["train/robot_loss"][0] == [10, 20] and metrics["val/robot_loss"] == ([30.0], [0.5])
        assert metrics["train/robot_loss"][1] == pytest.approx([0.1, 0.05])
    with pytest.raises(UserError):
        read_metrics(tmp_path / "nowhere")


def test_each_metric_is_drawn_once_and_what_cannot_be_drawn_is_left_out():
    steps = list(range(100))
    noisy = (steps, list(np.random.default_rng(0).random(100)))
    charts = curves(
        {
            "train/robot_loss": noisy,
            "val/robot_loss": noisy,
            "val/question_accuracy": (steps, [math.nan] * 99 + [0.5]),
            "lr": noisy,
            "rollout/success": ([0, 10], [0.0, 0.8]),
            "val/decoded_error": noisy,
            "val/teacher_forced/action_l1": noisy,
            "val/teacher_forced/action_bin_error": noisy,
        }
    )
    errors = ["Decoded action error", "Teacher-forced action error", "Teacher-forced bin error"]
    assert list(charts) == ["Robot loss", *errors, "Rollout success"]
    for svg in charts.values():
        ElementTree.fromstring(svg)
    assert "val/robot_loss" in charts["Robot loss"] and curves({}) == {}


def test_smoothing_keeps_a_level_and_follows_a_step():
    assert smooth([2.0] * 5, 3) == pytest.approx([2.0] * 5)
    assert smooth([0.0] * 10 + [1.0] * 30, 5)[-1] == pytest.approx(1, abs=1e-3)
