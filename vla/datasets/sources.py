"""Sources: data sets as a mixture draws from them, with split, order and tolerance for unreadable samples."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, Self, TypeVar

import numpy as np

from vla import hub
from vla.datasets.card import FILE, DatasetCard
from vla.datasets.index import Columns, ShardIndex
from vla.datasets.remote import RemoteFolder, is_remote
from vla.datasets.samples import Images
from vla.errors import Unreadable, UserError
from vla.transforms import Appearance, Augmentation, Point

Split = Literal["train", "val", "all"]
OPENED = ("index", "_rows", "_images", "_table", "_ends", "_answerable")
"""Cached properties of an opened source."""
STAND_INS = 10
"""How many following samples are tried in place of an unreadable one. Every source may have this many unreadable records."""
T = TypeVar("T")
SampleT = TypeVar("SampleT", covariant=True)


class Order(Protocol):
    """The endless order in which a source's samples are drawn. It depends on the seed alone, so a run can start anywhere."""

    def at(self, n: int) -> tuple[int, int]:
        """The n-th draw: the epoch, and the sample's number for `Source.sample`."""
        ...

    def epochs(self, n: int) -> float:
        """The number of passes through the source in n draws."""
        ...


class Shuffled:
    """Draws every sample once per epoch, in a new order each time."""

    def __init__(self, source: Source, seed: tuple[int, ...]):
        self.source, self.seed = source, seed

    def at(self, n: int) -> tuple[int, int]:
        if not len(self.source):
            raise UserError("there is no sample to draw", str(self.source.folder), "check its split, types and max_samples")
        epoch, position = divmod(n, len(self.source))
        return epoch, int(self._permutation(epoch)[position])

    def epochs(self, n: int) -> float:
        return n / len(self.source)

    def __getstate__(self) -> dict:
        return {"source": self.source, "seed": self.seed}

    @functools.cached_property
    def _permutation(self):
        # Loader workers run ahead of one another, so two epochs may be needed at once.
        return functools.lru_cache(2)(lambda epoch: self.source.permutation(np.random.default_rng((*self.seed, epoch))))


