import base64
import dataclasses
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image

from vla.errors import ContractMismatch, UserError
from vla.policies.base import Policy, TemporalEnsemble
from vla.policies.local import QuestionAnswer
from vla.policies.remote import RemotePolicy
from vla.protocols.wire import encode_array
from vla.serving.options import ServerOptions
from vla.serving.server import running, serve


def image(width=64, height=64, mode="RGB", kind="PNG", colour=(200, 100, 30)) -> str:
    file = io.BytesIO()
    Image.new(mode, (width, height), colour if mode in ("RGB",) else 7).save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


def request(**changes) -> dict:
    good = {"id": "a", "images": {"front": image(), "wrist": image()}, "state": [0.0] * 5, "instruction": "go"}
    return {**good, **changes}


def test_remote_answers_what_local_answers(url, policy_class, observed):
    local, remote = policy_class(), RemotePolicy(url)
    assert isinstance(remote, Policy) and remote.contract == local.contract
    observations = [observed(i, id=str(i)) for i in range(3)]
    for a, b in zip(local.act(observations), remote.act(observations), strict=True):
        assert np.array_equal(a.actions, b.actions) and np.array_equal(a.terminate, b.terminate)
        assert b.info["array"] == 1.5 and b.info["nan"] is None
    assert remote.act(observations[:1])[0].info["calls"] == 2
    remote.reset(["0"])
    assert remote.act(observations[:1])[0].info["calls"] == 1
    assert RemotePolicy(url).act(observations[:1])[0].info["calls"] == 1, (
        "streams of two clients are different streams, whatever their names"
    )


def test_a_malformed_answer_reaches_the_client_as_such(url, observed):
    chunk = RemotePolicy(url).act([observed(instruction="stutter")])[0]
    assert chunk.status == "malformed: 3 of 7 numbers" and chunk.actions.shape == (0, 7) and chunk.terminate.shape == (0,)


def test_many_clients_get_their_own_answers_from_one_policy_thread(url, policy, observed):
    def client(seed):
        remote = RemotePolicy(url)
        for k in range(8):
            observation = observed(100 * seed + k)
            (chunk,) = remote.act([observation])
            assert chunk.actions[0, 0] == pytest.approx(observation.images["front"].mean()) and chunk.info["calls"] == k + 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(client, range(8)))
    assert policy.most_inside == 1 and len(policy.threads) == 1


