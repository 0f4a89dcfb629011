"""Which command evaluates a policy: in a simulator that knows its robot, else on held-out demonstrations."""

from __future__ import annotations

from pathlib import Path

from vla import hub
from vla.contract import PolicyContract
from vla.errors import ContractMismatch, UserError
from vla.policies.load import stated_contract
from vla.policies.trained_on import folders_of
from vla.report.records import FILE
from vla.sim.registry import task_for
from vla.sim.suites import load_suite

SUITE = "rt2/seen"


def check_robot(contract: PolicyContract, name: str, robots: list[str]) -> None:
    """Checks that a policy drives these robots.

    Raises:
        UserError: no simulator knows any robot of the policy; the error has the command that needs none.
        ContractMismatch: it drives other robots.
    """
    own = ", ".join(contract.embodiments)
    if not (tasks := [task for robot in contract.embodiments if (task := task_for(robot))]):
        raise UserError(f"no simulator knows its robot, {own}", name, f"`{_offline(name)}` needs no simulator")
    if missing := [robot for robot in robots if robot not in contract.embodiments]:
        fix = f"give a task of its robot, such as --task {tasks[0]}"
        raise ContractMismatch(f"the policy is for the robot {own}, not for {', '.join(missing)}", name, fix)


def check_evaluation(path: str) -> None:
    """Refuses a training, an export, a checkpoint and a policy on the hub where an evaluation is asked for.

    Raises:
        UserError: it is one of these; the error names the evaluations in the folder, or the command that makes one.
    """
    if hub.policy_address(path):
        fix = f"evaluate it first: `{evaluation_command(path)}`"
        raise UserError("this is a policy on the hub, not an evaluation", path, fix)
    folder = Path(path)
    held = _policy_in(folder)
    if not held or (folder / FILE).is_file():
        return
    what, policy = held
    if evaluations := sorted(str(file.parent) for file in folder.glob(f"*/{FILE}")):
        fix = f"give its evaluation: {', '.join(evaluations)}"
    else:
        fix = f"evaluate it first: `{evaluation_command(str(policy))}`"
    raise UserError(f"this is {what}, not an evaluation", path, fix)


def evaluation_command(policy: str) -> str:
    """Returns the command that evaluates an export, a checkpoint or a policy on the hub."""
    contract = stated_contract(policy)
    task = next((task for robot in contract.embodiments if (task := task_for(robot))), "") if contract else ""
    if not task:
        return _offline(policy)
    scenes = f"--suite {SUITE}" if task in load_suite(SUITE).tasks else f"--task {task} --episodes 50"
    return f"vla rollout --policy {policy} {scenes} --out {_out(policy)}"


def _offline(policy: str) -> str:
    return f"vla evaluate {policy} {_data(policy)} --out {_out(policy)}"


def _data(policy: str) -> str:
    """The robot data that an export was trained on: it knows the folder's name only, which is looked for here and in `data`."""
    names = folders_of(policy)
    places = [place / name for name in names for place in (Path(), Path("data"))]
    return next((str(place) for place in places if _has_robot_data(place)), names[0] if names else "DATA")


def _has_robot_data(folder: Path) -> bool:
    if (folder / "meta/info.json").is_file():
        return True
    card = folder / "card.yaml"
    return card.is_file() and "kind: robot" in card.read_text(encoding="utf-8", errors="replace")


def _out(policy: str) -> Path:
    if found := hub.policy_address(policy):
        return Path("runs", found.repo.partition("/")[2])
    path = Path("" if "://" in policy else policy)
    return (path.parents[1] if path.parent.name == "checkpoints" else path.parent) / "evaluation"


def _policy_in(path: Path) -> tuple[str, Path] | None:
    """What a path is if it holds a policy, and where that is."""
    if path.suffix == ".ckpt" and path.is_file():
        return "a checkpoint", path
    if (path / "contract.json").is_file() and any(path.glob("*.safetensors")):
        return "an export", path
    if (path / "export/contract.json").is_file():
        return "the folder of a training", path / "export"
    checkpoints = sorted([*path.glob("*.ckpt"), *path.glob("checkpoints/*.ckpt")])
    return ("the folder of a training", checkpoints[0]) if checkpoints else None
