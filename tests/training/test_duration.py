"""Intervals that depend on a run's length, and how a duration is said."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import yaml

from vla.commands.configs import find_config
from vla.errors import UserError
from vla.training.duration import Duration, duration, validation_interval
from vla.training.optimizer import warm_up_then_cosine


def test_a_share_is_of_all_batches_and_anything_else_stays():
    assert validation_interval(0.1, 500, 3) == 150 and validation_interval(0.1, 2, 3) == 3
    assert [validation_interval(given, 500, 3) for given in (7, 1.0, None, "00:01:00:00")] == [7, 1.0, None, "00:01:00:00"]
    with pytest.raises(UserError, match=r"val_check_interval 0\.1 is a share of max_steps"):
        validation_interval(0.1, -1, 1)


@pytest.mark.parametrize(("steps", "warmup"), [(500, 15), (20000, 600)])
def test_the_recipe_for_own_data_stays_in_proportion(steps, warmup):
    """Warm-up and validations, whatever `--trainer.max_steps` is."""
    with open(find_config("configs/own-large.yaml")) as file:
        recipe = yaml.safe_load(file)
    factor = warm_up_then_cosine(recipe["model"]["warmup"], steps)
    assert factor(warmup - 1) == factor(warmup) == 1 > max(factor(warmup - 2), factor(warmup + 1))
    assert steps / validation_interval(recipe["trainer"]["val_check_interval"], steps, 1) == 10


@pytest.mark.parametrize("between", [3, 100])
def test_a_run_says_how_long_it_takes_however_often_it_is_validated(between, capsys):
    """The estimate comes before the first validation at the latest: it would begin anew after each."""
    data = SimpleNamespace(batch_size=4)
    trainer: Any = SimpleNamespace(
        is_global_zero=True, fast_dev_run=False, estimated_stepping_batches=100, global_step=0, datamodule=data,
        accumulate_grad_batches=1, precision="32-true", strategy=SimpleNamespace(root_device=torch.device("cpu")), world_size=1,
    )  # fmt: skip
    module: Any = SimpleNamespace(parameters=list, device=torch.device("cpu"))
    callback = Duration()
    callback.on_train_start(trainer, module)
    for step in range(1, 31):
        trainer.global_step = step
        callback.on_train_batch_end(trainer, module, None, cast(Any, None), step)
        if step % between == 0:
            callback.on_validation_start(trainer, module)
    shown = capsys.readouterr().err
    assert "expected time follows" in shown and shown.count("expected: about") == 1
    assert f"measured over {min(between - 1, 10)} steps" in shown


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(3.4, "3 seconds"), (89, "89 seconds"), (91, "2 minutes"), (2520, "42 minutes"), (9000, "2.5 hours"), (200000, "2.3 days")],
)
def test_a_duration_is_said_in_the_unit_that_suits_it(seconds, said):
    assert duration(seconds) == f"about {said}"
