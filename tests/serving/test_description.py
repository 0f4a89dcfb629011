"""The API against its own description: valid and spoilt bodies drawn from /openapi.json get answers that it declares."""

import base64
import collections
import copy
import io
import json
from types import SimpleNamespace

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vla.serving.server import running

TYPES = {
    "string": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}
FILE = io.BytesIO()
Image.new("RGB", (64, 64), (200, 100, 30)).save(FILE, "PNG")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
HEADERS = {"X-Contract": ["", "f" * 64], "X-Deadline-Ms": ["", "soon", "-1", "nan", "60000"]}


class Api:
    """A server with its description. Understands the part of JSON Schema that the description uses."""

    def __init__(self, url):
        self.client = httpx.Client(base_url=url, timeout=30)
        self.document = self.client.get("/openapi.json").json()
        self.paths = [(path, *operation) for path, methods in self.document["paths"].items() for operation in methods.items()]

    def resolved(self, schema):
        while "$ref" in schema:
            schema = self.document["components"]["schemas"][schema["$ref"].removeprefix("#/components/schemas/")]
        return schema

    def bodies(self, schema):
        """Returns a strategy that draws values of a schema."""
        schema = self.resolved(schema)
        alternatives = schema.get("oneOf") or schema.get("anyOf") or []
        if alternatives and "type" not in schema:
            return st.one_of([self.bodies(one) for one in alternatives])
        if "enum" in schema:
            return st.sampled_from(schema["enum"])
        if schema["type"] == "object":
            fields = {name: self.bodies(one) for name, one in schema.get("properties", {}).items()}
            needed = [[*schema.get("required", []), *one["required"]] for one in alternatives or [{"required": []}]]
            return st.one_of(
                st.fixed_dictionaries(
                    {name: fields[name] for name in names},
                    optional={name: one for name, one in fields.items() if name not in names},
                )
                for names in needed
            )
        if schema["type"] == "array":
            least, most = schema.get("minItems", 0), schema.get("maxItems", 3)
            return st.lists(self.bodies(schema["items"]), min_size=least, max_size=most)
        if schema.get("contentEncoding") == "base64":
            # Random bytes are hardly ever an image, and a request is valid only if all of its images are.
            content = st.integers(0, 7).flatmap(lambda n: st.just(FILE.getvalue()) if n < 7 else st.binary(max_size=30))
            return content.map(lambda one: base64.b64encode(one).decode())
        return {
            "string": st.text(max_size=min(schema.get("maxLength", 20), 20)),
            "number": st.floats(-1, 1) | st.integers(-9, 9),
            "integer": st.integers(schema.get("minimum"), 2**40),
            "boolean": st.booleans(),
        }[schema["type"]]

    def fits(self, value, schema):
        """Whether the value has the schema."""
        schema = self.resolved(schema)
        if "type" not in schema:
            return any(self.fits(value, one) for one in schema.get("oneOf") or schema["anyOf"])
        # True is an int in Python, but not a number in JSON.
        if not isinstance(value, TYPES[schema["type"]]) or (isinstance(value, bool) and schema["type"] != "boolean"):
            return False
        if isinstance(value, list):
            length_fits = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
            return length_fits and all(self.fits(one, schema["items"]) for one in value)
        if isinstance(value, dict):
            known = schema.get("properties", {})
            complete = all(name in value for name in schema.get("required", []))
            return complete and all(self.fits(one, known[name]) for name, one in value.items() if name in known)
        return True

    def declared(self, operation, answer):
        """Returns the answer's status. Raises AssertionError if status or body are not as described."""
        response = operation["responses"].get(str(answer.status_code))
        assert response, f"{answer.status_code} is not declared: {answer.text}"
        assert "Traceback" not in answer.text
        assert self.fits(answer.json(), response["content"]["application/json"]["schema"]), answer.text
        return answer.status_code


@st.composite
def spoilt(draw, bodies):
    """Draws a body in which something is removed, added or replaced."""
    root = {"": copy.deepcopy(draw(bodies))}
    holder, key = root, ""
    while isinstance(holder[key], dict | list) and holder[key] and draw(st.booleans()):
        holder = holder[key]
        key = draw(st.sampled_from(list(holder) if isinstance(holder, dict) else range(len(holder))))
    change = draw(st.sampled_from(["remove", "add", "replace"]))
    if change == "remove":
        del holder[key]
    elif change == "add" and isinstance(holder, dict):
        holder[draw(st.text(max_size=8))] = draw(JSON)
    else:
        holder[key] = draw(JSON)
    return root.get("")


@pytest.fixture(scope="module")
def api(policy_class):
    class Answering(policy_class):
        def ask(self, images, questions):
            return [SimpleNamespace(text=question, point=(0.25, 0.5)) for question in questions]

    with running(Answering()) as url:
        yield Api(url)


def ask(api, path, method, operation, examples, **more):
    """Sends that many requests to a path that takes a body; returns the counts of statuses. `more` goes to hypothesis."""
    bodies = api.bodies(operation["requestBody"]["content"]["application/json"]["schema"])
    headers = st.fixed_dictionaries(
        {}, optional={one["name"]: st.sampled_from(HEADERS[one["name"]]) for one in operation["parameters"]}
    )
    counts = collections.Counter()

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck), **more)
    @given(bodies | spoilt(bodies), st.integers(0, 9), headers)
    def send(body, kind, drawn_headers):
        content = json.dumps(body).encode()
        content = content[: len(content) // 2] if kind == 9 else content
        # Headers are checked before the body is read, so most requests have none.
        answer = api.client.request(method, path, content=content, headers=drawn_headers if kind == 8 else {})
        status = api.declared(operation, answer)
        assert status < 500, answer.text
        counts[status] += 1

    send()
    return counts


def test_every_answer_is_described(api):
    for path, method, operation in api.paths:
        if "requestBody" in operation:
            counts = ask(api, path, method, operation, 150, derandomize=True)
            assert counts[200] and counts[400], (path, counts)
        else:
            assert api.declared(operation, api.client.request(method, path)) == 200


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("path", ["/act", "/ask", "/reset"])
def test_every_answer_of_thousands_is_described(api, path):
    _, method, operation = next(entry for entry in api.paths if entry[0] == path)
    ask(api, path, method, operation, 2500)
