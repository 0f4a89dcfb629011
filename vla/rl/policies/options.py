"""The `policy` part of a run's options."""

from __future__ import annotations

import dataclasses
from typing import Literal

from vla.errors import UserError


@dataclasses.dataclass(frozen=True)
class PoolerOptions:
    """The network between a model's states and the head, see `vla.promptable.pooler`.

    Attributes:
        kind: attention is the paper's transformer with one learned query; mean averages the states.
        width: width of the transformer, a multiple of `heads`.
        heads: number of attention heads.
        hidden: width of the transformer's feed-forward layers.
        out: number of values that the head gets; also the width of the network for pixels.
    """

    kind: Literal["attention", "mean"] = "attention"
    width: int = 512
    heads: int = 2
    hidden: int = 512
    out: int = 128

    def __post_init__(self) -> None:
        if min(self.width, self.heads, self.hidden, self.out) < 1 or self.width % self.heads:
            raise UserError(f"{self}", "pooler", "give positive numbers, and a width that is a multiple of heads")


@dataclasses.dataclass(frozen=True)
class PolicyOptions:
    """The network that learns.

    Attributes:
        pooler: the network between states and head.
        net: widths of the head's hidden layers (PR2L: one layer of 128).
        chunk: number of actions that a head learned from data predicts at a time, and that are executed before the next call.
    """

    pooler: PoolerOptions = dataclasses.field(default_factory=PoolerOptions)
    net: list[int] = dataclasses.field(default_factory=lambda: [128])
    chunk: int = 2

    def __post_init__(self) -> None:
        if self.chunk < 1 or min(self.net, default=1) < 1:
            raise UserError(f"chunk {self.chunk} and net {self.net}", "policy", "give positive numbers")

    def head(self, mix: int) -> dict[str, object]:
        """Returns the arguments of `vla.promptable.head.Head` except for its sizes.

        Args:
            mix: number of layers of the states that are combined by learned weights.
        """
        p = self.pooler
        pooler = {"pooler": p.kind, "width": p.width, "heads": p.heads, "hidden": p.hidden, "pooled": p.out, "mix": mix}
        return {**pooler, "net": self.net}
