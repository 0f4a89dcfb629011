"""Operation of a server: keys, TLS, origins, rates, addresses, metrics, logs, reloading."""

import asyncio
import json
import logging
import ssl
import time

import httpx
import msgpack
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from vla.errors import ContractMismatch, UserError
from vla.protocols.wire import encode_array, pack
from vla.serving.keys import Keys
from vla.serving.logs import JsonLines
from vla.serving.metrics import Metrics
from vla.serving.options import ServerOptions
from vla.serving.server import running, serve
from vla.serving.service import Service

ONE, TWO = "a" * 20, "b" * 20


def request_json(observed):
    observation = observed()
    images = {name: encode_array(image) for name, image in observation.images.items()}
    return {"images": images, "state": observation.state.tolist(), "instruction": "go"}


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# robots\narm1 {ONE}\n\narm2   {TWO} # the spare\nbroken\nshort abc\n")
    path.chmod(0o600)
    return path


def test_keys_are_needed_everywhere_and_revoked_by_editing_the_file(policy_class, observed, key_file):
    with running(policy_class(), keys=Keys(key_file)) as url:
        for path in ("/contract", "/metrics", "/docs", "/openapi.json", "/policies", "/nowhere"):
            assert httpx.get(url + path).status_code == 401, path
        assert httpx.get(f"{url}/healthz").status_code == httpx.get(url).status_code == 200
        for header in ({"Authorization": f"Api-Key {ONE}"}, {"Authorization": f"Bearer {TWO}"}, {"X-Api-Key": ONE}):
            assert httpx.post(f"{url}/act", json=request_json(observed), headers=header).status_code == 200
        for wrong in ("Api-Key abc", f"Basic {ONE}", "Api-Key", f"Api-Key {ONE}x", "Api-Key é"):
            answer = httpx.post(f"{url}/act", json=request_json(observed), headers={"Authorization": wrong.encode()})
            assert answer.status_code == 401 and ONE not in answer.text
        with pytest.raises(InvalidStatus, match="401"):
            connect(url.replace("http", "ws"))
        header = {"Authorization": f"Api-Key {ONE}"}
        with connect(url.replace("http", "ws"), additional_headers=header) as client:
            client.recv()
            message = pack({"images": observed().images, "state": [0.0] * 5, "prompt": "go"})
            client.send(message)
            assert isinstance(client.recv(), bytes)
            key_file.write_text(f"arm2 {TWO}\n")
            client.send(message)
            assert "revoked" in client.recv()
            with pytest.raises(ConnectionClosed) as closed:
                client.recv()
            assert closed.value.rcvd.code == 1008
        assert httpx.get(f"{url}/contract", headers=header).status_code == 401
        assert httpx.get(f"{url}/contract", headers={"X-Api-Key": TWO}).status_code == 200
        key_file.unlink()
        assert httpx.get(f"{url}/contract", headers={"X-Api-Key": TWO}).status_code == 401


def test_key_files_without_a_key_are_refused(tmp_path):
    with pytest.raises(UserError, match="no key file"):
        Keys(tmp_path / "none")
    (tmp_path / "empty").write_text("# nobody\narm1 short\n")
    with pytest.raises(UserError, match="no key in the file"):
        Keys(tmp_path / "empty")


def test_a_public_address_needs_a_key(policy_class):
    for host in ("0.0.0.0", "::"):
        with pytest.raises(UserError, match="anyone who reaches"):
            serve({"p": policy_class()}, host, 0)


def test_a_page_of_another_site_is_refused(url, observed):
    origin = {"Origin": "https://elsewhere.example"}
    assert httpx.post(f"{url}/act", json=request_json(observed), headers=origin).status_code == 403
    assert httpx.post(f"{url}/act", json=request_json(observed), headers={"Origin": url}).status_code == 200
    with pytest.raises(InvalidStatus, match="403"):
        connect(url.replace("http", "ws"), additional_headers=origin)
    assert httpx.post(f"{url}/act", json=request_json(observed), headers={"Origin": "http://[", "Host": "["}).status_code == 403
    # DNS rebinding: a name of the other site that resolves to this machine.
    rebound = f"elsewhere.example:{url.rsplit(':', 1)[1]}"
    headers = {"Origin": f"http://{rebound}", "Host": rebound}
    assert httpx.post(f"{url}/act", json=request_json(observed), headers=headers).status_code == 403
    local = url.replace("127.0.0.1", "localhost")
    assert httpx.post(f"{local}/act", json=request_json(observed), headers={"Origin": local}).status_code == 200