def test_pages(url, contract):
    assert httpx.get(f"{url}/healthz").text == "OK\n"
    answer = httpx.get(f"{url}/contract").json()
    assert answer["hash"] == contract.hash and answer["contract"]["chunk"] == contract.chunk
    description = httpx.get(f"{url}/openapi.json").json()
    state = description["components"]["schemas"]["observation.panda"]["properties"]["state"]["oneOf"][0]
    assert state["minItems"] == 5 and "x (m)" in state["description"]
    pages = [httpx.get(url + path) for path in ("/", "/docs", "/console.js", "/console.css")]
    for page in pages:
        assert page.status_code == 200 and not re.search(r'(src|href)="?http|url\(', page.text), (
            "nothing is loaded from another site"
        )
    assert "front" in pages[1].text and "default-src 'self'" in pages[0].headers["content-security-policy"]


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"images": {"front": image()}}, 422, "'wrist' is missing"),
        ({"images": {"front": image(), "wrist": image(), "side": image()}}, 422, "'side'"),
        ({"images": []}, 400, "list"),
        ({"images": {"front": "AAAA", "wrist": image()}}, 400, "neither JPEG nor PNG"),
        ({"images": {"front": "", "wrist": image()}}, 400, "neither JPEG nor PNG"),
        ({"images": {"front": image()[:120], "wrist": image()}}, 400, "image"),
        ({"images": {"front": image(63, 64), "wrist": image()}}, 422, "63 x 64"),
        ({"images": {"front": image(32, 32), "wrist": image()}}, 422, "32 x 32"),
        ({"images": {"front": image(128, 100), "wrist": image()}}, 422, "128 x 100"),
        ({"images": {"front": image(5000, 5000, "P"), "wrist": image()}}, 400, "5000"),
        ({"images": {"front": image(mode="L"), "wrist": image()}}, 422, "mode L"),
        ({"images": {"front": image(mode="I;16"), "wrist": image()}}, 422, "mode I"),
        ({"images": {"front": image(kind="GIF", mode="P"), "wrist": image()}}, 400, "cannot be read"),
        ({"images": {"front": encode_array(np.zeros((64, 64, 3), np.float32)), "wrist": image()}}, 422, "float32"),
        ({"images": {"front": encode_array(np.full((64, 64, 3), 500, np.uint16)), "wrist": image()}}, 422, "uint16"),
        ({"images": {"front": encode_array(np.zeros((64, 64), np.uint8)), "wrist": image()}}, 422, "[64, 64]"),
        ({"images": {"front": encode_array(np.zeros((0, 0, 3), np.uint8)), "wrist": image()}}, 422, "0 x 0"),
        ({"images": {"front": 3, "wrist": image()}}, 400, "int"),
        ({"state": [0.0] * 4}, 422, "expected 5 values"),
        ({"state": [0, 0, float("nan"), 0, 0]}, 422, "NaN or infinity in z"),
        ({"state": [0, 0, 10**400, 0, 0]}, 422, "number"),
        ({"state": ["0"] * 5}, 422, "['0'"),
        ({"state": [True] * 5}, 422, "True"),
        ({"state": None}, 422, "None"),
        ({"embodiment": "ur5"}, 422, "ur5"),
        ({"embodiment": 5}, 400, "int"),
        ({"instruction": None}, 400, "missing"),
        ({"prompt": "go"}, 400, "beside `instruction`"),
        ({"instruction": "x" * 5000}, 400, "5000"),
        ({"id": {}}, 400, "dict"),
        ({"imagse": {}}, 400, "imagse"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(url, changes, status, says):
    answer = httpx.post(f"{url}/act", content=json.dumps(request(**changes)))
    error = answer.json()["error"]
    assert answer.status_code == status and says in error["what"], answer.text
    assert "Traceback" not in answer.text and " at 0x" not in answer.text and (error["fix"] or status == 400)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe{}", b"[" * 100_000, b'{"state": ' + b"9" * 5000 + b"}"]
)
def test_bodies_that_are_not_requests(url, content):
    for path in ("/act", "/reset"):
        answer = httpx.post(url + path, content=content)
        assert answer.status_code == 400 and answer.json()["error"]["what"]
    assert httpx.post(f"{url}/act", json=request()).status_code == 200


def test_other_errors_are_json_without_a_traceback(url):
    for instruction in ("break", "nan"):
        answer = httpx.post(f"{url}/act", json=request(instruction=instruction))
        assert answer.status_code == 500 and "failed" in answer.json()["error"]["what"]
        assert "secret" not in answer.text and "Traceback" not in answer.text
    assert httpx.get(f"{url}/nowhere").status_code == 404 and "error" in httpx.get(f"{url}/nowhere").json()
    assert httpx.get(f"{url}/act").status_code == 405
    assert httpx.post(f"{url}/act", content=iter([b"x" * 2**20] * 33)).status_code == 413, (
        "a body that does not declare its length"
    )
    assert httpx.post(f"{url}/act", content=b"x" * (ServerOptions.message + 1)).status_code == 413
    assert httpx.post(f"{url}/reset", json={"ids": [3]}).status_code == 400


def test_prompt_means_the_same_as_instruction(url):
    message = request(prompt="go there")
    del message["instruction"]
    answer = httpx.post(f"{url}/act", json=message)
    assert answer.status_code == 200 and answer.json()["actions"][0][6] == len("go there")


