"""HDF5 files of robomimic, LIBERO, ALOHA and others: groups, masks, compression, shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from outside import written
from outside.pixels import SIZE, level, plain
from outside.trial import Trial, case

DEMOS = {"demo_0": 3, "demo_2": 2, "demo_10": 4}


def frames(number: int, length: int) -> np.ndarray:
    return np.stack([plain(level(number, t)) for t in range(length)])


def write(path: Path, demos: dict[str, int] | None = None, more: dict[str, Any] | None = None, **options: Any) -> Path:
    """A file as robomimic writes it; `more` adds arrays to each demonstration, options are create_dataset's."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": 20}})
        for name, length in (demos or DEMOS).items():
            number = int(name[5:])
            demo = data.create_group(name)
            demo.attrs["num_samples"] = length
            demo["actions"] = np.stack([np.arange(length) / 10, np.full(length, number)], 1)
            demo.create_dataset("obs/agentview_image", data=frames(number, length), **options)
            demo["obs/robot0_eef_pos"] = np.zeros((length, 3))
            for key, make in (more or {}).items():
                demo[key] = make(number, length)
    return path


def converted(trial: Trial, lengths: list[int], *more: str, code: int = 0, **checks) -> list[written.Sample]:
    trial.vla("data", "convert", "demo.hdf5", "out", "--workers=1", "--instruction=go", *more, code=code, **checks)
    trial.equal("episodes", written.lengths(trial.folder / "out"), lengths)
    return written.samples(trial.folder / "out")


@case()
def order_of_demonstrations(trial: Trial) -> None:
    """demo_10 comes after demo_2, without rewards, dones and mask."""
    write(trial.folder / "demo.hdf5")
    samples = converted(trial, [3, 2, 4])
    trial.equal("numbers", [s.array("action")[1] for s in samples if not s.info["step"]], [0, 2, 10])


@case("ARISE-Initiative/robomimic#48")
def a_split_without_a_mask(trial: Trial) -> None:
    """--split train of a file without masks is refused in one line that lists the splits there are."""
    write(trial.folder / "demo.hdf5")
    trial.vla("data", "convert", "demo.hdf5", "out", "--split=train", "--instruction=go", code=2, says="no split 'train'.*none")


@case("isaac-sim/IsaacLab#163")
def filter_keys(trial: Trial) -> None:
    """Masks of bytes or texts choose their demonstrations, also under other names."""
    write(trial.folder / "demo.hdf5")
    with h5py.File(trial.folder / "demo.hdf5", "r+") as file:
        file["mask/train"] = np.array([b"demo_0", b"demo_10"])
        file["mask/20_percent"] = np.array(["demo_2"], dtype=h5py.string_dtype())
    converted(trial, [3, 4], "--split=train")
    trial.vla("data", "convert", "demo.hdf5", "out2", "--split=20_percent", "--instruction=go", "--workers=1")
    trial.equal("episodes", written.lengths(trial.folder / "out2"), [2])


@case("SimarKareer/EgoMimic#7")
def masks_that_overlap(trial: Trial) -> None:
    """Masks that share demonstrations are read each."""
    write(trial.folder / "demo.hdf5")
    with h5py.File(trial.folder / "demo.hdf5", "r+") as file:
        file["mask/train"], file["mask/valid"] = np.array([b"demo_0", b"demo_2"]), np.array([b"demo_2", b"demo_10"])
    converted(trial, [2, 4], "--split=valid")


@case("ARISE-Initiative/robomimic#104")
def a_depth_camera_beside_colour(trial: Trial) -> None:
    """agentview_depth of float32 is no camera, and the colour camera is read."""
    write(trial.folder / "demo.hdf5", more={"obs/agentview_depth": lambda e, n: np.full((n, *SIZE, 1), 0.98, np.float32)})
    converted(trial, [3, 2, 4])
    trial.equal("cameras", list(written.cameras(trial.folder / "out")), ["agentview"])


@case()
def compression(trial: Trial) -> None:
    """Images compressed with gzip or lzf, chunked or not, are read."""
    for name, options in {"gzip": {"compression": "gzip"}, "lzf": {"compression": "lzf", "chunks": (1, *SIZE, 3)}}.items():
        write(trial.folder / f"{name}.hdf5", **options)
        trial.vla("data", "convert", f"{name}.hdf5", f"out-{name}", "--workers=1", "--instruction=go")
        wanted = [level(e, t) for e, n in ((0, 3), (2, 2), (10, 4)) for t in range(n)]
        trial.near("images", written.levels(trial.folder / f"out-{name}", "agentview"), wanted, 4)


