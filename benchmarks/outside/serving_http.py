"""Clients of OpenVLA's protocol and of HTTP against `vla serve`."""

from __future__ import annotations

import base64
import json
import socket
import time
from typing import Any

import httpx
import msgpack
import numpy as np

from outside.clients import PIXELS, Client, log, observation, served
from outside.project import project
from outside.trial import Trial, case


def numpy_json(array: np.ndarray) -> dict[str, Any]:
    return {"__numpy__": base64.b64encode(array.tobytes()).decode(), "dtype": array.dtype.str, "shape": list(array.shape)}


def act(url: str, **changes: Any) -> httpx.Response:
    payload = {
        "image": numpy_json(PIXELS),
        "wrist_image": numpy_json(PIXELS),
        "state": [0, 0, 0.1, 0, 0.04],
        "instruction": "lift it",
    }
    return httpx.post(f"{url}/act", json={k: v for k, v in {**payload, **changes}.items() if v is not None}, timeout=30)


@case("openvla/openvla#87")
def openvlas_unnorm_key(trial: Trial) -> None:
    """A missing unnorm_key is answered, a wrong one is refused with those there are; never 200 with "error"."""
    project(trial)
    with served(trial) as url:
        answer = act(url)
        trial.equal("status", answer.status_code, 200)
        action = np.frombuffer(base64.b64decode(answer.json()["__numpy__"]), answer.json()["dtype"])
        trial.equal("dimensions", len(action), 7)
        trial.equal("status", act(url, unnorm_key="panda-tabletop").status_code, 200)
        answer = act(url, unnorm_key="bridge_orig")
        trial.true(f"{answer.status_code} {answer.text}", answer.status_code == 422 and "panda-tabletop" in answer.text)


@case("moojink/openvla-oft#94")
def openvlas_encodings(trial: Trial) -> None:
    """The double-encoded form is answered in its form; an image as nested lists is refused with how to send it."""
    project(trial)
    with served(trial) as url:
        payload = {"image": numpy_json(PIXELS), "wrist_image": numpy_json(PIXELS), "state": [0.0] * 5, "instruction": "go"}
        answer = httpx.post(f"{url}/act", json={"encoded": json.dumps(payload)}, timeout=30)
        trial.true(f"{answer.status_code} {answer.text}", answer.status_code == 200 and "__numpy__" in json.loads(answer.json()))
        answer = act(url, image=PIXELS[:20, :20].tolist())
        trial.true(f"{answer.status_code} {answer.text}", 400 <= answer.status_code < 500 and "error" in answer.json())


@case("openvla/openvla#31")
def openvlas_lists(trial: Trial) -> None:
    """A whole image as nested lists is refused with the form that is expected, not with a parser's limit alone."""
    project(trial)
    with served(trial) as url:
        answer = act(url, image=PIXELS.tolist())
        trial.true(f"{answer.status_code} {answer.text}", 400 <= answer.status_code < 500 and "base64" in answer.text)


@case()
def bodies_that_are_no_json(trial: Trial) -> None:
    """Empty bodies, broken JSON, msgpack and other methods have 4xx statuses and words."""
    project(trial)
    with served(trial) as url:
        for body in (b"", b"{", b"null", b"[]", b'"text"', msgpack.packb({"a": 1}), b"\xff\xfe"):
            answer = httpx.post(f"{url}/act", content=body, timeout=30)
            trial.true(
                f"{body!r}: {answer.status_code} {answer.text}", 400 <= answer.status_code < 500 and "error" in answer.json()
            )
        trial.equal("GET /act", httpx.get(f"{url}/act").status_code, 405)
    trial.true("the log holds a traceback", "raceback" not in log(trial))


@case()
def a_client_that_hangs_up(trial: Trial) -> None:
    """A client that hangs up in the middle of a body is no error of the server: 499 as for websockets, and no traceback."""
    project(trial)
    with served(trial) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        for _ in range(3):
            with socket.create_connection((host, int(port))) as half:
                half.sendall(
                    b'POST /act HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n{"image": '
                )
                time.sleep(0.1)
        time.sleep(0.5)
        metrics = httpx.get(f"{url}/metrics").text
        trial.equal("shape", Client(url).infer(observation())["actions"].shape, (2, 7))
    trial.true("the log holds a traceback", "raceback" not in log(trial))
    wrong = [line for line in metrics.splitlines() if 'status="500"' in line and not line.endswith(" 0.0")]
    trial.true(f"counted as the server's error: {wrong}", not wrong)


@case()
def images_as_files(trial: Trial) -> None:
    """JPEGs of 16-bit, grey or turned by EXIF over HTTP: refused in words or upright."""
    from PIL import Image

    from outside.pixels import deep, encoded

    project(trial)
    with served(trial) as url:

        def send(data: bytes) -> httpx.Response:
            text = base64.b64encode(data).decode()
            message = {
                "images": {"front": text, "wrist": base64.b64encode(encoded(PIXELS)).decode()},
                "state": [0.0] * 5,
                "instruction": "go",
            }
            return httpx.post(f"{url}/act", json=message, timeout=30)

        trial.equal("a PNG", send(encoded(PIXELS)).status_code, 200)
        answer = send(deep(size=(64, 64)))
        trial.true(f"a 16-bit PNG: {answer.status_code} {answer.text}", answer.status_code == 422 and "8-bit" in answer.text)
        exif = Image.Exif()
        exif[0x0112] = 6
        wide = np.zeros((64, 64, 3), np.uint8)
        wide[:, :32] = 255
        trial.equal("a JPEG turned by EXIF", send(encoded(Image.fromarray(wide), "JPEG", exif=exif.tobytes())).status_code, 200)


@case()
def options_of_the_server(trial: Trial) -> None:
    """A port in use, a policy that is not there and a public address without keys end in one line."""
    project(trial)
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        trial.vla("serve", "export", f"--port={used.getsockname()[1]}", code=2, says="port|address")
    trial.vla("serve", "nowhere", "--port=0", code=2, says="nowhere")
    trial.vla("serve", "export", "--port=0", "--host=0.0.0.0", code=2, says="keys|public")
    trial.vla("serve", "export", "--port=99999", code=2, says="99999")
