"""Rolling out the model that is being trained. What runs the episodes comes from outside: training knows no simulator."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging

from vla.errors import UserError
from vla.models.blocks import gathered
from vla.policies.local import LocalPolicy

if TYPE_CHECKING:
    from vla.training.module import VLAModule

Evaluate = Callable[[LocalPolicy, int], dict[str, float]]
"""(policy, episodes) -> rates by name; the command line puts the simulator behind it."""


def roll_out(evaluate: Evaluate | None, module: VLAModule, episodes: int, batch: int) -> dict[str, float]:
    """Rates of the module's model as a policy, in evaluation mode.

    Raises:
        UserError: there is nothing to roll out with.
    """
    if evaluate is None:
        raise UserError("nothing to roll out with", "rollout", "run it through `vla fit` or `vla test`")
    training = module.model.training
    with gathered(module.model):
        rates = evaluate(LocalPolicy(module.model, module.processor, module.contract, batch, encoder=module.encoder), episodes)
    module.model.train(training)
    return rates


@contextlib.contextmanager
def averaged(trainer: L.Trainer, module: L.LightningModule) -> Iterator[None]:
    """Gives the module its averaged weights while the block runs, if the run averages them."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    averages = [c for c in callbacks if isinstance(c, WeightAveraging) and c._average_model]
    for callback in averages:
        callback._swap_models(module)
    try:
        yield
    finally:
        for callback in averages:
            callback._swap_models(module)
