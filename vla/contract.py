"""PolicyContract: everything that training, evaluation and serving must agree on.

It is part of every checkpoint and export, shown by the server on connect, and checked by whatever loads a policy. Numpy only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from vla.errors import ContractMismatch, UserError

SCHEMA = 3
YOUNGER: dict[int, dict[str, Any]] = {
    2: {"codec_args": {}, "tokens": "integers", "chat": False, "block": "none", "words": 16},
    3: {"decode": "mode"},
}
"""Fields that came with a later schema, with the values at which a contract means, and hashes to, what it did without them."""
PLANS = ("words", "where", "reach")
Mode = Literal["act", "think", "follow"]
"""What becomes of the plan: it is left out, the model writes it, or it stands in the prompt."""
BLOCKS = ("none", "causal", "bidirectional")
Statistic = Literal["mode", "median", "local-mean"]
"""Of the distribution over an ordinal token's values: the likeliest value; the value at which half of the probability is reached;
the mean of the mode's neighbourhood."""
StatisticOption = Literal["", "mode", "median", "local-mean"]
"""The same as an option, which may be left out."""

TWO_VALUED = 1e-4
"""How far a variance may stay below that of two values, for rounding."""


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera: its name and the size (pixels) of the pictures the policy was trained on; pictures are upright RGB."""

    name: str
    height: int
    width: int
    orientation: Literal["upright"] = "upright"


@dataclasses.dataclass(frozen=True)
class Space:
    """A vector space: names, units and limits per dimension, all of the same length, in order.

    Attributes:
        constant: a dimension that never varied in the data holds its value here and decodes to exactly that; else None.
        statistics: mean, std, min, max, q01, q99 over the training data, each of the same length; for people and converters,
            the codec uses low and high.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    constant: tuple[float | None, ...] = ()
    statistics: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not self.constant:
            object.__setattr__(self, "constant", (None,) * len(self.names))
        for field in ("units", "low", "high", "constant"):
            if len(getattr(self, field)) != len(self.names):
                raise UserError(f"{field} has {len(getattr(self, field))} entries for {len(self.names)} names", "contract space")
        for name, low, high in zip(self.names, self.low, self.high, strict=True):
            if not (np.isfinite(low) and np.isfinite(high) and low < high):
                raise UserError(f"{name} has limits {low} to {high}", "contract space", "give finite limits, low below high")

    @property
    def size(self) -> int:
        return len(self.names)

    def binary(self) -> np.ndarray:
        """Which dimensions had two values in the data, their ends, [size] bool; none where there are no statistics.

        Of all distributions between two ends with a given mean, those with two values have the largest variance, (max - mean)
        (mean - min), and no other has (Bhatia and Davis 2000).
        """
        if not {"mean", "std", "min", "max"} <= self.statistics.keys():
            return np.zeros(self.size, bool)
        mean, std, low, high = (np.array(self.statistics[name]) for name in ("mean", "std", "min", "max"))
        return (high > low) & (std**2 >= (1 - TWO_VALUED) * (high - mean) * (mean - low))

    def check(self, value: np.ndarray, what: str) -> np.ndarray:
        """The value as float64 of shape [..., size]; ContractMismatch for a wrong length or a value that is not finite."""
        value = np.asarray(value, np.float64)
        if value.ndim == 0 or value.shape[-1] != self.size:
            raise ContractMismatch(f"{what} has shape {value.shape}, expected {self.size} values: {', '.join(self.names)}")
        if not np.isfinite(value).all():
            finite = np.isfinite(value).reshape(-1, self.size)
            bad = [name for i, name in enumerate(self.names) if not finite[:, i].all()]
            raise ContractMismatch(f"{what} holds NaN or infinity in {', '.join(bad)}")
        return value


