"""The HTTP interface described: an OpenAPI document made from the contract, and a page of it without outside resources."""

from __future__ import annotations

import html
import json
from typing import Any

from vla.contract import Embodiment, PolicyContract, Space
from vla.serving.observations import MAX_TEXT

STATUSES = {
    "400": "cannot be read",
    "401": "no key, or a wrong one",
    "403": "another site's page asks",
    "408": "came too slowly",
    "409": "another contract",
    "413": "too long",
    "422": "does not fit the contract",
    "429": "too often; retry after",
    "500": "the policy failed",
    "501": "the policy answers no questions",
    "503": "busy; retry after",
    "504": "the deadline passed",
}


def describe(contract: PolicyContract, prefix: str = "") -> dict[str, Any]:
    """An OpenAPI 3.1 document for this contract: its cameras, its state, its actions."""
    bodies = {name: _observation(name, body) for name, body in contract.embodiments.items()}
    first = contract.embodiment()
    state = {"oneOf": [_numbers(first.state), {"$ref": "#/components/schemas/array"}]}
    widths = {body.action.size: _numbers(body.action) for body in contract.embodiments.values()}
    images = {"$ref": f"#/components/schemas/images.{next(iter(bodies))}"}
    schemas: dict[str, Any] = {
        **{f"observation.{name}": schema for name, schema in bodies.items()},
        **{f"images.{name}": _images(body) for name, body in contract.embodiments.items()},
        "picture": {
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
            "anyOf": [{"required": [one]} for one in ("image", "full_image", "encoded")],
            "properties": {
                **{name: {"$ref": "#/components/schemas/picture"} for name in ("image", "full_image")},
                **{name: {"type": "string"} for name in ("instruction", "unnorm_key", "encoded")},
                "state": state,
            },
            "description": "OpenVLA's payload, plain or as JSON in `encoded`; the answer is an array in json_numpy's form (for "
            "OFT's, with `full_image` instead of `image`, a list of them), and JSON in JSON where the payload was.",
        },
        "chunk": {
            "type": "object",
            "required": ["actions", "terminate", "status", "info", "contract"],
            "properties": {
                "actions": {
                    "type": "array",
                    "description": f"{contract.chunk} actions, {first.control_hz:g} a second, {contract.execute} to execute",
                    "items": {"anyOf": list(widths.values())},
                },
                "terminate": {"type": "array", "items": {"type": "boolean"}},
                "status": {
                    "type": "string",
                    "description": "why there are no actions, else empty",
                },
                "info": {"type": "object", "description": "batch (rows of the call), queued_ms, infer_ms, the policy's plan"},
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
    known = [{"$ref": f"#/components/schemas/{name}"} for name in (*(f"observation.{name}" for name in bodies), "openvla")]
    observation = {"anyOf": known}
    question = _object(images=images, question={"type": "string", "maxLength": MAX_TEXT})
    place = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2, "description": "right, down; 0 to 1"}
    answer = _object(text={"type": "string"}, point={"oneOf": [place, {"type": "null"}]})
    names = {"type": "array", "items": {"type": "string", "maxLength": MAX_TEXT}}
    shown = _object(contract={"type": "object"}, hash={"type": "string"})
    ids, forgot = _object(ids=names), _object(reset=names)
    array = {"$ref": "#/components/schemas/array"}
    openvla = [array, {"type": "array", "items": array}, {"type": "string"}]
    chunk = {"anyOf": [{"$ref": "#/components/schemas/chunk"}, *openvla]}
    return {
        "openapi": "3.1.0",
        "info": {"title": contract.title or "vla serve", "version": contract.hash[:12]},
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"}},
        },
        # A server may have been started without keys.
        "security": [{}, {"key": []}],
        "paths": {
            f"{prefix}/act": _path("post", "What the robot sees in, an action chunk out.", chunk, observation),
            f"{prefix}/ask": _path("post", "A question on pictures in, words or a place out.", answer, question),
            f"{prefix}/reset": _path("post", "Forgets what is kept for these streams: a new episode.", forgot, ids),
            f"{prefix}/contract": _path("get", "What the policy expects and answers.", shown),
        },
    }


def _object(**fields: dict[str, Any]) -> dict[str, Any]:
    """An object that has all of these fields."""
    return {"type": "object", "required": list(fields), "properties": fields}


def _path(method: str, summary: str, answer: dict[str, Any], body: dict[str, Any] | None = None) -> dict[str, Any]:
    def content(schema: dict[str, Any]) -> dict[str, Any]:
        return {"content": {"application/json": {"schema": schema}}}

    error = content({"$ref": "#/components/schemas/error"})
    statuses = STATUSES if body else {status: STATUSES[status] for status in ("401", "403", "503")}
    responses = {"200": {"description": "done", **content(answer)}}
    responses |= {status: {"description": why, **error} for status, why in statuses.items()}
    one: dict[str, Any] = {"summary": summary, "responses": responses}
    if body:
        one["requestBody"] = {"required": True, **content(body)}
        names = {"X-Contract": "the contract's hash that the client was made for", "X-Deadline-Ms": "give up after so long"}
        one["parameters"] = [
            {"name": n, "in": "header", "description": d, "schema": {"type": "string"}} for n, d in names.items()
        ]
    return {method: one}


def _observation(name: str, body: Embodiment) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["images", "state", "instruction"],
        "properties": {
            "id": {
                "type": "string",
                "maxLength": MAX_TEXT,
                "description": "names the stream; what the policy keeps, it keeps per id",
            },
            "images": {"$ref": f"#/components/schemas/images.{name}"},
            "state": {"oneOf": [_numbers(body.state), {"$ref": "#/components/schemas/array"}]},
            "instruction": {"type": "string", "maxLength": MAX_TEXT},
            "embodiment": {"type": "string", "enum": [name, ""]},
        },
    }


