"""Pictures with text, streamed: tar shards anywhere that nobody has counted, read shard after shard."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from vla.datasets.index import ShardIndex
from vla.datasets.questions import QuestionSource, parse_questions
from vla.datasets.remote import NAME, RemoteFolder
from vla.datasets.samples import Images
from vla.datasets.shards import decode_jpeg
from vla.datasets.sources import Order
from vla.errors import Unreadable, UserError


class QuestionStream(QuestionSource):
    """Image-text shards as webdataset reads them, without a card: questions with answers, or captions.

    webdataset expands and opens the addresses (https, s3, gs, hf, pipe:COMMAND, a path); a shard is fetched when its turn comes
    and kept in a local folder of bounded size. On that first pass it is indexed; the index outlives the shard, so that a resumed
    run finds its place at once. Where the folder was lost in between, the shards before that place are fetched again.

    A few shards at a time are shuffled together; the last `holdout` share of them (at least one) is kept for validation.

    Args:
        urls: addresses; {000000..000331} counts.
        pictures: camera -> member that is its picture, e.g. {front: jpg}. Cameras left out are unseen.
        text: the member that holds the text: "json" with `questions` as our own shards have them, or plain text.
        question: what a plain text answers.
        kwargs: as of any source; `cache`, `max_samples` and `warmup_samples` are not for streams.
    """

    card = None  # type: ignore[assignment]

    def __init__(
        self,
        urls: str | list[str],
        pictures: dict[str, str],
        weight: float = 1.0,
        loss_weight: float = 1.0,
        text: str = "json",
        question: str = "what is in the picture",
        **kwargs,
    ):
        super().__init__(str(urls), weight, loss_weight, **kwargs)
        if self.cache or self.max_samples or self.warmup_samples:
            raise UserError(
                "cache, max_samples or warmup_samples of a stream", str(urls), "they need data that are counted: leave them out"
            )
        if not pictures:
            raise UserError("no pictures", str(urls), "name a camera's member, e.g. {front: jpg}")
        self.urls, self.members, self.text, self.question = urls, pictures, text, question

    @functools.cached_property
    def index(self) -> ShardIndex:
        from webdataset.shardlists import expand_urls

        listed = [self.urls] if isinstance(self.urls, str) else self.urls
        found = [str(url) for pattern in listed for url in expand_urls(pattern)]
        if not found:
            raise UserError("no addresses", str(self.urls), "name at least one shard")
        folder = RemoteFolder(found, self.fetched, self.fetched_bytes)
        return ShardIndex(folder, dict.fromkeys(map(NAME.format, range(len(found)))))

    @property
    def unreadable(self) -> dict[str, str]:
        return {}

    @functools.cached_property
    def _rows(self) -> np.ndarray:
        """The shards of the split."""
        shards = np.arange(self.index.count)
        return shards[self._part(len(shards))]

    def order(self, seed: tuple[int, ...]) -> Order:
        return Streamed(self._rows.tolist(), self.index, self.together, seed)

    def __len__(self) -> int:
        """Samples of the split; fetches the shards that were never seen."""
        return int(self._ends[-1])

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([self.index.samples(int(shard)) for shard in self._rows])

    def _place(self, i: int) -> tuple[int, int]:
        """Shard and row of a sample as `Streamed` names it, or of the split's i-th."""
        if i >= 1 << 32:
            return (i >> 32) - 1, i & (1 << 32) - 1
        shard = int(np.searchsorted(self._ends, i, side="right"))
        return int(self._rows[shard]), i - int(self._ends[shard - 1] if shard else 0)

    def after(self, i: int) -> int:
        """The next sample of the same shard, as `Streamed` names it."""
        shard, row = self._place(i)
        return (shard + 1 << 32) | (row + 1) % self.index.samples(shard)

    def size(self, drawn: int) -> int:
        return drawn

    def questions(self, i: int) -> list[dict]:
        return self._asked(i)[1]

    def pictures(self, i: int) -> Images:
        shard, row = self._asked(i)[0]
        data = self.index.read_at(shard, row, tuple(self.members.values()))
        return {name: decode_jpeg(data[m], self.index.where_at(shard, row, m)) for name, m in self.members.items()}

    @functools.cached_property
    def _asked(self) -> Any:
        @functools.lru_cache(1)
        def asked(i: int) -> tuple[tuple[int, int], list[dict]]:
            """Shard and row, and the questions there. For a picture without any the next one of its shard stands in."""
            shard, row = self._place(i)
            count = self.index.samples(shard)
            for k in range(count):
                if questions := self._read(shard, (row + k) % count):
                    return (shard, (row + k) % count), questions
            raise UserError("no picture has a question", self.index.where_at(shard, row), "write pictures with questions")

        return asked

    def _read(self, shard: int, row: int) -> list[dict]:
        data = self.index.read_at(shard, row, (self.text,))[self.text]
        where = self.index.where_at(shard, row, self.text)
        if self.text == "json":
            return parse_questions(data, where)
        try:
            return [{"type": "caption", "question": self.question, "answer": data.decode().strip()}]
        except UnicodeDecodeError as error:
            raise Unreadable(f"not UTF-8 text: {error}", where) from error


class Streamed:
    """Shards in a random order in each epoch, a few at a time shuffled together.

    Args:
        shards: numbers in the index.
        index: knows, or finds out, how many samples they have.
        together: shards that are shuffled together.
        seed: of the order.
    """

    def __init__(self, shards: Sequence[int], index: ShardIndex, together: int, seed: tuple[int, ...]):
        self.shards, self.index, self.together, self.seed = shards, index, together, seed
        self._groups = -(-len(shards) // together)
        self._ends: list[int] = []

    def at(self, n: int) -> tuple[int, int]:
        turn = self._turn(n)
        epoch, group = divmod(turn, self._groups)
        shard, row = self._samples(epoch, group)[n - (self._ends[turn - 1] if turn else 0)]
        return epoch, (int(shard) + 1 << 32) | int(row)

    def epochs(self, n: int) -> float:
        turn = self._turn(n) if n else 0
        return turn / self._groups

    def _turn(self, n: int) -> int:
        """Which group's turn it is at the n-th draw, counted over all epochs."""
        while not self._ends or n >= self._ends[-1]:
            counts = [self.index.samples(shard) for shard in self._members(*divmod(len(self._ends), self._groups))]
            if not sum(counts) and len(self._ends) >= self._groups and not self._ends[-1]:
                raise UserError("no shard has a sample", str(self.index.folder))
            self._ends.append((self._ends[-1] if self._ends else 0) + sum(counts))
        return bisect.bisect_right(self._ends, n)

    def _members(self, epoch: int, group: int) -> list[int]:
        order = np.random.default_rng((*self.seed, epoch)).permutation(len(self.shards))
        return [self.shards[k] for k in order[group * self.together : (group + 1) * self.together]]

    @functools.cached_property
    def _samples(self) -> Any:
        @functools.lru_cache(2)
        def samples(epoch: int, group: int) -> np.ndarray:
            pairs = [(shard, row) for shard in self._members(epoch, group) for row in range(self.index.samples(shard))]
            return np.random.default_rng((*self.seed, epoch, group)).permutation(np.array(pairs, np.int64).reshape(-1, 2))

        return samples

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_samples"}
