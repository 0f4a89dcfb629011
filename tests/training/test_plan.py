"""The plan of a training: its settings and amounts, with nothing collected, loaded or trained."""

from argparse import ArgumentError

import pytest

from vla.commands.configs import find_config
from vla.commands.training import Evaluator, new_tokenizer, planned_card
from vla.datasets.mixture import expected_counts
from vla.datasets.questions import QuestionSource
from vla.datasets.robot import RobotSource
from vla.errors import UserError
from vla.sim.collect_options import Collect
from vla.training.cli import Hooks
from vla.training.plan import plan

HOOKS = Hooks(Evaluator(), new_tokenizer, lambda options: pytest.fail("nothing is to be collected"), Collect, planned_card)


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """plan(*arguments) of configs/demo.yaml in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: plan(["fit", "-c", find_config("configs/demo.yaml"), *arguments], HOOKS)


def test_amounts_are_those_that_the_weights_ask_for(demo, tmp_path):
    planned = demo("--data.sources.questions.init_args.warmup_samples=1000")
    # 750 steps of 3 batches of 16, after 1,000 samples of questions.
    left = 750 * 3 * 16 - 1000
    assert planned.steps == 750 and sum(planned.samples.values()) == left + 1000
    assert planned.samples["robot"] == pytest.approx(0.82 * left, rel=0.001)
    assert planned.collect["robot"].episodes == 270 and planned.settings["model"]["vlm"] == "tiny"
    cards = {tmp_path / options.out: planned_card(options) for options in planned.collect.values()}
    assert list(planned.contract(cards).embodiments) == ["panda-tabletop"]
    with pytest.raises(UserError, match="no dataset card found"):
        planned.contract({})
    assert not list(tmp_path.iterdir())


def test_what_a_training_refuses_a_plan_refuses(demo):
    with pytest.raises(ArgumentError, match="colour"):
        demo("--model.colour=blue")
    with pytest.raises(UserError, match="learning_rate 0.0"):
        demo("--model.learning_rate=0")
    with pytest.raises(UserError, match="max_steps -1"):
        demo("--trainer.max_steps=-1")


def test_counts_follow_the_weights():
    sources = {"robot": RobotSource("nowhere"), "questions": QuestionSource("nowhere", warmup_samples=10)}
    assert expected_counts(sources, {"robot": 3.0, "questions": 1.0}, 110) == {"robot": 75, "questions": 35}
    assert expected_counts(sources, {"robot": 1.0, "questions": 0.0}, 4) == {"robot": 0, "questions": 4}
