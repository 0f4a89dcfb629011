"""OpenVLA's REST interface, POST /act: json_numpy arrays, plain or as JSON in JSON; also OpenVLA-OFT's observations and chunks.

After vla-scripts/deploy.py of OpenVLA and of OpenVLA-OFT. Theirs answers any error with status 200 and "error"; ours does not.
"""

from __future__ import annotations

import json
from typing import Any, TypeGuard

import numpy as np
from starlette.responses import JSONResponse, Response

from vla.contract import Embodiment, PolicyContract
from vla.errors import ContractMismatch, UserError
from vla.protocols.wire import Value, encode_array, read_json
from vla.serving.clients import Client
from vla.serving.observations import unused_state
from vla.serving.refusal import Refusal
from vla.serving.service import RequestLog, Service

IMAGE_KEYS = ("image", "full_image")
OTHER_KEYS = ("instruction", "prompt", "state", "proprio", "unnorm_key")
OUR_GRIPPER = "-1 open, +1 closed"


def is_payload(message: Value) -> TypeGuard[dict[str, Value]]:
    """Whether this is OpenVLA's payload, not ours."""
    return isinstance(message, dict) and any(key in message for key in ("encoded", *IMAGE_KEYS))


async def answer(
    service: Service, client: Client, message: dict[str, Value], entry: RequestLog, deadline_s: float | None
) -> Response:
    """Answers `image` with one action and OFT's `full_image` with a list; gripper 1 open, 0 closed, as in Open X-Embodiment."""
    double_encoded = "encoded" in message
    payload = _decode_payload(message) if double_encoded else message
    result = await service.act(client, "openvla", to_request(payload, service.contract), entry, deadline_s)
    actions = to_oxe(result.actions(), service.contract.embodiment(result.observation.embodiment))
    content = [encode_array(action) for action in actions] if "full_image" in payload else encode_array(actions[0])
    # The body has no place for them: it is an array.
    headers = {"X-Warnings": json.dumps(result.info["warnings"])} if "warnings" in result.info else None
    return JSONResponse(json.dumps(content) if double_encoded else content, headers=headers)


def to_request(payload: dict[str, Value], contract: PolicyContract) -> dict[str, Any]:
    """Returns the payload under our own field names.

    The image is the first camera's. The image of another camera is in the key that contains the camera's name, else in the next
    key that contains "wrist". `unnorm_key` is an embodiment's name. The state may be missing if the prompt has none.
    """
    name = payload.get("unnorm_key") or ""
    if name not in ("", *contract.embodiments):
        raise ContractMismatch(
            f"unknown {str(name)[:60]!r}", "unnorm_key", f"leave it out, or use one of {', '.join(contract.embodiments)}"
        )
    embodiment = contract.embodiment(str(name))
    first, *rest = [camera.name for camera in embodiment.cameras]
    images = {first: next(payload[key] for key in IMAGE_KEYS if key in payload)}
    unused = [key for key in payload if key not in (*IMAGE_KEYS, *OTHER_KEYS)]
    for camera in rest:
        key = next((k for k in unused if camera in k), None) or next((k for k in unused if "wrist" in k), None)
        if key is not None:
            images[camera] = payload[key]
            unused.remove(key)
    if unused:
        raise UserError(
            f"unknown field {unused[0][:60]!r}", "request", f"known are {', '.join((*IMAGE_KEYS, *OTHER_KEYS))} and wrist images"
        )
    state = payload.get("state", payload.get("proprio"))
    if state is None:
        state = unused_state(contract, embodiment)
    words = {key: payload[key] for key in ("instruction", "prompt") if key in payload}
    return {"images": images, "state": state, "embodiment": name, **words}


def to_oxe(actions: np.ndarray, embodiment: Embodiment) -> np.ndarray:
    """Returns a copy whose last dimension, the gripper, is 1 open, 0 closed if the embodiment's is -1 open, +1 closed."""
    actions = actions.copy()
    if embodiment.gripper == OUR_GRIPPER:
        actions[:, -1] = (1 - actions[:, -1]) / 2
    return actions


def _decode_payload(message: dict[str, Value]) -> dict[str, Value]:
    encoded = message["encoded"]
    if not isinstance(encoded, str) or len(message) > 1:
        raise Refusal(400, "`encoded` must be text and the only field", "request", 'send {"encoded": "<the payload as JSON>"}')
    payload = read_json(encoded, "encoded")
    if not isinstance(payload, dict) or not any(key in payload for key in IMAGE_KEYS):
        raise Refusal(400, "the payload has no image", "encoded", "send image and instruction")
    return payload
