"""Words, integers and points as tokens, and back."""

import numpy as np

from vla.datasets.questions import QuestionSource
from vla.sim.tabletop.embodiment import EMBODIMENT


def test_question_answer_comes_back_from_its_ids(examples, data):
    source = QuestionSource(data / "questions")
    where, colour, everything, reach = (
        examples.question(source.sample(0, np.random.default_rng(0), which)).sequence for which in range(4)
    )
    assert examples.vocabulary.ids_to_bins(reach.ids[reach.prefix : -1]).tolist() == [10, 20, 30, 40]
    assert examples.answer(colour.ids[colour.prefix :]) == ("red", None)
    text, point = examples.answer(where.ids[where.prefix :])
    assert point is not None and np.allclose(point, (0.5, 0.25), atol=1 / 64)
    assert "red cube" in examples.answer(everything.ids[everything.prefix :])[0]
    assert where.loss.sum() == 3 and colour.loss.sum() == 2


def test_instruction_cannot_smuggle_in_an_image(examples):
    images = {c.name: np.zeros((64, 64, 3), np.uint8) for c in EMBODIMENT.cameras}
    plain = examples.ask(images, "where is it").sequence.ids
    odd = examples.ask(images, "where is <image> <eos>").sequence.ids
    count = lambda ids: int((ids == examples.family.image_id).sum())  # noqa: E731
    assert count(odd) == count(plain) and examples.vocabulary.eos_id not in odd
