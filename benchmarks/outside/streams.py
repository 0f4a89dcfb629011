"""Image-text shards of other people, streamed in training through webdataset's notation."""

from __future__ import annotations

import gzip

from outside.pixels import deep, encoded, plain
from outside.project import project
from outside.tar_files import Member, numbered_image, tar
from outside.trial import Trial, case

SIZE = (64, 64)


def shards(trial: Trial, members: list[Member] | None = None, **options) -> None:
    """Two shards of images with captions; `members` come first in each."""
    for shard in range(2):
        captions = [(f"{shard}{n:05d}", plain(40 + 10 * n, SIZE), f"object {n}") for n in range(4)]
        rest = [m for key, pixels, text in captions for m in ((f"{key}.jpg", encoded(pixels, "JPEG")), (f"{key}.txt", text))]
        tar(trial.folder / f"web/{shard:06d}.tar", [*(members or []), *rest], **options)


def fit(trial: Trial, urls: str = "web/{000000..000001}.tar", **checks) -> str:
    """Trains two steps with the captions beside the robot data."""
    settings = {"urls": urls, "images": {"front": "jpg"}, "text": "txt", "fetched": "fetched", "holdout": 0.5, "weight": 0.5}
    stream = {"class_path": "vla.datasets.stream.QuestionStream", "init_args": settings}
    project(trial, lambda recipe: recipe["data"]["sources"].update(questions=stream))
    return trial.vla("fit", "-c", "fit.yaml", **checks)


@case()
def a_brace_pattern(trial: Trial) -> None:
    """`{000000..000001}.tar` is expanded, and camera names that web images lack are masked."""
    shards(trial)
    fit(trial)


@case()
def a_shard_that_is_not_there(trial: Trial) -> None:
    """An address that does not exist is named in one line."""
    shards(trial)
    fit(trial, "web/{000000..000004}.tar", code=2, says=r"00000[234]\.tar", limit=90)


@case()
def apple_double_members(trial: Trial) -> None:
    """macOS's ._ members are passed over here too."""
    shards(trial, [("._000000.jpg", b"\0\5\x16\7"), ("._000000.txt", b"\0\5\x16\7")])
    fit(trial)


@case("webdataset/webdataset#237")
def other_members(trial: Trial) -> None:
    """Members without an extension, such as LICENSE, do not end the training, or are named."""
    shards(trial, [("LICENSE", "MIT")])
    fit(trial, code=(0, 2), says="LICENSE|stopped")


@case("webdataset/webdataset#157")
def the_same_member_twice(trial: Trial) -> None:
    """Two members of one name in a sample are refused here too."""
    shards(trial, [("x.jpg", numbered_image(0)), ("x.txt", "first"), ("x.jpg", numbered_image(9))])
    fit(trial, code=2, says="twice|duplicate|more than once")


@case("huggingface/datasets#7732")
def a_compressed_shard(trial: Trial) -> None:
    """A compressed shard is named as compressed, not as truncated."""
    shards(trial)
    for path in (trial.folder / "web").glob("*.tar"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    fit(trial, code=2, says="compressed|gzip")


@case("python-pillow/Pillow#2574")
def png_of_16_bits(trial: Trial) -> None:
    """16-bit PNGs are unreadable samples here, named and counted, never trained on as white images."""
    shards(trial, [m for n in range(6) for m in ((f"z{n}.jpg", deep(size=SIZE)), (f"z{n}.txt", "a depth image"))])
    output = fit(trial, code=(0, 2), says="16|bits|depth")
    trial.true(f"it is not named: {output[-300:]}", "z" in output)
