"""Key maps of a contract: translate observations to and from the message keys of other projects.

A map names the content of each message key: a camera's name, "instruction", "state", or a part of the state, "state[0:7]".
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from vla.contract import PolicyContract
from vla.errors import ContractMismatch
from vla.observation import Observation
from vla.protocols.wire import Json, decode_array

PART = re.compile(r"state\[(\d+):(\d+)\]")


class KeyMaps:
    """The key maps of a contract's embodiments, read once for all messages."""

    def __init__(self, contract: PolicyContract):
        self._maps = [
            (name, protocol, {_our_key(key): (field, PART.fullmatch(field)) for key, field in keys.items()}, keys)
            for name, embodiment in contract.embodiments.items()
            for protocol, keys in embodiment.keys.items()
        ]

    def to_request(self, message: dict[Any, Any]) -> dict[Any, Any]:
        """The message under our own field names. It is translated by the key map that shares most keys with it, if any.

        Raises:
            ContractMismatch: the message lacks keys of that map.
        """
        if "prompt" in message and "instruction" not in message:
            message = {"instruction" if key == "prompt" else key: value for key, value in message.items()}
        if "images" in message or not self._maps:
            return message
        embodiment, protocol, fields, keys = max(self._maps, key=lambda m: (len(m[2].keys() & message.keys()), -len(m[2])))
        if not message.keys() & (fields.keys() - {"instruction"}):
            return message
        if not fields.keys() <= message.keys():
            missing = ", ".join(key for key in keys if _our_key(key) not in message)
            received = ", ".join(str(key)[:60] for key in message)
            raise ContractMismatch(
                f"{missing} missing, got {received}", "message", f"send the keys of {protocol}: {', '.join(keys)}"
            )
        images: dict[str, Any] = {}
        request: dict[Any, Any] = {"images": images, "embodiment": embodiment}
        parts: dict[int, list[float]] = {}
        for key, value in message.items():
            field, part = fields.get(key, (None, None))
            if field is None:
                request[key] = value
            elif part:
                parts[int(part[1])] = _numbers(value, int(part[2]) - int(part[1]), key)
            else:
                (request if field in ("state", "instruction") else images)[field] = value
        if parts:
            request["state"] = [number for start in sorted(parts) for number in parts[start]]
        return request


def to_message(observation: Observation, keys: dict[str, str]) -> dict[str, Any]:
    """The observation under the keys of a map, the inverse of `KeyMaps.to_request`."""
    state = np.asarray(observation.state)
    values = {"state": state, "instruction": observation.instruction, **observation.images}

    def value(field: str) -> np.ndarray | str:
        match = PART.fullmatch(field)
        return state[int(match[1]) : int(match[2])] if match else values[field]

    return {key: value(field) for key, field in keys.items()}


def _our_key(key: str) -> str:
    return "instruction" if key == "prompt" else key


def _numbers(value: float | list[float] | np.ndarray | dict[str, Json], count: int, key: str) -> list[float]:
    """A part of the state as a list. A single number need not be in a list."""
    if isinstance(value, dict):
        value = decode_array(value, key)
    if isinstance(value, np.ndarray):
        value = value.reshape(-1).tolist()
    value = value if isinstance(value, list) else [value]
    if len(value) != count:
        raise ContractMismatch(f"{len(value)} numbers", str(key), f"send {count}")
    return value
