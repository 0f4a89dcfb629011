"""Images of other depths, modes and encodings, in every format that holds some."""

from __future__ import annotations

import io

import h5py
import numpy as np
from PIL import Image

from outside import lerobot_folder, rlds_folder, tar_files, written
from outside.pixels import SIZE, deep, encoded, level, plain
from outside.trial import Trial, case

DEEP = r"16|bits|depth"
"""What a message says of an image of more than 8 bits."""


def not_white(trial: Trial, folder: str = "out") -> None:
    """Checks that nothing written is an image clipped to white."""
    for sample in written.samples(trial.folder / folder):
        for name, data in sample.images.items():
            trial.true(f"{sample.key}.{name}.jpg is clipped to white", written.brightness(data) < 250)


@case("python-pillow/Pillow#2574")
def png_of_16_bits_with_captions(trial: Trial) -> None:
    """A PNG of 16 bits is refused by name, never clipped to white."""
    tar_files.tar(trial.folder / "in.tar", [("a.png", deep()), ("a.txt", "a depth image")])
    trial.vla("data", "convert", "in.tar", "out", "--workers=1", code=2, says=DEEP)
    trial.vla("data", "verify", "in.tar", "--workers=1", code=1, says=DEEP)
    not_white(trial)


@case("python-pillow/Pillow#5991")
def png_of_16_bits_beside_conversations(trial: Trial) -> None:
    """The same in a folder of images; with --on-error skip the others are written."""
    entries = [
        {"id": n, "image": f"{n}.{'png' if n == 1 else 'jpg'}", "conversations": tar_files.conversation(n)} for n in range(3)
    ]
    tar_files.llava(trial.folder / "in", entries)
    (trial.folder / "in/1.png").write_bytes(deep(size=SIZE))
    trial.vla("data", "convert", "in/chat.json", "out", "--workers=1", "--on-error=skip", code=1, says=DEEP)
    not_white(trial)
    trial.equal("images", len(written.samples(trial.folder / "out")), 2)


@case("huggingface/lerobot#2604")
def depth_png_in_a_lerobot_table(trial: Trial) -> None:
    """A column of 16-bit PNGs is refused or left out, and the colour camera is not lost."""
    columns = {"observation.images.depth": lerobot_folder.images(lambda e, t: deep())}
    feature = {"dtype": "image", "shape": [*SIZE, 1], "names": ["height", "width", "channels"]}
    lerobot_folder.pictured(trial.folder / "in", columns=columns, described={"observation.images.depth": feature})
    output = trial.vla("data", "convert", "in", "out", "--workers=1", code=(0, 2))
    if not (trial.folder / "out/card.yaml").exists():
        return trial.true(f"the refusal does not say why: {output}", "16" in output or "depth" in output)
    not_white(trial)
    return trial.equal("cameras", list(written.cameras(trial.folder / "out")), ["wrist"])


@case()
def depth_image_in_rlds(trial: Trial) -> None:
    """An Image feature of uint16 is no colour camera; the others are converted."""
    episodes = [rlds_folder.episode(0, 3, **{"observation/depth_image": [deep()] * 3})]
    seen = rlds_folder.described(observation={"depth_image": rlds_folder.image("uint16", 1)})
    rlds_folder.write(trial.folder / "in", episodes, seen)
    trial.vla("data", "convert", "in", "out", "--workers=1")
    trial.equal("cameras", list(written.cameras(trial.folder / "out")), ["image"])


@case()
def rlds_image_of_16_bits_that_claims_8(trial: Trial) -> None:
    """A 16-bit PNG in a feature that says uint8 is refused by name."""
    rlds_folder.write(trial.folder / "in", [rlds_folder.episode(0, 3, **{"observation/image": [deep()] * 3})])
    trial.vla("data", "convert", "in", "out", "--workers=1", code=2, says=DEEP)
    not_white(trial)


@case("Lifelong-Robot-Learning/LIBERO#29")
def depth_array_in_hdf5(trial: Trial) -> None:
    """A uint16 camera is refused by name or left out; the colour camera stays."""
    with h5py.File(trial.folder / "demo.hdf5", "w") as file:
        demo = file.create_group("data/demo_0")
        demo["actions"] = np.random.default_rng(0).uniform(-1, 1, (3, 7))
        demo["obs/agentview_image"] = np.stack([plain(level(0, t)) for t in range(3)])
        demo["obs/agentview_depth"] = np.full((3, *SIZE, 1), 3000, np.uint16)
    trial.vla("data", "convert", "demo.hdf5", "out", "--workers=1", "--instruction=go", code=(0, 2))
    if (trial.folder / "out/card.yaml").exists():
        trial.equal("cameras", list(written.cameras(trial.folder / "out")), ["agentview"])


@case()
def sixteen_bits_in_robot_tars(trial: Trial) -> None:
    """A 16-bit PNG among a sample's members is refused by name."""
    members = [
        (name.replace(".jpg", ".png"), deep() if name.endswith(".jpg") else data) for name, data in tar_files.robot({0: 2})
    ]
    tar_files.tar(trial.folder / "in.tar", members)
    trial.vla("data", "convert", "in.tar", "out", "--workers=1", code=2, says=DEEP)
    not_white(trial)


