"""Batches of requests from many clients and protocols; the queue, deadlines, and clients that disconnect."""

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
from vla.serving.options import ServerOptions
from vla.serving.server import running


@pytest.fixture
def slow(policy_class):
    """A policy of 20 ms a call, and 1 ms for each observation."""

    class Slow(policy_class):
        def act(self, observations):
            time.sleep(0.02 + 0.001 * len(observations))
            return super().act(observations)

    return Slow


def request_json(observed, seed=0, **changes):
    observation = observed(seed)
    images = {name: encode_array(image) for name, image in observation.images.items()}
    return {"id": str(seed), "images": images, "state": observation.state.tolist(), "instruction": "go", **changes}


def drive(url, observed, clients, each):
    """Runs the clients and checks each answer against its observation; returns requests per second."""

    def http(seed):
        remote = RemotePolicy(url)
        for k in range(each):
            observation = observed(1000 * seed + k)
            (chunk,) = remote.act([observation])
            assert chunk.actions[0, 0] == pytest.approx(observation.images["front"].mean()) and chunk.info["calls"] == k + 1

    def openpi(seed):
        with connect(url.replace("http", "ws"), compression=None) as client:
            client.recv()
            for k in range(each):
                observation = observed(1000 * seed + k)
                client.send(pack({"images": observation.images, "state": observation.state, "prompt": "go"}))
                answer = unpack(client.recv())
                assert answer["actions"][0, 0] == pytest.approx(observation.images["front"].mean())
                assert answer["info"]["calls"] == k + 1

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        for future in [pool.submit((http, openpi)[seed % 2], seed) for seed in range(clients)]:
            future.result()
    return clients * each / (time.perf_counter() - began)


def test_clients_of_all_protocols_share_calls_and_get_their_own_answers(slow, observed):
    policy = slow()
    with running(policy) as url:
        policy.batches.clear()
        drive(url, observed, 8, 10)
    assert sum(policy.batches) == 80 and np.mean(policy.batches) > 2 and max(policy.batches) <= 16
    assert len(policy.threads) == 1


def test_a_lone_client_does_not_wait_for_others(policy_class, observed):
    with running(policy_class(), options=ServerOptions(wait_ms=2000)) as url:
        began = time.perf_counter()
        drive(url, observed, 1, 3)
        assert time.perf_counter() - began < 2


def test_batching_can_be_off(slow, observed):
    policy = slow()
    with running(policy, options=ServerOptions(batch=1)) as url:
        drive(url, observed, 4, 3)
    assert set(policy.batches) == {1}


def test_one_bad_request_fails_alone(slow, observed):
    with running(slow(), options=ServerOptions(wait_ms=100)) as url, ThreadPoolExecutor(4) as pool:
        requests = [request_json(observed, i, instruction="break" if i == 2 else "go") for i in range(4)]
        codes = [r.status_code for r in pool.map(lambda content: httpx.post(f"{url}/act", json=content), requests)]
    assert codes == [200, 200, 500, 200]


@pytest.mark.parametrize("error", [SystemExit(3), StopIteration(), KeyboardInterrupt()])
def test_no_error_of_a_policy_ends_its_thread(policy_class, observed, error):
    class Broken(policy_class):
        def act(self, observations):
            if observations[0].instruction == "break":
                raise error
            return super().act(observations)

    with running(policy := Broken()) as url:
        assert httpx.post(f"{url}/act", json=request_json(observed, instruction="break")).status_code == 500
        assert httpx.post(f"{url}/act", json=request_json(observed)).status_code == 200
    assert len(policy.threads) == 1


def test_frames_that_arrive_during_an_answer_are_answered_in_turn(slow, observed):
    policy = slow()
    with running(policy) as url:
        with connect(url.replace("http", "ws"), compression=None) as client:
            client.recv()
            observations = [observed(seed) for seed in range(4)]
            for observation in observations:
                client.send(pack({"images": observation.images, "state": observation.state, "prompt": "go"}))
            for number, observation in enumerate(observations, 1):
                answer = unpack(client.recv())
                assert answer["actions"][0, 0] == pytest.approx(observation.images["front"].mean())
                assert answer["info"]["calls"] == number
        # The client has left between two answers.
        wait_until(lambda: not policy.calls)


