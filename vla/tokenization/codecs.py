"""The codecs by name: builds the codec of a contract, and fits its settings on data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from vla.contract import Embodiment, PolicyContract, StatisticOption
from vla.errors import UserError
from vla.space import Space
from vla.tokenization.base import ActionCodec
from vla.tokenization.bins import Levels, OpenVLABins, QuantileBins, UniformBins
from vla.tokenization.fast import Fast
from vla.tokenization.fast_codec import FastCodec, scaled, scaling
from vla.tokenization.steps import NumberCodec, StepCodec

SETTINGS: dict[str, dict[str, Any]] = {
    "uniform": {},
    "quantile": {"edges": None},
    "openvla": {"raw": ("gripper",)},
    "language-table": {},
    "numbers": {"lowest": 0, "highest": 1000},
    "fast": {"scale": 10, "vocab_size": 1024, "range": "limits", "folder": "", "offset": None, "bpe": None},
}
"""The settings in `codec_args` of each codec, with defaults; None is fitted on data."""


def settings(contract: PolicyContract) -> dict[str, Any]:
    """The codec's settings; UserError for an unknown codec or setting."""
    if contract.codec not in SETTINGS:
        raise UserError(f"unknown codec {contract.codec!r}", "contract", f"one of {', '.join(SETTINGS)}")
    known = SETTINGS[contract.codec]
    if unknown := contract.codec_args.keys() - known.keys():
        raise UserError(
            f"codec {contract.codec} has no {', '.join(sorted(unknown))}",
            "contract codec_args",
            f"it has {', '.join(known) or 'none'}",
        )
    return {**known, **contract.codec_args}


def action_codec(contract: PolicyContract, name: str = "") -> ActionCodec:
    """The contract's codec for the actions of the named embodiment.

    Raises:
        UserError: the codec or a setting is unknown, or a setting has not been fitted on data.
    """
    args, space = settings(contract), contract.embodiment(name).action
    missing = [key for key in ("edges", "bpe") if key in args and args[key] is None]
    if missing:
        raise UserError(f"codec {contract.codec} lacks {missing[0]}", "contract codec_args", "`vla fit` fits it on the data")
    shape = (contract.chunk, contract.terminate)
    if contract.codec == "fast":
        return FastCodec(space, *shape, Fast.from_dict(args), args["range"])
    if contract.codec == "numbers":
        return NumberCodec(Levels(space, args["highest"] - args["lowest"] + 1), args["lowest"], *shape)
    if contract.codec == "quantile":
        return StepCodec(QuantileBins(space, args["edges"][name or next(iter(contract.embodiments))]), *shape)
    if contract.codec == "openvla":
        return StepCodec(OpenVLABins(space, _raw(space, args["raw"])), *shape)
    return StepCodec(UniformBins(space, contract.bins) if contract.codec == "uniform" else Levels(space, 21), *shape)


def _raw(space: Space, raw: str | list[str]) -> list[str]:
    """The dimensions that OpenVLA's bins do not scale: those named, or with "mask" those that the statistics' mask leaves out."""
    if raw != "mask":
        return [name for name in raw if name in space.names]
    if "mask" not in space.statistics:
        raise UserError("the statistics have no mask", "contract codec_args.raw", "name the dimensions that are not scaled")
    return [name for name, scaled in zip(space.names, space.statistics["mask"], strict=True) if not scaled]


def state_codec(contract: PolicyContract, embodiment: Embodiment) -> UniformBins:
    """The bins by which the state enters the prompt, of equal width."""
    return UniformBins(embodiment.state, contract.bins)


def has_ordinal(contract: PolicyContract, codecs: Iterable[ActionCodec]) -> bool:
    """Whether an action answer has ordinal tokens, in its plan or in a chunk of one of the embodiments' codecs."""
    return not {"where", "reach"}.isdisjoint(contract.plan) or any(any(codec.ordinal()) for codec in codecs)


def no_ordinal(contract: PolicyContract) -> UserError:
    """The error for a statistic that needs ordinal tokens when there are none."""
    return UserError(
        f"decode is {contract.decode}, but no action token is ordinal: codec {contract.codec} writes digits or pieces, or its "
        "dimensions are constant or have two values",
        "contract.decode",
        "use mode, or another codec",
    )


def with_statistic(contract: PolicyContract, decode: StatisticOption) -> PolicyContract:
    """The contract with another `decode`; "" chooses the median if any token is ordinal (see docs/decoding.md).

    Raises:
        UserError: the statistic is not the mode, and no action token is ordinal.
    """
    ordinal = has_ordinal(contract, (action_codec(contract, name) for name in contract.embodiments))
    changed = dataclasses.replace(contract, decode=decode or ("median" if ordinal else "mode"))
    if changed.decode != "mode" and not ordinal:
        raise no_ordinal(changed)
    return changed


def fitted(contract: PolicyContract, chunks: Callable[[str], np.ndarray]) -> PolicyContract:
    """The contract with its codec's settings fitted on data: quantile edges, or FAST's encoding.

    Args:
        contract: the contract as configured.
        chunks: embodiment -> chunks [N, T, A] in physical units; called only if they are needed.
    """
    args = settings(contract)
    if args.get("edges", ...) is None:
        edges = {
            name: QuantileBins.fit(embodiment.action, chunks(name)[:, 0], contract.bins)
            for name, embodiment in contract.embodiments.items()
        }
        fit = {"edges": edges}
    elif args.get("bpe", ...) is None:
        fast = Fast.load(args["folder"]) if args["folder"] else _fit_fast(contract, args, chunks)
        # The contract holds the whole encoding, so it does not depend on the folder.
        fit = fast.to_dict() | {"vocab_size": fast.size}
    else:
        return contract
    given = {key: value for key, value in contract.codec_args.items() if key != "folder"}
    return dataclasses.replace(contract, codec_args={**given, **fit})


def _fit_fast(contract: PolicyContract, args: dict[str, Any], chunks: Callable[[str], np.ndarray]) -> Fast:
    def scaled_chunks():
        for name, embodiment in contract.embodiments.items():
            space = embodiment.action
            yield from scaled(space.settled(chunks(name)), *scaling(space, args["range"]))

    return Fast.fit(scaled_chunks(), contract.chunk, args["scale"], args["vocab_size"])