@case()
def palettes_alpha_and_grey(trial: Trial) -> None:
    """PNGs with a palette, alpha, grey or one bit, and grey JPEGs, are read with their brightness."""
    colour, grey = Image.fromarray(plain(120)), Image.fromarray(plain(120)[:, :, 0])
    kinds = [colour.convert("P"), colour.convert("RGBA"), grey, Image.merge("LA", (grey, grey.point(lambda _: 255)))]
    files = [
        *((encoded(image), "png") for image in kinds),
        (encoded(grey, "JPEG"), "jpg"),
        (encoded(colour, "WEBP", lossless=True), "webp"),
    ]
    members = [m for k, (data, kind) in enumerate(files) for m in ((f"{k:03d}.{kind}", data), (f"{k:03d}.txt", "a thing"))]
    tar_files.tar(trial.folder / "in.tar", members)
    trial.vla("data", "convert", "in.tar", "out", "--workers=1")
    trial.near("brightness", written.levels(trial.folder / "out", "image"), [120] * len(files), 3)


@case("pytorch/vision#6538")
def cmyk_jpeg(trial: Trial) -> None:
    """A CMYK JPEG is not passed on as it is: what is written is RGB with its brightness."""
    data = encoded(Image.fromarray(plain(120)).convert("CMYK"), "JPEG")
    tar_files.tar(trial.folder / "in.tar", [("a.jpg", data), ("a.txt", "a thing")])
    trial.vla("data", "convert", "in.tar", "out", "--workers=1")
    (sample,) = written.samples(trial.folder / "out")
    with Image.open(io.BytesIO(sample.images["image"])) as image:
        trial.equal("mode", image.mode, "RGB")
    trial.near("brightness", written.levels(trial.folder / "out", "image"), [120], 4)


@case("sgl-project/sglang#33464")
def turned_by_exif(trial: Trial) -> None:
    """A JPEG that its EXIF tag turns is written upright, as the server reads it and people see it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    tall = Image.fromarray(plain(120)).transpose(Image.Transpose.ROTATE_90)
    data = encoded(tall, "JPEG", exif=exif.tobytes())
    tar_files.tar(trial.folder / "in.tar", [("a.jpg", data), ("a.txt", "a thing")])
    trial.vla("data", "convert", "in.tar", "out", "--workers=1")
    trial.equal("size", written.cameras(trial.folder / "out")["image"], SIZE)
    trial.near("brightness", written.levels(trial.folder / "out", "image"), [120], 4)


@case()
def truncated_jpeg(trial: Trial) -> None:
    """A JPEG that is cut off is named by verify and left out by --on-error skip."""
    members = tar_files.captions(3)
    members[2] = (members[2][0], bytes(members[2][1])[:-200])
    tar_files.tar(trial.folder / "in.tar", members)
    trial.vla("data", "verify", "in.tar", "--workers=1", code=1, says=["000001", "1 damaged"])
    trial.vla("data", "convert", "in.tar", "out", "--workers=1", "--on-error=skip", code=1, says="damaged: 1")
    trial.equal("images", len(written.samples(trial.folder / "out")), 2)


@case()
def text_named_jpg(trial: Trial) -> None:
    """A web page saved under an image's name is named, without a memory address."""
    members = [*tar_files.captions(2), ("000002.jpg", "<html>404</html>"), ("000002.txt", "lost")]
    tar_files.tar(trial.folder / "in.tar", members)
    trial.vla("data", "verify", "in.tar", "--workers=1", code=1, says=["000002", "1 damaged"])


@case()
def float_images_in_hdf5(trial: Trial) -> None:
    """Float images are named as what they are, and the advice is not only a card."""
    with h5py.File(trial.folder / "demo.hdf5", "w") as file:
        demo = file.create_group("data/demo_0")
        demo["actions"] = np.zeros((3, 7))
        demo["obs/agentview_image"] = np.full((3, *SIZE, 3), 0.5, np.float32)
    trial.vla(
        "data", "convert", "demo.hdf5", "out", "--instruction=go", code=2, says="agentview_image.*float|float.*agentview_image"
    )


@case("huggingface/lerobot#1449")
def pixels_in_nested_lists(trial: Trial) -> None:
    """A LeRobot feature of uint8 pixels as lists is named as what it is."""
    import pyarrow as pa

    columns = {"observation.image": lambda e, n: pa.array([plain(level(e, t), (4, 6)).tolist() for t in range(n)])}
    described = {"observation.image": {"dtype": "uint8", "shape": [4, 6, 3], "names": ["obs/image"]}, lerobot_folder.FILM: None}
    lerobot_folder.write(trial.folder / "in", columns=columns, described=described, films={})
    trial.vla("data", "convert", "in", "out", code=2, says=r"observation\.image")
