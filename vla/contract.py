"""The policy contract: everything that training, evaluation and serving must agree on.

Every checkpoint and export contains it, a server sends it on connecting, and loading a policy checks it. Numpy only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from vla.errors import ContractMismatch, UserError
from vla.space import Space

Json = str | int | float | bool | None | list["Json"] | tuple["Json", ...] | dict[str, "Json"]
SCHEMA = 5
NEW_FIELDS: dict[int, dict[str, Any]] = {
    2: {"codec_args": {}, "tokens": "integers", "chat": False, "block": "none", "words": 16},
    3: {"decode": "mode"},
    5: {"text_encoder": ""},
}
"""Schema -> fields it added, with the values that mean the same as no such field; the hash leaves those out. Schema 4 added
`Space.binary`."""
PLANS = ("words", "where", "reach")
Mode = Literal["act", "think", "follow"]
"""What is done with the plan: it is left out, the model writes it, or it is given in the prompt."""
BLOCKS = ("none", "causal", "bidirectional")
Statistic = Literal["mode", "median", "local-mean"]
"""The statistic of the distribution over an ordinal token's values: the likeliest value, the value at which the cumulative
probability reaches one half, or the mean of the mode's neighbourhood."""
StatisticOption = Literal["", "mode", "median", "local-mean"]
"""The same for an option of a command; "" if it is not given."""


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera: its name, and the size (pixels) and orientation of the RGB images the policy was trained on.

    Attributes:
        orientation: "upright"; or "mirrored": upright, and left and right exchanged, as published policies see LIBERO.
    """

    name: str
    height: int
    width: int
    orientation: Literal["upright", "mirrored"] = "upright"


@dataclasses.dataclass(frozen=True)
class Embodiment:
    """One robot as the policy sees it: cameras, state and actions.

    Attributes:
        cameras: the cameras, in the order in which the model gets their images.
        frame: the coordinate frame of position and rotation actions.
        mode: whether actions are differences to the current pose (delta) or poses (absolute).
        rotation: the representation of rotation dimensions.
        gripper: the meaning of the limits of the gripper dimension.
        control_hz: actions per second.
        keys: name of a key map (e.g. "openpi-libero") -> {key of an observation: a camera's name, "instruction", "state", or a
            part of the state, "state[0:7]"}.
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
    """The part of a contract that a run chooses; the rest comes from the data.

    Attributes:
        codec: the action codec: uniform, quantile, openvla, language-table, numbers or fast (`vla.tokenization.codecs`).
        codec_args: settings of the codec, as plain JSON types. Values that depend on the data are fitted to it.
        bins: number of bins per action dimension (uniform and quantile), and per state dimension.
        tokens: the tokens that stand for actions (`vla.tokenization.action_tokens`): integers, overwrite, overwrite:ID or append.
        prompt: template of an action prompt, with {instruction} and, if the model gets the state, {state}. The images are
            inserted at {images}, or before the text.
        question: template of a question prompt, with {question}, and {images} as above.
        chat: whether prompts are wrapped in the tokenizer's chat template, as the user's turn.
        normalise: normalisation of instructions in the prompt: lower-strip, lower (as OpenVLA) or none.
        plan: what the model writes before its actions (embodied chain of thought, Zawalski et al. 2024), in this order: "words"
            is free text (RT-2's `Plan:`, Brohan et al. 2023, section 4.4); "where" is two coordinate tokens, the point of the
            named object in the first camera's image; "reach" is four integers, the object's offset from the gripper and the
            angle to turn.
        words: maximum number of tokens of a plan's words, including the end token.
        modes: how robot samples are trained: act (without a plan), think (the model writes it) or follow (a given one). A policy
            acts in the first mode; with "follow" among the modes, it follows the plan of an observation that has one. The
            default is ("think",) with a plan and ("act",) without.
        history: number of images per camera, `execute` steps apart, which are those of the policy's last calls.
        chunk: number of actions the model writes per call.
        execute: number of actions of a chunk to execute before the next call.
        crop: side factor of the centre crop before resizing; 1.0 does not crop.
        terminate: whether a token before each action says that the task is done.
        block: whether the tokens of a chunk are written at once from blanks: "causal" if a blank attends to earlier blanks,
            "bidirectional" if it attends to all; "none" writes one token after the other.
        title: a title for people; not part of the hash.
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
    """What a policy expects and answers. See `ContractSettings` for the part that a run chooses.

    Attributes:
        embodiments: name -> embodiment; the first is the default.
        decode: the statistic of its distribution that an ordinal token takes. Ordinal are action dimensions that are not
            flags, coordinates and integers of the plan, and answers that are points or integers.
        text_encoder: name of the frozen encoder that reads instructions and questions, and the beginning of its weights' SHA-256;
            "" is none: the language model reads them itself.
        schema: version of the format.
    """

    embodiments: dict[str, Embodiment]
    decode: Statistic = "mode"
    text_encoder: str = ""
    schema: int = SCHEMA

    def __post_init__(self):
        if not isinstance(self.plan, tuple) or set(self.plan) - set(PLANS) or len(set(self.plan)) < len(self.plan):
            raise UserError(f"the plan is {self.plan}", "contract", f"give each of {', '.join(PLANS)} at most once")
        if not self.modes:
            object.__setattr__(self, "modes", ("think",) if self.plan else ("act",))
        known = get_args(Mode) if self.plan else ("act",)
        if set(self.modes) - set(known) or len(set(self.modes)) < len(self.modes) or self.modes[0] == "follow":
            raise UserError(
                f"modes {', '.join(self.modes)} with plan {', '.join(self.plan) or 'none'}",
                "contract",
                f"give each of {', '.join(known)} at most once, and not follow first: a policy acts in the first mode",
            )
        if self.block not in BLOCKS:
            raise UserError(f"block {self.block!r}", "contract", f"give one of {', '.join(BLOCKS)}")
        if self.decode not in get_args(Statistic):
            raise UserError(f"decode {self.decode!r}", "contract", f"give one of {', '.join(get_args(Statistic))}")
        if self.words < 2:
            raise UserError(f"words {self.words}", "contract", "give at least 2: one token and the end token")
        if self.history < 1:
            raise UserError(f"history {self.history}", "contract", "give at least 1 image per camera")

    def embodiment(self, name: str = "") -> Embodiment:
        """Returns the embodiment of that name; "" is the first. Raises ContractMismatch for an unknown name."""
        if not name:
            return next(iter(self.embodiments.values()))
        if name not in self.embodiments:
            raise ContractMismatch(f"unknown embodiment {name!r}", fix=f"use one of {', '.join(self.embodiments)}")
        return self.embodiments[name]

    def instruction(self, text: str) -> str:
        """Returns the normalised instruction: lower case; "lower-strip" also removes extra spaces and the final full stop."""
        if self.normalise != "lower-strip":
            return text.lower() if self.normalise == "lower" else text
        return " ".join(text.lower().split()).rstrip(".?! ")

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of contract.json."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Returns contract.json as text."""
        return json.dumps(self.to_dict(), indent=1, sort_keys=True)

    @property
    def hash(self) -> str:
        """SHA-256 of the fields that change behaviour, in canonical form: without the title and the key maps."""
        content = self.to_dict()
        content.pop("title")
        content["schema"] = 1
        for schema, fields in NEW_FIELDS.items():
            for name, default in fields.items():
                if content[name] == default:
                    del content[name]
                else:
                    content["schema"] = schema
        for embodiment in content["embodiments"].values():
            embodiment.pop("keys")
            for space in (embodiment["state"], embodiment["action"]):
                if any(space["binary"]):
                    content["schema"] = max(4, content["schema"])
                else:
                    del space["binary"]
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @classmethod
    def from_dict(cls, data: dict[str, Any], where: str = "contract") -> PolicyContract:
        """Reads what `to_dict` returned, also with older schemas.

        Raises:
            UserError: the schema is unknown, or a field is missing or unknown.
        """
        if not isinstance(data, dict):
            raise UserError(f"not a contract: a {type(data).__name__}", where, "give the content of an export's contract.json")
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
            raise UserError(f"not a contract: {error}", where, "give the content of an export's contract.json") from error

    @classmethod
    def load(cls, path: str | Path) -> PolicyContract:
        """Reads the file `path`, or contract.json in the folder `path`."""
        path = Path(path)
        file = path / "contract.json" if path.is_dir() else path
        if not file.is_file():
            raise UserError("no contract found", str(file), "give a folder written by `vla export`")
        try:
            return cls.from_dict(json.loads(file.read_text()), str(file))
        except json.JSONDecodeError as error:
            raise UserError(f"not JSON: {error}", str(file)) from error

    def save(self, folder: str | Path) -> None:
        """Writes contract.json into the folder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "contract.json").write_text(self.to_json() + "\n")

    def require(self, other: PolicyContract, name: str, other_name: str) -> None:
        """Checks that the other contract has the same hash.

        Raises:
            ContractMismatch: the hashes differ; the error has both and the first fields that differ.
        """
        if self.hash == other.hash:
            return
        differences = list(_differences(self.to_dict(), other.to_dict()))[:5]
        lines = "; ".join(f"{path}: {_short(a)} against {_short(b)}" for path, a, b in differences)
        raise ContractMismatch(
            f"the contract of {name} ({self.hash[:12]}) is not that of {other_name} ({other.hash[:12]}): {lines}",
            fix="use the data and the configuration the policy was trained with, or start a new run",
        )


def _space(data: dict[str, Any]) -> Space:
    data = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    data["statistics"] = {k: tuple(v) for k, v in data.get("statistics", {}).items()}
    data["binary"] = tuple(tuple(pair) if pair else None for pair in data.get("binary", ()))
    return Space(**data)


def _migrate(data: dict[str, Any], where: str) -> dict[str, Any]:
    schema = data.get("schema")
    if schema in range(1, SCHEMA + 1):
        if isinstance(data.get("plan"), str):
            # The schema from before a plan could have several parts.
            data["plan"] = [] if data["plan"] == "none" else [data["plan"]]
        # Fields that an earlier schema lacks get their defaults, which mean the same.
        return {**data, "schema": SCHEMA}
    raise UserError(f"contract schema {schema!r} is unknown (this version writes {SCHEMA})", where, "upgrade vla")


def _short(value: Json) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:199]}…"


def _differences(a: Json, b: Json, path: str = "") -> Iterator[tuple[str, Json, Json]]:
    """Yields the path and both values of each field that differs."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            if path == "" and key == "title":
                continue
            yield from _differences(a.get(key), b.get(key), f"{path}.{key}" if path else key)
    elif a != b:
        yield path, a, b
