"""OpenVLA's `norm_stats` (dataset_statistics.json) <-> the embodiments of a contract."""

from __future__ import annotations

import dataclasses
from typing import Any

from vla.contract import Camera, Embodiment
from vla.errors import UserError
from vla.space import Space

ACTION = ("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper")
UNITS = ("m", "m", "m", "rad", "rad", "rad", "")
KEYS = ("mean", "std", "min", "max", "q01", "q99")


def embodiments(norm_stats: dict[str, Any], cameras: tuple[Camera, ...] = (Camera("image", 224, 224),)) -> dict[str, Embodiment]:
    """One embodiment per data set of norm_stats, with the conventions of OpenVLA: end-effector deltas, gripper 1 open.

    The limits of a normalised dimension are q01 and q99. Those of others (mask False) are the model's range, -1 to 1. The mask
    is stored with the statistics.

    Raises:
        UserError: a data set lacks statistics, or their lengths differ.
    """
    result = {}
    for name, statistics in norm_stats.items():
        if not isinstance(statistics, dict) or "action" not in statistics:
            raise UserError("it has no action statistics", f"norm_stats, {name}")
        size = len(statistics["action"].get("q01", ()))
        names = ACTION if size == len(ACTION) else tuple(f"a{i}" for i in range(size))
        proprio = statistics.get("proprio") or {key: [] for key in KEYS}
        state = tuple(f"s{i}" for i in range(len(proprio.get("q01", ()))))
        result[name] = Embodiment(
            cameras,
            _space(proprio, state, ("",) * len(state), f"norm_stats, {name}, proprio"),
            _space(statistics["action"], names, UNITS if names is ACTION else ("",) * size, f"norm_stats, {name}, action"),
            rotation="euler_xyz",
            gripper="0 closed, 1 open",
        )
    return result


def _space(values: dict[str, Any], names: tuple[str, ...], units: tuple[str, ...], where: str) -> Space:
    missing = [key for key in KEYS if len(values.get(key, ())) != len(names)]
    if missing:
        raise UserError(f"{', '.join(missing)}: missing, or not of {len(names)} values", where)
    statistics = {key: tuple(float(v) for v in values[key]) for key in KEYS}
    mask = [bool(m) for m in values.get("mask", [True] * len(names))]
    low, high, constant = [], [], []
    for i, normalised in enumerate(mask):
        same = statistics["min"][i] == statistics["max"][i]
        a, b = (statistics["q01"][i], statistics["q99"][i]) if normalised else (-1.0, 1.0)
        low.append(a if a < b else a - 1.0)
        high.append(b if a < b else a + 1.0)
        constant.append(statistics["min"][i] if same else None)
    space = Space(names, units, tuple(low), tuple(high), tuple(constant))
    return dataclasses.replace(space, statistics={**statistics, "mask": tuple(float(m) for m in mask)})


def norm_stats(embodiments: dict[str, Embodiment], counts: dict[str, dict[str, int]] | None = None) -> dict[str, Any]:
    """The embodiments' statistics in OpenVLA's form. Without a mask, all dimensions but those named "gripper" are normalised.

    Args:
        embodiments: the embodiments by name.
        counts: name -> {"steps", "episodes"}, as in a data set's card.

    Raises:
        UserError: an embodiment has no statistics.
    """
    result: dict[str, Any] = {}
    for name, embodiment in embodiments.items():
        sizes = (counts or {}).get(name, {})
        result[name] = {"action": _statistics(embodiment.action, f"{name}, action")}
        if embodiment.state.size:
            result[name]["proprio"] = _statistics(embodiment.state, f"{name}, state")
        result[name] |= {"num_transitions": sizes.get("steps", 0), "num_trajectories": sizes.get("episodes", 0)}
    return result


def _statistics(space: Space, where: str) -> dict[str, Any]:
    missing = [key for key in KEYS if key not in space.statistics]
    if missing:
        raise UserError(f"it lacks {', '.join(missing)}", where, "take the embodiment from a data set's card or an export")
    mask = space.statistics.get("mask") or [float("gripper" not in name) for name in space.names]
    return {**{key: list(space.statistics[key]) for key in KEYS}, "mask": [bool(m) for m in mask]}
