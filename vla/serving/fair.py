"""A queue that is fair between clients: round-robin over owners, and over the streams of each owner."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """A FIFO queue per stream. The thousand items of one owner delay the single item of another by one position."""

    def __init__(self) -> None:
        self._lines: dict[str, dict[str, deque[Item]]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, owner: str, stream: str, item: Item) -> None:
        self._lines.setdefault(owner, {}).setdefault(stream, deque()).append(item)
        self._size += 1

    def pop(self) -> Item:
        """Removes and returns the next item. Raises IndexError if the queue is empty."""
        if not self._size:
            raise IndexError("the queue is empty")
        owner, streams = next(iter(self._lines.items()))
        stream, line = next(iter(streams.items()))
        item = line.popleft()
        # Owner and stream move to the end, or leave with their last item.
        del self._lines[owner], streams[stream]
        if line:
            streams[stream] = line
        if streams:
            self._lines[owner] = streams
        self._size -= 1
        return item

    def remove(self, owner: str, stream: str, item: Item) -> bool:
        """Removes an item; returns False if it has left the queue already."""
        line = self._lines.get(owner, {}).get(stream, deque())
        if item not in line:
            return False
        line.remove(item)
        self._size -= 1
        if not line:
            del self._lines[owner][stream]
            if not self._lines[owner]:
                del self._lines[owner]
        return True