def test_rates_and_connections_of_one_client(policy_class, observed):
    with running(policy_class(), options=ServerOptions(rate=0.3, per_key=2)) as url:
        answers = [httpx.post(f"{url}/act", json=request_json(observed)) for _ in range(2)]
        codes = [answer.status_code for answer in answers]
        assert codes[0] == 200 and 429 in codes
        wait = next(answer for answer in answers if answer.status_code == 429).json()["error"]["retry_after"]
        assert 0 < wait <= 3.4
        assert httpx.post(f"{url}/act", content=b"{").status_code == 429, "malformed requests are counted too"
        time.sleep(wait + 0.05)
        assert httpx.post(f"{url}/act", json=request_json(observed)).status_code == 200
        ws = url.replace("http", "ws")
        with connect(ws), connect(ws), pytest.raises(InvalidStatus, match="503"):
            connect(ws)


def test_limits_of_messages_and_images(policy_class, observed):
    with running(policy_class(), options=ServerOptions(message=100_000, side=100)) as url:
        assert httpx.post(f"{url}/act", content=b" " * 100_001).status_code == 413
        with connect(url.replace("http", "ws")) as client:
            client.recv()
            client.send(b"\xc4" * 100_001)
            with pytest.raises(ConnectionClosed) as closed:
                client.recv()
            assert closed.value.rcvd.code == 1009
        large = {**request_json(observed), "state": [0.0] * 5}
        large["images"]["front"] = encode_array(observed().images["front"].repeat(2, 0).repeat(2, 1))
        answer = httpx.post(f"{url}/act", json=large)
        assert answer.status_code == 400 and "at most 100 per side" in answer.text


def test_tls(policy_class, certificate, observed):
    context = ssl.create_default_context(cafile=certificate[0])
    with running(policy_class(), tls=certificate) as url:
        assert url.startswith("https")
        assert httpx.post(f"{url}/act", json=request_json(observed), verify=context).status_code == 200
        with connect(url.replace("http", "ws"), ssl=context) as client:
            assert "contract_hash" in msgpack.unpackb(client.recv())
    with pytest.raises(UserError, match="no such file"):
        serve({"p": policy_class()}, port=0, tls=("none.pem", "none.pem"))


def test_metrics_and_logs_cover_each_request(policy_class, observed, caplog):
    caplog.set_level(logging.INFO, "vla.serving")
    with running(policy_class()) as url:
        fine = httpx.post(f"{url}/act", json=request_json(observed), headers={"X-Request-Id": "mine-1"})
        assert fine.headers["x-request-id"] == "mine-1"
        assert len(httpx.post(f"{url}/act", json={}, headers={"X-Request-Id": "no\tgood"}).headers["x-request-id"]) == 16
        text = httpx.get(f"{url}/metrics").text
        with connect(url.replace("http", "ws"), additional_headers={"X-Request-Id": "mine-2"}) as client:
            client.recv()
            for _ in range(2):
                client.send(pack({"images": observed().images, "state": [0.0] * 5, "prompt": "go"}))
                client.recv()
    for line in (
        'vla_requests_total{protocol="http",status="200"} 1.0',
        'vla_requests_total{protocol="http",status="400"} 1.0',
        "vla_request_seconds_count 1.0",
        'vla_batch_rows_bucket{le="1.0"} 1.0',
        "process_resident_memory_bytes",
    ):
        assert line in text
    records = [record for record in caplog.records if record.getMessage() == "request"]
    lines = [json.loads(JsonLines().format(record)) for record in records]
    assert lines[0]["request"] == "mine-1" and lines[0]["status"] == 200 and lines[0]["batch"] == 1 and lines[0]["policy_ms"] >= 0
    assert [(line["request"], line["message"]) for line in lines[2:]] == [("mine-2", 1), ("mine-2", 2)]
    assert lines[1]["status"] == 400 and "error" in lines[1] and lines[0]["client"] == "ip:127.0.0.1"


def test_a_reload_changes_the_policy_between_two_calls_and_never_the_contract(policy_class, contract, observed):
    async def scenario():
        service = Service(policy_class(), ServerOptions(), Metrics())
        await service.start()
        observation = observed()
        acting = [asyncio.create_task(service.batcher.act(observation, "me", 5)) for _ in range(3)]
        new_policy = policy_class()
        await service.replace(lambda: new_policy)
        assert len(await asyncio.gather(*acting)) == 3
        await service.batcher.act(observation, "me", 5)
        assert new_policy.calls[observation.id] >= 1
        with pytest.raises(ContractMismatch):
            await service.replace(lambda: policy_class(policy_class().contract.__class__(contract.embodiments, chunk=9)))
        assert service.policy is new_policy
        await service.close()

    asyncio.run(scenario())


def test_options_out_of_range_are_refused():
    for wrong in ({"batch": 0}, {"wait_ms": -1}, {"deadline_s": 0}):
        with pytest.raises(UserError):
            ServerOptions(**wrong)
