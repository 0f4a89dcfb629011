"""WebDataset tar files: names, headers and ends that other tools write."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np

from outside import written
from outside.tar_files import array, captions, conversation, numbered_image, robot, tar
from outside.trial import Trial, case


def converted(
    trial: Trial, source: str | Path = "in.tar", *more: str, count: int = 3, code: int = 0, **checks
) -> list[written.Sample]:
    """Converts and checks the number of images."""
    trial.vla("data", "convert", source, "out", "--workers=1", *more, code=code, **checks)
    samples = written.samples(trial.folder / "out")
    trial.equal("images", len(samples), count)
    return samples


@case("webdataset/webdataset#157")
def the_same_member_twice(trial: Trial) -> None:
    """Two members of one name in a sample are refused, as webdataset does; never an image under another's caption."""
    tar(trial.folder / "in.tar", [("a.jpg", numbered_image(0)), ("a.txt", "first"), ("a.jpg", numbered_image(9))])
    trial.vla("data", "convert", "in.tar", "out", "--workers=1", code=2, says=[r"\ba\b.*jpg", "twice|more than once|duplicate"])


@case("webdataset/webdataset#205")
def one_doubled_sample_among_others(trial: Trial) -> None:
    """With --on-error skip only the sample with two images is left out."""
    tar(trial.folder / "in.tar", [*captions(2), ("x.jpg", numbered_image(0)), ("x.txt", "x"), ("x.jpg", numbered_image(9))])
    converted(trial, "in.tar", "--on-error=skip", count=2, code=1, says="damaged: 1")


@case("webdataset/webdataset#286")
def the_same_step_member_twice(trial: Trial) -> None:
    """The same for robot steps."""
    members = robot({0: 2})
    tar(trial.folder / "in.tar", [*members, ("e000_0001.action.npy", array(np.array([9, 9], np.float32)))])
    trial.vla("data", "convert", "in.tar", "out", "--workers=1", code=2, says=[r"action\.npy", "twice|more than once|duplicate"])


@case("huggingface/datasets#7732")
def upper_case_extensions(trial: Trial) -> None:
    """IMG.JPG and IMG.TXT are an image and its caption."""
    tar(trial.folder / "in.tar", captions(3, "JPG", "TXT"))
    converted(trial)


@case("webdataset/webdataset#144")
def pax_headers_and_long_names(trial: Trial) -> None:
    """PAX headers with names of 150 characters and Chinese ones are read."""
    names = ["a" * 150, "图像", "c"]
    members = [
        m for k, name in enumerate(names) for m in ((f"d/{name}.jpg", numbered_image(k)), (f"d/{name}.txt", f"object {k}"))
    ]
    tar(trial.folder / "in.tar", members, format=tarfile.PAX_FORMAT)
    samples = converted(trial)
    trial.equal("captions", [s.info["questions"][0]["answer"] for s in samples], [f"object {k}" for k in range(3)])


@case("meta-pytorch/data#1144")
def leading_dot_and_folders(trial: Trial) -> None:
    """`tar -cf x.tar .` puts ./ before every name, and adds entries for folders."""
    path = trial.folder / "in.tar"
    with tarfile.open(path, "w") as file:
        for name in (".", "./images"):
            entry = tarfile.TarInfo(name)
            entry.type = tarfile.DIRTYPE
            file.addfile(entry)
        for name, content in captions(3):
            data = content if isinstance(content, bytes) else content.encode()
            entry = tarfile.TarInfo(f"./images/{name}")
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    converted(trial)


@case("webdataset/webdataset#376")
def an_empty_shard_among_others(trial: Trial) -> None:
    """A tar file without members is no damage."""
    tar(trial.folder / "in/000.tar", [])
    tar(trial.folder / "in/001.tar", captions(3))
    converted(trial, "in")
    trial.vla("data", "verify", "in", "--workers=1", says="3 records.* 0 damaged")


@case("webdataset/webdataset#376")
def nothing_but_an_empty_shard(trial: Trial) -> None:
    """A data set without any sample is refused in one line that names it."""
    tar(trial.folder / "in.tar", [])
    trial.vla("data", "convert", "in.tar", "out", code=2, says=r"in\.tar")


@case("webdataset/webdataset#32")
def a_writer_that_was_not_closed(trial: Trial) -> None:
    """A tar file without its end is named; --on-error skip keeps its whole samples."""
    data = tar(trial.folder / "in.tar", captions(3)).read_bytes()
    end = data.rindex(b"000002.txt")
    (trial.folder / "in.tar").write_bytes(data[:end])
    trial.vla("data", "verify", "in.tar", "--workers=1", code=1, says="in.tar.*cut off|end")
    trial.vla("data", "convert", "in.tar", "out", "--workers=1", "--on-error=skip", code=1)
    trial.equal("images", len(written.samples(trial.folder / "out")), 2)