@dataclasses.dataclass(frozen=True)
class Embodiment:
    """One robot as the policy knows it: what it sees, its state and its actions.

    Attributes:
        cameras: in the order in which the model is given the pictures.
        frame: in which frame position and rotation actions are said.
        mode: whether actions are differences to the current pose or poses.
        rotation: how the rotation dimensions are to be read.
        gripper: what the ends of the gripper dimension mean.
        control_hz: actions per second.
        keys: a client dialect (e.g. "openpi-libero") -> {its observation key: a camera's name, "instruction", "state", or a part
            of the state, "state[0:7]"}.
    """

    cameras: tuple[Camera, ...]
    state: Space
    action: Space
    frame: str = "base"
    mode: Literal["delta", "absolute"] = "delta"
    rotation: str = "axis_angle"
    gripper: str = "-1 open, +1 closed"
    control_hz: float = 10.0
    keys: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContractSettings:
    """What of a contract a run chooses; the rest comes from the data.

    Attributes:
        codec: of actions: uniform, quantile, openvla, language-table, numbers or fast (`vla.tokenization.codecs`).
        codec_args: its settings, plain JSON types; what has to be known of the data is fitted on them.
        bins: per action dimension, of uniform and quantile; and of each dimension of a state.
        tokens: which tokens action symbols are (`vla.tokenization.action_tokens`): integers, overwrite, overwrite:ID or append.
        prompt: template of an action prompt, with {instruction} and, where the model reads it, {state}; the images stand at
            {images}, or before everything.
        question: template of a question prompt, with {question}, and {images} as above.
        chat: whether prompts are wrapped in the tokenizer's chat template, as the user's turn.
        normalise: what is done to an instruction before it enters the prompt: lower-strip, lower (OpenVLA's) or none.
        plan: what the model writes before its actions (embodied chain of thought, Zawalski et al. 2024), in this order: "words"
            is free text, what is meant (RT-2's `Plan:`, Brohan et al. 2023, section 4.4); "where" is two coordinate tokens, the
            named object's point in the first camera's image; "reach" is four integers, its offset from the gripper and how far
            to turn.
        words: tokens of a plan's words, their end included, at most.
        modes: how robot samples are trained: act (without the plan), think (writing it), follow (a given one); a policy acts in
            the first, and if "follow" is among them it follows a plan that an observation brings. By default ("think",) where
            there is a plan, else ("act",).
        history: images per camera, `execute` steps apart: what a policy saw at its last calls.
        chunk: actions the model writes per call.
        execute: actions of a chunk that are carried out before the model is asked again.
        crop: side factor of the centre crop applied before resizing, 1.0 is none.
        terminate: whether each action is preceded by a token that says whether the task is done.
        block: whether a chunk's tokens are written all at once, from blanks: "causal" where a blank sees those before it,
            "bidirectional" where it sees all of them; "none": one after the other.
        title: for people; not part of the hash.
    """

    codec: str = "uniform"
    codec_args: dict[str, Any] = dataclasses.field(default_factory=dict)
    bins: int = 256
    tokens: str = "integers"
    prompt: str = "Q: what action should the robot take to {instruction}? state: {state} A:"
    question: str = "Q: {question}? A:"
    chat: bool = False
    normalise: Literal["lower-strip", "lower", "none"] = "lower-strip"
    plan: tuple[Literal["words", "where", "reach"], ...] = ("where",)
    words: int = 16
    modes: tuple[Mode, ...] = ()
    history: int = 1
    chunk: int = 4
    execute: int = 2
    crop: float = 1.0
    terminate: bool = True
    block: Literal["none", "causal", "bidirectional"] = "none"
    title: str = ""


