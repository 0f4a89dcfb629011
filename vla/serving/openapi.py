"""The description of the HTTP interface: an OpenAPI document made from the contract."""

from __future__ import annotations

from typing import Any

from vla.contract import Embodiment, PolicyContract
from vla.serving.observations import MAX_TEXT, unused_state
from vla.space import Space

STATUSES = {
    "400": "the request cannot be read",
    "401": "no key, or an unknown one",
    "403": "the request comes from a page of another site",
    "408": "the request arrived too slowly",
    "409": "the client was made for another contract, or the policy was trained on no questions",
    "413": "the request is too long",
    "422": "the request does not fit the contract",
    "429": "too many requests; see retry_after",
    "500": "the policy failed",
    "501": "the policy answers no questions",
    "503": "the server is busy; see retry_after",
    "504": "the deadline passed",
}


INFO = "batch (rows of the call), queued_ms, infer_ms, the policy's plan; warnings if the state is far outside its range"


def describe(contract: PolicyContract, prefix: str = "", questions: bool = True) -> dict[str, Any]:
    """Returns an OpenAPI 3.1 document for this contract: its cameras, its state, its actions; with /ask if it takes questions."""
    observations = {name: _observation(name, embodiment, contract) for name, embodiment in contract.embodiments.items()}
    first = contract.embodiment()
    state = {"oneOf": [_numbers(first.state), {"$ref": "#/components/schemas/array"}]}
    actions_by_size = {e.action.size: _numbers(e.action) for e in contract.embodiments.values()}
    images = {"$ref": f"#/components/schemas/images.{next(iter(observations))}"}
    schemas: dict[str, Any] = {
        **{f"observation.{name}": schema for name, schema in observations.items()},
        **{f"images.{name}": _images(embodiment) for name, embodiment in contract.embodiments.items()},
        "image": {
            "description": "base64 of a JPEG or PNG file, or of raw uint8 [height, width, 3]; upright RGB",
            "oneOf": [{"type": "string", "contentEncoding": "base64"}, {"$ref": "#/components/schemas/array"}],
        },
        "array": {
            "type": "object",
            "required": ["__numpy__", "dtype", "shape"],
            "properties": {
                "__numpy__": {"type": "string", "contentEncoding": "base64"},
                "dtype": {"type": "string", "examples": ["|u1"]},
                "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": 8},
            },
        },
        "openvla": {
            "type": "object",
            "anyOf": [{"required": [field]} for field in ("image", "full_image", "encoded")],
            "properties": {
                **{name: {"$ref": "#/components/schemas/image"} for name in ("image", "full_image")},
                **{name: {"type": "string"} for name in ("instruction", "prompt", "unnorm_key", "encoded")},
                "state": state,
            },
            "description": "OpenVLA's payload, plain or as JSON in `encoded`. The answer is an array in json_numpy's form; for "
            "OpenVLA-OFT's payload, with `full_image` instead of `image`, a list of them. It is JSON in JSON if the payload was.",
        },
        "chunk": {
            "type": "object",
            "required": ["actions", "terminate", "status", "info", "contract"],
            "properties": {
                "actions": {
                    "type": "array",
                    "description": f"{contract.chunk} actions, {first.control_hz:g} per second, {contract.execute} to execute",
                    "items": {"anyOf": list(actions_by_size.values())},
                },
                "terminate": {"type": "array", "items": {"type": "boolean"}},
                "status": {
                    "type": "string",
                    "description": "why there are no actions; empty if there are",
                },
                "info": {"type": "object", "description": INFO},
                "contract": {"type": "string"},
            },
        },
        "error": {
            "type": "object",
            "required": ["error"],
            "properties": {
                "error": {
                    "type": "object",
                    "required": ["what", "where", "fix"],
                    "properties": {
                        **{field: {"type": "string"} for field in ("what", "where", "fix")},
                        "retry_after": {"type": "number", "description": "seconds"},
                    },
                }
            },
        },
    }
    known = [{"$ref": f"#/components/schemas/{name}"} for name in (*(f"observation.{n}" for n in observations), "openvla")]
    observation = {"anyOf": known}
    question = _object(images=images, question={"type": "string", "maxLength": MAX_TEXT})
    point = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2, "description": "right, down; 0 to 1"}
    note = {"type": "string", "description": "what to know of the answer; mostly empty"}
    answer = _object(text={"type": "string"}, point={"oneOf": [point, {"type": "null"}]}, note=note)
    names = {"type": "array", "items": {"type": "string", "maxLength": MAX_TEXT}}
    trained = {"oneOf": [{"type": "boolean"}, {"type": "null"}], "description": "whether it answers questions; null: not known"}
    identity = _object(contract={"type": "object"}, hash={"type": "string"}, questions=trained)
    ids, reset = _object(ids=names), _object(reset=names)
    array = {"$ref": "#/components/schemas/array"}
    openvla = [array, {"type": "array", "items": array}, {"type": "string"}]
    chunk = {"anyOf": [{"$ref": "#/components/schemas/chunk"}, *openvla]}
    asking = {f"{prefix}/ask": _path("post", "Answers a question on images with text or a point.", answer, question)}
    return {
        "openapi": "3.1.0",
        "info": {"title": contract.title or "vla serve", "version": contract.hash[:12]},
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"}},
        },
        # A server without keys needs none.
        "security": [{}, {"key": []}],
        "paths": {
            f"{prefix}/act": _path("post", "Answers an observation with an action chunk.", chunk, observation),
            **(asking if questions else {}),
            f"{prefix}/reset": _path("post", "Drops the state of these streams, for a new episode.", reset, ids),
            f"{prefix}/contract": _path("get", "The contract: what the policy expects and answers.", identity),
        },
    }