class Source(Generic[SampleT]):
    """A data set as a mixture draws from it. The constructor touches no file; the data set is opened at its first use.

    Args:
        folder: folder with `card.yaml` and `shard-*.tar`, or its address (https://…, s3://…, hf://datasets/OWNER/NAME,
            pipe:ssh host cat /data/{}).
        weight: share of the draws, relative to the other sources of a mixture.
        warmup_samples: number of samples at the start of a run that come from this source alone, e.g. easy ones.
        max_samples: use only the first samples of the split, at most this many; 0 uses all.
        fetched: local folder for remote shards; "" is one under ~/.cache/vla.
        fetched_gib: size limit of that folder.
        together: number of remote shards that are shuffled together.
        loss_weight: factor for the loss of this source's tokens.
        split: "val" is the last `holdout` share (at least one), "train" the rest, "all" both.
        holdout: share of the episodes, or images, that is held out.
        cache: whether decoded images are cached beside the shards, mapped by all processes of a machine (12 KiB per 64-pixel
            image).
        augment: augmentations in order: (images, points, rng) -> (images, points).
        tolerate: share of the samples that may be unreadable (ten are always tolerated). Each is reported, and the next sample
            replaces it.
        cameras: names of the cameras that are used, in the order in which the model gets their images; None: all of them.
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
        augment: Sequence[Augmentation | Appearance] = (),
        warmup_samples: int = 0,
        max_samples: int = 0,
        fetched: str = "",
        fetched_gib: float = 20.0,
        together: int = 8,
        tolerate: float = 0.001,
        cameras: list[str] | None = None,
    ):
        if together < 1:
            raise UserError(f"together {together}", str(folder), "give at least 1 shard")
        if not 0 <= tolerate <= 1:
            raise UserError(f"tolerate {tolerate}", str(folder), "give a share from 0 to 1")
        if min(warmup_samples, max_samples) < 0:
            raise UserError(f"warmup_samples {warmup_samples}, max_samples {max_samples}", str(folder), "give at least 0 samples")
        if split not in ("train", "val", "all") or not 0 < holdout < 1:
            raise UserError(
                f"split {split!r}, holdout {holdout}",
                str(folder),
                "give train, val or all as split, and a share between 0 and 1 as holdout",
            )
        self.folder = folder if is_remote(folder) else Path(folder)
        self.weight, self.loss_weight = weight, loss_weight
        self.fetched, self.fetched_bytes = fetched, round(fetched_gib * 2**30)
        self.remote = RemoteFolder(str(folder), fetched, self.fetched_bytes) if is_remote(folder) else None
        for one in augment:
            one.check()
        self.split, self.holdout, self.cache, self.augment = split, holdout, cache, list(augment)
        self.warmup_samples, self.max_samples, self.together = warmup_samples, max_samples, together
        self.tolerate, self.cameras, self._first = tolerate, cameras, ""

    def __getstate__(self) -> dict:
        # A spawned worker reopens the data set, which is cheaper than pickling the images.
        return {name: value for name, value in self.__dict__.items() if name not in (*OPENED, "card")}

    def settings(self) -> dict[str, Any]:
        """The settings that determine which samples exist and how they are drawn, but not where they are stored. On the hub, the
        commit does."""
        storage = ("folder", "remote", "fetched", "fetched_bytes", "cache", "urls")
        of_training = ("loss_weight", "chunk", "history", "spacing", "cameras")
        left_out = (*storage, *of_training, "tolerate", *OPENED, "card")
        address = {"address": hub.pinned(self.folder)} if hub.address(self.folder) else {}
        return {k: v for k, v in vars(self).items() if not k.startswith("_") and k not in left_out} | address

    def restricted(self, split: Split) -> Self:
        """The same source with another split, reopened. Other splits than "train" are neither augmented nor cached."""
        other = copy.copy(self)
        other.split = split
        for name in ("_rows", "_images", "_ends", "_answerable"):
            other.__dict__.pop(name, None)
        if split != "train":
            other.augment, other.cache = [], False
        return other

    def __len__(self) -> int:
        return len(self._rows)

    def sample(self, i: int, rng: np.random.Generator) -> SampleT:
        """Sample i of the split. `rng` is the source of all its randomness.

        Raises:
            Unreadable: the sample is damaged; see `read`.
        """
        raise NotImplementedError

    def after(self, i: int) -> int:
        """The sample that replaces sample i if it is unreadable: that of the next row."""
        return int(np.searchsorted(self._rows, self._rows[i], side="right")) % len(self)

    def size(self, drawn: int) -> int:
        """The number of samples to which `tolerate` applies after `drawn` samples."""
        return len(self)

    @property
    def unreadable(self) -> dict[str, str]:
        """The records that could not be read when the data set was opened: where -> why. They are not in the split."""
        return {self.index.where(int(record)): str(why) for record, why in zip(*self._left_out, strict=True)}

    def check(self, unreadable: Mapping[str, str], samples: int) -> None:
        """Checks the number of unreadable samples (where -> why) among `samples`.

        Raises:
            UserError: there are more than `tolerate` permits.
        """
        if len(unreadable) > max(STAND_INS, self.tolerate * samples):
            first = "; ".join(f"{where}: {why}" for where, why in itertools.islice(unreadable.items(), 3))
            raise UserError(
                f"{len(unreadable)} samples of {samples} cannot be read, the first of them: {first}",
                str(self.folder),
                "write them again, or raise `tolerate`",
            )

    @functools.cached_property
    def card(self) -> DatasetCard:
        """The data set's card; UserError if it describes another kind of data."""
        if self.remote:
            self.remote.path(FILE, fresh=True)
        card = DatasetCard.load(self.remote.cache if self.remote else self.folder)
        if card.kind != self.kind:
            raise UserError(f"a {card.kind} data set, not {self.kind}", str(self.folder), "use RobotSource or QuestionSource")
        return self.described(card)

    def described(self, card: DatasetCard) -> DatasetCard:
        """The card with the cameras that are used. Raises UserError if the data lack one."""
        known = {camera.name: camera for camera in card.spec.cameras}
        return dataclasses.replace(card, spec=dataclasses.replace(card.spec, cameras=tuple(known[c] for c in self.chosen(known))))

    def chosen(self, known: Iterable[str]) -> list[str]:
        """The names of the cameras that are used, of those that the data have. Raises UserError if they lack one."""
        names = [*known]
        self._first = self._first or names[0]
        if self.cameras is None:
            return names
        if not self.cameras or set(self.cameras) - set(names) or len(set(self.cameras)) < len(self.cameras):
            what = f"cameras {', '.join(self.cameras) or 'none'}"
            raise UserError(what, str(self.folder), f"name some of the data's, each once: {', '.join(names)}")
        return self.cameras

    @property
    def keeps_points(self) -> bool:
        """Whether the model's first camera is the data's, to whose image points in it refer."""
        return self.cameras is None or self.card.spec.cameras[0].name == self._first

    def points_are_elsewhere(self) -> UserError:
        """The error for answers with places where the model's first camera is not the data's; see `keeps_points`."""
        what = f"places in answers are in the image of {self._first}, and the model's first camera is another"
        return UserError(what, str(self.folder), f"put {self._first} first in `cameras`, or leave such questions out")

    @functools.cached_property
    def index(self) -> ShardIndex:
        # The card is read first: its error for a wrong folder or kind is clearer.
        card = self.card
        if self.remote and not card.shards:
            raise UserError("the card lists no shards", str(self.folder), "add `shards: {NAME: SAMPLES}`")
        return ShardIndex(self.remote or self.folder, card.shards)

    def order(self, seed: tuple[int, ...]) -> Order:
        """The order in which an endless run draws the samples: all of them, reshuffled for each epoch."""
        return Shuffled(self, seed)

    def permutation(self, rng: np.random.Generator) -> np.ndarray:
        """A random order of the samples [N] for one epoch. Remote shards are shuffled a few at a time."""
        if not self.remote:
            return rng.permutation(len(self))
        index, shards = self.index, len(self.index.shards) - 1
        group = np.empty(shards, np.int64)
        group[rng.permutation(shards)] = np.arange(shards) // self.together
        shard = np.searchsorted(index.shards, self._records, side="right") - 1
        return np.lexsort((rng.permutation(len(self)), group[shard]))

    @property
    def _records(self) -> np.ndarray:
        """The position in the index of each row."""
        raise NotImplementedError

    @functools.cached_property
    def _rows(self) -> np.ndarray:
        """The rows of the data set in the split, each as many times as it occurs in an epoch."""
        rows = self._all_rows()
        if self.unreadable:
            self.check(self.unreadable, self._count)
        return rows[: self.max_samples] if self.max_samples else rows

    @property
    def _count(self) -> int:
        """The number of records, readable or not."""
        return len(self.index)

    def _all_rows(self) -> np.ndarray:
        raise NotImplementedError

    @property
    def _left_out(self) -> tuple[np.ndarray, np.ndarray]:
        """The positions in the index of unreadable records, and the reasons."""
        raise NotImplementedError

    def _part(self, count: int) -> slice:
        """Which of `count` episodes or images are in the split."""
        middle = count - max(round(count * self.holdout), 1)
        if self.split != "all" and middle < 1:
            raise UserError(f"{count} episodes or images are too few to hold some out", str(self.folder), "add data")
        return {"train": slice(0, middle), "val": slice(middle, count), "all": slice(0, count)}[self.split]

    def _augmented(self, images: Images, points: list[Point], rng: np.random.Generator) -> tuple[Images, list[Point]]:
        for augment in self.augment:
            images, points = augment(images, points, rng)
        return images, points


