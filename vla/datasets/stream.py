"""Streamed image-text data: tar shards of unknown size at any address, read one after the other."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Callable, Sequence

import numpy as np

from vla.datasets.index import ShardIndex
from vla.datasets.questions import QuestionRecord, QuestionSource, parse_questions
from vla.datasets.remote import NAME, RemoteFolder
from vla.datasets.samples import Images
from vla.datasets.shards import decode_jpeg
from vla.datasets.sources import Order
from vla.errors import Unreadable, UserError


class QuestionStream(QuestionSource):
    """Image-text shards in webdataset's format, without a card: questions with answers, or captions.

    webdataset expands and opens the addresses (https, s3, gs, hf, pipe:COMMAND, a path). A shard is fetched when it is due, into
    a local cache of bounded size, and indexed. The index stays when the shard is evicted, so a resumed run finds its position
    at once. If the cache folder was deleted, the shards before that position are fetched again.

    A few shards at a time are shuffled together. The last `holdout` share of the shards (at least one) is for validation.

    Args:
        urls: addresses; {000000..000331} is expanded.
        images: camera -> member with its image, e.g. {front: jpg}. Other cameras have no image.
        text: the member with the text: "json" with `questions` as in our own shards, or plain text.
        question: the question that a plain text answers.
        kwargs: settings of any source, except `cache`, `max_samples` and `warmup_samples`.
    """

    card = None  # type: ignore[assignment]

    def __init__(
        self,
        urls: str | list[str],
        images: dict[str, str],
        weight: float = 1.0,
        loss_weight: float = 1.0,
        text: str = "json",
        question: str = "what is in the picture",
        **kwargs,
    ):
        super().__init__(str(urls), weight, loss_weight, **kwargs)
        if self.cache or self.max_samples or self.warmup_samples:
            raise UserError(
                "cache, max_samples or warmup_samples of a stream", str(urls), "they need data of known size: leave them out"
            )
        if not images:
            raise UserError("no images", str(urls), "name a camera's member, e.g. {front: jpg}")
        self.urls, self.members, self.text, self.question = urls, images, text, question

    @functools.cached_property
    def index(self) -> ShardIndex:
        from webdataset.shardlists import expand_urls

        patterns = [self.urls] if isinstance(self.urls, str) else self.urls
        addresses = [str(url) for pattern in patterns for url in expand_urls(pattern)]
        if not addresses:
            raise UserError("no addresses", str(self.urls), "name at least one shard")
        folder = RemoteFolder(addresses, self.fetched, self.fetched_bytes)
        return ShardIndex(folder, dict.fromkeys(map(NAME.format, range(len(addresses)))))

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
        """The number of samples of the split. Shards that are not indexed yet are fetched."""
        return int(self._ends[-1])

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([self.index.samples(int(shard)) for shard in self._rows])

    def _locate(self, i: int) -> tuple[int, int]:
        """Shard and row of a sample, numbered as `Streamed` does or by its position in the split."""
        if i >= 1 << 32:
            return (i >> 32) - 1, i & (1 << 32) - 1
        shard = int(np.searchsorted(self._ends, i, side="right"))
        return int(self._rows[shard]), i - int(self._ends[shard - 1] if shard else 0)

    def after(self, i: int) -> int:
        """The next sample of the same shard, numbered as `Streamed` does."""
        shard, row = self._locate(i)
        return (shard + 1 << 32) | (row + 1) % self.index.samples(shard)

    def size(self, drawn: int) -> int:
        return drawn

    def questions(self, i: int) -> list[QuestionRecord]:
        return self._answerable(i)[1]

    def images(self, i: int) -> Images:
        shard, row = self._answerable(i)[0]
        data = self.index.read_at(shard, row, tuple(self.members.values()))
        return {name: decode_jpeg(data[m], self.index.where_at(shard, row, m)) for name, m in self.members.items()}

    @functools.cached_property
    def _answerable(self) -> Callable[[int], tuple[tuple[int, int], list[QuestionRecord]]]:
        @functools.lru_cache(1)
        def answerable(i: int) -> tuple[tuple[int, int], list[QuestionRecord]]:
            """Shard, row and questions of sample i. If its image has none, the next one of the shard replaces it."""
            shard, row = self._locate(i)
            count = self.index.samples(shard)
            for k in range(count):
                if questions := self._read(shard, (row + k) % count):
                    return (shard, (row + k) % count), questions
            raise UserError("no image has a question", self.index.where_at(shard, row), "write images with questions")

        return answerable

    def _read(self, shard: int, row: int) -> list[QuestionRecord]:
        data = self.index.read_at(shard, row, (self.text,))[self.text]
        where = self.index.where_at(shard, row, self.text)
        if self.text == "json":
            return parse_questions(data, where)
        try:
            return [{"type": "caption", "question": self.question, "answer": data.decode("utf-8-sig").strip()}]
        except UnicodeDecodeError as error:
            raise Unreadable(f"not UTF-8 text: {error}", where) from error


class Streamed:
    """Draws from shards in a new random order in each epoch, a few at a time shuffled together.

    A sample is numbered (shard + 1) << 32 | row: the sizes of earlier shards may be unknown.

    Args:
        shards: numbers of the shards in the index.
        index: the index, which counts the samples of a shard, fetching it if it must.
        together: number of shards that are shuffled together.
        seed: seed of the order.
    """

    def __init__(self, shards: Sequence[int], index: ShardIndex, together: int, seed: tuple[int, ...]):
        self.shards, self.index, self.together, self.seed = shards, index, together, seed
        self._groups = -(-len(shards) // together)
        self._ends: list[int] = []

    def at(self, n: int) -> tuple[int, int]:
        number = self._group(n)
        epoch, group = divmod(number, self._groups)
        shard, row = self._samples(epoch, group)[n - (self._ends[number - 1] if number else 0)]
        return epoch, (int(shard) + 1 << 32) | int(row)

    def epochs(self, n: int) -> float:
        return (self._group(n) if n else 0) / self._groups

    def _group(self, n: int) -> int:
        """The group of the n-th draw, counted over all epochs."""
        while not self._ends or n >= self._ends[-1]:
            counts = [self.index.samples(shard) for shard in self._shards(*divmod(len(self._ends), self._groups))]
            if not sum(counts) and len(self._ends) >= self._groups and not self._ends[-1]:
                raise UserError("no shard has a sample", str(self.index.folder))
            self._ends.append((self._ends[-1] if self._ends else 0) + sum(counts))
        return bisect.bisect_right(self._ends, n)

    def _shards(self, epoch: int, group: int) -> list[int]:
        order = np.random.default_rng((*self.seed, epoch)).permutation(len(self.shards))
        return [self.shards[k] for k in order[group * self.together : (group + 1) * self.together]]

    @functools.cached_property
    def _samples(self) -> Callable[[int, int], np.ndarray]:
        @functools.lru_cache(2)
        def samples(epoch: int, group: int) -> np.ndarray:
            pairs = [(shard, row) for shard in self._shards(epoch, group) for row in range(self.index.samples(shard))]
            return np.random.default_rng((*self.seed, epoch, group)).permutation(np.array(pairs, np.int64).reshape(-1, 2))

        return samples

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_samples"}