class Held:
    """A policy that answers while `go` is set."""

    def __init__(self, policy):
        self.policy, self.contract = policy, policy.contract
        self.go = threading.Event()
        self.go.set()

    def reset(self, ids):
        self.policy.reset(ids)

    def act(self, observations):
        assert self.go.wait(20)
        return self.policy.act(observations)


def wait_until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition stayed false"
        time.sleep(0.01)


@contextlib.contextmanager
def held(policy_class, **options):
    policy = Held(policy_class())
    with running(policy, options=ServerOptions(**options)) as url:
        policy.go.clear()
        try:
            yield policy, url
        finally:
            policy.go.set()


def active(url, key=""):
    lines = httpx.get(f"{url}/metrics", headers={"X-Api-Key": key}).text.splitlines()
    return int(float(next(line.split()[1] for line in lines if line.startswith("vla_active "))))


def test_a_full_queue_refuses_at_once_and_says_when_to_retry(policy_class, observed):
    with held(policy_class, queue=2, batch=1) as (policy, url), ThreadPoolExecutor(3) as pool:
        patient = [pool.submit(httpx.post, f"{url}/act", json=request_json(observed, i), timeout=20) for i in range(3)]
        wait_until(lambda: active(url) == 3)
        time.sleep(0.2)
        began = time.perf_counter()
        answer = httpx.post(f"{url}/act", json=request_json(observed, 9))
        assert time.perf_counter() - began < 2 and answer.status_code == 503
        error = answer.json()["error"]
        assert "busy" in error["what"] and error["retry_after"] > 0 and int(answer.headers["retry-after"]) >= 1
        with connect(url.replace("http", "ws")) as client:
            client.recv()
            client.send(pack({"images": observed().images, "state": [0.0] * 5, "prompt": "go"}))
            assert "busy" in (error := client.recv()) and "retry after" in error
        policy.go.set()
        assert [future.result().status_code for future in patient] == [200] * 3


def test_the_request_of_a_client_that_disconnects_is_cancelled(policy_class, observed):
    with held(policy_class, batch=1) as (policy, url), ThreadPoolExecutor(1) as pool:
        stays = pool.submit(httpx.post, f"{url}/act", json=request_json(observed, 1), timeout=20)
        wait_until(lambda: active(url) == 1)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/act", json=request_json(observed, 2), timeout=0.3)
        leaver = connect(url.replace("http", "ws"))
        leaver.recv()
        leaver.send(pack({"images": observed().images, "state": [0.0] * 5, "prompt": "go"}))
        wait_until(lambda: active(url) == 2)
        leaver.close()
        wait_until(lambda: active(url) == 1)
        before = len(policy.policy.batches)
        policy.go.set()
        assert stays.result().status_code == 200
        time.sleep(0.2)
        assert len(policy.policy.batches) == before + 1, "nothing was computed for the clients that left"


def test_one_clients_many_requests_do_not_delay_anothers(policy_class, observed, tmp_path):
    served = []

    class Noting(policy_class):
        def act(self, observations):
            served.extend(o.id for o in observations)
            return super().act(observations)

    (tmp_path / "keys").write_text(f"greedy {'g' * 20}\nmodest {'m' * 20}\n")
    policy = Held(Noting())
    with running(policy, options=ServerOptions(batch=1), keys=Keys(tmp_path / "keys")) as url, ThreadPoolExecutor(9) as pool:
        policy.go.clear()
        served.clear()

        def post(key, seed):
            return httpx.post(
                f"{url}/act", json=request_json(observed, seed), headers={"X-Api-Key": key * 20}, timeout=20
            ).status_code

        many = [pool.submit(post, "g", i) for i in range(6)]
        wait_until(lambda: active(url, "m" * 20) == 6)
        one = pool.submit(post, "m", 9)
        wait_until(lambda: active(url, "m" * 20) == 7)
        # Until its body has been read.
        time.sleep(0.2)
        policy.go.set()
        assert [future.result() for future in (*many, one)] == [200] * 7
    # The first request was in progress already; the second one's turn was before the new client's.
    assert served.index("key:modest/9") <= 2


