"""RLDS data sets: descriptions, files, flags and features."""

from __future__ import annotations

import json

import numpy as np

from outside import written
from outside.pixels import level
from outside.rlds_folder import described, episode, example, group, records, sequence, tensor, text, write
from outside.trial import Trial, case


def converted(trial: Trial, lengths: list[int], *more: str, code: int = 0, source: str = "in", **checks) -> list[written.Sample]:
    trial.vla("data", "convert", source, "out", "--workers=1", *more, code=code, **checks)
    trial.equal("episodes", written.lengths(trial.folder / "out"), lengths)
    return written.samples(trial.folder / "out")


@case("moojink/openvla-oft#3")
def pointers_of_git_lfs(trial: Trial) -> None:
    """Records that git cloned without LFS are named as pointers, with the command that fetches them."""
    folder = write(trial.folder / "in", [episode(0, 3)])
    for path in folder.glob("*.tfrecord-*"):
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    trial.vla("data", "convert", "in", "out", "--workers=1", code=2, says="git lfs")
    trial.vla("data", "verify", "in", "--workers=1", code=1, says="git lfs")


@case("tensorflow/models#10258")
def without_dataset_info(trial: Trial) -> None:
    """Without dataset_info.json the files are read."""
    write(trial.folder / "in", [episode(0, 3), episode(1, 2)], info=False)
    converted(trial, [3, 2])


@case()
def without_features(trial: Trial) -> None:
    """Without features.json shapes follow from the records."""
    write(trial.folder / "in", [episode(0, 3), episode(1, 2)], {})
    samples = converted(trial, [3, 2])
    trial.near("actions", [s.array("action") for s in samples][:3], [[0, 0], [0.1, 0], [0.2, 0]], 1e-6)


@case("openvla/openvla#85")
def names_and_folders(trial: Trial) -> None:
    """The folder above the version is enough, and names may have dashes and versions."""
    write(trial.folder / "in/bridge-data_v2/1.0.0", [episode(0, 3)], name="bridge-data_v2", files=1)
    converted(trial, [3])
    write(trial.folder / "two/toy/0.1.0", [episode(0, 3)])
    write(trial.folder / "two/toy/1.0.0", [episode(0, 3)])
    trial.vla("data", "convert", "two", "out2", code=2, says=r"1\.0\.0")


@case()
def files_of_array_record(trial: Trial) -> None:
    """A set in TFDS's other file format, array_record, is refused by that name."""
    folder = trial.folder / "in/1.0.0"
    folder.mkdir(parents=True)
    (folder / "toy-train.array_record-00000-of-00001").write_bytes(b"\0" * 100)
    (folder / "features.json").write_text(json.dumps(described()))
    (folder / "dataset_info.json").write_text(json.dumps({"name": "toy", "fileFormat": "array_record", "splits": []}))
    trial.vla("data", "convert", "in", "out", code=2, says="array_record")


@case("moojink/openvla-oft#87")
def part_of_a_download(trial: Trial) -> None:
    """A file of four that is missing and one that is still `.incomplete` are named; the rest is converted with skip."""
    folder = write(trial.folder / "in", [episode(e, 2 + e) for e in range(4)], files=4)
    (folder / "toy-train.tfrecord-00001-of-00004").unlink()
    path = folder / "toy-train.tfrecord-00003-of-00004"
    path.rename(path.with_name(path.name + ".incomplete"))
    trial.vla("data", "verify", "in", "--workers=1", code=1, says=["00001-of-00004", "00003-of-00004", "2 damaged"])
    converted(trial, [2, 4], "--on-error=skip", code=1)


@case("waymo-research/waymo-open-dataset#438")
def a_file_that_is_cut_off(trial: Trial) -> None:
    """A file that ends within a record is named; the records before are converted with skip."""
    folder = write(trial.folder / "in", [episode(0, 3), episode(1, 2)])
    path = folder / "toy-train.tfrecord-00000-of-00001"
    path.write_bytes(path.read_bytes()[:-30])
    converted(trial, [3], "--on-error=skip", code=1, says="record 1.*ends within")


@case()
def a_shard_without_records(trial: Trial) -> None:
    """TFDS writes empty files where there are more shards than episodes; they are no damage."""
    write(trial.folder / "in", [episode(0, 3)], files=2)
    trial.vla("data", "verify", "in", "--workers=1", says="1 records.* 0 damaged")
    converted(trial, [3])


@case("google-deepmind/open_x_embodiment#11")
def flags_that_are_never_set(trial: Trial) -> None:
    """roboturk's is_last is always false, and its episodes end all the same."""
    write(trial.folder / "in", [episode(0, 3, is_last=np.zeros(3, bool), is_first=np.zeros(3, bool))])
    samples = converted(trial, [3])
    trial.equal("ends", [s.info["terminate"] for s in samples], [0, 0, 1])


@case()
def flags_in_the_middle(trial: Trial) -> None:
    """is_first in the middle of a record cuts nothing off."""
    write(trial.folder / "in", [episode(0, 4, is_first=np.array([1, 0, 1, 0]))])
    converted(trial, [4])


@case()
def a_last_step_without_action(trial: Trial) -> None:
    """A last step of zeros is kept, unless the card drops it."""
    action = np.array([[0.1, 1], [0.2, 1], [0, 0]], np.float32).ravel()
    write(trial.folder / "in", [episode(0, 3, action=action)])
    converted(trial, [3])
    (trial.folder / "card.yaml").write_text(
        "embodiment: arm\ncameras: {image: {key: observation/image}}\naction: [{key: action, names: [x, y]}]\n"
        "instruction: [language_instruction]\nsteps: [drop_last]\n"
    )
    trial.vla("data", "convert", "in", "out2", "--workers=1", "--card=card.yaml")
    trial.equal("episodes", written.lengths(trial.folder / "out2"), [2])