@case("h5py/h5py#879")
def a_file_that_is_cut_off(trial: Trial) -> None:
    """A truncated file is named, in one line."""
    path = write(trial.folder / "demo.hdf5")
    path.write_bytes(path.read_bytes()[:-2000])
    trial.vla("data", "convert", "demo.hdf5", "out", "--instruction=go", code=2, says=r"demo\.hdf5.*(truncated|damaged)")
    trial.vla("data", "verify", "demo.hdf5", "--workers=1", code=(1, 2), says=r"demo\.hdf5")


@case("h5py/h5py#1488")
def a_pointer_of_git_lfs(trial: Trial) -> None:
    """A file that git cloned without LFS is named as a pointer."""
    (trial.folder / "demo.hdf5").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    trial.vla("data", "convert", "demo.hdf5", "out", "--instruction=go", code=2, says="git lfs")


@case("h5py/h5py#1101")
def a_file_that_another_program_writes(trial: Trial) -> None:
    """A file that a recorder has open is named as locked; the advice is not to copy it again."""
    path = write(trial.folder / "demo.hdf5")
    with h5py.File(path, "r+", locking=True):
        trial.vla(
            "data",
            "convert",
            "demo.hdf5",
            "out",
            "--instruction=go",
            code=2,
            says="lock|open in another",
            never="copy the file again",
        )


@case("Farama-Foundation/D4RL#210")
def observations_at_the_root(trial: Trial) -> None:
    """D4RL's flat file is refused with what is looked for."""
    with h5py.File(trial.folder / "demo.hdf5", "w") as file:
        file["observations"], file["actions"] = np.zeros((5, 4)), np.zeros((5, 2))
    trial.vla("data", "convert", "demo.hdf5", "out", code=2, says="data/demo|no images")


@case()
def a_file_of_aloha(trial: Trial) -> None:
    """ALOHA's episode file is converted or named for what it is: no damage, and no advice that does not help."""
    with h5py.File(trial.folder / "episode_0.hdf5", "w") as file:
        file.attrs["sim"] = False
        file["action"], file["observations/qpos"] = np.zeros((3, 14)), np.zeros((3, 14))
        file["observations/images/cam_high"] = frames(0, 3)
    output = trial.vla(
        "data", "convert", "episode_0.hdf5", "out", "--workers=1", "--instruction=go", code=(0, 2), never="damaged"
    )
    if not (trial.folder / "out/card.yaml").exists():
        trial.true(
            f"it does not say what the file is: {output}", "ALOHA" in output or "observations" in output or "demo_N" in output
        )
    trial.vla("data", "inspect", "episode_0.hdf5", code=(0, 2), never="damaged")


@case()
def a_file_of_aloha_with_a_card(trial: Trial) -> None:
    """With a card the file is converted, or the message says that its layout is not supported; not `damaged … leave them out`."""
    (trial.folder / "card.yaml").write_text(
        "embodiment: aloha\ncameras: {cam_high: {key: observations/images/cam_high}}\n"
        "action: [{key: action, names: [a, b]}]\ntext: go\n"
    )
    with h5py.File(trial.folder / "episode_0.hdf5", "w") as file:
        file["action"], file["observations/images/cam_high"] = np.zeros((3, 2)), frames(0, 3)
    trial.vla(
        "data", "convert", "episode_0.hdf5", "out", "--card=card.yaml", "--workers=1", code=(0, 2), never=["damaged", "leave out"]
    )


@case()
def channels_first(trial: Trial) -> None:
    """uint8 images of [3, H, W] are named with their shape, or turned; they are no image 3 high."""
    write(trial.folder / "demo.hdf5")
    with h5py.File(trial.folder / "demo.hdf5", "r+") as file:
        for name, length in DEMOS.items():
            del file[f"data/{name}/obs/agentview_image"]
            file[f"data/{name}/obs/agentview_image"] = frames(0, length).transpose(0, 3, 1, 2)
    output = trial.vla("data", "convert", "demo.hdf5", "out", "--workers=1", "--instruction=go", code=(0, 2))
    if (trial.folder / "out/card.yaml").exists():
        trial.equal("size", written.cameras(trial.folder / "out")["agentview"], SIZE)
    else:
        trial.true(f"it does not name the shape: {output}", "(3, 32, 48)" in output or "[3, 32, 48]" in output)


