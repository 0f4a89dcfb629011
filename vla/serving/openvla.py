"""OpenVLA's REST interface, POST /act: json_numpy arrays, plain or as JSON in JSON; OFT's whole observation and chunk too.

After vla-scripts/deploy.py of OpenVLA and of OpenVLA-OFT. Theirs answer any error with status 200 and "error"; ours do not.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from starlette.responses import JSONResponse, Response

from vla.contract import Embodiment, PolicyContract
from vla.errors import ContractMismatch, UserError
from vla.protocols.wire import encode_array, read_json
from vla.serving.clients import Client
from vla.serving.refusal import Refusal
from vla.serving.service import Service, whole

PICTURES = ("image", "full_image")
OTHERS = ("instruction", "state", "proprio", "unnorm_key")
OURS = "-1 open, +1 closed"


def speaks(message: Any) -> bool:
    """Whether this is OpenVLA's payload, and not ours."""
    return isinstance(message, dict) and any(key in message for key in ("encoded", *PICTURES))


async def answer(
    service: Service, client: Client, message: dict[str, Any], done: dict[str, Any], deadline_s: float | None
) -> Response:
    """One action for `image`, a list of them for OFT's `full_image`; the gripper is 1 open, 0 closed, as in Open X-Embodiment."""
    doubled = "encoded" in message
    payload = _unwrapped(message) if doubled else message
    got = await service.act(client, "openvla", to_request(payload, service.contract), done, deadline_s)
    actions = to_oxe(whole(got).chunk.actions, service.contract.embodiment(got.seen.embodiment))
    content: Any = [encode_array(one) for one in actions] if "full_image" in payload else encode_array(actions[0])
    return JSONResponse(json.dumps(content) if doubled else content)


def to_request(payload: dict[str, Any], contract: PolicyContract) -> dict[str, Any]:
    """The payload under our own field names.

    The picture is the first camera's. Other cameras are in keys that hold the camera's name, else in what keys with "wrist" there
    are, in order. `unnorm_key` is an embodiment's name. A policy whose prompt has no state needs none.
    """
    name = payload.get("unnorm_key") or ""
    if name not in ("", *contract.embodiments):
        raise ContractMismatch(
            f"unknown {str(name)[:60]!r}", "unnorm_key", f"leave it out, or one of {', '.join(contract.embodiments)}"
        )
    body = contract.embodiment(name)
    first, *rest = [camera.name for camera in body.cameras]
    images = {first: next(payload[key] for key in PICTURES if key in payload)}
    free = [key for key in payload if key not in (*PICTURES, *OTHERS)]
    for camera in rest:
        found = next((k for k in free if camera in k), None) or next((k for k in free if "wrist" in k), None)
        if found is not None:
            images[camera] = payload[found]
            free.remove(found)
    if free:
        raise UserError(
            f"unknown field {free[0][:60]!r}", "request", f"known are {', '.join((*PICTURES, *OTHERS))} and wrist pictures"
        )
    state = payload.get("state", payload.get("proprio"))
    if state is None and "{state}" not in contract.prompt:
        state = [0.0] * body.state.size
    return {"images": images, "state": state, "instruction": payload.get("instruction"), "embodiment": name}


def to_oxe(actions: np.ndarray, body: Embodiment) -> np.ndarray:
    """A copy with the last dimension, the gripper, as 1 open, 0 closed, where the embodiment has it as -1 open, +1 closed."""
    actions = actions.copy()
    if body.gripper == OURS:
        actions[:, -1] = (1 - actions[:, -1]) / 2
    return actions


def _unwrapped(message: dict[str, Any]) -> dict[str, Any]:
    encoded = message["encoded"]
    if not isinstance(encoded, str) or len(message) > 1:
        raise Refusal(400, "`encoded` stands alone and holds text", "request", 'send {"encoded": "<the payload as JSON>"}')
    payload = read_json(encoded, "encoded")
    if not isinstance(payload, dict) or not any(key in payload for key in PICTURES):
        raise Refusal(400, "the payload has no image", "encoded", "send image and instruction")
    return payload
