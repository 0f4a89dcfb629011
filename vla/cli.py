"""The command line: tables of command -> "module:function". A module is imported when its command runs."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import importlib
import inspect
import os
import signal
import sys
import typing
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, cast

from vla.commands.configs import with_current_name, with_paths
from vla.errors import UserError

Table = dict[str, tuple[str, str]]
"""Command -> "module:function" and a description."""

LIGHTNING: Table = {
    "fit": ("vla.commands.training:train", "trains a policy"),
    "validate": ("vla.commands.training:train", "reports loss, action errors and question accuracy on held-out data"),
    "test": ("vla.commands.training:train", "rolls the policy out in simulation"),
    "predict": ("vla.commands.training:train", "writes actions for the held-out steps of the data"),
}
COMMANDS: Table = {
    "demo": ("vla.demo.command:demo", "runs the whole pipeline: collect, train, roll out, export, serve, report"),
    "demo-pr2l": ("vla.systems.pr2l.demo:demo_pr2l", "compares the demo's policy with a head on a frozen, prompted model"),
    "doctor": ("vla.doctor:doctor", "checks that this machine can run everything"),
    "collect": ("vla.commands.collect:collect", "records demonstrations, or images with questions"),
    "rollout": ("vla.commands.rollout:rollout", "rolls a policy out in simulation"),
    "play": ("vla.commands.play:play", "opens a page on which policies act live, on what you tell them"),
    "evaluate": ("vla.commands.evaluate:evaluate", "compares a policy with held-out demonstrations, without a simulator"),
    "compare": ("vla.commands.compare:compare", "says which policies differ significantly on the same episodes"),
    "study": ("vla.commands.study:study", "compares training recipes: trains, evaluates and tabulates every one of them"),
    "export": ("vla.training.export:export", "exports a checkpoint as a self-contained folder"),
    "serve": ("vla.commands.serve:serve", "serves policies over HTTP and websocket"),
}
DATA: Table = {
    "convert": ("vla.commands.data:convert", "converts any supported format to our shards or LeRobot v3.0"),
    "inspect": ("vla.commands.data:inspect", "prints what a data set contains, and whether a card fits it"),
    "card": ("vla.commands.data:card", "writes a card to fill in: what was found, what is guessed, what is to be decided"),
    "verify": ("vla.commands.data:verify", "checks that every record and image is intact"),
    "held-out": ("vla.commands.data:held_out", "checks that robot data lack the words and looks that suites test"),
    "stats": ("vla.commands.data:stats", "computes statistics as OpenVLA, openpi or LeRobot define them"),
    "preview": ("vla.commands.data:preview", "writes a page with images and plots"),
}
RL: Table = {
    "fit": ("vla.commands.rl:run_fit", "trains a head"),
    "probe": ("vla.commands.rl:run_probe", "ranks prompts, layers and poolings without training"),
    "table": ("vla.commands.rl:run_table", "compares policies on the same episodes, with their costs"),
    "questions": ("vla.commands.rl:run_questions", "writes images of BabyAI's rooms with questions, to train a model on"),
}
MODELS: Table = {
    "fetch": ("vla.commands.models:fetch_models", "downloads pre-trained models into a cache"),
    "list": ("vla.commands.models:list_models", "lists the models that can be fetched"),
}
SIM: Table = {
    "install": ("vla.commands.sim:install", "installs what a simulator needs into a folder of the cache"),
    "list": ("vla.commands.sim:list_simulators", "lists the simulators"),
}
SEVERAL = {
    "records": "folders of two or more evaluations, or of training runs",
    "names": "names of models; `vla models list` shows them",
    "simulators": "names of simulators; `vla sim list` shows them",
}
"""What arguments mean of which a command takes any number."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk or a quota that is full, or of a file that may not grow."""
CONFIGURED = ("study",)
"""Commands that are configured by a file, `-c FILE`, as training is."""
Command = Callable[..., int | str | None]
"""Returns an exit code, or text to print."""
GROUPS: dict[str, tuple[Table, str]] = {
    "data": (DATA, "converts, checks, describes and shows data sets of other formats"),
    "models": (MODELS, "fetches small pre-trained models, to build a model from"),
    "sim": (SIM, "installs the packages of simulators that need a folder of their own"),
    "rl": (RL, "trains reinforcement-learning heads on a frozen, prompted model"),
}


def _load(path: str) -> Command:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _usage() -> str:
    rows = [(name, text) for table in (COMMANDS, GROUPS, LIGHTNING) for name, (_, text) in table.items()]
    lines = [f"  {name:<11}{text}" for name, text in rows]
    return "\n".join(["usage: vla COMMAND [options]", "", *lines, "", "Run `vla COMMAND --help` for the options of a command."])


