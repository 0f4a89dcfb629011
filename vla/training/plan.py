"""What a training would do, read from its configuration: nothing is collected, loaded or trained."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vla import yaml12
from vla.contract import PolicyContract
from vla.datasets.card import DatasetCard
from vla.datasets.mixture import expected_counts, weigh
from vla.datasets.sources import Source
from vla.errors import UserError
from vla.training.cli import VLACLI, Hooks, cards_of
from vla.training.contract import ContractOptions, configured
from vla.training.quiet import leave_out_noise


@dataclasses.dataclass(frozen=True)
class Plan:
    """A training as its configuration describes it.

    Attributes:
        settings: every setting with its value, as a configuration file holds them.
        sources: the data sources by name; none is opened.
        options: the `contract` section.
        collect: name -> options of what is collected if it is not there.
        steps: optimizer steps.
        samples: source -> number of samples drawn in all steps, as the weights ask for it.
    """

    settings: dict[str, Any]
    sources: dict[str, Source[Any]]
    options: ContractOptions
    collect: dict[str, Any]
    steps: int
    samples: dict[str, int]

    def contract(self, missing: Mapping[Path, DatasetCard]) -> PolicyContract:
        """Returns the contract, before anything is fitted on the data.

        Args:
            missing: folder that is not there yet -> the card that it will have.

        Raises:
            UserError: there are no data in a folder, or settings and data do not go together.
        """
        return configured(self.options, cards_of(self.sources, missing))


class _Planner(VLACLI):
    """Parses and checks as `vla fit` does, and makes the objects that the configuration names."""

    def before_instantiate_classes(self) -> None:
        # As they were given: the machine's defaults are not filled in yet.
        text = self._parser("fit").dump(self.config["fit"], skip_none=False)
        self.settings: dict[str, Any] = yaml12.load(text)
        super().before_instantiate_classes()

    def instantiate_classes(self) -> None:
        self._construct()

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs nothing."""

    def plan(self) -> Plan:
        steps, data = self.trainer.max_steps, self.datamodule
        if steps < 1:
            raise UserError(f"max_steps {steps}", "trainer.max_steps", "set it: the plan of a training needs its end")
        weights = weigh(data.sources, data.robot_share, data.temperature)  # type: ignore[arg-type]
        drawn = steps * self.trainer.accumulate_grad_batches * data.batch_size
        kind = self._hooks.options
        collect = self.config["fit"].collect or {}
        return Plan(
            settings=self.settings,
            sources=dict(data.sources),
            options=ContractOptions(**vars(self._get(self.config_init, "contract"))),
            collect={name: one if isinstance(one, kind) else kind(**vars(one)) for name, one in collect.items()},
            steps=steps,
            samples=expected_counts(data.sources, weights, drawn),
        )


def plan(argv: list[str], hooks: Hooks) -> Plan:
    """Returns the plan of `vla fit` with these arguments.

    Args:
        argv: "fit" and its arguments, with the paths of the configurations.

    Raises:
        UserError: a setting is refused, or the training has no end.
        ArgumentError: a setting is unknown or of another type.
    """
    leave_out_noise()
    with contextlib.ExitStack() as held:
        return _Planner(argv, hooks, held).plan()