@case("tensorflow/datasets#11096")
def two_texts_of_an_episode(trial: Trial) -> None:
    """episode_metadata/tags with two texts, and context of numbers of any length, do not matter."""
    more = {"episode_metadata/tags": [b"a", b"b"], "episode_metadata/pose": np.arange(7, dtype=np.float32)}
    metadata = {"tags": sequence(text()), "pose": tensor("float32", 7)}
    write(trial.folder / "in", [episode(0, 3, **more), episode(1, 2, **more)], described(metadata))
    converted(trial, [3, 2])


@case()
def lists_of_an_episode_of_any_length(trial: Trial) -> None:
    """The same with lists that differ from episode to episode, or that are not there."""
    episodes = [episode(0, 3, **{"episode_metadata/tags": [b"a"] * 3}), episode(1, 2, **{"episode_metadata/ids": np.arange(5)})]
    metadata = {"tags": sequence(text()), "ids": sequence(tensor("int64"))}
    write(trial.folder / "in", episodes, described(metadata))
    converted(trial, [3, 2])


@case()
def features_that_nobody_uses(trial: Trial) -> None:
    """Steps with lists of lists, embeddings of odd length or features that the records lack do not matter."""
    more = {"language_embedding": np.zeros(3 * 5, np.float32), "boxes/ragged_flat_values": np.zeros(4, np.float32)}
    more |= {"boxes/ragged_row_lengths_0": np.array([1, 1]), "boxes/ragged_row_lengths_1": np.array([2, 2])}
    features = described(
        language_embedding=tensor("float32", 512),
        boxes=sequence(sequence(tensor("float32"))),
        depth=tensor("float32", 9),
    )
    write(trial.folder / "in", [episode(0, 3, **more)], features)
    samples = converted(trial, [3])
    trial.near("actions", [s.array("action")[0] for s in samples], [0, 0.1, 0.2], 1e-6)


@case()
def two_texts_in_a_step_that_nobody_uses(trial: Trial) -> None:
    """A damaged feature that no card names costs no episode."""
    features = described(natural_language=text())
    write(trial.folder / "in", [episode(0, 3, natural_language=[b"a"] * 7), episode(1, 2, natural_language=[b"a"] * 2)], features)
    converted(trial, [3, 2])


@case()
def an_action_in_parts(trial: Trial) -> None:
    """An action of world_vector, rotation_delta and open_gripper is put together, with its names."""
    parts = {
        "action/world_vector": np.arange(9, dtype=np.float32) / 10,
        "action/rotation_delta": np.zeros(9, np.float32),
        "action/open_gripper": np.array([1, 0, 1]),
    }
    nested = group(world_vector=tensor("float32", 3), rotation_delta=tensor("float32", 3), open_gripper=tensor("bool"))
    write(
        trial.folder / "in", [episode(0, 3, action=None, **{f"steps/{k}": v for k, v in parts.items()})], described(action=nested)
    )
    samples = converted(trial, [3])
    trial.near("action", samples[1].array("action"), [0.3, 0.4, 0.5, 0, 0, 0, 0], 1e-6)


@case()
def episodes_without_words(trial: Trial) -> None:
    """DROID's episodes with an empty instruction are left out and counted, or get --instruction."""
    write(trial.folder / "in", [episode(0, 3), episode(1, 2, language_instruction=[b""] * 2)])
    converted(trial, [3], says="left out: 1")
    trial.vla("data", "convert", "in", "out2", "--workers=1", "--instruction=go")
    trial.equal("instructions", written.instructions(trial.folder / "out2"), ["lift object 0", "go"])


@case()
def an_image_that_is_empty(trial: Trial) -> None:
    """An image of no bytes is named with its step, without a memory address."""
    images = episode(0, 3)["steps/observation/image"]
    write(trial.folder / "in", [episode(1, 2), episode(0, 3, **{"observation/image": [images[0], b"", images[2]]})])
    trial.vla("data", "verify", "in", "--workers=1", code=1, says=["step 1", "1 damaged"])
    trial.vla("data", "convert", "in", "out", "--workers=1", "--on-error=skip", code=1)


@case()
def varints_of_all_lengths(trial: Trial) -> None:
    """Negative and large integers in an action are read."""
    action = np.array([[0, -1], [300, -70000], [1 << 40, 5]], np.int64)
    write(trial.folder / "in", [episode(0, 3, action=action)], described(action=tensor("int64", 2)))
    samples = converted(trial, [3])
    trial.near("actions", [s.array("action") for s in samples], action, 1e6 * 1e-1)


@case()
def records_compressed_with_gzip(trial: Trial) -> None:
    """A gzipped TFRecord file is refused in words that say so, or read."""
    import gzip

    folder = write(trial.folder / "in", [episode(0, 3)])
    path = folder / "toy-train.tfrecord-00000-of-00001"
    path.write_bytes(gzip.compress(records([example(episode(0, 3))])))
    output = trial.vla("data", "convert", "in", "out", "--workers=1", code=(0, 2))
    if not (trial.folder / "out/card.yaml").exists():
        trial.true(f"it does not say what to do: {output}", "gzip" in output or "compressed" in output)


@case()
def images_are_those_of_their_steps(trial: Trial) -> None:
    """Every step has its own image."""
    write(trial.folder / "in", [episode(0, 3), episode(1, 2)])
    converted(trial, [3, 2])
    trial.near(
        "images", written.levels(trial.folder / "out", "image"), [level(e, t) for e, n in ((0, 3), (1, 2)) for t in range(n)], 4
    )
