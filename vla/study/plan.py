"""The plan of a study as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from vla.report.study_plan import SHARED, TrainingPlan, unequal
from vla.report.wording import Table, aligned
from vla.sim.collect_options import Collect
from vla.sim.suites import Suite
from vla.study.arms import PlannedArm
from vla.study.options import Study, all_cells, baseline_of, selected
from vla.study.state import State


def plan_text(
    study: Study,
    arms: Mapping[str, PlannedArm],
    plans: Mapping[str, TrainingPlan],
    state: State,
    suites: Mapping[str, Suite],
    questions: Iterable[str],
    missing: Mapping[Path, Collect],
) -> str:
    """Returns what a study would do: its arms, what they differ in, and the cells that are left.

    Args:
        plans: what each arm trains on.
        questions: names of the sets of questions.
        missing: what is to be collected.
    """
    baseline = baseline_of(study)
    table = Table(
        "Arms",
        "",
        ["arm", "seeds", "steps", "robot samples", "other samples", "start"],
        [
            [
                name,
                " ".join(map(str, study.seeds)),
                str(plan.steps),
                str(plan.robot_samples),
                str(sum(one.samples for one in plan.sources.values()) - plan.robot_samples),
                plan.start,
            ]
            for name, plan in plans.items()
        ],
    )
    names = all_cells(study)
    left = [name for name in selected(study) if not state.done(name)]
    done = sum(map(state.done, names))
    lines = [
        f"{len(arms)} arms × {len(study.seeds)} seeds: {len(names)} cells, {done} done; baseline {baseline}",
        f"robot data: {plans[baseline].texts()['data']}",
        *(f"to be collected: {one.task}, {one.out}" for one in missing.values()),
        *(f"suite {name}: {len(suite.all())} episodes, instructions {', '.join(suite.kinds)}" for name, suite in suites.items()),
        *(f"questions: {name}" for name in questions),
        "",
        "Arms",
        aligned(table),
    ]
    for name, arm in arms.items():
        lines += ["", f"{name}" + (f": {arm.arm.about}" if arm.arm.about else "")]
        lines += [f"  {setting}: {new} (recipe: {old})" for setting, (old, new) in arm.changes.items()] or [
            "  the recipe as it is"
        ]
        different = unequal(plans[baseline], plans[name])
        lines += [f"  declared to differ in its {SHARED[k]}: {two} (baseline: {one})" for k, (one, two) in different.items()]
    changed = [f"{name} was trained otherwise: {what}" for name, what in state.changed.items()]
    return "\n".join([*lines, "", *changed, f"to run: {', '.join(left) or 'nothing'}"])