def test_a_robot_waits_for_one_question_at_most_and_questions_have_their_own_queue(policy_class, observed):
    order, go = [], threading.Event()

    class Answering(policy_class):
        def ask(self, images, questions):
            order.append("ask")
            assert go.wait(20)
            return [SimpleNamespace(text="yes", point=None)]

        def act(self, observations):
            order.append("act")
            return super().act(observations)

    with running(Answering(), options=ServerOptions(queue=6)) as url, ThreadPoolExecutor(9) as pool:
        order.clear()
        question = {"images": request_json(observed)["images"], "question": "is it red"}
        asking = [pool.submit(httpx.post, f"{url}/ask", json=question, timeout=30) for _ in range(8)]
        wait_until(lambda: sum(future.done() for future in asking) == 2)
        acting = pool.submit(httpx.post, f"{url}/act", json=request_json(observed), timeout=30)
        wait_until(lambda: active(url) == 7)
        go.set()
        assert sorted(future.result().status_code for future in asking) == [200] * 6 + [503] * 2
        assert acting.result().status_code == 200 and order.index("act") <= 2


def test_a_deadline_is_kept(policy_class, observed):
    with held(policy_class, deadline_s=5) as (_, url):
        for header, code in (("200", 504), ("soon", 400), ("-1", 400), ("nan", 400)):
            answer = httpx.post(f"{url}/act", json=request_json(observed), headers={"X-Deadline-Ms": header})
            assert answer.status_code == code, answer.text


def test_the_state_of_a_silent_stream_is_dropped(policy_class, observed):
    policy = policy_class()
    with running(policy, options=ServerOptions(idle_s=0.4)) as url:
        for calls in (1, 2):
            assert httpx.post(f"{url}/act", json=request_json(observed)).json()["info"]["calls"] == calls
        wait_until(lambda: not policy.calls)
        assert httpx.post(f"{url}/act", json=request_json(observed)).json()["info"]["calls"] == 1
        with connect(url.replace("http", "ws")) as client:
            client.recv()
            client.send(pack({"images": observed().images, "state": [0.0] * 5, "prompt": "go"}))
            assert msgpack.unpackb(client.recv())["info"]["calls"] == 1
            assert len(policy.calls) == 2
        wait_until(lambda: not policy.calls)


def test_temporal_ensembles_of_streams_are_independent(policy_class, observed):
    """Each answer averages the chunks of its own stream only."""

    def means(url, seeds):
        answers = [httpx.post(f"{url}/act", json=request_json(observed, seed, id=stream)).json() for stream, seed in seeds]
        assert all(len(answer["actions"]) == 1 for answer in answers)
        return [answer["actions"][0][0] for answer in answers]

    a, b = [("a", seed) for seed in (1, 2, 3)], [("b", seed) for seed in (11, 12, 13)]
    with running(TemporalEnsemble(policy_class())) as url:
        mixed = means(url, [request for pair in zip(a, b, strict=True) for request in pair])
    with running(TemporalEnsemble(policy_class())) as url:
        assert mixed[::2] == means(url, a) and mixed[1::2] == means(url, b)
        assert httpx.post(f"{url}/reset", json={"ids": ["a"]}).status_code == 200
        assert means(url, a) == mixed[::2], "a new episode starts without the chunks of the last one"


def test_slow_and_silent_connections_are_closed(policy_class, observed):
    with running(policy_class(), options=ServerOptions(slow_s=0.3, connections=4)) as url:
        host, port = url.removeprefix("http://").split(":")
        for start in (
            b"",
            b"POST /act HTTP/1.1\r\nHost: x\r\n",
            b"POST /act HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n{",
        ):
            with socket.create_connection((host, int(port))) as silent:
                silent.settimeout(5)
                silent.sendall(start)
                answer = silent.recv(100)
                assert answer == b"" or b"408" in answer
        connections = [socket.create_connection((host, int(port))) for _ in range(4)]
        with socket.create_connection((host, int(port))) as fifth:
            fifth.settimeout(5)
            assert b"503" in fifth.recv(100)
        for connection in connections:
            connection.close()
        wait_until(lambda: httpx.post(f"{url}/act", json=request_json(observed)).status_code == 200)
