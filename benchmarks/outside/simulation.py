"""Settings of collecting and rolling out, checked before any worker starts."""

from __future__ import annotations

from outside.project import project
from outside.trial import Trial, case


@case()
def a_seed_below_0(trial: Trial) -> None:
    """--seed -1 ends in one line, for collect and rollout."""
    trial.vla("collect", "--out=data", "--seed=-1", code=2, says="seed", limit=40)
    trial.vla("rollout", "--policy=random", "--seed=-1", code=2, says="seed", limit=40)


@case()
def numbers_below_0(trial: Trial) -> None:
    """Numbers of episodes, workers and steps below 0 end in one line."""
    for setting in ("episodes", "workers", "horizon"):
        trial.vla("rollout", "--policy=random", f"--{setting}=-1", code=2, says=setting, limit=40)
    trial.vla("collect", "--out=data", "--episodes=-1", code=2, limit=40)
    trial.vla("collect", "--out=data", "--workers=-1", code=2, limit=40)


@case()
def tasks_and_suites_that_are_not_there(trial: Trial) -> None:
    """A misspelt task, suite or kind is named with those there are."""
    trial.vla("rollout", "--policy=random", "--task=lfit", code=2, says="lfit.*lift", limit=40)
    trial.vla("rollout", "--policy=random", "--suite=rt2/sene", "--out=o", code=2, says="rt2/s", limit=40)
    trial.vla("rollout", "--policy=random", "--kind=swaped", code=2, says="kind|swaped", limit=40)
    trial.vla("collect", "--out=data", "--task=lfit", code=2, says="lfit", limit=40)


@case()
def policies_that_are_not_there(trial: Trial) -> None:
    """A policy that does not exist, or a server that does not answer, ends in one line."""
    trial.vla("rollout", "--policy=nowhere", code=2, says="nowhere", limit=40)
    trial.vla("rollout", "--policy=http://127.0.0.1:9", code=2, says="127.0.0.1:9", limit=40)
    trial.vla("rollout", "--policy=ws://127.0.0.1:9", code=2, says="127.0.0.1:9", limit=40)


@case()
def an_export_for_another_robot(trial: Trial) -> None:
    """An export of another embodiment is not rolled out."""
    project(trial)
    path = trial.folder / "export/contract.json"
    path.write_text(path.read_text().replace("panda-tabletop", "my-arm"))
    trial.vla("rollout", "--policy=export", code=2, says="my-arm|panda", limit=40)
