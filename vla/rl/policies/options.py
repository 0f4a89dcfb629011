"""The `policy` part of a run's options."""

from __future__ import annotations

import dataclasses
from typing import Literal

from vla.errors import UserError


@dataclasses.dataclass(frozen=True)
class PoolerOptions:
    """The network between a model's states and the head; see `vla.promptable.pooler`. `out` is an image network's width too."""

    kind: Literal["attention", "mean"] = "attention"
    width: int = 512
    heads: int = 2
    hidden: int = 512
    out: int = 128

    def __post_init__(self) -> None:
        if min(self.width, self.heads, self.hidden, self.out) < 1 or self.width % self.heads:
            raise UserError(f"{self}", "pooler", "positive numbers, the width a multiple of the heads")


@dataclasses.dataclass(frozen=True)
class PolicyOptions:
    """What learns.

    Attributes:
        pooler: the network between states and head.
        net: widths of the head's hidden layers (PR2L: one of 128).
        chunk: actions that a head trained on data predicts at a time, and that are executed before the next prediction.
    """

    pooler: PoolerOptions = dataclasses.field(default_factory=PoolerOptions)
    net: list[int] = dataclasses.field(default_factory=lambda: [128])
    chunk: int = 2

    def __post_init__(self) -> None:
        if self.chunk < 1 or min(self.net, default=1) < 1:
            raise UserError(f"chunks of {self.chunk}, net {self.net}", "policy", "chunks of one at least, no layer empty")

    def head(self, mix: int) -> dict[str, object]:
        """Arguments of `vla.promptable.head.Head` but for its sizes.

        Args:
            mix: layers of the states that are weighted into one.
        """
        p = self.pooler
        pooler = {"pooler": p.kind, "width": p.width, "heads": p.heads, "hidden": p.hidden, "pooled": p.out, "mix": mix}
        return {**pooler, "net": self.net}
