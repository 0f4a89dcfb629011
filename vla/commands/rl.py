"""`vla rl fit | probe | table | questions`."""

from __future__ import annotations

from jsonargparse import ArgumentParser

from vla.rl.runs.compose import read_options
from vla.rl.runs.runner import fit
from vla.systems.pr2l.babyai_questions import START, collect_questions
from vla.systems.pr2l.probing import probe_all
from vla.systems.pr2l.table import table


def run_fit(argv: list[str]) -> str:
    """Trains a policy from configurations. Run it again to resume from the last checkpoint."""
    return fit(read_options(argv)).summary


def run_probe(argv: list[str]) -> str:
    """Ranks conditions by how well the model's states predict the goal."""
    parser = ArgumentParser(
        prog="vla rl probe", description="Ranks prompts, layers and poolings without training.", exit_on_error=False
    )
    parser.add_argument("--base", action="append", type=str, default=[], help="configuration that all conditions extend")
    parser.add_argument(
        "-c", "--config", action="append", type=str, required=True, help="configuration of a condition; give several"
    )
    parser.add_argument(
        "--runs",
        nargs="*",
        type=str,
        default=[],
        help="folders of runs; the scores are correlated with the areas under their curves",
    )
    parser.add_function_arguments(probe_all, as_group=False, skip={"conditions", "runs"})
    arguments = parser.parse_args(argv).as_dict()
    base = [part for path in arguments.pop("base") for part in ("-c", path)]
    return probe_all([read_options([*base, "-c", config]) for config in arguments.pop("config")], **arguments)


def run_questions(argv: list[str]) -> str:
    """Writes images of BabyAI's rooms with questions about them."""
    parser = ArgumentParser(
        prog="vla rl questions", description="Writes images of BabyAI's rooms with questions about them.", exit_on_error=False
    )
    parser.add_function_arguments(collect_questions, as_group=False)
    arguments = parser.parse_args(argv).as_dict()
    counts = collect_questions(**arguments)
    summary = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    return f"{arguments['out']}: {summary}; the model to start from: {arguments['out']}/{START}"


def run_table(argv: list[str]) -> str:
    """Compares policies on the same episodes, with their costs."""
    parser = ArgumentParser(
        prog="vla rl table", description="Compares policies on the same episodes, with their costs.", exit_on_error=False
    )
    parser.add_argument("--policy", action="append", type=str, required=True, help="a policy, as in `vla rollout`; give several")
    parser.add_function_arguments(table, as_group=False, skip={"policies"})
    arguments = parser.parse_args(argv).as_dict()
    return table(arguments.pop("policy"), **arguments)