def _images(body: Embodiment) -> dict[str, Any]:
    picture = "#/components/schemas/picture"
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [camera.name for camera in body.cameras],
        "properties": {c.name: {"$ref": picture, "description": f"{c.width} x {c.height}, or larger"} for c in body.cameras},
    }


def _numbers(space: Space) -> dict[str, Any]:
    named = ", ".join(f"{name} ({unit})" if unit else name for name, unit in zip(space.names, space.units, strict=True))
    return {
        "type": "array",
        "items": {"type": "number"},
        "minItems": space.size,
        "maxItems": space.size,
        "description": named,
    }


def page(document: dict[str, Any]) -> str:
    """The document as HTML."""
    info, parts = document["info"], []
    for path, methods in document["paths"].items():
        for method, one in methods.items():
            rows = "".join(f"<tr><td>{s}<td>{html.escape(r['description'])}" for s, r in one["responses"].items())
            parts.append(f"<h2><code>{method.upper()} {path}</code></h2><p>{html.escape(one['summary'])}</p>")
            for title, part in (("Body", one.get("requestBody")), ("Answer", one["responses"]["200"])):
                if part:
                    schema = json.dumps(part["content"]["application/json"]["schema"], indent=1)
                    parts.append(f"<details><summary>{title}</summary><pre>{html.escape(schema)}</pre></details>")
            parts.append(f"<details><summary>Statuses</summary><table>{rows}</table></details>")
    for name, schema in document["components"]["schemas"].items():
        text = html.escape(json.dumps(schema, indent=1))
        parts.append(f"<h3 id='{html.escape(name)}'><code>{html.escape(name)}</code></h3><pre>{text}</pre>")
    style = (
        "body{max-width:46rem;margin:2rem auto;padding:0 1rem;font:16px/1.5 system-ui,sans-serif}"
        "pre{background:#f2f4f6;padding:.8rem;overflow-x:auto;font-size:13px}td{padding:0 1rem .2rem 0}h2{margin-top:2rem}"
    )
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(info['title'])}</title><style>{style}</style>"
    intro = (
        "<p>The same for programs: <a href='openapi.json'>openapi.json</a>. Websocket: openpi's protocol at <code>/</code>.</p>"
    )
    return f"{head}<h1>{html.escape(info['title'])}: HTTP and JSON</h1>{intro}{''.join(parts)}</html>"