@dataclasses.dataclass(frozen=True)
class PolicyContract(ContractSettings):
    """What a policy was trained on and what it therefore expects and answers; see `ContractSettings` for what a run chooses.

    Attributes:
        embodiments: by name; the first is the default.
        decode: which statistic of the distribution over its values an ordinal token takes: the dimensions of an action that are
            no flags, the plan's coordinates and integers, answers that are places or integers.
    """

    embodiments: dict[str, Embodiment]
    decode: Statistic = "mode"
    schema: int = SCHEMA

    def __post_init__(self):
        if not isinstance(self.plan, tuple) or set(self.plan) - set(PLANS) or len(set(self.plan)) < len(self.plan):
            raise UserError(f"the plan is {self.plan}", "contract", f"each of {', '.join(PLANS)} at most once")
        if not self.modes:
            object.__setattr__(self, "modes", ("think",) if self.plan else ("act",))
        known = get_args(Mode) if self.plan else ("act",)
        if set(self.modes) - set(known) or len(set(self.modes)) < len(self.modes) or self.modes[0] == "follow":
            raise UserError(
                f"modes {', '.join(self.modes)} with plan {', '.join(self.plan) or 'none'}",
                "contract",
                f"each of {', '.join(known)} at most once; not follow first, since a policy acts in the first",
            )
        if self.block not in BLOCKS:
            raise UserError(f"block {self.block!r}", "contract", f"one of {', '.join(BLOCKS)}")
        if self.decode not in get_args(Statistic):
            raise UserError(f"decode {self.decode!r}", "contract", f"one of {', '.join(get_args(Statistic))}")
        if self.words < 2:
            raise UserError(f"words {self.words}", "contract", "give at least 2: one and the end")
        if self.history < 1:
            raise UserError(f"history {self.history}", "contract", "give at least 1 picture per camera")

    def embodiment(self, name: str = "") -> Embodiment:
        """The embodiment of that name, or the first; UserError for an unknown name."""
        if not name:
            return next(iter(self.embodiments.values()))
        if name not in self.embodiments:
            raise ContractMismatch(f"unknown embodiment {name!r}", fix=f"one of {', '.join(self.embodiments)}")
        return self.embodiments[name]

    def instruction(self, text: str) -> str:
        """The instruction as it enters the prompt: lower case; "lower-strip" also has single spaces and no closing full stop."""
        if self.normalise != "lower-strip":
            return text.lower() if self.normalise == "lower" else text
        return " ".join(text.lower().split()).rstrip(".?! ")

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, sort_keys=True)

    @property
    def hash(self) -> str:
        """SHA-256 over the canonical form of what changes behaviour (not the title, not the key maps' spelling of clients)."""
        body = self.to_dict()
        body.pop("title")
        body["schema"] = 1
        for schema, fields in YOUNGER.items():
            for name, before in fields.items():
                if body[name] == before:
                    del body[name]
                else:
                    body["schema"] = schema
        for embodiment in body["embodiments"].values():
            embodiment.pop("keys")
        canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @classmethod
    def from_dict(cls, data: dict[str, Any], where: str = "contract") -> PolicyContract:
        """Reads what `to_dict` wrote, migrating older schemas.

        Raises:
            UserError: an unknown schema, a missing or an unknown field.
        """
        if not isinstance(data, dict):
            raise UserError(
                f"not a contract: a {type(data).__name__}", where, "it must be what `contract.json` of an export holds"
            )
        data = _migrate(dict(data), where)
        try:
            embodiments = {
                name: Embodiment(
                    **{
                        **e,
                        "cameras": tuple(Camera(**c) for c in e["cameras"]),
                        "state": _space(e["state"]),
                        "action": _space(e["action"]),
                    }
                )
                for name, e in data.pop("embodiments").items()
            }
            data |= {name: tuple(data[name]) for name in ("plan", "modes") if isinstance(data.get(name), list)}
            return cls(embodiments=embodiments, **data)
        except (TypeError, KeyError, AttributeError) as error:
            raise UserError(f"not a contract: {error}", where, "it must be what `contract.json` of an export holds") from error

    @classmethod
    def load(cls, path: str | Path) -> PolicyContract:
        """Reads contract.json at `path`, or in the folder `path`."""
        path = Path(path)
        file = path / "contract.json" if path.is_dir() else path
        if not file.is_file():
            raise UserError("no contract found", str(file), "a policy folder written by `vla export` has one")
        try:
            return cls.from_dict(json.loads(file.read_text()), str(file))
        except json.JSONDecodeError as error:
            raise UserError(f"not JSON: {error}", str(file)) from error

    def save(self, folder: str | Path) -> None:
        """Writes contract.json into the folder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "contract.json").write_text(self.to_json() + "\n")

    def require(self, other: PolicyContract, mine: str, theirs: str) -> None:
        """Refuses another contract, naming both hashes and the first fields that differ.

        Raises:
            ContractMismatch: the hashes differ.
        """
        if self.hash == other.hash:
            return
        differences = list(_differences(self.to_dict(), other.to_dict()))[:5]
        lines = "; ".join(f"{path}: {_short(a)} against {_short(b)}" for path, a, b in differences)
        raise ContractMismatch(
            f"the contract of {mine} ({self.hash[:12]}) is not that of {theirs} ({other.hash[:12]}): {lines}",
            fix="use the data and configuration the policy was trained with, or start a new run",
        )


def _space(data: dict[str, Any]) -> Space:
    data = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    data["statistics"] = {k: tuple(v) for k, v in data.get("statistics", {}).items()}
    return Space(**data)


def _migrate(data: dict[str, Any], where: str) -> dict[str, Any]:
    schema = data.get("schema")
    if schema in range(1, SCHEMA + 1):
        if isinstance(data.get("plan"), str):
            # Before a plan could have several parts.
            data["plan"] = [] if data["plan"] == "none" else [data["plan"]]
        # What an earlier schema lacks has the value that it stood for.
        return {**data, "schema": SCHEMA}
    raise UserError(f"contract schema {schema!r} is not known (this version writes {SCHEMA})", where, "upgrade vla")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:199]}…"


def _differences(a: Any, b: Any, path: str = ""):
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            if path == "" and key == "title":
                continue
            yield from _differences(a.get(key), b.get(key), f"{path}.{key}" if path else key)
    elif a != b:
        yield path, a, b
