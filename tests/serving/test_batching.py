"""Requests of many clients and protocols in one call of the policy; lines, deadlines, and clients that leave."""

import contextlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import msgpack
import numpy as np
import pytest
from websockets.sync.client import connect

from vla.policies.base import TemporalEnsemble
from vla.policies.remote import RemotePolicy
from vla.protocols.wire import encode_array, pack, unpack
from vla.serving.keys import Keys
from vla.serving.options import Options
from vla.serving.server import running


@pytest.fixture
def slow(policy_class):
    """A policy of 20 ms a call, and 1 ms for each observation."""

    class Slow(policy_class):
        def act(self, observations):
            time.sleep(0.02 + 0.001 * len(observations))
            return super().act(observations)

    return Slow


def body(observed, seed=0, **changes):
    seen = observed(seed)
    images = {name: encode_array(image) for name, image in seen.images.items()}
    return {"id": str(seed), "images": images, "state": seen.state.tolist(), "instruction": "go", **changes}


def drive(url, observed, clients, each):
    """Every client's answers are checked against its own observations."""

    def http(seed):
        remote = RemotePolicy(url)
        for k in range(each):
            seen = observed(1000 * seed + k)
            (chunk,) = remote.act([seen])
            assert chunk.actions[0, 0] == pytest.approx(seen.images["front"].mean()) and chunk.info["calls"] == k + 1

    def openpi(seed):
        with connect(url.replace("http", "ws"), compression=None) as client:
            client.recv()
            for k in range(each):
                seen = observed(1000 * seed + k)
                client.send(pack({"images": seen.images, "state": seen.state, "prompt": "go"}))
                answer = unpack(client.recv())
                assert answer["actions"][0, 0] == pytest.approx(seen.images["front"].mean()) and answer["info"]["calls"] == k + 1

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit((http, openpi)[seed % 2], seed) for seed in range(clients)]:
            done.result()
    return clients * each / (time.perf_counter() - began)


def test_clients_of_all_protocols_share_calls_and_get_their_own_answers(slow, observed):
    policy = slow()
    with running(policy) as url:
        policy.batches.clear()
        drive(url, observed, 8, 10)
    assert sum(policy.batches) == 80 and np.mean(policy.batches) > 2 and max(policy.batches) <= 16
    assert len(policy.threads) == 1


def test_a_lone_client_does_not_wait_for_others(policy_class, observed):
    with running(policy_class(), options=Options(wait_ms=2000)) as url:
        began = time.perf_counter()
        drive(url, observed, 1, 3)
        assert time.perf_counter() - began < 2


def test_batching_can_be_off(slow, observed):
    policy = slow()
    with running(policy, options=Options(batch=1)) as url:
        drive(url, observed, 4, 3)
    assert set(policy.batches) == {1}


def test_one_bad_request_fails_alone(slow, observed):
    with running(slow(), options=Options(wait_ms=100)) as url, ThreadPoolExecutor(4) as pool:
        asked = [body(observed, i, instruction="break" if i == 2 else "go") for i in range(4)]
        codes = [r.status_code for r in pool.map(lambda content: httpx.post(f"{url}/act", json=content), asked)]
    assert codes == [200, 200, 500, 200]


class Held:
    """A policy that answers when it is let go."""

    def __init__(self, policy):
        self.policy, self.contract = policy, policy.contract
        self.go = threading.Event()
        self.go.set()

    def reset(self, ids):
        self.policy.reset(ids)

    def act(self, observations):
        assert self.go.wait(20)
        return self.policy.act(observations)


