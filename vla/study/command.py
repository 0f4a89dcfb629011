"""`vla study`: plans, checks, trains and evaluates the cells of a study, and writes its table and page."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from vla.datasets.card import DatasetCard
from vla.datasets.questions import QuestionSource
from vla.demo.folder import Busy, locked
from vla.demo.processes import Interrupted, interruptible
from vla.errors import UserError
from vla.folders import check_writable
from vla.report.provenance import Memory, provenance
from vla.report.study_comparison import compare_cells
from vla.report.study_page import write_study
from vla.report.study_plan import TrainingPlan
from vla.report.study_wording import headline, sentences, text
from vla.sim.collect_options import Collect
from vla.sim.suites import Suite
from vla.study.arms import PlannedArm, Planner, plan_arms
from vla.study.cell import COMMAND, Cell
from vla.study.data import check_words, collect_missing, planned_cards, to_collect
from vla.study.fairness import check_fair, check_suites, other_data
from vla.study.films import make_films
from vla.study.options import Study, all_cells, baseline_of, cell_names, load_suites, recipe_name, selected
from vla.study.plan import plan_text
from vla.study.questions import check_asked, question_sets
from vla.study.state import CELLS, RUNS, State, check_unchanged, put_aside, state_of

RESULTS, PAGE = "results.json", "report.html"


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What a study needs of the command line.

    Attributes:
        plan: returns the plan of a training.
        collect: collects data.
        card: checks what is to be collected, and returns the card that it will have.
    """

    plan: Planner
    collect: Callable[[Collect], object]
    card: Callable[[Collect], DatasetCard]


def run_study(study: Study, hooks: Hooks) -> int:
    """Runs a study as far as it is asked to; returns the exit code.

    Raises:
        UserError: a setting is refused, arms may not be compared, or a cell's work fails.
    """
    try:
        with interruptible():
            _run(study, hooks)
    except Interrupted as signal:
        print(f"\n{signal}: the study was interrupted, nothing is lost. To go on, run the same command again.", file=sys.stderr)
        return 128 + signal.number
    return 0


def _run(study: Study, hooks: Hooks) -> None:
    check_writable(study.out, "out")
    suites = load_suites(study)
    base, arms = plan_arms(study.recipe, study.arms, hooks.plan)
    sources = [arm.plan.sources for arm in arms.values()]
    questions = question_sets(study.questions, sources)
    state = state_of(study, arms, suites, questions)
    if study.dry_run or not all(map(state.done, selected(study))):
        needed = [source.folder for own in sources for source in own.values()]
        missing = to_collect(base.collect, [arm.plan.collect for arm in arms.values()], [*needed, *questions])
        state, plans = _planned(study, arms, state, suites, questions, planned_cards(missing, hooks.card))
        if study.dry_run:
            print(plan_text(study, arms, plans, state, suites, questions, missing))
            return
        if missing:
            with locked(Path(study.out), command=COMMAND):
                collect_missing(missing, hooks.collect)
            state, plans = _planned(study, arms, state, suites, questions, {})
        _run_cells(study, state, _cells(study, arms, plans, suites, questions))
        state = state_of(study, arms, suites, questions)
        state = state.without(other_data(state.records.values(), plans))
    elif not study.again:
        check_unchanged(state, study)
    plans = {record.arm: record.plan for record in state.records.values()}
    _report(study, state, _cells(study, arms, plans, suites, questions))


def _planned(
    study: Study,
    arms: Mapping[str, PlannedArm],
    state: State,
    suites: Mapping[str, Suite],
    questions: Mapping[str, QuestionSource],
    missing: Mapping[Path, DatasetCard],
) -> tuple[State, dict[str, TrainingPlan]]:
    """Returns the state, and what each arm trains on.

    Args:
        missing: folder that is not there yet -> the card that it will have.

    Raises:
        UserError: data are missing, arms may not be compared, a cell was trained otherwise, or robot data have what is held out.
    """
    contracts = {name: arm.contract(missing) for name, arm in arms.items()}
    check_suites(suites, contracts)
    plans = {name: arm.training(contracts[name], missing) for name, arm in arms.items()}
    check_fair(arms, plans, baseline_of(study))
    check_asked(questions, missing)
    state = state.without(other_data(state.records.values(), plans))
    if not study.dry_run and not study.again:
        check_unchanged(state, study)
    folders = {source.folder for plan in plans.values() for source in plan.robots if source.content}
    if study.held_out and folders:
        print("\n".join(check_words(sorted(folders), study.held_out)), flush=True)
    return state, plans


def _cells(
    study: Study,
    arms: Mapping[str, PlannedArm],
    plans: Mapping[str, TrainingPlan],
    suites: Mapping[str, Suite],
    questions: Mapping[str, QuestionSource],
) -> dict[str, Cell]:
    return {
        name: Cell(
            arm=arms[arm],
            training=plans[arm],
            seed=seed,
            folder=Path(study.out) / RUNS / name,
            suites=suites,
            questions=questions,
            batch=study.batch,
            workers=study.workers,
            recipe=recipe_name(study.recipe),
        )
        for name, (arm, seed) in all_cells(study).items()
        if arm in plans
    }


def _run_cells(study: Study, state: State, cells: Mapping[str, Cell]) -> None:
    todo = [name for name in selected(study) if not state.done(name)]
    memory = Memory()
    memory.start()
    for number, name in enumerate(todo, 1):
        cell, begun = cells[name], name in state.records
        if study.again and (name in state.changed or cell.holds_other() or (begun and not cell.is_here())):
            put_aside(study, name)
        elif begun and not cell.is_here():
            what = f"its training is not on this machine, and it is to be evaluated on {', '.join(state.lacking[name])}"
            raise UserError(what, f"cell {name}, {cell.folder}", "copy the folder here, or train it again with --again")
        print(f"\n{name}: cell {number} of {len(todo)} to run", flush=True)
        try:
            cell.run(memory).save(Path(study.out) / CELLS)
        except Busy:
            print(f"note: {name} is being run by another process", file=sys.stderr)
    memory.stop()


def _report(study: Study, state: State, cells: Mapping[str, Cell]) -> None:
    """Prints the table and writes results.json, report.html and films, from the records that there are."""
    out, records = Path(study.out), list(state.records.values())
    for name in state.strangers:
        print(f"note: {study.out}/{CELLS}/{name}.json is of no cell of this study; it is left out", file=sys.stderr)
    for name in state.changed:
        print(f"note: {name} was trained otherwise; it is left out until it is run again", file=sys.stderr)
    baseline = baseline_of(study)
    if not any(record.arm == baseline for record in records):
        print(f"no table yet: no cell of the baseline {baseline} is done")
        return
    order = {name: number for number, name in enumerate(study.arms)}
    records.sort(key=lambda record: (order[record.arm], record.seed))
    c = compare_cells(records, baseline, [name for name in cell_names(study) if not state.done(name)])
    films = make_films(c, records, cells, out, study.films) if study.films else []
    origin = provenance()
    result = {"headline": headline(c), "sentences": sentences(c), **c.to_dict(), "films": films, **origin}
    unfinished = out / f".{RESULTS}"
    unfinished.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    unfinished.replace(out / RESULTS)
    page = write_study(out / PAGE, c, records, films, origin)
    print(f"\n{text(c)}\n\nrecords: {out / CELLS}, table: {out / RESULTS}, page: {page}")
