"""The page at /docs: what the HTTP interface expects, with examples that run as they stand."""

from __future__ import annotations

import base64
import html
import io
import json
import shlex
from typing import Any

from PIL import Image

from vla.contract import PolicyContract

INSTRUCTION = "pick up the red cube"
STYLE = (
    "body{max-width:46rem;margin:2rem auto;padding:0 1rem;font:16px/1.5 system-ui,sans-serif}"
    "pre{background:#f2f4f6;padding:.8rem;overflow-x:auto;font-size:13px}td{padding:0 1rem .2rem 0}h2{margin-top:2rem}"
)
PYTHON = """\
import base64, json, urllib.request
import numpy as np

def image(pixels):  # uint8 [height, width, 3], upright RGB
    return {{"__numpy__": base64.b64encode(pixels.tobytes()).decode(), "dtype": "|u1", "shape": list(pixels.shape)}}

observation = {{
    "images": {{
{images}
    }},
    "state": {state},  # {names}
    "instruction": {instruction},
}}
headers = {{"Content-Type": "application/json"}}
request = urllib.request.Request({url}, json.dumps(observation).encode(), headers)
with urllib.request.urlopen(request) as reply:
    answer = json.load(reply)
print(np.array(answer["actions"]))  # {actions}
"""


def examples(contract: PolicyContract, url: str) -> dict[str, str]:
    """Returns a request for an action in the languages "curl" and "Python", with grey images and a state amid its limits.

    Args:
        contract: the contract of the policy.
        url: address of the policy, without /act.
    """
    embodiment = contract.embodiment()
    space = embodiment.state
    state = [round((low + high) / 2, 4) for low, high in zip(space.low, space.high, strict=True)]
    images = ",\n".join(f"  {json.dumps(c.name)}: {json.dumps(_grey(c.width, c.height))}" for c in embodiment.cameras)
    body = f'{{"images": {{\n{images}}},\n "state": {json.dumps(state)},\n "instruction": {json.dumps(INSTRUCTION)}}}'
    python = PYTHON.format(
        images="\n".join(
            f"        {c.name!r}: image(np.full(({c.height}, {c.width}, 3), 128, np.uint8))," for c in embodiment.cameras
        ),
        state=state,
        names=" ".join(", ".join(space.names).split()),
        instruction=json.dumps(INSTRUCTION),
        url=repr(f"{url}/act"),
        actions=" ".join(", ".join(embodiment.action.names).split()),
    )
    curl = f"curl {shlex.quote(f'{url}/act')} -H 'Content-Type: application/json' -d {shlex.quote(body)}"
    return {"curl": curl, "Python": python}


def _grey(width: int, height: int) -> str:
    """Returns a grey PNG file in base64."""
    file = io.BytesIO()
    image = Image.new("P", (width, height), 0)
    image.putpalette([128] * 3)
    image.save(file, "PNG", bits=1, optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def page(document: dict[str, Any], contract: PolicyContract, url: str) -> str:
    """Returns the OpenAPI document as an HTML page that loads nothing, with examples first. `url` is the policy's address."""
    info, parts = document["info"], []
    for language, code in examples(contract, url).items():
        parts.append(f"<h2>{language}</h2><pre class=example id='{language}'>{html.escape(code)}</pre>")
    parts.append(
        f"<p>The answer has <code>actions</code>, {contract.chunk} rows in physical units. Execute the first {contract.execute}, "
        f"{contract.embodiment().control_hz:g} per second, then ask again. Send your own images: upright RGB, as arrays or as "
        "JPEG or PNG files in base64. If the server needs a key, add the header <code>X-Api-Key</code>.</p>"
    )
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            rows = "".join(f"<tr><td>{s}<td>{html.escape(r['description'])}" for s, r in operation["responses"].items())
            parts.append(f"<h2><code>{method.upper()} {path}</code></h2><p>{html.escape(operation['summary'])}</p>")
            for title, part in (("Body", operation.get("requestBody")), ("Answer", operation["responses"]["200"])):
                if part:
                    schema = json.dumps(part["content"]["application/json"]["schema"], indent=1)
                    parts.append(f"<details><summary>{title}</summary><pre>{html.escape(schema)}</pre></details>")
            parts.append(f"<details><summary>Statuses</summary><table>{rows}</table></details>")
    parts.append("<h2>Schemas</h2>")
    for name, schema in document["components"]["schemas"].items():
        text = html.escape(json.dumps(schema, indent=1))
        parts.append(f"<h3 id='{html.escape(name)}'><code>{html.escape(name)}</code></h3><pre>{text}</pre>")
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(info['title'])}</title><style>{STYLE}</style>"
    intro = (
        "<p>For programs: <a href='openapi.json'>openapi.json</a>. Websocket: openpi's protocol at <code>/</code>, for robots "
        "with <code>vla-client</code>.</p>"
    )
    return f"{head}<h1>{html.escape(info['title'])}: HTTP and JSON</h1>{intro}{''.join(parts)}</html>"
