"""`vla evaluate`: a policy on held-out demonstrations, beside three baselines, without a robot or a simulator."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vla import hub
from vla.datasets.demonstrations import Demonstration
from vla.datasets.robot import RobotSource
from vla.errors import UserError
from vla.evaluation.facts import facts_of
from vla.evaluation.offline import measures
from vla.evaluation.offline.baselines import apply, baselines
from vla.evaluation.offline.replay import Replay, replay
from vla.policies.base import Policy
from vla.report.offline import OfflineRecord, text
from vla.report.provenance import provenance
from vla.report.settings import other_execute


@dataclasses.dataclass
class OfflineEvaluation:
    """The result of an offline evaluation.

    Attributes:
        record: what is saved.
        replays: what the policy did, by demonstration.
        unreadable: demonstration -> what is wrong with it; it is left out.
    """

    record: OfflineRecord
    replays: list[Replay]
    unreadable: dict[str, str]

    def __str__(self) -> str:
        """What `vla evaluate` prints: the verdict, what to look at, and the error of each dimension."""
        lines = [text(self.record.summary)]
        if other := other_execute(self.record):
            lines.append(f"- not as the policy is exported: {other}")
        return "\n".join(lines + [f"left out, unreadable: {name}: {why}" for name, why in self.unreadable.items()])


def held_out(source: RobotSource, episodes: int = 0) -> list[Demonstration]:
    """Returns the held-out demonstrations, or this number of them, evenly spaced."""
    every = source.restricted("val").demonstrations()
    if not 0 < episodes < len(every):
        return every
    return [every[i] for i in np.linspace(0, len(every) - 1, episodes).round().astype(int)]


def evaluate_offline(
    policy: Policy,
    name: str,
    source: RobotSource,
    episodes: int = 0,
    execute: int = 0,
    progress: Callable[[int], None] = lambda steps: None,
) -> OfflineEvaluation:
    """Replays the held-out demonstrations of a data set to a policy and compares its actions with the demonstrated ones.

    Args:
        policy: the policy.
        name: what the record calls it.
        source: the data set; its `holdout` says which episodes are held out. The others give the baselines.
        episodes: number of held-out demonstrations, evenly spaced; 0 is all.
        execute: actions executed of each chunk; 0 takes the contract's.
        progress: called with the number of steps done since the last call; first with 0, once the policy fits the data.

    Raises:
        ContractMismatch: the policy is for another robot than the data's.
        UserError: nothing is held out, or nothing of it can be read.
    """
    contract = policy.contract
    source.bind(contract)
    training, chosen = source.restricted("train").demonstrations(), held_out(source, episodes)
    progress(0)
    replays, unreadable = replay(policy, chosen, execute, progress)
    if not replays:
        where, why = next(iter(unreadable.items()))
        raise UserError(f"no held-out episode can be read, the first of them: {why}", f"{source.folder}, {where}")
    embodiment = source.card.embodiment
    facts = facts_of(name, policy, execute)
    record = OfflineRecord(
        data={
            "title": source.card.name or Path(hub.without_revision(source.folder)).name,
            "folder": hub.pinned(source.folder),
            "embodiment": embodiment,
        },
        decode=contract.decode,
        summary=_summary(policy, embodiment, replays, training),
        episodes=[_line(policy, embodiment, one) for one in replays],
        **{key: facts.pop(key) for key in ("policy", "contract", "execute")},
        more={"unreadable": unreadable, **facts, **provenance()},
    )
    return OfflineEvaluation(record, replays, unreadable)


def evaluate_with_progress(
    policy: Policy, name: str, source: RobotSource, episodes: int = 0, execute: int = 0, shown: bool = True
) -> OfflineEvaluation:
    """Evaluates as `evaluate_offline`, with a progress bar over steps if `shown`; a policy that is refused gets none."""
    bar: tqdm | None = None
    with contextlib.ExitStack() as held:

        def advance(steps: int) -> None:
            nonlocal bar
            if bar is None:
                total = sum(map(len, held_out(source, episodes)))
                bar = held.enter_context(tqdm(total=total, desc="evaluate", unit="step", disable=not shown))
            bar.update(steps)

        return evaluate_offline(policy, name, source, episodes, execute, advance)


def _line(policy: Policy, embodiment: str, one: Replay) -> dict[str, Any]:
    demonstration, space = one.demonstration, policy.contract.embodiment(embodiment).action
    return {
        "episode": demonstration.episode,
        "first": demonstration.first,
        "instruction": demonstration.instruction[0],
        "fingerprint": demonstration.fingerprint,
        "calls": len(one.chunks),
        "malformed": one.malformed,
        "error": np.round(measures.scaled_error(space, one.action, demonstration.action), 5).tolist(),
    }


def _summary(policy: Policy, embodiment: str, replays: list[Replay], training: list[Demonstration]) -> dict[str, Any]:
    space = policy.contract.embodiment(embodiment).action
    demonstrated = [one.demonstration.action for one in replays]
    fitted = baselines(training)
    actions = {"policy": [one.action for one in replays], **{name: apply(fitted[name], replays) for name in fitted}}
    numbers = [one.demonstration.episode for one in replays]
    errors = {
        name: [measures.scaled_error(space, *pair) for pair in zip(each, demonstrated, strict=True)]
        for name, each in actions.items()
    }
    # An episode that lacks steps is several demonstrations, and still one draw of the bootstrap.
    whole = {name: measures.by_episode(numbers, each) for name, each in errors.items()}
    others = {name: each for name, each in whole.items() if name != "policy"}
    columns = measures.grippers(space, demonstrated)
    changes = [measures.near_changes(one, list(columns)) for one in demonstrated]
    jerks = {name: measures.jerk(each, space) for name, each in (("policy", actions["policy"]), ("demonstration", demonstrated))}
    return {
        "episodes": len(whole["policy"]),
        "steps": sum(len(one.action) for one in replays),
        "calls": sum(len(one.chunks) for one in replays),
        "malformed": sum(one.malformed for one in replays),
        "error": {name: measures.mean_error(each).to_dict() for name, each in whole.items()},
        "against": {
            name: measures.mean_of([float(a.mean() - b.mean()) for a, b in zip(whole["policy"], each, strict=True)]).to_dict()
            for name, each in others.items()
        },
        "dimensions": measures.dimension_errors(space, whole["policy"], others),
        "positions": measures.position_errors(space, replays),
        "first_steps": {name: float(np.mean([one[: measures.FIRST].mean() for one in each])) for name, each in errors.items()},
        "gripper_changes": _where(errors, changes),
        "grippers": [{"name": space.names[i], **measures.gripper_confusion(replays, i, values)} for i, values in columns.items()],
        "jerk": {**jerks, "ratio": jerks["policy"] / jerks["demonstration"] if jerks["demonstration"] else float("nan")},
        "calibration": measures.calibration(policy.contract, embodiment, replays),
    }


def _where(errors: dict[str, list[np.ndarray]], steps: list[np.ndarray]) -> dict[str, float] | None:
    """The mean error at the chosen steps; None if there are none."""
    if not any(one.any() for one in steps):
        return None
    return {
        name: float(np.concatenate([one[chosen] for one, chosen in zip(each, steps, strict=True)]).mean())
        for name, each in errors.items()
    }