def read(source: Source[T], i: int, seed: int | tuple[int, ...]) -> tuple[T, list[Unreadable]]:
    """Reads sample i, or the first readable one after it. Returns it with the errors of the unreadable ones.

    Raises:
        UserError: the STAND_INS samples after it are unreadable too.
    """
    errors: list[Unreadable] = []
    while True:
        try:
            return source.sample(i, np.random.default_rng(seed)), errors
        except Unreadable as error:
            errors.append(error)
            if len(errors) > STAND_INS:
                first = errors[0]
                raise UserError(
                    f"{first.what}; the {STAND_INS} samples after it cannot be read either", first.where, first.fix
                ) from first
        i = source.after(i)


def read_all(count: int, read_record: Callable[[int], T]) -> tuple[dict[int, T], Columns]:
    """Reads all of `count` records. Returns the readable ones by number, and columns `unreadable` (numbers) and `why`.

    Raises:
        Unreadable: no record is readable.
    """
    records: dict[int, T] = {}
    errors: dict[int, Unreadable] = {}
    for number in range(count):
        try:
            records[number] = read_record(number)
        except Unreadable as error:
            errors[number] = error
    if errors and not records:
        raise errors[0]
    why = np.array([error.what for error in errors.values()], np.str_)
    return records, {"unreadable": np.array(list(errors), np.int64), "why": why}
