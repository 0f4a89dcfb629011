"""The command line: one table, command -> function. What must not know each other (simulator and training) is wired here."""

from __future__ import annotations

import inspect
import os
import signal
import sys
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from vla.errors import UserError

DATA = "converts, checks, describes and shows data sets of other formats"
RL = "trains reinforcement-learning heads on a frozen, prompted model"
LIGHTNING = {
    "fit": "trains a policy",
    "validate": "reports held-out loss, action errors and question accuracy",
    "test": "rolls the policy out in the simulator",
    "predict": "writes actions for the held-out steps of the data",
}


def _demo() -> Callable:
    from vla.demo.command import demo

    return demo


def _demo_pr2l() -> Callable:
    from vla.demo.pr2l import demo_pr2l

    return demo_pr2l


def _doctor() -> Callable:
    from vla.doctor import doctor

    return doctor


def _collect() -> Callable:
    from vla.commands import collect

    return collect


def _rollout() -> Callable:
    from vla.commands import rollout

    return rollout


def _compare() -> Callable:
    from vla.report.compare import compare

    return compare


def _export() -> Callable:
    from vla.training.export import export

    return export


def _serve() -> Callable:
    from vla.commands import serve

    return serve


def _chosen(group: str, known: Mapping[str, tuple[Callable, str]], argv: list[str]) -> Callable | None:
    """The function of a group's command; None where help was asked for, and shown."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        rows = [f"  {name:<10}{text}" for name, (_, text) in known.items()]
        print("\n".join([f"usage: vla {group} COMMAND [options]", "", *rows, "", f"`vla {group} COMMAND --help` tells more."]))
        return None
    if argv[0] not in known:
        raise UserError(f"unknown command {argv[0]!r}", f"vla {group}", f"one of {', '.join(known)}")
    return known[argv[0]][0]


def _data(argv: list[str]) -> int:
    from jsonargparse import auto_cli

    from vla.data_commands import COMMANDS as known

    function = _chosen("data", known, argv)
    if function is None:
        return 0
    return _said(auto_cli(function, args=_flags(function, argv[1:]), prog=f"vla data {argv[0]}", as_positional=True))


def _rl(argv: list[str]) -> int:
    try:
        from vla.rl.commands import COMMANDS as known
    except ImportError as error:
        raise UserError(f"{error.name} is not installed", "vla rl", "install vla[rl]") from error

    function = _chosen("rl", known, argv)
    return 0 if function is None else _said(function(_find_configs(argv[1:])))


COMMANDS: dict[str, tuple[Callable[[], Callable], str]] = {
    "demo": (_demo, "the whole main job: collect, train, roll out, export, serve, report"),
    "demo-pr2l": (_demo_pr2l, "its policy against a head on a frozen, prompted model"),
    "doctor": (_doctor, "checks this machine"),
    "collect": (_collect, "records demonstrations, or pictures with questions"),
    "rollout": (_rollout, "drives the simulated robot with a policy"),
    "compare": (_compare, "says which policies the episodes separate, and which they do not"),
    "export": (_export, "writes a checkpoint as a self-contained folder"),
    "serve": (_serve, "answers clients with an export's actions"),
}


def _usage() -> str:
    rows = {**{name: text for name, (_, text) in COMMANDS.items()}, "data": DATA, "rl": RL, **LIGHTNING}
    lines = [f"  {name:<11}{text}" for name, text in rows.items()]
    return "\n".join(["usage: vla COMMAND [options]", "", *lines, "", "`vla COMMAND --help` tells more."])


def find_config(name: str) -> str:
    """A configuration's path: on disk as it stands, else in the package (`configs/demo.yaml`, `demo.yaml`, `configs/rl/….yaml`).

    Raises:
        UserError: neither; the package's own are named.
    """
    if Path(name).is_file():
        return name
    folder = resources.files("vla.configs")
    place = Path(name).parts[-2:] if Path(name).parent.name == "rl" else Path(name).parts[-1:]
    packaged = folder.joinpath(*place)
    if Path(name).parent.name in ("", "configs", "rl") and packaged.is_file():
        return str(packaged)
    own = sorted(f"configs/{f.name}" for f in folder.iterdir() if f.name.endswith(".yaml"))
    own += sorted(f"configs/rl/{f.name}" for f in (folder / "rl").iterdir())
    raise UserError("no such configuration", name, f"give a file, or one of the package's: {', '.join(own)}")


def _readable(path: str) -> str:
    """The path itself; UserError where it is not YAML: what merges configurations would not say which one."""
    import yaml

    try:
        yaml.safe_load(Path(path).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"not YAML: {' '.join(str(error).split())}", path) from None
    return path


def _find_configs(argv: list[str]) -> list[str]:
    """Arguments with every configuration's path put in."""
    done = list(argv)
    for place, argument in enumerate(argv):
        if argument in ("-c", "--config") and place + 1 < len(argv):
            done[place + 1] = _readable(find_config(argv[place + 1]))
        elif argument.startswith("--config="):
            done[place] = "--config=" + _readable(find_config(argument.removeprefix("--config=")))
    return done


def _train(argv: list[str]) -> int:
    from vla.commands import Evaluator, new_tokenizer
    from vla.sim.collect import collect_with_progress
    from vla.sim.collect_options import Collect
    from vla.training.cli import main as lightning

    evaluator = Evaluator()
    try:
        lightning(
            _find_configs(argv), evaluate=evaluator, tokenizer=new_tokenizer, collect=collect_with_progress, options=Collect
        )
    finally:
        evaluator.close()
    return 0


def _flags(function: Callable, argv: list[str]) -> list[str]:
    """Arguments with `--from-scratch` as `--from_scratch=true`: bare switches, and hyphens as everybody types them."""
    parameters = inspect.signature(function).parameters
    done = []
    for place, argument in enumerate(argv):
        option, equals, value = argument.partition("=")
        spelled = "--" + option[2:].replace("-", "_")
        if option.startswith("--") and spelled[2:] in parameters:
            following = argv[place + 1].lower() if place + 1 < len(argv) else ""
            bare = isinstance(parameters[spelled[2:]].default, bool) and not equals and following not in ("true", "false")
            argument = f"{spelled}=true" if bare else f"{spelled}{equals}{value}"
        done.append(argument)
    return done


def _run(name: str, argv: list[str]) -> int:
    from jsonargparse import ArgumentParser, auto_cli

    function = COMMANDS[name][0]()
    args = _flags(function, argv)
    several = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.VAR_POSITIONAL]
    if several:
        # jsonargparse makes options of a signature, but no positional arguments of *names.
        parser = ArgumentParser(prog=f"vla {name}", description=(inspect.getdoc(function) or "").partition("\n")[0])
        parser.add_argument(several[0], nargs="+", type=str, help="two or more")
        parser.add_function_arguments(function, as_group=False)
        options = parser.parse_args(args).as_dict()
        result = function(*options.pop(several[0]), **options)
    else:
        # What is served is the one thing that goes without saying its name.
        result = auto_cli(function, args=args, prog=f"vla {name}", as_positional=name == "serve")
    return _said(result)


def _said(result: Any) -> int:
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
            return _train(argv)
        if argv[0] in COMMANDS:
            return _run(argv[0], argv[1:])
        if argv[0] == "data":
            return _data(argv[1:])
        if argv[0] == "rl":
            return _rl(argv[1:])
        raise UserError(f"unknown command {argv[0]!r}", "vla", f"one of {', '.join([*COMMANDS, 'data', 'rl', *LIGHTNING])}")
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
