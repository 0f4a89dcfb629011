"""The codecs by name: from a contract to its codec, and from data to what a codec has to know of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from vla.contract import Embodiment, PolicyContract, StatisticOption
from vla.errors import UserError
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
"""What `codec_args` may say for each codec, and what holds otherwise; None is fitted on data."""


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
    """The codec that the contract names, over the actions of the embodiment of that name.

    Raises:
        UserError: an unknown codec or setting, or what should have been fitted on data was not.
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
        return StepCodec(OpenVLABins(space, [n for n in args["raw"] if n in space.names]), *shape)
    return StepCodec(UniformBins(space, contract.bins) if contract.codec == "uniform" else Levels(space, 21), *shape)


def state_codec(contract: PolicyContract, embodiment: Embodiment) -> UniformBins:
    """How the state enters the prompt: even bins."""
    return UniformBins(embodiment.state, contract.bins)


def has_ordinal(contract: PolicyContract, codecs: Iterable[ActionCodec]) -> bool:
    """Whether an action answer has ordinal tokens: in its plan, or in a chunk of one of its embodiments' codecs."""
    return not {"where", "reach"}.isdisjoint(contract.plan) or any(any(codec.ordinal()) for codec in codecs)


def no_ordinal(contract: PolicyContract) -> UserError:
    """The refusal of a statistic that nothing has."""
    return UserError(
        f"decode is {contract.decode}, but no action token is ordinal: codec {contract.codec} writes digits or pieces, or its "
        "dimensions are constant or have two values",
        "contract.decode",
        "mode, or another codec",
    )


def with_statistic(contract: PolicyContract, decode: StatisticOption) -> PolicyContract:
    """The contract with another `decode`; "" takes the median where anything is ordinal (docs/decoding.md says why).

    Raises:
        UserError: another statistic than the mode, and no action token is ordinal.
    """
    ordinal = has_ordinal(contract, (action_codec(contract, name) for name in contract.embodiments))
    changed = dataclasses.replace(contract, decode=decode or ("median" if ordinal else "mode"))
    if changed.decode != "mode" and not ordinal:
        raise no_ordinal(changed)
    return changed


def fitted(contract: PolicyContract, chunks: Callable[[str], np.ndarray]) -> PolicyContract:
    """The contract with all that its codec has to know of the data: quantile edges, FAST's encoding.

    Args:
        contract: as it was chosen.
        chunks: embodiment -> chunks [N, T, A] in physical units, called only where they are needed.
    """
    args = settings(contract)
    if args.get("edges", ...) is None:
        found = {name: chunks(name)[:, 0] for name in contract.embodiments}
        spaces = {name: embodiment.action for name, embodiment in contract.embodiments.items()}
        fit = {"edges": {name: QuantileBins.fit(spaces[name], values, contract.bins) for name, values in found.items()}}
    elif args.get("bpe", ...) is None:
        fast = Fast.load(args["folder"]) if args["folder"] else _fit_fast(contract, args, chunks)
        # All that the codec is goes into the contract; where it came from does not.
        fit = fast.to_dict() | {"vocab_size": fast.size}
    else:
        return contract
    kept = {key: value for key, value in contract.codec_args.items() if key != "folder"}
    return dataclasses.replace(contract, codec_args={**kept, **fit})


def _fit_fast(contract: PolicyContract, args: dict[str, Any], chunks: Callable[[str], np.ndarray]) -> Fast:
    def every():
        for name, embodiment in contract.embodiments.items():
            space = embodiment.action
            constant = [0.0 if c is None else c for c in space.constant]
            values = np.where([c is None for c in space.constant], chunks(name), constant)
            yield from scaled(values, *scaling(space, args["range"]))

    return Fast.fit(every(), contract.chunk, args["scale"], args["vocab_size"])