def _object(**fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the schema of an object with these fields, all required."""
    return {"type": "object", "required": list(fields), "properties": fields}


def _path(method: str, summary: str, answer: dict[str, Any], request: dict[str, Any] | None = None) -> dict[str, Any]:
    def content(schema: dict[str, Any]) -> dict[str, Any]:
        return {"content": {"application/json": {"schema": schema}}}

    error = content({"$ref": "#/components/schemas/error"})
    statuses = STATUSES if request else {status: STATUSES[status] for status in ("401", "403", "503")}
    responses = {"200": {"description": "done", **content(answer)}}
    responses |= {status: {"description": why, **error} for status, why in statuses.items()}
    operation: dict[str, Any] = {"summary": summary, "responses": responses}
    if request:
        operation["requestBody"] = {"required": True, **content(request)}
        names = {"X-Contract": "hash of the contract the client was made for", "X-Deadline-Ms": "milliseconds to answer in"}
        operation["parameters"] = [
            {"name": n, "in": "header", "description": d, "schema": {"type": "string"}} for n, d in names.items()
        ]
    return {method: operation}


def _observation(name: str, embodiment: Embodiment, contract: PolicyContract) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["images", *(["state"] if unused_state(contract, embodiment) is None else [])],
        "oneOf": [{"required": ["instruction"]}, {"required": ["prompt"]}],
        "properties": {
            "id": {
                "type": "string",
                "maxLength": MAX_TEXT,
                "description": "name of the stream; the policy keeps its state per id",
            },
            "images": {"$ref": f"#/components/schemas/images.{name}"},
            "state": {"oneOf": [_numbers(embodiment.state), {"$ref": "#/components/schemas/array"}]},
            **{name: {"type": "string", "maxLength": MAX_TEXT} for name in ("instruction", "prompt")},
            "embodiment": {"type": "string", "enum": [name, ""]},
        },
    }


def _images(embodiment: Embodiment) -> dict[str, Any]:
    image = "#/components/schemas/image"
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [camera.name for camera in embodiment.cameras],
        "properties": {c.name: {"$ref": image, "description": f"{c.width} x {c.height}, or larger"} for c in embodiment.cameras},
    }


def _numbers(space: Space) -> dict[str, Any]:
    description = ", ".join(f"{name} ({unit})" if unit else name for name, unit in zip(space.names, space.units, strict=True))
    return {
        "type": "array",
        "items": {"type": "number"},
        "minItems": space.size,
        "maxItems": space.size,
        "description": description,
    }