def _group(group: str, argv: list[str]) -> int:
    """Runs one of a group's commands; returns the exit code."""
    table = GROUPS[group][0]
    if not argv or argv[0] in ("-h", "--help", "help"):
        rows = [f"  {name:<10}{text}" for name, (_, text) in table.items()]
        print(
            "\n".join(
                [
                    f"usage: vla {group} COMMAND [options]",
                    "",
                    *rows,
                    "",
                    f"Run `vla {group} COMMAND --help` for the options of a command.",
                ]
            )
        )
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
        # These commands have parsers of their own, which merge configurations.
        return _exit_code(function(with_paths(argv[1:])))
    return _exit_code(_run(function, f"{group} {argv[0]}", argv[1:]))


def _normalise(defaults: Mapping[str, Any], argv: list[str], several: bool = False) -> list[str]:
    """Returns the arguments with the present names of options, and with switches and hyphens spelt out: `--from-scratch` as
    `--from_scratch=true`.

    Args:
        several: whether an option that is a list takes all values that follow it: `--cells a b`.
    """
    normalised, listed = [], ""
    for i, argument in enumerate(argv):
        if several and listed and not argument.startswith("-"):
            normalised.append(f"{listed}={argument}")
            continue
        listed = ""
        if argument.startswith("--") and argument.partition("=")[0][2:] not in defaults:
            argument = with_current_name(argument)
        option, equals, value = argument.partition("=")
        name = "--" + option[2:].replace("-", "_")
        if option.startswith("--") and name[2:] in defaults:
            next_argument = argv[i + 1].lower() if i + 1 < len(argv) else ""
            bare = isinstance(defaults[name[2:]], bool) and not equals and next_argument not in ("true", "false")
            # Of a list, each further one is one more.
            more = "+" if isinstance(defaults[name[2:]], list) else ""
            if several and more and not equals:
                listed = f"{name}+"
                continue
            argument = f"{name}=true" if bare else f"{name}{more}{equals}{value}"
        normalised.append(argument)
    return normalised


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _run(function: Command, name: str, argv: list[str]) -> int | str | None:
    """Parses the arguments and calls the command's function."""
    from jsonargparse import ArgumentParser, auto_cli

    parameters = list(inspect.signature(function).parameters.values())
    description = (inspect.getdoc(function) or "").partition("\n")[0]
    # The main argument of these commands is positional.
    positional = name in ("serve", "evaluate") or name.startswith("data ")
    parser_options = {"prog": f"vla {name}", "as_positional": positional, "exit_on_error": False}
    options_class = typing.get_type_hints(function).get(parameters[0].name) if parameters else None
    if isinstance(options_class, type) and dataclasses.is_dataclass(options_class):
        defaults = {field.name: _default(field) for field in dataclasses.fields(options_class)}
        if name in CONFIGURED:
            argv = ["--config" if argument == "-c" else argument for argument in with_paths(argv)]
        arguments = _normalise(defaults, argv, several=not positional)
        return function(auto_cli(options_class, args=arguments, description=description, **parser_options))
    args = _normalise({parameter.name: parameter.default for parameter in parameters}, argv)
    if parameters and parameters[0].kind is inspect.Parameter.VAR_POSITIONAL:
        # jsonargparse makes no positional arguments of *names.
        names = parameters[0].name
        parser = ArgumentParser(prog=f"vla {name}", description=description, exit_on_error=False)
        parser.add_argument(names, nargs="+", type=str, help=SEVERAL[names])
        parser.add_function_arguments(function, as_group=False)
        options = parser.parse_args(args).as_dict()
        return function(*options.pop(names), **options)
    return cast("int | str | None", auto_cli(function, args=args, **parser_options))


def _exit_code(result: int | str | None) -> int:
    """Prints the text that a command returned, or returns its exit code."""
    if isinstance(result, int):
        return result
    if result is not None:
        print(result)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns 0, 1 if a check failed, or 2 for a user's mistake."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # Tokenizers warn when a process forks, unless their parallelism is off; it is not needed.
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
            return _exit_code(_load(LIGHTNING[argv[0]][0])(argv))
        if argv[0] in COMMANDS:
            return _exit_code(_run(_load(COMMANDS[argv[0]][0]), argv[0], argv[1:]))
        if argv[0] in GROUPS:
            return _group(argv[0], argv[1:])
        raise UserError(f"unknown command {argv[0]!r}", "vla", f"one of {', '.join([*COMMANDS, *GROUPS, *LIGHTNING])}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except argparse.ArgumentError as error:
        from vla.commands.arguments import in_one_line

        command = "vla " + " ".join(argv[: 2 if argv[0] in GROUPS else 1])
        print(f"error: {command}: {in_one_line(str(error))}\nFix: `{command} --help` names all options", file=sys.stderr)
        return 2
    except (FileExistsError, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        # A path that the user gave is of the wrong kind or not accessible.
        print(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in FULL:
            raise
        print(f"error: {error.filename or 'a file cannot be written'}: {error.strerror}\nFix: free some space", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130


def entry() -> NoReturn:
    """Runs the console script."""
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) has closed the pipe; Python's final flush must not fail either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 128 + signal.SIGPIPE
    raise SystemExit(status)


if __name__ == "__main__":
    entry()
