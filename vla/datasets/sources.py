"""Sources: what one draw from a data set is, which of its samples are drawn, and in which order."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, Self, TypeVar

import numpy as np

from vla.datasets.card import FILE, DatasetCard
from vla.datasets.index import Columns, ShardIndex
from vla.datasets.remote import RemoteFolder, is_remote
from vla.datasets.samples import Images
from vla.errors import Unreadable, UserError
from vla.transforms import Augmentation, Point

Split = Literal["train", "val", "all"]
OPENED = ("index", "_rows", "_pictures", "_table", "_ends", "_asked")
STAND_INS = 10
"""So many samples are tried in place of one that cannot be read; as many records may be unreadable in any source."""
RENAMED = {"lead": "warmup_samples", "asked": "questions_per_image"}
"""Settings of a source by their names of before, which configurations and checkpoints may still have."""
T = TypeVar("T")


class Order(Protocol):
    """In which an endless run takes a source's samples; the same for the same seed, wherever one begins."""

    def at(self, n: int) -> tuple[int, int]:
        """The n-th draw: its epoch, and the sample, as `Source.sample` takes it."""
        ...

    def epochs(self, n: int) -> float:
        """How often n draws go through the source."""
        ...


class Shuffled:
    """Every sample once in each epoch, in an order of its own."""

    def __init__(self, source: Source, seed: tuple[int, ...]):
        self.source, self.seed = source, seed

    def at(self, n: int) -> tuple[int, int]:
        if not len(self.source):
            raise UserError("no sample is left to draw", str(self.source.folder), "look at its split, types and max_samples")
        epoch, place = divmod(n, len(self.source))
        return epoch, int(self._permutation(epoch)[place])

    def epochs(self, n: int) -> float:
        return n / len(self.source)

    def __getstate__(self) -> dict:
        return {"source": self.source, "seed": self.seed}

    @functools.cached_property
    def _permutation(self):
        # Loader workers run ahead of one another, so a source may be in two epochs at once.
        return functools.lru_cache(2)(lambda epoch: self.source.permutation(np.random.default_rng((*self.seed, epoch))))


