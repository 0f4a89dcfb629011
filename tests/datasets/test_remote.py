"""Remote data sets: the same samples, whole files, a cache of bounded size."""

import functools
import http.server
import pickle
import threading

import numpy as np
import pytest
import yaml

from vla.datasets.mixture import Mixture
from vla.datasets.remote import ATTEMPTS, RemoteFolder
from vla.datasets.robot import RobotSource
from vla.errors import UserError


class Server(http.server.SimpleHTTPRequestHandler):
    cut, busy = False, 0

    def log_message(self, *_):
        pass

    def send_head(self):
        if type(self).busy > 0:
            type(self).busy -= 1
            return self.send_error(503)
        return super().send_head()

    def copyfile(self, source, outputfile):
        outputfile.write(source.read(1000) if self.cut and self.path.endswith(".tar") else source.read())


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr("vla.datasets.remote.PAUSE", 0.001)


@pytest.fixture
def served(make, tmp_path):
    """A data set on a web server: its folder and its address."""
    folder = make(tmp_path / "there")
    card = yaml.safe_load((folder / "card.yaml").read_text())
    card["shards"] = {
        "shard-000000.tar": 10,
        "shard-000001.tar": 10,
        "shard-000002.tar": 10,
        "shard-000003.tar": 10,
        "shard-000004.tar": 5,
    }
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    handler = type("Handler", (Server,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}", handler
    server.shutdown()


def same(one, other):
    rng = np.random.default_rng
    assert len(one) == len(other) == 45
    for i in range(45):
        a, b = one.sample(i, rng(i)), other.sample(i, rng(i))
        assert all(np.array_equal(a.images[c], b.images[c]) for c in a.images) and np.array_equal(a.actions, b.actions)


@pytest.mark.parametrize("kind", ["http", "pipe"])
def test_samples_are_those_of_the_folder(served, tmp_path, kind):
    folder, url, _ = served
    address = url if kind == "http" else f"pipe:cat {folder}/{{}}"
    remote = RobotSource(address, chunk=2, fetched=str(tmp_path / "here"))
    same(remote, RobotSource(folder, chunk=2))
    same(pickle.loads(pickle.dumps(remote)), RobotSource(folder, chunk=2))


def test_the_cache_stays_within_its_limit_and_the_order_within_a_few_shards(served, tmp_path):
    folder, url, _ = served
    size = (folder / "shard-000000.tar").stat().st_size
    source = RobotSource(url, chunk=1, fetched=str(tmp_path / "here"), fetched_gib=4.5 * size / 2**30, together=2)
    mixture = Mixture({"robot": source}, 3)
    shards = []
    for t in range(45):
        i = mixture.draw(t)[2]
        source.sample(i, np.random.default_rng(0))
        shards.append(int(source._records[i]) // 10)
        assert sum(p.stat().st_size for p in (tmp_path / "here").glob("*.tar")) <= 4.5 * size
    assert sorted(mixture.draw(t)[2] for t in range(45)) == list(range(45))
    # Two shards at a time: an epoch leaves each of them once.
    firsts = [shards.index(s) for s in range(5)]
    lasts = [44 - shards[::-1].index(s) for s in range(5)]
    assert all(last - first < 20 for first, last in zip(firsts, lasts, strict=True))


def test_the_order_does_not_depend_on_what_was_fetched(served, tmp_path):
    _, url, _ = served
    fresh, used = (RobotSource(url, chunk=1, fetched=str(tmp_path / name), together=2) for name in "ab")
    for i in range(45):
        used.sample(i, np.random.default_rng(0))
    one, other = Mixture({"robot": fresh}, 3), Mixture({"robot": used}, 3)
    assert [one.draw(t) for t in range(90)] == [other.draw(t) for t in range(90)]
    # The index of a shard stays when the shard is used again.
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "b").glob("*.idx")}
    again = RobotSource(url, chunk=1, fetched=str(tmp_path / "b"), together=2)
    again.sample(0, np.random.default_rng(0))
    assert len(kept) == 5 and kept == {p.name: p.stat().st_mtime_ns for p in (tmp_path / "b").glob("*.idx")}


def test_a_connection_that_breaks_off_leaves_nothing_behind(served, tmp_path):
    _, url, handler = served
    handler.cut = True
    folder = RemoteFolder(url, tmp_path / "here")
    with pytest.raises(UserError, match=rf"shard-000001.tar: cannot be read \({ATTEMPTS} times\): .*broke off"):
        folder.path("shard-000001.tar")
    assert not [p for p in (tmp_path / "here").iterdir() if p.name != "source" and p.suffix != ".lock"]
    handler.cut = False
    assert folder.path("shard-000001.tar").stat().st_size > 1000


def test_a_busy_server_is_retried_but_not_for_ever(served, tmp_path, capsys):
    folder, url, handler = served
    handler.busy = ATTEMPTS - 1
    same(RobotSource(url, chunk=2, fetched=str(tmp_path / "here")), RobotSource(folder, chunk=2))
    shown = capsys.readouterr().err
    assert shown.count("trying again") == ATTEMPTS - 1 and f"{url}/card.yaml" in shown and "503" in shown
    handler.busy = ATTEMPTS
    with pytest.raises(UserError, match=rf"card.yaml: cannot be read \({ATTEMPTS} times\): .*503"):
        len(RobotSource(url, chunk=2, fetched=str(tmp_path / "other")))
    # A missing file is not requested again.
    capsys.readouterr()
    with pytest.raises(UserError, match=r"shard-9.tar: cannot be read: .*404"):
        RemoteFolder(url, tmp_path / "third").path("shard-9.tar")
    assert "trying again" not in capsys.readouterr().err


def test_what_cannot_be_fetched_is_named(tmp_path):
    with pytest.raises(UserError, match=r"card.yaml: cannot be read \(6 times\): .*refused"):
        len(RobotSource("http://127.0.0.1:9", chunk=1, fetched=str(tmp_path)))
    with pytest.raises(UserError, match="card.yaml: cannot be read"):
        len(RobotSource("pipe:cat /nowhere/{}", chunk=1, fetched=str(tmp_path / "other")))
    with pytest.raises(UserError, match="files fetched from another address"):
        len(RobotSource("pipe:cat /somewhere/{}", chunk=1, fetched=str(tmp_path / "other")))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: cannot be used"):
        len(RobotSource("pipe:cat /nowhere/{}", chunk=1, fetched=str(tmp_path / "file")))
