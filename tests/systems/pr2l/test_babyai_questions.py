"""Questions about BabyAI's rooms."""

import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("minigrid")

from vla.datasets.questions import QuestionSource
from vla.models.load import load_vlm
from vla.rl.envs.babyai import BabyAI
from vla.systems.pr2l.babyai_questions import COUNTS, WORDINGS, collect_questions
from vla.systems.pr2l.probing import draw_frames


def test_questions_are_a_data_set_with_true_answers(tmp_path):
    collect_questions(str(tmp_path), 30, 10)
    source, alone = (QuestionSource(tmp_path / name) for name in ("questions", "alone"))
    questions = [q for i in range(len(source)) for q in source.questions(i)]
    assert {q["type"] for q in questions} == set(WORDINGS)
    present = [q["answer"] for q in questions if q["type"] == "present"]
    assert present.count("yes") == present.count("no")
    assert all(q["answer"] in COUNTS for q in questions if q["type"] == "count")
    assert all(0 < c < 7 / 8 for q in questions if q["type"] == "where" and q["answer"] != "nowhere" for c in q["answer"][0])
    answers = {q["type"]: q["answer"] for q in source.questions(0)}
    points = [q["answer"] for q in source.questions(0) if q["type"] == "where"]
    assert points.count("nowhere") == 2 and all(point[0] in answers["list"] for point in points if point != "nowhere")
    assert len(answers["list"]) // 2 == COUNTS.index(answers["count"])
    assert {q["answer"] for i in range(len(alone)) for q in alone.questions(i) if q["type"] == "count"} <= {"zero", "one"}
    model, processor = load_vlm(tmp_path / "start")
    assert processor.image_tokens == [64] and source.images(0)["front"].shape == (64, 64, 3)


def test_rooms_of_the_probe_are_none_that_a_model_was_trained_on(monkeypatch, tmp_path):
    drawn = []
    reset = BabyAI.reset
    monkeypatch.setattr(BabyAI, "reset", lambda self, seed=None: drawn.append(seed) or reset(self, seed=seed))
    draw_frames("BabyAI-GoToLocal-v0", 40)
    probed = len(drawn)
    collect_questions(str(tmp_path), 40, 40)
    assert probed >= 40 and len(drawn) == probed + 80 and not set(drawn[:probed]) & set(drawn[probed:])