def soon(true, seconds=10.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@contextlib.contextmanager
def held(policy_class, **options):
    policy = Held(policy_class())
    with running(policy, options=Options(**options)) as url:
        policy.go.clear()
        try:
            yield policy, url
        finally:
            policy.go.set()


def waiting(url, key=""):
    lines = httpx.get(f"{url}/metrics", headers={"X-Api-Key": key}).text.splitlines()
    return int(float(next(line.split()[1] for line in lines if line.startswith("vla_active "))))


def test_a_full_line_says_so_at_once_and_when_to_come_back(policy_class, observed):
    with held(policy_class, queue=2, batch=1) as (policy, url), ThreadPoolExecutor(3) as pool:
        patient = [pool.submit(httpx.post, f"{url}/act", json=body(observed, i), timeout=20) for i in range(3)]
        soon(lambda: waiting(url) == 3)
        time.sleep(0.2)
        began = time.perf_counter()
        answer = httpx.post(f"{url}/act", json=body(observed, 9))
        assert time.perf_counter() - began < 2 and answer.status_code == 503
        error = answer.json()["error"]
        assert "busy" in error["what"] and error["retry_after"] > 0 and int(answer.headers["retry-after"]) >= 1
        with connect(url.replace("http", "ws")) as client:
            client.recv()
            client.send(pack({"images": observed().images, "state": [0.0] * 5, "prompt": "go"}))
            assert "busy" in (said := client.recv()) and "retry after" in said
        policy.go.set()
        assert [one.result().status_code for one in patient] == [200] * 3


def test_a_client_that_leaves_takes_its_request_with_it(policy_class, observed):
    with held(policy_class, batch=1) as (policy, url), ThreadPoolExecutor(1) as pool:
        stays = pool.submit(httpx.post, f"{url}/act", json=body(observed, 1), timeout=20)
        soon(lambda: waiting(url) == 1)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/act", json=body(observed, 2), timeout=0.3)
        leaver = connect(url.replace("http", "ws"))
        leaver.recv()
        leaver.send(pack({"images": observed().images, "state": [0.0] * 5, "prompt": "go"}))
        soon(lambda: waiting(url) == 2)
        leaver.close()
        soon(lambda: waiting(url) == 1)
        before = len(policy.policy.batches)
        policy.go.set()
        assert stays.result().status_code == 200
        time.sleep(0.2)
        assert len(policy.policy.batches) == before + 1, "nothing was computed for those who left"


def test_one_clients_many_requests_do_not_delay_anothers(policy_class, observed, tmp_path):
    served = []

    class Noting(policy_class):
        def act(self, observations):
            served.extend(o.id for o in observations)
            return super().act(observations)

    (tmp_path / "keys").write_text(f"greedy {'g' * 20}\nmodest {'m' * 20}\n")
    policy = Held(Noting())
    with running(policy, options=Options(batch=1), keys=Keys(tmp_path / "keys")) as url, ThreadPoolExecutor(9) as pool:
        policy.go.clear()
        served.clear()

        def post(key, seed):
            return httpx.post(f"{url}/act", json=body(observed, seed), headers={"X-Api-Key": key * 20}, timeout=20).status_code

        many = [pool.submit(post, "g", i) for i in range(6)]
        soon(lambda: waiting(url, "m" * 20) == 6)
        one = pool.submit(post, "m", 9)
        soon(lambda: waiting(url, "m" * 20) == 7)
        policy.go.set()
        assert [done.result() for done in (*many, one)] == [200] * 7
    # The first was under way already, the second's turn was before the newcomer's.
    assert served.index("key:modest/9") <= 2


def test_a_robot_waits_for_one_question_at_most_and_questions_have_their_own_line(policy_class, observed):
    order, go = [], threading.Event()

    class Asked(policy_class):
        def ask(self, images, questions):
            order.append("ask")
            assert go.wait(20)
            return [SimpleNamespace(text="yes", point=None)]

        def act(self, observations):
            order.append("act")
            return super().act(observations)

    with running(Asked(), options=Options(queue=6)) as url, ThreadPoolExecutor(9) as pool:
        order.clear()
        question = {"images": body(observed)["images"], "question": "is it red"}
        asking = [pool.submit(httpx.post, f"{url}/ask", json=question, timeout=30) for _ in range(8)]
        soon(lambda: sum(one.done() for one in asking) == 2)
        acting = pool.submit(httpx.post, f"{url}/act", json=body(observed), timeout=30)
        soon(lambda: waiting(url) == 7)
        go.set()
        assert sorted(one.result().status_code for one in asking) == [200] * 6 + [503] * 2
        assert acting.result().status_code == 200 and order.index("act") <= 2


def test_a_deadline_is_kept(policy_class, observed):
    with held(policy_class, deadline_s=5) as (_, url):
        for header, code in (("200", 504), ("soon", 400), ("-1", 400), ("nan", 400)):
            answer = httpx.post(f"{url}/act", json=body(observed), headers={"X-Deadline-Ms": header})
            assert answer.status_code == code, answer.text


def test_what_is_kept_for_a_silent_stream_is_forgotten(policy_class, observed):
    policy = policy_class()
    with running(policy, options=Options(idle_s=0.4)) as url:
        for calls in (1, 2):
            assert httpx.post(f"{url}/act", json=body(observed)).json()["info"]["calls"] == calls
        soon(lambda: not policy.calls)
        assert httpx.post(f"{url}/act", json=body(observed)).json()["info"]["calls"] == 1
        with connect(url.replace("http", "ws")) as client:
            client.recv()
            client.send(pack({"images": observed().images, "state": [0.0] * 5, "prompt": "go"}))
            assert msgpack.unpackb(client.recv())["info"]["calls"] == 1
            assert len(policy.calls) == 2
        soon(lambda: not policy.calls)


def test_what_is_averaged_over_time_is_kept_apart(policy_class, observed):
    """Each answer is the average of its own stream's chunks, whatever other streams saw in between."""

    def means(url, seeds):
        answers = [httpx.post(f"{url}/act", json=body(observed, seed, id=stream)).json() for stream, seed in seeds]
        assert all(len(one["actions"]) == 1 for one in answers)
        return [one["actions"][0][0] for one in answers]

    a, b = [("a", seed) for seed in (1, 2, 3)], [("b", seed) for seed in (11, 12, 13)]
    with running(TemporalEnsemble(policy_class())) as url:
        mixed = means(url, [one for pair in zip(a, b, strict=True) for one in pair])
    with running(TemporalEnsemble(policy_class())) as url:
        assert mixed[::2] == means(url, a) and mixed[1::2] == means(url, b)
        assert httpx.post(f"{url}/reset", json={"ids": ["a"]}).status_code == 200
        assert means(url, a) == mixed[::2], "a new episode begins without the last one's chunks"


def test_slow_and_silent_connections_are_closed(policy_class, observed):
    with running(policy_class(), options=Options(slow_s=0.3, connections=4)) as url:
        host, port = url.removeprefix("http://").split(":")
        for begun in (
            b"",
            b"POST /act HTTP/1.1\r\nHost: x\r\n",
            b"POST /act HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n{",
        ):
            with socket.create_connection((host, int(port))) as silent:
                silent.settimeout(5)
                silent.sendall(begun)
                answer = silent.recv(100)
                assert answer == b"" or b"408" in answer
        crowd = [socket.create_connection((host, int(port))) for _ in range(4)]
        with socket.create_connection((host, int(port))) as fifth:
            fifth.settimeout(5)
            assert b"503" in fifth.recv(100)
        for one in crowd:
            one.close()
        soon(lambda: httpx.post(f"{url}/act", json=body(observed)).status_code == 200)
