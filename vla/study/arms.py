"""The arms of a study as trainings: their settings, what they differ in, and what they train on."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vla import yaml12
from vla.contract import PolicyContract
from vla.datasets.card import DatasetCard
from vla.errors import UserError
from vla.report.json_values import finite
from vla.report.study_plan import TrainingPlan
from vla.study.data import source_data
from vla.study.options import Arm, Overlay
from vla.training.plan import Plan

Planner = Callable[[Sequence[str]], Plan]
"""Returns the plan of a training from the arguments of `vla fit`: -c FILE … --SETTING=VALUE …"""
OWN = ("export", "evaluate", "collect", "ckpt_path", "weights_only", "seed_everything")
"""Settings that a study decides."""
IRRELEVANT = {
    "trainer": ("default_root_dir", "logger", "enable_progress_bar", "enable_model_summary"),
    "data": ("seed", "workers", "predict"),
    "contract": ("title",),
    "source": ("cache", "fetched", "fetched_gib"),
    "callback": ("dirpath",),
}
"""Settings that change no result, or are of one cell, by where they are."""
LONGEST = 120
"""Characters of a setting's value that are shown."""


@dataclasses.dataclass(frozen=True)
class PlannedArm:
    """An arm and its training.

    Attributes:
        settings: those on which its results depend, the seed excepted, and without those that are off.
        changes: setting -> its value in the recipe and in the arm, as text.
    """

    name: str
    arm: Arm
    plan: Plan
    settings: dict[str, Any]
    changes: dict[str, list[str]]

    @property
    def config(self) -> str:
        """SHA-256 of the settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    def contract(self, missing: Mapping[Path, DatasetCard]) -> PolicyContract:
        """Returns the contract, before anything is fitted on the data.

        Args:
            missing: folder that is not there yet -> the card that it will have.

        Raises:
            UserError: the arm's data are not there and nothing collects them, or do not go together.
        """
        with named(self.name):
            return self.plan.contract(missing)

    def training(self, contract: PolicyContract, missing: Mapping[Path, DatasetCard]) -> TrainingPlan:
        """Returns what it trains on."""
        vlm = self.plan.settings["model"]["vlm"]
        start = vlm if isinstance(vlm, str) else json.dumps(vlm, sort_keys=True)
        if self.plan.options.source:
            start += f", contract of {self.plan.options.source}"
        sources = {
            name: source_data(source, self.plan.samples[name], Path(source.folder).resolve() not in missing)
            for name, source in self.plan.sources.items()
        }
        robots = {name: dataclasses.asdict(embodiment) for name, embodiment in contract.embodiments.items()}
        for robot in robots.values():
            for space in (robot["state"], robot["action"]):
                # Known once the data are.
                for name in ("statistics", "binary", "constant"):
                    del space[name]
        digest = hashlib.sha256(json.dumps(robots, sort_keys=True).encode()).hexdigest()
        return TrainingPlan(self.plan.steps, sources, start, f"{', '.join(robots)} {digest[:12]}")


def plan_arms(recipe: Overlay, arms: Mapping[str, Arm], plan: Planner) -> tuple[Plan, dict[str, PlannedArm]]:
    """Returns the recipe's plan, and each arm's.

    Raises:
        UserError: a file is not there, or a setting is unknown or refused; the arm is named.
    """
    with arguments(recipe) as common:
        base = plan(common)
        original, planned = relevant(base.settings), {}
        for name, arm in arms.items():
            with named(name), arguments(arm.overlay) as overlay:
                # The recipe as it is need not be parsed again.
                own = plan([*common, *overlay]) if overlay else base
            settings = relevant(own.settings)
            planned[name] = PlannedArm(name, arm, own, without_off(settings), changes(original, settings))
    return base, planned


@contextlib.contextmanager
def named(arm: str) -> Iterator[None]:
    """Adds an arm's name to the errors raised in the block."""
    try:
        yield
    except UserError as error:
        raise UserError(error.what, f"arm {arm}: {error.where}" if error.where else f"arm {arm}", error.fix) from error


@contextlib.contextmanager
def arguments(overlay: Overlay) -> Iterator[list[str]]:
    """Yields an overlay as arguments of `vla fit`; settings in place are in a temporary file during the block."""
    with tempfile.TemporaryDirectory() as folder:
        argv: list[str] = []
        for number, part in enumerate(overlay if isinstance(overlay, list) else [overlay]):
            if isinstance(part, str):
                argv += ["-c", part]
                continue
            if whole := {name: value for name, value in part.items() if "." not in name}:
                path = Path(folder) / f"overlay-{number}.yaml"
                path.write_text(yaml12.dump(whole, sort_keys=False))
                argv += ["-c", str(path)]
            dotted = {name: value for name, value in part.items() if "." in name}
            argv += [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in dotted.items()]
        yield argv


def relevant(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings on which a training's result depends, the seed excepted."""
    kept = {name: value for name, value in copy.deepcopy(dict(settings)).items() if name not in OWN}
    for part in ("trainer", "data", "contract"):
        for name in IRRELEVANT[part]:
            kept[part].pop(name, None)
    for kind, entries in (("source", kept["data"]["sources"].values()), ("callback", _list(kept["trainer"]["callbacks"]))):
        for entry in entries:
            for name in IRRELEVANT[kind]:
                (entry.get("init_args") or {}).pop(name, None)
    # As JSON holds it, in which it is compared with a record.
    return json.loads(json.dumps(finite(kept)))


def without_off(settings: Any) -> Any:
    """Returns the settings without those that are none, empty, false or zero.

    A setting that a later version adds, and that is off by default, then does not change the settings of earlier cells.
    """
    if isinstance(settings, Mapping):
        kept = {name: without_off(value) for name, value in settings.items()}
        return {name: value for name, value in kept.items() if value}
    return [without_off(one) for one in settings] if isinstance(settings, list) else settings


def changes(recipe: Mapping[str, Any], arm: Mapping[str, Any], name: str = "") -> dict[str, list[str]]:
    """Returns setting -> its value in the recipe and in the arm, as text; what only one has is named as a whole."""
    found: dict[str, list[str]] = {}
    for key in dict.fromkeys([*recipe, *arm]):
        one, two, path = recipe.get(key), arm.get(key), f"{name}.{key}".strip(".")
        if isinstance(one, Mapping) and isinstance(two, Mapping) and one and two:
            found |= changes(one, two, path)
        elif one != two:
            found[path] = [_text(one), _text(two)]
    return found


def _text(value: Any) -> str:
    if isinstance(value, Mapping) and "class_path" in value:
        folder = (value.get("init_args") or {}).get("folder")
        return f"{value['class_path'].rpartition('.')[2]}" + f" of {folder}" * bool(folder)
    text = "none" if value is None else value if isinstance(value, str) and value else json.dumps(value)
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []
