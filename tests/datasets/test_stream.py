"""Streamed image-text shards: every sample once per epoch, exact resumption, a cache of bounded size."""

import pickle
import shutil
import tarfile

import numpy as np
import pytest

from vla.datasets.mixture import Mixture
from vla.datasets.shards import ShardWriter
from vla.datasets.stream import QuestionStream
from vla.errors import Unreadable, UserError

COUNTS = [5, 5, 5, 5, 5, 5, 5, 2]


@pytest.fixture
def captions(tmp_path):
    """Eight shards of images with captions that number them; no card."""
    folder = tmp_path / "there"
    with ShardWriter(folder, per_shard=5) as writer:
        for i in range(sum(COUNTS)):
            writer.write(f"c{i:03d}", {"jpg": np.full((8, 8, 3), i, np.uint8), "txt": f"image {i}".encode()})
    return folder


def stream(folder, fetched, **kwargs):
    urls = f"pipe:cat {folder}/shard-{{000000..000007}}.tar"
    return QuestionStream(urls, {"front": "jpg"}, text="txt", fetched=str(fetched), **{"together": 2, "holdout": 0.2, **kwargs})


def captions_of(mixture, ts):
    return [mixture.sample(t)[1].questions[0].answer[0] for t in ts]


def test_an_epoch_has_every_sample_once(captions, tmp_path):
    mixture = Mixture({"web": stream(captions, tmp_path / "here", split="train")}, 3)
    first, second = captions_of(mixture, range(30)), captions_of(mixture, range(30, 60))
    assert sorted(first) == sorted(second) == sorted(f"image {i}" for i in range(30)) and first != second
    assert mixture.draw(29)[1] == 0 and mixture.draw(30)[1] == 1
    sample = mixture.sample(4)[1]
    assert sample.questions[0].text == "what is in the picture" and sample.images["front"].shape == (8, 8, 3)


def test_held_out_shards_are_counted_and_never_trained_on(captions, tmp_path):
    held = stream(captions, tmp_path / "here").restricted("val")
    assert len(held) == 7
    assert sorted(held.sample(i, np.random.default_rng(0)).questions[0].answer[0] for i in range(7)) == [
        f"image {i}" for i in range(30, 37)
    ]


def test_a_resumed_run_finds_its_position_without_the_shards(captions, tmp_path):
    whole = captions_of(Mixture({"web": stream(captions, tmp_path / "a")}, 3), range(60))
    cache = tmp_path / "b"
    captions_of(Mixture({"web": stream(captions, cache)}, 3), range(45))
    for shard in cache.glob("*.tar"):
        shard.unlink()
    again = Mixture({"web": pickle.loads(pickle.dumps(stream(captions, cache)))}, 3)
    assert again.draw(45)[1] == 1 and not list(cache.glob("*.tar"))
    assert captions_of(again, range(45, 60)) == whole[45:]
    # A lost cache only costs time.
    shutil.rmtree(cache)
    assert captions_of(Mixture({"web": stream(captions, cache)}, 3), range(45, 60)) == whole[45:]


def test_the_cache_stays_within_its_limit(captions, tmp_path):
    size = (captions / "shard-000000.tar").stat().st_size
    mixture = Mixture({"web": stream(captions, tmp_path / "here", fetched_gib=3.5 * size / 2**30)}, 0)
    for t in range(80):
        mixture.sample(t)
        assert sum(p.stat().st_size for p in (tmp_path / "here").glob("*.tar")) <= 3.5 * size


def test_it_mixes_with_counted_sources_and_reports_its_epochs(captions, questions_folder, tmp_path):
    from vla.datasets.questions import QuestionSource

    sources = {"web": stream(captions, tmp_path / "here", split="train"), "own": QuestionSource(questions_folder)}
    mixture = Mixture(sources, 0)
    share = mixture.shares(130)["web"]
    assert share.count == sum(mixture.draw(t)[0] == "web" for t in range(130)) and 1 < share.epochs < 3


def test_our_own_questions_can_be_streamed(questions_folder, tmp_path):
    source = QuestionStream(
        f"pipe:cat {questions_folder}/shard-{{000000..000001}}.tar", {"front": "front.jpg"}, fetched=str(tmp_path), holdout=0.5
    )
    sample = source.sample(3, np.random.default_rng(0))
    assert sample.images.keys() == {"front"} and sample.questions[0].text in ("where is 3", "what colour is 3")


def test_the_next_image_replaces_one_without_questions(questions_folder, tmp_path):
    """The first image of the test data has none."""
    url = f"pipe:cat {questions_folder}/shard-000000.tar"
    source = QuestionStream(url, {"front": "front.jpg"}, fetched=str(tmp_path), split="all")
    sample = source.sample(0, np.random.default_rng(0))
    assert sample.questions[0].text in ("where is 1", "what colour is 1") and round(sample.images["front"].mean()) == 1


def test_members_that_are_apart_are_named(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name in ("0.jpg", "1.jpg", "0.txt", "1.txt"):
            tar.addfile(tarfile.TarInfo(name))
    source = QuestionStream(f"{tmp_path}/0.tar", {"front": "jpg"}, text="txt", fetched=str(tmp_path / "here"), split="all")
    with pytest.raises(Unreadable, match="it has no txt, only jpg; its other members are elsewhere in the shard"):
        source.questions(0)


def test_mistakes_are_named(captions, tmp_path, monkeypatch):
    monkeypatch.setattr("vla.datasets.remote.PAUSE", 0.001)
    with pytest.raises(UserError, match="leave them out"):
        stream(captions, tmp_path, cache=True)
    with pytest.raises(UserError, match="no images"):
        QuestionStream("x.tar", {})
    with pytest.raises(UserError, match=r"/nowhere.*cannot be read"):
        Mixture({"web": stream("/nowhere", tmp_path / "here")}, 0).sample(0)
    with pytest.raises(UserError, match="it has no caption, only jpg, txt"):
        source = QuestionStream(f"{captions}/shard-000000.tar", {"front": "jpg"}, text="caption", fetched=str(tmp_path / "c"))
        Mixture({"web": source}, 0).sample(0)
