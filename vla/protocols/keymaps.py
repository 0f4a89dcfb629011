"""A contract's key maps: observations under other projects' keys, both ways.

A map says for each key of the message what it is: a camera's name, "instruction", "state", or a part of the state, "state[0:7]".
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from vla.contract import Embodiment, PolicyContract
from vla.errors import ContractMismatch
from vla.observation import Observation
from vla.protocols.wire import decode_array

PART = re.compile(r"state\[(\d+):(\d+)\]")


def to_request(message: dict[Any, Any], contract: PolicyContract) -> dict[Any, Any]:
    """The message under our own field names: as it is, or by the key map that most of its keys are of.

    Raises:
        ContractMismatch: keys of that map are missing.
    """
    if "prompt" in message and "instruction" not in message:
        message = {"instruction" if key == "prompt" else key: value for key, value in message.items()}
    maps = [(name, body, kind, keys) for name, body in contract.embodiments.items() for kind, keys in body.keys.items()]
    if "images" in message or not maps:
        return message

    def shared(one: tuple[str, Embodiment, str, dict[str, str]]) -> tuple[int, int]:
        keys = {_ours(key) for key in one[3]}
        return len(keys & message.keys()), -len(keys)

    name, body, kind, keys = max(maps, key=shared)
    places = {_ours(key): place for key, place in keys.items()}
    if not message.keys() & (places.keys() - {"instruction"}):
        return message
    if missing := [key for key in keys if _ours(key) not in message]:
        came = ", ".join(str(key)[:60] for key in message)
        raise ContractMismatch(f"{', '.join(missing)} missing, got {came}", "message", f"the keys of {kind}: {', '.join(keys)}")
    request: dict[Any, Any] = {"images": {}, "embodiment": name}
    parts: dict[int, Any] = {}
    for key, value in message.items():
        place = places.get(key)
        if place is None:
            request[key] = value
        elif match := PART.fullmatch(place):
            parts[int(match[1])] = _numbers(value, int(match[2]) - int(match[1]), key)
        else:
            (request if place in ("state", "instruction") else request["images"])[place] = value
    if parts:
        request["state"] = [number for start in sorted(parts) for number in parts[start]]
    return request


def to_message(observation: Observation, keys: dict[str, str]) -> dict[str, Any]:
    """The observation under the keys of a map; `to_request` reads it back."""
    state = np.asarray(observation.state)
    values = {"state": state, "instruction": observation.instruction, **observation.images}

    def value(place: str) -> Any:
        match = PART.fullmatch(place)
        return state[int(match[1]) : int(match[2])] if match else values[place]

    return {key: value(place) for key, place in keys.items()}


def _ours(key: str) -> str:
    return "instruction" if key == "prompt" else key


def _numbers(value: Any, count: int, key: str) -> list[Any]:
    """A part of the state as a list; a single number may come bare."""
    if isinstance(value, dict):
        value = decode_array(value, key)
    if isinstance(value, np.ndarray):
        value = value.reshape(-1).tolist()
    value = value if isinstance(value, list) else [value]
    if len(value) != count:
        raise ContractMismatch(f"{len(value)} numbers", str(key), f"send {count}")
    return value
