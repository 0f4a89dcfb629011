"""Whether the arms of a study may be compared: what they do not declare to differ in is equal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vla.contract import PolicyContract
from vla.errors import UserError
from vla.report.study import CellRecord
from vla.report.study_plan import SHARED, TrainingPlan, unequal
from vla.sim.registry import embodiment_of
from vla.sim.suites import Suite
from vla.study.arms import PlannedArm


def check_fair(arms: Mapping[str, PlannedArm], plans: Mapping[str, TrainingPlan], baseline: str) -> None:
    """Checks every arm against the baseline.

    Args:
        plans: what each arm trains on.

    Raises:
        UserError: an arm has other robot data, steps, robot samples, start or robot, without declaring it; both values are named.
    """
    for name, plan in plans.items():
        if not plan.robots:
            raise UserError("there is no robot data", f"arm {name}", "a study compares policies: name a source of robot data")
        for key, (theirs, ours) in unequal(plans[baseline], plan).items():
            if key not in arms[name].arm.differs:
                raise UserError(f"{SHARED[key]}: {ours}, but {baseline} has {theirs}", f"arm {name}", _fix(key))


def check_suites(suites: Mapping[str, Suite], contracts: Mapping[str, PolicyContract]) -> None:
    """Raises UserError if a suite is for another robot than an arm's."""
    for name, suite in suites.items():
        for arm, contract in contracts.items():
            if missing := {embodiment_of(task)[0] for task in suite.tasks} - contract.embodiments.keys():
                what = (
                    f"the suite {name} is for the robot {', '.join(sorted(missing))}, not for {', '.join(contract.embodiments)}"
                )
                raise UserError(what, f"arm {arm}", "choose suites of the data's robot")


def other_data(records: Iterable[CellRecord], plans: Mapping[str, TrainingPlan]) -> dict[str, str]:
    """Returns name -> what differs, of cells that were trained on other data than are here; perhaps on another machine."""
    found = {}
    for record in records:
        own = plans[record.arm].sources
        for name, source in record.plan.sources.items():
            # Data that are still to be collected are not known.
            if name in own and own[name].content and own[name].identity != source.identity:
                found[record.name] = f"data of the source {name}: {source}; here they are {own[name]}"
    return found


def _fix(key: str) -> str:
    if key == "robot":
        return "a study compares policies of one robot"
    declare = f"or declare it in the study: `differs: [{key}]`"
    if key == "robot_samples":
        return f"change data.batch_size or the sources' weights, which share steps × batch size among the sources, {declare}"
    return f"give all arms the same {SHARED[key]}, {declare}"