@case("huggingface/datasets#7732")
def a_compressed_tar(trial: Trial) -> None:
    """A .tar.gz is read, or refused in words that say that it is compressed."""
    tar(trial.folder / "in.tar.gz", captions(3), mode="w:gz")
    output = trial.vla("data", "convert", "in.tar.gz", "out", "--workers=1", code=(0, 2))
    if not (trial.folder / "out/card.yaml").exists():
        trial.true(f"it does not say what to do: {output}", "compressed" in output or "gzip" in output or "gunzip" in output)


@case()
def a_compressed_tar_under_the_name_of_a_plain_one(trial: Trial) -> None:
    """The same under the name .tar, which is no damage of the download."""
    path = tar(trial.folder / "in.tar", captions(3))
    path.write_bytes(gzip.compress(path.read_bytes()))
    output = trial.vla("data", "convert", "in.tar", "out", "--workers=1", code=(0, 2))
    if not (trial.folder / "out/card.yaml").exists():
        trial.true(f"it does not say what to do: {output}", "compressed" in output or "gzip" in output or "gunzip" in output)


@case("webdataset/webdataset#237")
def dots_in_the_names(trial: Trial) -> None:
    """`Track 2.0 (Clean).jpg` is explained: the key ends at the first dot."""
    tar(trial.folder / "in.tar", [("Track 2.0 (Clean).jpg", numbered_image(0)), ("Track 2.0 (Clean).txt", "a cover")])
    output = trial.vla("data", "convert", "in.tar", "out", "--workers=1", code=(0, 2))
    if not (trial.folder / "out/card.yaml").exists():
        trial.true(f"it does not speak of the dot: {output}", " dot" in output)


@case("mlfoundations/open_clip#480")
def members_of_other_names(trial: Trial) -> None:
    """`input.jpg` with `outputs.txt` is read, or the message lists the members and what is looked for."""
    tar(
        trial.folder / "in.tar", [m for n in range(3) for m in ((f"{n}.input.jpg", numbered_image(n)), (f"{n}.outputs.txt", "a"))]
    )
    output = trial.vla("data", "convert", "in.tar", "out", "--workers=1", code=(0, 2))
    if not (trial.folder / "out/card.yaml").exists():
        trial.true(f"it does not list what is there: {output}", "outputs.txt" in output)


@case("webdataset/webdataset#157")
def members_apart(trial: Trial) -> None:
    """All images first, then all captions: the message says that members of a sample must be adjacent."""
    members = captions(3)
    tar(trial.folder / "in.tar", [*members[::2], *members[1::2]])
    output = trial.vla("data", "convert", "in.tar", "out", "--workers=1", code=(0, 2))
    if not (trial.folder / "out/card.yaml").exists():
        trial.true(f"it does not say so: {output}", any(w in output for w in ("apart", "adjacent", "next to", "beside", "sort")))


@case("webdataset/webdataset#157")
def members_of_robot_steps_apart(trial: Trial) -> None:
    """The same for robot steps: right values, or a message that says so."""
    members = robot({0: 3})
    tar(trial.folder / "in.tar", [m for k in range(4) for m in members[k::4]])
    output = trial.vla("data", "convert", "in.tar", "out", "--workers=1", code=(0, 2))
    if not (trial.folder / "out/card.yaml").exists():
        trial.true(f"it does not say so: {output}", any(w in output for w in ("apart", "adjacent", "next to", "beside", "sort")))


@case()
def apple_double_members(trial: Trial) -> None:
    """macOS's ._ members are passed over."""
    members = [m for name, data in captions(3) for m in ((f"._{name}", b"\0\5\x16\7Mac OS X"), (name, data))]
    tar(trial.folder / "in.tar", members)
    converted(trial)


@case()
def apple_double_members_in_folders(trial: Trial) -> None:
    """The same in folders, for robot steps, and with .DS_Store."""
    members = [("data/.DS_Store", b"\0\0\0\1Bud1")]
    members += [m for name, data in robot({0: 3}) for m in ((f"data/._{name}", b"\0\5\x16\7"), (f"data/{name}", data))]
    tar(trial.folder / "in.tar", members)
    trial.vla("data", "convert", "in.tar", "out", "--workers=1")
    trial.equal("episodes", written.lengths(trial.folder / "out"), [3])


