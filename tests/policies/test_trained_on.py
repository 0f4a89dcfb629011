"""training.json: what an export says of the data it was trained on."""

import pytest

from vla.errors import UserError
from vla.policies.trained_on import on_questions, settings_for, write_sources
from vla.training.model_card import mixture_of

ROBOT = {"class_path": "vla.datasets.robot.RobotSource", "init_args": {"folder": "/somewhere/own", "holdout": 0.2}}
LEROBOT = {"class_path": "vla.datasets.formats.lerobot_source.LeRobotSource", "init_args": {"folder": "/somewhere/own"}}
QUESTIONS = {"class_path": "vla.datasets.questions.QuestionSource", "init_args": {"folder": "/somewhere/asked"}}
STREAM = {"class_path": "vla.datasets.stream.QuestionStream", "init_args": {"urls": "pipe:cat a.tar", "images": {"front": "jpg"}}}
GONE = {"class_path": "my.own.Source", "init_args": {"folder": "a"}}


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ([ROBOT], False),
        ([LEROBOT], False),
        ([ROBOT, QUESTIONS], True),
        ([STREAM, GONE], True),
        ([ROBOT, GONE], None),
        ([], None),
    ],
)
def test_an_export_says_whether_it_was_trained_on_questions(tmp_path, sources, expected):
    assert on_questions(tmp_path) is None
    data = {"init_args": {"sources": {str(i): source for i, source in enumerate(sources)}}}
    write_sources(tmp_path, mixture_of(data)["data"])
    assert on_questions(tmp_path) is expected
    if ROBOT in sources:
        assert settings_for(str(tmp_path), "/elsewhere/own") == {"kind": "robot", "folder": "own", "holdout": 0.2}


def test_what_an_earlier_version_wrote_does_not_say(tmp_path):
    write_sources(tmp_path, {"robot": {"folder": "own", "holdout": 0.1}})
    assert on_questions(tmp_path) is None and settings_for(str(tmp_path), "own") == {"folder": "own", "holdout": 0.1}
    (tmp_path / "training.json").write_text("[]")
    with pytest.raises(UserError, match="not the record of a training"):
        on_questions(tmp_path)
