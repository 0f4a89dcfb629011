"""`vla study`."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vla.study.options import Study

if TYPE_CHECKING:
    from vla.training.plan import Plan


def study(options: Study) -> int:
    """Compares training recipes on the same data, budget and scenes: `vla study -c study.yaml`. Run it again to go on.

    It trains every recipe with every seed, asks questions, evaluates on suites, and writes a table and a page.
    """
    from vla.commands.collect import collected
    from vla.commands.training import planned_card
    from vla.study.command import Hooks, run_study

    return run_study(options, Hooks(_plan, collected, planned_card))


def _plan(arguments: Sequence[str]) -> Plan:
    """Returns the plan of `vla fit` with these arguments."""
    from vla.commands.arguments import in_one_line
    from vla.commands.collect import collected
    from vla.commands.configs import with_paths
    from vla.commands.training import Evaluator, new_tokenizer, planned_card
    from vla.errors import UserError
    from vla.sim.collect_options import Collect
    from vla.training.cli import Hooks
    from vla.training.plan import plan

    hooks = Hooks(Evaluator(), new_tokenizer, collected, Collect, planned_card)
    try:
        return plan(["fit", *with_paths(list(arguments))], hooks)
    except ArgumentError as error:
        raise UserError(in_one_line(str(error)), "settings", "`vla fit --help all` names all settings") from None
