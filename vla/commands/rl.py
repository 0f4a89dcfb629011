"""`vla rl fit | probe | table | questions`: what is behind the names."""

from __future__ import annotations

from jsonargparse import ArgumentParser

from vla.rl.runs.compose import read_options
from vla.rl.runs.runner import fit
from vla.systems.pr2l.babyai_questions import START, collect_questions
from vla.systems.pr2l.probing import probe_all
from vla.systems.pr2l.table import table


def run_fit(argv: list[str]) -> str:
    """Trains a policy as configurations say; a repeated run goes on from its checkpoint."""
    return fit(read_options(argv)).summary


def run_probe(argv: list[str]) -> str:
    """Ranks conditions by what their model's states tell of the goal."""
    parser = ArgumentParser(prog="vla rl probe", description="Ranks prompts, layers and poolings without training.")
    parser.add_argument("--base", action="append", type=str, default=[], help="what all conditions are overlays of")
    parser.add_argument("-c", "--config", action="append", type=str, required=True, help="a condition; give several")
    parser.add_argument("--runs", nargs="*", type=str, default=[], help="folders of runs with whose areas scores are correlated")
    parser.add_function_arguments(probe_all, as_group=False, skip={"conditions", "runs"})
    given = parser.parse_args(argv).as_dict()
    base = [part for path in given.pop("base") for part in ("-c", path)]
    return probe_all([read_options([*base, "-c", config]) for config in given.pop("config")], **given)


def run_questions(argv: list[str]) -> str:
    """Pictures of BabyAI's rooms with questions about them."""
    parser = ArgumentParser(prog="vla rl questions", description="Writes pictures of BabyAI's rooms with questions about them.")
    parser.add_function_arguments(collect_questions, as_group=False)
    given = parser.parse_args(argv).as_dict()
    counts = collect_questions(**given)
    said = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    return f"{given['out']}: {said}; the model to begin with: {given['out']}/{START}"


def run_table(argv: list[str]) -> str:
    """Policies on the same episodes, with what they cost."""
    parser = ArgumentParser(prog="vla rl table", description="Compares policies on the same episodes, with what they cost.")
    parser.add_argument("--policy", action="append", type=str, required=True, help="as `vla rollout` takes it; give several")
    parser.add_function_arguments(table, as_group=False, skip={"policies"})
    given = parser.parse_args(argv).as_dict()
    return table(given.pop("policy"), **given)