def test_larger_images_of_the_same_shape_are_scaled(url):
    answer = httpx.post(f"{url}/act", json=request(images={"front": image(256, 256), "wrist": image(256, 256, kind="JPEG")}))
    actions = answer.json()["actions"]
    assert answer.status_code == 200 and actions[0][:2] == pytest.approx([110, 110], abs=1)


def test_another_contract_is_refused_naming_both(url, contract):
    answer = httpx.post(f"{url}/act", json=request(), headers={"X-Contract": "f" * 64})
    assert (
        answer.status_code == 409
        and contract.hash in answer.json()["error"]["what"]
        and "f" * 64 in answer.json()["error"]["what"]
    )
    with pytest.raises(ContractMismatch, match=contract.hash):
        RemotePolicy(url, contract_hash="0" * 64)


def test_a_client_notices_that_the_server_changed(policy_class, contract, observed):
    with running(policy_class()) as url:
        remote = RemotePolicy(url)
    other = policy_class(dataclasses.replace(contract, chunk=2))
    with running(other, port=int(url.rsplit(":", 1)[1])), pytest.raises(ContractMismatch, match="409"):
        remote.act([observed()])
    with pytest.raises(UserError, match="cannot be reached"):
        remote.act([observed()])


def test_errors_name_what_is_wrong_with_the_address():
    with pytest.raises(UserError, match="cannot be reached"):
        RemotePolicy("http://127.0.0.1:1")
    with pytest.raises(UserError, match="cannot be reached"):
        RemotePolicy("nonsense")
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UserError, match="no answer within"):
        RemotePolicy(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2)


def test_a_port_in_use_is_a_user_error(url, policy_class):
    port = int(url.rsplit(":", 1)[1])
    with pytest.raises(UserError, match="cannot listen"):
        serve({"policy": policy_class()}, port=port)
    with pytest.raises(UserError, match="cannot listen"):
        serve(lambda: pytest.fail("loaded before the address was known to be free"), port=port)


def test_a_policy_that_has_learned_no_questions_refuses_them(policy_class):
    class Writing(policy_class):
        def __init__(self, trained):
            super().__init__()
            self.trained_on_questions = trained

        def ask(self, images, questions):
            return [QuestionAnswer("018775312822600", None)] * len(questions)

    question = {"images": request()["images"], "question": "what colour is the cube"}
    policies = {
        "yes": Writing(True),
        "no": Writing(False),
        "unknown": Writing(None),
        "averaged": TemporalEnsemble(Writing(False)),
    }
    with running({**policies, "mute": policy_class()}) as url:
        answers = {name: httpx.post(f"{url}/policies/{name}/ask", json=question) for name in (*policies, "mute")}
        says = {name: httpx.get(f"{url}/policies/{name}/contract").json()["questions"] for name in answers}
        offered = {name for name in answers if f"{name}/ask" in httpx.get(f"{url}/policies/{name}/docs").text}
    assert {name: answer.status_code for name, answer in answers.items()} == {
        "yes": 200,
        "no": 409,
        "unknown": 200,
        "averaged": 409,
        "mute": 501,
    }
    assert says == {"yes": True, "no": False, "unknown": None, "averaged": False, "mute": False}
    assert offered == {"yes", "unknown"}, "the description offers only what is answered"
    assert "trained on no questions" in answers["no"].json()["error"]["what"] and answers["no"].json()["error"]["fix"]
    assert answers["yes"].json()["note"] == "" and "does not say" in answers["unknown"].json()["note"]


PROGRAM = """
import sys, time
sys.path.insert(0, {folder!r})
from conftest import MeanPixelPolicy
from vla.serving.server import serve
class Slow(MeanPixelPolicy):
    def act(self, observations):
        # Not in the warm-up.
        time.sleep(0 if observations[0].id.startswith("warm-up") else 1.5)
        return super().act(observations)
serve({{"slow": Slow()}}, port=0)
assert False, "SIGTERM ends the program"
"""


