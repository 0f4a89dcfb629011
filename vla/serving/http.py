"""Our own HTTP and JSON: /act, /reset, /contract, /healthz and a page for people. Errors are never answered with status 200."""

from __future__ import annotations

import asyncio
import html
import json
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse

from vla.errors import UserError
from vla.policies.base import Observation
from vla.serving.observations import observation, text
from vla.serving.runner import Runner
from vla.serving.wire import MAX_BYTES, plain


class Refusal(UserError):
    """A UserError with its own HTTP status."""

    def __init__(self, status: int, what: str, where: str = "", fix: str = ""):
        super().__init__(what, where, fix)
        self.status = status


def routes(runner: Runner) -> APIRouter:
    """The paths of one policy."""
    router, contract = APIRouter(), runner.policy.contract
    digest = contract.hash

    @router.get("/healthz")
    def healthz() -> PlainTextResponse:
        return PlainTextResponse("OK\n")

    @router.get("/contract")
    def show_contract() -> JSONResponse:
        return JSONResponse({"contract": contract.to_dict(), "hash": digest})

    @router.get("/")
    def page(request: Request) -> HTMLResponse:
        return HTMLResponse(_page(runner, str(request.base_url).rstrip("/")))

    @router.post("/act")
    async def act(request: Request) -> JSONResponse:
        """One observation in, one action chunk out."""
        _same_contract(request, digest)
        content = await _body(request)
        # Pictures are decoded off the event loop: it must go on answering others meanwhile.
        seen: Observation = await asyncio.to_thread(lambda: observation(_parse(content), contract))
        chunk, milliseconds = await runner.act(seen)
        return JSONResponse(
            {
                "actions": chunk.actions.tolist(),
                "terminate": chunk.terminate.tolist(),
                "status": chunk.status,
                "info": {**plain(chunk.info), "infer_ms": round(milliseconds, 3)},
                "contract": digest,
            }
        )

    @router.post("/reset")
    async def reset(request: Request) -> JSONResponse:
        """Forgets the streams {"ids": [...]}."""
        _same_contract(request, digest)
        asked = _parse(await _body(request))
        ids = asked.get("ids") if isinstance(asked, dict) else None
        if not isinstance(ids, list):
            raise UserError("no ids", "request", 'send {"ids": ["..."]}')
        ids = [text({"id": one}, "id") for one in ids]
        await runner.reset(ids)
        return JSONResponse({"reset": ids})

    return router


def _same_contract(request: Request, digest: str) -> None:
    asked = request.headers.get("x-contract", digest)
    if asked != digest:
        raise Refusal(
            409,
            f"the client holds contract {asked[:64]}, this server {digest}",
            "X-Contract",
            "serve the export the client was made for, or read /contract again",
        )


async def _body(request: Request) -> bytes:
    """The request's body; refused as soon as it is known to be too long."""
    declared = request.headers.get("content-length", "0")
    content = bytearray()
    if not declared.isdigit() or int(declared) <= MAX_BYTES:
        async for part in request.stream():
            content += part
            if len(content) > MAX_BYTES:
                break
        else:
            return bytes(content)
    raise Refusal(413, f"the body is longer than {MAX_BYTES} bytes", "request", "send pictures as JPEG or smaller")


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"not JSON: {str(error)[:200]}", "request", "send one JSON object, UTF-8") from None


def _page(runner: Runner, url: str) -> str:
    contract = runner.policy.contract
    body = contract.embodiment()
    example = {
        "id": "me",
        "images": {camera.name: "<base64 of a JPEG or PNG>" for camera in body.cameras},
        "state": [round((a + b) / 2, 4) for a, b in zip(body.state.low, body.state.high, strict=True)],
        "instruction": "pick up the red cube",
    }
    cameras = ", ".join(f"{camera.name} ({camera.width} x {camera.height})" for camera in body.cameras)
    values = {
        "title": contract.title or "A policy",
        "url": url,
        "hash": contract.hash,
        "cameras": cameras,
        "state": ", ".join(f"{name} ({unit})" for name, unit in zip(body.state.names, body.state.units, strict=True)),
        "action": ", ".join(f"{name} ({unit})" for name, unit in zip(body.action.names, body.action.units, strict=True)),
        "chunk": f"{contract.chunk} actions at {body.control_hz:g} Hz, {contract.execute} of them to be carried out",
        "example": json.dumps(example, indent=1),
        "contract": contract.to_json(),
    }
    page = files("vla.serving").joinpath("page.html").read_text()
    for name, value in values.items():
        page = page.replace("{{" + name + "}}", html.escape(value))
    return page