@case()
def links_in_a_tar(trial: Trial) -> None:
    """A sample whose image is a link is named, not paired with another's."""
    path = tar(trial.folder / "in.tar", captions(2))
    with tarfile.open(path, "a") as file:
        entry = tarfile.TarInfo("000002.jpg")
        entry.type, entry.linkname = tarfile.SYMTYPE, "000000.jpg"
        file.addfile(entry)
        entry = tarfile.TarInfo("000002.txt")
        entry.size = 4
        file.addfile(entry, io.BytesIO(b"linked"[:4]))
    converted(trial, "in.tar", "--on-error=skip", count=2, code=1, says="000002.*no image")


@case()
def json_that_is_a_list(trial: Trial) -> None:
    """A .json member that holds LLaVA's list of turns, not an object, is named."""
    members = [("a.jpg", numbered_image(0)), ("a.json", json.dumps(conversation(0)))]
    tar(trial.folder / "in.tar", [*captions(2), *members])
    converted(trial, "in.tar", "--on-error=skip", count=2, code=1, says=r"a\.json|, a:")


@case()
def a_caption_with_a_byte_order_mark(trial: Trial) -> None:
    """A caption that Windows wrote has no invisible character before its first word."""
    tar(trial.folder / "in.tar", [("a.jpg", numbered_image(0)), ("a.txt", b"\xef\xbb\xbfa red cube\r\n")])
    samples = converted(trial, count=1)
    trial.equal("caption", samples[0].info["questions"][0]["answer"], "a red cube")


@case()
def an_instruction_with_a_byte_order_mark(trial: Trial) -> None:
    """The same for the text and JSON of robot steps."""
    members = [(name, data) for name, data in robot({0: 2}, {"instruction": ""}) if not name.endswith(".json")]
    members += [(f"e000_{t:04d}.txt", b"\xef\xbb\xbflift it") for t in range(2)]
    tar(trial.folder / "in.tar", sorted(members, key=lambda m: m[0].split(".")[0]))
    trial.vla("data", "convert", "in.tar", "out", "--workers=1")
    trial.equal("instructions", written.instructions(trial.folder / "out"), ["lift it"])


@case()
def extra_members_of_other_kinds(trial: Trial) -> None:
    """`.cls`, `.pyd` and other members that nobody uses do not matter, and nothing is unpickled."""
    members = [
        m for n in range(3) for m in (*captions(3)[2 * n : 2 * n + 2], (f"{n:06d}.cls", "7"), (f"{n:06d}.pyd", b"\x80\x04."))
    ]
    tar(trial.folder / "in.tar", members)
    converted(trial)


@case()
def json_values_that_nobody_uses(trial: Trial) -> None:
    """Nulls, lists of objects and texts in the JSON of robot steps do not matter."""
    info = {"bbox": None, "objects": [{"name": "cube", "id": [1, 2]}], "note": {"a": "b"}, "score": [0.1], "tags": []}
    tar(trial.folder / "in.tar", robot({0: 3}, info))
    trial.vla("data", "convert", "in.tar", "out", "--workers=1")
    trial.near("actions", [s.array("action")[0] for s in written.samples(trial.folder / "out")], [0, 0.1, 0.2], 1e-6)


@case()
def lists_of_different_lengths_that_nobody_uses(trial: Trial) -> None:
    """An array of another shape in every step does not matter if no card names it."""
    members = [m for name, data in robot({0: 3}) for m in [(name, data)]]
    for t in range(3):
        at = next(k for k, (name, _) in enumerate(members) if name == f"e000_{t:04d}.json")
        members.insert(at, (f"e000_{t:04d}.points.npy", array(np.zeros((t + 1, 3), np.float32))))
    tar(trial.folder / "in.tar", members)
    trial.vla("data", "convert", "in.tar", "out", "--workers=1")
    trial.equal("episodes", written.lengths(trial.folder / "out"), [3])


@case()
def steps_in_any_order(trial: Trial) -> None:
    """Steps that lie in several files and in any order become whole episodes."""
    groups = [robot({e: 4})[4 * t : 4 * t + 4] for t in (2, 0, 3, 1) for e in (1, 0)]
    tar(trial.folder / "in/b.tar", [m for group in groups[:3] for m in group])
    tar(trial.folder / "in/a.tar", [m for group in groups[3:] for m in group])
    trial.vla("data", "convert", "in", "out", "--workers=1")
    trial.near("actions", [s.array("action")[0] for s in written.samples(trial.folder / "out")], [0, 0.1, 0.2, 0.3] * 2, 1e-6)
