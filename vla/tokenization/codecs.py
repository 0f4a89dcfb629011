"""Codecs: physical values <-> bins. Bins are integers from end to end and never pass through text."""

from __future__ import annotations

import numpy as np

from vla.contract import Embodiment, PolicyContract, Space
from vla.errors import UserError


class UniformCodec:
    """Even bins between the limits of each dimension, decoded to their middle (RT-2, Brohan et al. 2023, section 3.2).

    There are `bins` intervals and as many centres, so both ends of the range are within half a bin of what they decode to. A
    dimension that the space marks as constant has one legal bin and decodes to exactly its constant: even bins have no zero.

    Args:
        space: names, limits and constants of the dimensions.
        bins: intervals per dimension.
    """

    def __init__(self, space: Space, bins: int = 256):
        if bins < 2:
            raise UserError(f"{bins} bins", "codec", "give at least 2")
        self.space, self.bins = space, bins
        self.low, self.high = np.array(space.low, np.float64), np.array(space.high, np.float64)
        self.width = (self.high - self.low) / bins
        self._varies = np.array([c is None for c in space.constant], bool)
        self._constant = np.array([0.0 if c is None else c for c in space.constant], np.float64)
        self._constant_bins = self._bin(self._constant)

    def _bin(self, values: np.ndarray) -> np.ndarray:
        inside = np.clip(values, self.low, self.high)
        return np.minimum((inside - self.low) / self.width, self.bins - 1).astype(np.int64)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Values [..., A] in physical units -> bins [..., A], int64; what lies outside the limits is clipped.

        Raises:
            ContractMismatch: another length than the space's, NaN or infinity.
        """
        return np.where(self._varies, self._bin(self.space.check(values, "the value to encode")), self._constant_bins)

    def decode(self, bins: np.ndarray) -> np.ndarray:
        """Bins [..., A] -> centres [..., A] in physical units, float64; a constant dimension gives its constant.

        Raises:
            UserError: not integers, another length than the space's, a bin outside 0 to bins - 1.
        """
        bins = np.asarray(bins)
        if bins.dtype.kind not in "iu" or bins.ndim == 0 or bins.shape[-1] != self.space.size:
            raise UserError(f"bins are {bins.dtype} {bins.shape}, expected integers [..., {self.space.size}]", "codec")
        if ((bins < 0) | (bins >= self.bins)).any():
            bad = int(bins[(bins < 0) | (bins >= self.bins)][0])
            raise UserError(f"bin {bad} is outside 0 to {self.bins - 1}", "codec", "restrict decoding to action tokens")
        return np.where(self._varies, self.low + (bins + 0.5) * self.width, self._constant)

    def allowed(self, terminate: bool = True) -> list[np.ndarray]:
        """The legal integers of each token of one action step, in order: terminate (0 or 1) if asked for, then the dimensions."""
        every = np.arange(self.bins)
        dims = [every if v else np.array([b]) for v, b in zip(self._varies, self._constant_bins, strict=True)]
        return [np.array([0, 1]), *dims] if terminate else dims


CODECS = {"uniform": UniformCodec}


def action_codec(contract: PolicyContract, embodiment: Embodiment) -> UniformCodec:
    """The codec that the contract names, over the embodiment's actions; UserError for an unknown name."""
    if contract.codec not in CODECS:
        raise UserError(f"unknown codec {contract.codec!r}", "contract", f"one of {', '.join(CODECS)}")
    return CODECS[contract.codec](embodiment.action, contract.bins)


def state_codec(contract: PolicyContract, embodiment: Embodiment) -> UniformCodec:
    """How the state enters the prompt: even bins, as many as the contract has for actions."""
    return UniformCodec(embodiment.state, contract.bins)