def test_sigterm_lets_a_request_finish_and_exits_with_0():
    program = PROGRAM.format(folder=os.path.dirname(__file__))
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    url = re.search(r"http://\S+", process.stdout.readline())
    assert url
    address = url.group()
    for _ in range(600):
        try:
            assert httpx.get(f"{address}/healthz").status_code == 200
            break
        except httpx.TransportError:
            time.sleep(0.05)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx.post, f"{address}/act", json=request())
        while "vla_active 1.0" not in httpx.get(f"{address}/metrics").text:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert answer.result().status_code == 200
    _, errors = process.communicate(timeout=15)
    assert process.returncode == 0 and "Traceback" not in errors, errors


RELOADING = """
import itertools, sys
sys.path.insert(0, {folder!r})
from conftest import MeanPixelPolicy
from vla.serving.logs import log_to_stderr
from vla.serving.server import serve
log_to_stderr()
numbers = itertools.count()
class Numbered(MeanPixelPolicy):
    def __init__(self):
        super().__init__()
        self.number = next(numbers)
    def act(self, observations):
        chunks = super().act(observations)
        for chunk in chunks:
            chunk.info["number"] = self.number
        return chunks
def broken():
    raise OSError("half an export")
serve({{"a": Numbered(), "b": Numbered()}}, port=0, load={{"a": Numbered, "b": broken}})
"""


def test_sighup_changes_the_policies_under_load_and_every_request_is_answered(tmp_path):
    program = RELOADING.format(folder=os.path.dirname(__file__))
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout and (url := re.search(r"http://\S+", process.stdout.readline()))
    numbers, stop = {"a": [], "b": []}, threading.Event()

    def ask(name):
        with httpx.Client(transport=httpx.HTTPTransport(retries=20), timeout=30) as client:
            while not stop.is_set():
                answer = client.post(f"{url.group()}/policies/{name}/act", json=request())
                assert answer.status_code == 200, answer.text
                numbers[name].append(answer.json()["info"]["number"])

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, name) for name in "aabb"]
        try:
            for number in (0, 2, 3):
                end = time.monotonic() + 30
                while numbers["a"][-2:] != [number] * 2 or len(numbers["b"]) < 5:
                    assert time.monotonic() < end and not any(future.done() for future in asking), (number, numbers["a"][-3:])
                    time.sleep(0.02)
                process.send_signal(signal.SIGHUP)
        finally:
            stop.set()
        assert all(future.result() is None for future in asking)
    process.terminate()
    assert process.wait(15) == 0 and set(numbers["b"]) == {1} and set(numbers["a"]) >= {0, 2, 3}
    log = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert "half an export" in next(line for line in log if line["what"].startswith("not reloaded"))["error"]


def test_every_batch_size_is_warmed_up_before_the_first_answer(policy_class):
    policy = policy_class()
    with running(policy, options=ServerOptions(batch=8)) as url:
        assert set(policy.batches) == {1, 4, 8} and not policy.calls
        assert httpx.get(f"{url}/healthz").status_code == 200
    with running(large := policy_class(), options=ServerOptions(batch=32)):
        assert set(large.batches) == {1, 4, 16, 32}


BROKEN = """
import sys
sys.path.insert(0, {folder!r})
from conftest import MeanPixelPolicy
from vla.serving.logs import log_to_stderr
from vla.serving.server import serve
class Broken(MeanPixelPolicy):
    def act(self, observations):
        raise RuntimeError("no such kernel")
log_to_stderr()
serve({{"broken": Broken()}}, port=0)
"""


def test_a_policy_that_cannot_act_is_not_served():
    program = BROKEN.format(folder=os.path.dirname(__file__))
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert run.returncode and "no such kernel" in run.stderr


def test_a_server_and_its_client_import_no_torch():
    code = "import sys, vla.serving.server, vla.policies.remote; sys.exit(bool({'torch', 'transformers'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