@case()
def grey_images(trial: Trial) -> None:
    """Grey images [T, H, W] are read as grey, or named for what they are."""
    with h5py.File(trial.folder / "demo.hdf5", "w") as file:
        demo = file.create_group("data/demo_0")
        demo["actions"], demo["obs/camera"] = np.zeros((3, 2)), frames(0, 3)[..., 0]
    output = trial.vla("data", "convert", "demo.hdf5", "out", "--workers=1", "--instruction=go", code=(0, 2))
    if not (trial.folder / "out/card.yaml").exists():
        trial.true(
            f"it does not name them: {output}",
            "camera" in output.replace("cameras", "") and ("grey" in output or "[" in output or "(" in output),
        )


@case("ARISE-Initiative/robosuite#714")
def states_alone(trial: Trial) -> None:
    """A file of states and actions says how images are rendered."""
    with h5py.File(trial.folder / "demo.hdf5", "w") as file:
        demo = file.create_group("data/demo_1")
        demo["actions"], demo["states"] = np.zeros((3, 7)), np.zeros((3, 40))
    trial.vla("data", "convert", "demo.hdf5", "out", "--instruction=go", code=2, says="--cameras")


@case("j96w/MimicPlay#12")
def a_key_of_the_card_that_is_missing(trial: Trial) -> None:
    """A card's key that the file lacks is named with those that it has."""
    write(trial.folder / "demo.hdf5")
    (trial.folder / "card.yaml").write_text(
        "embodiment: arm\ncameras: {a: {key: obs/agentview_image}}\naction: [{key: actions, names: [x, y]}]\n"
        "state: [{key: obs/robot0_eef_quat, names: [a, b, c, d]}]\ntext: go\n"
    )
    trial.vla("data", "convert", "demo.hdf5", "out", "--card=card.yaml", code=2, says=["robot0_eef_quat", "robot0_eef_pos"])


@case()
def datasets_that_nobody_uses(trial: Trial) -> None:
    """Compound types, empty datasets, texts, references and other lengths do not matter."""
    more = {
        "info/table": lambda e, n: np.zeros(2, np.dtype([("a", "f4"), ("b", "i4")])),
        "info/empty": lambda e, n: h5py.Empty("f"),
        "info/names": lambda e, n: np.array([b"\xff\xfe", b"x"]),
        "info/long": lambda e, n: np.zeros((7, 2)),
        "next_obs/agentview_image": lambda e, n: frames(0, n),
    }
    write(trial.folder / "demo.hdf5", more=more)
    (trial.folder / "card.yaml").write_text(
        "embodiment: arm\ncameras: {a: {key: obs/agentview_image}}\naction: [{key: actions, names: [x, y]}]\ntext: go\n"
    )
    converted(trial, [3, 2, 4], "--card=card.yaml")
    trial.vla("data", "convert", "demo.hdf5", "out2", "--workers=1", "--instruction=go")


@case()
def a_folder_with_other_files(trial: Trial) -> None:
    """A folder with a readme and a damaged file: that file is named, the others are read with skip."""
    (trial.folder / "in").mkdir()
    write(trial.folder / "in/a.hdf5")
    (trial.folder / "in/b.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    (trial.folder / "in/README.md").write_text("read me")
    trial.vla("data", "convert", "in", "out", "--workers=1", "--instruction=go", "--on-error=skip", code=1, says=r"b\.hdf5")
    trial.equal("episodes", written.lengths(trial.folder / "out"), [3, 2, 4])


@case()
def only_no_ops(trial: Trial) -> None:
    """Episodes that never move, with --noops drop, are said to be no-ops; the advice is not to give an instruction."""
    with h5py.File(trial.folder / "demo.hdf5", "w") as file:
        demo = file.create_group("data/demo_0")
        demo["actions"], demo["obs/camera_image"] = np.zeros((3, 7)), frames(0, 3)
    output = trial.vla(
        "data", "convert", "demo.hdf5", "out", "--instruction=go", "--noops=drop", code=2, never="--instruction TEXT"
    )
    trial.true(f"it does not say why: {output}", "no-op" in output or "noops" in output or "movement" in output)