class Source(Generic[T]):
    """A data set as a mixture draws from it. Making one touches no file; it is opened at its first use.

    Args:
        folder: holds `card.yaml` and `shard-*.tar`; or an address where they are (https://…, s3://…, pipe:ssh host cat /data/{}).
        weight: share of the draws, relative to the other sources of a mixture.
        warmup_samples: the first samples of a run, as many as this, come from this source alone: the easy ones first.
        max_samples: only so many first samples of the split are used; 0 is all.
        fetched: local folder for shards that are elsewhere; "" is one under ~/.cache/vla.
        fetched_gib: what they may take there.
        together: of shards that are fetched, how many are drawn from at a time.
        loss_weight: what the loss of its tokens is multiplied by.
        split: "val" is the last `holdout` share (at least one), "train" the rest, "all" both.
        holdout: share of the episodes, or pictures, that is kept back.
        cache: whether decoded pictures are kept beside the shards, mapped by all processes of a machine (12 KiB per 64-pixel
            picture).
        augment: applied in order: (images, point, rng) -> (images, point).
        tolerate: share of the samples that may be unreadable (ten may in any case): each is named, and the next stands in for it.
    """

    kind = ""

    def __init__(
        self,
        folder: str | Path,
        weight: float = 1.0,
        loss_weight: float = 1.0,
        split: Split = "all",
        holdout: float = 0.1,
        cache: bool = False,
        augment: Sequence[Augmentation] = (),
        warmup_samples: int = 0,
        max_samples: int = 0,
        fetched: str = "",
        fetched_gib: float = 20.0,
        together: int = 8,
        tolerate: float = 0.001,
    ):
        if together < 1:
            raise UserError(f"together {together}", str(folder), "draw from at least 1 shard at a time")
        if not 0 <= tolerate <= 1:
            raise UserError(f"tolerate {tolerate}", str(folder), "give a share from 0 to 1")
        if min(warmup_samples, max_samples) < 0:
            raise UserError(f"warmup_samples {warmup_samples}, max_samples {max_samples}", str(folder), "give numbers of samples")
        if split not in ("train", "val", "all") or not 0 < holdout < 1:
            raise UserError(f"split {split!r}, holdout {holdout}", str(folder), "train, val or all; a share between 0 and 1")
        self.folder = folder if is_remote(folder) else Path(folder)
        self.weight, self.loss_weight = weight, loss_weight
        self.fetched, self.fetched_bytes = fetched, round(fetched_gib * 2**30)
        self.remote = RemoteFolder(str(folder), fetched, self.fetched_bytes) if is_remote(folder) else None
        self.split, self.holdout, self.cache, self.augment = split, holdout, cache, list(augment)
        self.warmup_samples, self.max_samples, self.together = warmup_samples, max_samples, together
        self.tolerate = tolerate

    def __getstate__(self) -> dict:
        # A spawned worker opens the data set itself: cheaper than sending it the pictures.
        return {name: value for name, value in self.__dict__.items() if name not in (*OPENED, "card")}

    def settings(self) -> dict[str, Any]:
        """All that says which samples there are and how they are drawn; not where they are."""
        elsewhere = (
            "folder",
            "remote",
            "fetched",
            "fetched_bytes",
            "cache",
            "urls",
            "loss_weight",
            "chunk",
            "history",
            "spacing",
        )
        others = (*elsewhere, "tolerate", *OPENED, "card")
        return {k: v for k, v in vars(self).items() if not k.startswith("_") and k not in others}

    def restricted(self, split: Split) -> Self:
        """The same source with another split, opened anew; what is not trained on is neither augmented nor kept in memory."""
        other = copy.copy(self)
        other.split = split
        for name in ("_rows", "_pictures", "_ends", "_asked"):
            other.__dict__.pop(name, None)
        if split != "train":
            other.augment, other.cache = [], False
        return other

    def __len__(self) -> int:
        return len(self._rows)

    def sample(self, i: int, rng: np.random.Generator) -> T:
        """Sample i of the split; whatever is drawn in it comes from `rng`.

        Raises:
            Unreadable: it is damaged; see `read`.
        """
        raise NotImplementedError

    def after(self, i: int) -> int:
        """The sample that stands in for sample i: that of the next row."""
        return int(np.searchsorted(self._rows, self._rows[i], side="right")) % len(self)

    def size(self, drawn: int) -> int:
        """The number of samples over which unreadable ones are tolerated, after `drawn` samples."""
        return len(self)

    @property
    def unreadable(self) -> dict[str, str]:
        """The records that could not be read when the data set was opened: where -> why. They are left out."""
        return {self.index.where(int(record)): str(why) for record, why in zip(*self._left_out, strict=True)}

    def check(self, unreadable: Mapping[str, str], samples: int) -> None:
        """Raises UserError if of so many samples more are unreadable (where -> why) than is tolerated."""
        if len(unreadable) > max(STAND_INS, self.tolerate * samples):
            first = "; ".join(f"{where}: {why}" for where, why in itertools.islice(unreadable.items(), 3))
            raise UserError(
                f"{len(unreadable)} samples of {samples} cannot be read, the first of them {first}",
                str(self.folder),
                "write them again, or raise `tolerate`",
            )

    @functools.cached_property
    def card(self) -> DatasetCard:
        """The data set's card; UserError where it is of another kind of data."""
        if self.remote:
            self.remote.path(FILE, fresh=True)
        card = DatasetCard.load(self.remote.cache if self.remote else self.folder)
        if card.kind != self.kind:
            raise UserError(f"a {card.kind} data set, not {self.kind}", str(self.folder), "use RobotSource or QuestionSource")
        return card

    @functools.cached_property
    def index(self) -> ShardIndex:
        # The card first: its message about a wrong folder or kind is the clearer one.
        card = self.card
        if self.remote and not card.shards:
            raise UserError("the card does not say which shards there are", str(self.folder), "add `shards: {NAME: SAMPLES}`")
        return ShardIndex(self.remote or self.folder, card.shards)

    def order(self, seed: tuple[int, ...]) -> Order:
        """In which an endless run takes the samples: all of them, shuffled anew for each epoch."""
        return Shuffled(self, seed)

    def permutation(self, rng: np.random.Generator) -> np.ndarray:
        """An epoch's order: any; of shards that are fetched, a few at a time."""
        if not self.remote:
            return rng.permutation(len(self))
        index, shards = self.index, len(self.index.shards) - 1
        rank = np.empty(shards, np.int64)
        rank[rng.permutation(shards)] = np.arange(shards) // self.together
        of = np.searchsorted(index.shards, self._records, side="right") - 1
        return np.lexsort((rng.permutation(len(self)), rank[of]))

    @property
    def _records(self) -> np.ndarray:
        """The place in the index of each row."""
        raise NotImplementedError

    @functools.cached_property
    def _rows(self) -> np.ndarray:
        """Which rows of the data set are in the split, as often as they are in an epoch."""
        rows = self._all_rows()
        if self.unreadable:
            self.check(self.unreadable, len(self.index))
        return rows[: self.max_samples] if self.max_samples else rows

    def _all_rows(self) -> np.ndarray:
        raise NotImplementedError

    @property
    def _left_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Places in the index of the records that cannot be read, and why not."""
        raise NotImplementedError

    def _part(self, count: int) -> slice:
        """Which of `count` episodes or pictures are in the split."""
        middle = count - max(round(count * self.holdout), 1)
        if self.split != "all" and middle < 1:
            raise UserError(f"{count} episodes or pictures are too few to hold some back", str(self.folder), "add data")
        return {"train": slice(0, middle), "val": slice(middle, count), "all": slice(0, count)}[self.split]

    def _change(self, images: Images, points: list[Point], rng: np.random.Generator) -> tuple[Images, list[Point]]:
        for augment in self.augment:
            images, points = augment(images, points, rng)
        return images, points


def read(source: Source, i: int, seed: int | tuple[int, ...]) -> tuple[Any, list[Unreadable]]:
    """Sample i, or if it cannot be read the first one after it that can; and what was wrong.

    Raises:
        UserError: none of STAND_INS samples after it can be read either.
    """
    wrong: list[Unreadable] = []
    while True:
        try:
            return source.sample(i, np.random.default_rng(seed)), wrong
        except Unreadable as error:
            wrong.append(error)
            if len(wrong) > STAND_INS:
                first = wrong[0]
                raise UserError(
                    f"{first.what}; nor can the {STAND_INS} samples after it be read", first.where, first.fix
                ) from first
        i = source.after(i)


def read_all(count: int, record: Callable[[int], T]) -> tuple[dict[int, T], Columns]:
    """What `record` gives for each of `count` records that can be read; numbers of the others (`unreadable`), and `why`.

    Raises:
        Unreadable: none can be.
    """
    found: dict[int, T] = {}
    wrong: dict[int, Unreadable] = {}
    for number in range(count):
        try:
            found[number] = record(number)
        except Unreadable as error:
            wrong[number] = error
    if wrong and not found:
        raise wrong[0]
    why = np.array([error.what for error in wrong.values()], np.str_)
    return found, {"unreadable": np.array(list(wrong), np.int64), "why": why}
