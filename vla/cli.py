"""The command line: one table, command -> "module:function". A module is imported when its command is run."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import signal
import sys
import typing
from collections.abc import Callable, Mapping
from typing import Any

from vla.commands.configs import with_paths
from vla.errors import UserError

Table = dict[str, tuple[str, str]]
"""Command -> "module:function" and what it does."""

LIGHTNING: Table = {
    "fit": ("vla.commands.training:train", "trains a policy"),
    "validate": ("vla.commands.training:train", "reports held-out loss, action errors and question accuracy"),
    "test": ("vla.commands.training:train", "rolls the policy out in the simulator"),
    "predict": ("vla.commands.training:train", "writes actions for the held-out steps of the data"),
}
COMMANDS: Table = {
    "demo": ("vla.demo.command:demo", "the whole main job: collect, train, roll out, export, serve, report"),
    "demo-pr2l": ("vla.systems.pr2l.demo:demo_pr2l", "its policy against a head on a frozen, prompted model"),
    "doctor": ("vla.doctor:doctor", "checks this machine"),
    "collect": ("vla.commands.collect:collect", "records demonstrations, or pictures with questions"),
    "rollout": ("vla.commands.rollout:rollout", "drives the simulated robot with a policy"),
    "compare": ("vla.report.compare:compare", "says which policies the episodes separate, and which they do not"),
    "export": ("vla.training.export:export", "writes a checkpoint as a self-contained folder"),
    "serve": ("vla.commands.serve:serve", "answers clients with an export's actions"),
}
DATA: Table = {
    "convert": ("vla.commands.data:convert", "to our shards or LeRobot v3.0, from any known format"),
    "inspect": ("vla.commands.data:inspect", "what is in a data set"),
    "verify": ("vla.commands.data:verify", "whether every record and picture is whole"),
    "stats": ("vla.commands.data:stats", "statistics as OpenVLA, openpi or LeRobot define them"),
    "preview": ("vla.commands.data:preview", "a page with pictures and plots"),
}
RL: Table = {
    "fit": ("vla.commands.rl:run_fit", "trains a head"),
    "probe": ("vla.commands.rl:run_probe", "ranks prompts, layers and poolings without training"),
    "table": ("vla.commands.rl:run_table", "compares policies on the same episodes, with what they cost"),
    "questions": ("vla.commands.rl:run_questions", "writes pictures of BabyAI's rooms with questions, to train a model for them"),
}
GROUPS: dict[str, tuple[Table, str]] = {
    "data": (DATA, "converts, checks, describes and shows data sets of other formats"),
    "rl": (RL, "trains reinforcement-learning heads on a frozen, prompted model"),
}


def _load(path: str) -> Callable:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _usage() -> str:
    rows = [(name, text) for table in (COMMANDS, GROUPS, LIGHTNING) for name, (_, text) in table.items()]
    lines = [f"  {name:<11}{text}" for name, text in rows]
    return "\n".join(["usage: vla COMMAND [options]", "", *lines, "", "`vla COMMAND --help` tells more."])


def _group(group: str, argv: list[str]) -> int:
    """One of a group's commands."""
    table = GROUPS[group][0]
    if not argv or argv[0] in ("-h", "--help", "help"):
        rows = [f"  {name:<10}{text}" for name, (_, text) in table.items()]
        print("\n".join([f"usage: vla {group} COMMAND [options]", "", *rows, "", f"`vla {group} COMMAND --help` tells more."]))
        return 0
    if argv[0] not in table:
        raise UserError(f"unknown command {argv[0]!r}", f"vla {group}", f"one of {', '.join(table)}")
    try:
        function = _load(table[argv[0]][0])
    except ImportError as error:
        if group != "rl":
            raise
        raise UserError(f"{error.name} is not installed", "vla rl", "install vla[rl]") from error
    if group == "rl":
        # Each has a parser of its own, for configurations that are merged.
        return _answered(function(with_paths(argv[1:])))
    return _answered(_parsed(function, f"{group} {argv[0]}", argv[1:]))


def _flags(defaults: Mapping[str, Any], argv: list[str]) -> list[str]:
    """Arguments with `--from-scratch` as `--from_scratch=true`: bare switches, and hyphens as everybody types them."""
    done = []
    for place, argument in enumerate(argv):
        option, equals, value = argument.partition("=")
        spelled = "--" + option[2:].replace("-", "_")
        if option.startswith("--") and spelled[2:] in defaults:
            following = argv[place + 1].lower() if place + 1 < len(argv) else ""
            bare = isinstance(defaults[spelled[2:]], bool) and not equals and following not in ("true", "false")
            argument = f"{spelled}=true" if bare else f"{spelled}{equals}{value}"
        done.append(argument)
    return done


def _parsed(function: Callable, name: str, argv: list[str]) -> Any:
    """What a command's function answers to these arguments."""
    from jsonargparse import ArgumentParser, auto_cli

    parameters = list(inspect.signature(function).parameters.values())
    about = (inspect.getdoc(function) or "").partition("\n")[0]
    # What is served, or converted, is the one thing that goes without saying its name.
    how = {"prog": f"vla {name}", "as_positional": name == "serve" or name.startswith("data ")}
    options_class = typing.get_type_hints(function).get(parameters[0].name) if parameters else None
    if isinstance(options_class, type) and dataclasses.is_dataclass(options_class):
        defaults = {field.name: field.default for field in dataclasses.fields(options_class)}
        return function(auto_cli(options_class, args=_flags(defaults, argv), description=about, **how))
    args = _flags({parameter.name: parameter.default for parameter in parameters}, argv)
    if parameters and parameters[0].kind is inspect.Parameter.VAR_POSITIONAL:
        # jsonargparse makes options of a signature, but no positional arguments of *names.
        several = parameters[0].name
        parser = ArgumentParser(prog=f"vla {name}", description=about)
        parser.add_argument(several, nargs="+", type=str, help="two or more")
        parser.add_function_arguments(function, as_group=False)
        options = parser.parse_args(args).as_dict()
        return function(*options.pop(several), **options)
    return auto_cli(function, args=args, **how)


def _answered(result: Any) -> int:
    """Prints what a command answers; gives its exit code."""
    if isinstance(result, int):
        return result
    if result is not None:
        print(result)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Runs one command; the exit code is 0, 1 for what a check found wanting, 2 for a user's mistake."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # Tokenizers and webdataset start nothing in parallel that we need, and warn when a process forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if argv[0] == "--version":
        import vla

        print(vla.__version__)
        return 0
    try:
        if argv[0] in LIGHTNING:
            return _load(LIGHTNING[argv[0]][0])(argv)
        if argv[0] in COMMANDS:
            return _answered(_parsed(_load(COMMANDS[argv[0]][0]), argv[0], argv[1:]))
        if argv[0] in GROUPS:
            return _group(argv[0], argv[1:])
        raise UserError(f"unknown command {argv[0]!r}", "vla", f"one of {', '.join([*COMMANDS, *GROUPS, *LIGHTNING])}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        # Of a path that the user gave: it is something else than it should be, or not theirs.
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130


def entry() -> Any:
    """The console script."""
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # Who reads (`| head`) has enough; nothing more is said, by Python's last flush neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 128 + signal.SIGPIPE
    raise SystemExit(status)


if __name__ == "__main__":
    entry()
