"""The data of a study: what is to be collected, what they contain, and that they lack what is held out."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vla import hub
from vla.datasets.card import FILE, DatasetCard
from vla.datasets.held_out import Value, check_held_out
from vla.datasets.shards import PATTERN
from vla.datasets.sources import Source
from vla.errors import UserError
from vla.models.weights import files_hash
from vla.report.study_plan import SourceData
from vla.sim.collect_options import Collect

PARTS = ("split", "holdout", "max_samples", "first_steps", "first_times", "actors", "cameras")
"""Settings of a source that choose records and repeat them."""
DEFAULTS = {"split": "all", "max_samples": 0, "first_steps": 0, "first_times": 1, "actors": {}, "cameras": None}


def to_collect(
    recipe: Mapping[str, Collect], arms: Sequence[Mapping[str, Collect]], needed: Iterable[str | Path]
) -> dict[Path, Collect]:
    """Returns folder -> options of what is needed, is not there, and is collected by an arm's configuration, else the recipe's.

    Args:
        recipe, arms: `collect` sections.
        needed: folders.

    Raises:
        UserError: two arms collect different data into one folder.
    """
    every: dict[Path, Collect] = {}
    for options in (options for entries in arms for options in entries.values()):
        folder, chosen = Path(options.out).resolve(), dataclasses.replace(options, workers=0, overwrite=False)
        if every.setdefault(folder, chosen) != chosen:
            what = "two arms collect different data into this folder"
            raise UserError(what, options.out, "give each a folder of its own, or make their `collect` entries equal")
    every = {**{Path(options.out).resolve(): options for options in recipe.values()}, **every}
    wanted = {Path(folder).resolve() for folder in needed}
    return {folder: options for folder, options in every.items() if folder in wanted and not (folder / FILE).is_file()}


def source_data(source: Source[Any], samples: int, collected: bool) -> SourceData:
    """Returns what a source draws from.

    Args:
        samples: number of samples drawn.
        collected: whether the data are there.
    """
    settings = {**vars(source), **source.settings()}
    chosen = {name: settings[name] for name in PARTS if settings.get(name) != DEFAULTS.get(name) and name in settings}
    part = ", ".join(f"{name} {value}" for name, value in chosen.items())
    content = content_hash(source) if collected else ""
    return SourceData(source.kind, str(source.folder), content, part, samples)


def content_hash(source: Source[Any]) -> str:
    """Returns a SHA-256 of the data: of card and shards; of other formats' names and sizes of files; of an address on the hub
    with its commit."""
    if source.remote or not Path(source.folder).is_dir():
        return hashlib.sha256(hub.pinned(str(source.folder)).encode()).hexdigest()
    folder = Path(source.folder).resolve()
    if shards := sorted(folder.glob(PATTERN)):
        return _files_hash(tuple((path, path.stat().st_mtime_ns) for path in (folder / FILE, *shards)))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = "\n".join(f"{path.relative_to(folder)} {path.stat().st_size}" for path in files)
    return hashlib.sha256(names.encode()).hexdigest()


@functools.cache
def _files_hash(files: tuple[tuple[Path, int], ...]) -> str:
    """The hash of files with their times of modification: arms share data, which are read once."""
    return files_hash(path for path, _ in files)


def check_words(folders: Sequence[str], words: Sequence[str | list[float]]) -> list[str]:
    """Checks that robot data have none of these words and colours; returns a line for each folder.

    Raises:
        UserError: a record or a card has one; both are named.
    """
    values: list[Value] = [word if isinstance(word, str) else tuple(word) for word in words]
    return [f"{folder}: {check_held_out(folder, values)} records have none of {len(values)} held-out words" for folder in folders]


def collect_missing(missing: Mapping[Path, Collect], collect: Callable[[Collect], object]) -> None:
    """Collects what is still missing, replacing what an interrupted collection left."""
    for folder, options in missing.items():
        if (folder / FILE).is_file():
            continue
        print(f"[collect] {options.out}", flush=True)
        collect(dataclasses.replace(options, overwrite=not options.policy))


def planned_cards(missing: Mapping[Path, Collect], card: Callable[[Collect], DatasetCard]) -> dict[Path, DatasetCard]:
    """Returns folder -> the card that it will have, without statistics."""
    return {folder: card(dataclasses.replace(options, overwrite=not options.policy)) for folder, options in missing.items()}
