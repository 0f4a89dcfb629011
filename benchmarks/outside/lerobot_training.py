"""Training on LeRobot folders without conversion."""

from __future__ import annotations

import json
from typing import Any

import yaml

from outside.lerobot_folder import FILM, IMAGE, images, pictured, video, write
from outside.pixels import SIZE, encoded, level, plain
from outside.project import own_recipe
from outside.trial import Trial, case


def fit(trial: Trial, *more: str, init_args: dict[str, Any] | None = None, **checks) -> str:
    """Trains one step on the folder `in`."""
    settings = {"folder": "in", "holdout": 0.5, **(init_args or {})}
    source = {"class_path": "vla.datasets.formats.lerobot_source.LeRobotSource", "init_args": settings}
    (trial.folder / "own.yaml").write_text(yaml.safe_dump(own_recipe(source)))
    return trial.vla("fit", "-c", "own.yaml", *more, limit=90, **checks)


def cameras(trial: Trial) -> dict[str, list[int]]:
    """Camera -> height and width in the contract that the training wrote."""
    (embodiment,) = json.loads((trial.folder / "run/contract.json").read_text())["embodiments"].values()
    return {camera["name"]: [camera["height"], camera["width"]] for camera in embodiment["cameras"]}


@case()
def height_width_channels(trial: Trial) -> None:
    """A folder as LeRobot writes it trains, and the camera has its size."""
    write(trial.folder / "in", (4, 4))
    fit(trial)
    trial.equal("cameras", cameras(trial), {"top": list(SIZE)})


@case("huggingface/lerobot#3786")
def channels_first_without_names(trial: Trial) -> None:
    """Shape [3, H, W] with names null is a camera of H x W."""
    write(trial.folder / "in", (4, 4), described={FILM: video(names=None, shape=(3, *SIZE))})
    fit(trial)
    trial.equal("cameras", cameras(trial), {"top": list(SIZE)})


@case("Tavish9/any4lerobot#35")
def channels_first_with_names(trial: Trial) -> None:
    """The same with names channels, height, width."""
    write(trial.folder / "in", (4, 4), described={FILM: video(names=("channels", "height", "width"), shape=(3, *SIZE))})
    fit(trial)
    trial.equal("cameras", cameras(trial), {"top": list(SIZE)})


@case("huggingface/lerobot#1449")
def one_name_for_three_sides(trial: Trial) -> None:
    """Names that do not fit the shape are no traceback: the size comes from the shape or a frame."""
    write(trial.folder / "in", (4, 4), described={FILM: video(names=("obs/agentview_image",))})
    fit(trial)
    trial.equal("cameras", cameras(trial), {"top": list(SIZE)})


@case("huggingface/lerobot#1449")
def other_names(trial: Trial) -> None:
    """Names rgb, x and y end in no traceback."""
    write(trial.folder / "in", (4, 4), described={FILM: video(names=("rows", "columns", "rgb"))})
    fit(trial)
    trial.equal("cameras", cameras(trial), {"top": list(SIZE)})


@case()
def a_shape_that_is_wrong(trial: Trial) -> None:
    """A shape that the frames do not have is refused, or the frames' own is used; it is no traceback."""
    write(trial.folder / "in", (4, 4), described={FILM: video(shape=(240, 320, 3))})
    fit(trial, code=(0, 2))


@case("huggingface/lerobot#943")
def deleted_episodes(trial: Trial) -> None:
    """Episodes 0, 3 and 4 of a set with total_episodes 3 train."""
    pictured(trial.folder / "in", {0: 3, 3: 4, 4: 3})
    fit(trial)


@case("huggingface/lerobot#933")
def a_film_of_another_rate(trial: Trial) -> None:
    """A table at 29 fps with a film at 30 is refused here too."""
    write(trial.folder / "in", (40, 40), fps=29, film_fps=30)
    fit(trial, code=2, says=[r"\b29\b", r"\b30\b"])


@case("huggingface/lerobot#3644")
def a_depth_film(trial: Trial) -> None:
    """A film with the present flag of depth is no camera here either."""
    films = {key: lambda e, n: [plain(level(e, t)) for t in range(n)] for key in (FILM, "observation.images.depth")}
    write(trial.folder / "in", (4, 4), described={"observation.images.depth": video(is_depth_map=True)}, films=films)
    fit(trial)
    trial.equal("cameras", list(cameras(trial)), ["top"])


@case("huggingface/lerobot#2604")
def a_depth_png(trial: Trial) -> None:
    """A 16-bit PNG is no colour image here either: refused, or left out."""
    from outside.pixels import deep

    feature = {"dtype": "image", "shape": [*SIZE, 1], "names": ["height", "width", "channels"]}
    columns = {"observation.images.depth": images(lambda e, t: deep())}
    pictured(trial.folder / "in", (4, 4), columns=columns, described={"observation.images.depth": feature})
    output = fit(trial, code=(0, 2))
    if (trial.folder / "run/contract.json").exists() and "rror" not in output:
        trial.equal("cameras", list(cameras(trial)), ["wrist"])


@case("sgl-project/sglang#33464")
def an_image_turned_by_exif(trial: Trial) -> None:
    """An image that its EXIF tag turns has the size that the feature states."""
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6

    def turned(episode: int, step: int) -> bytes:
        upright = Image.fromarray(plain(level(episode, step)))
        return encoded(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif.tobytes())

    pictured(trial.folder / "in", (4, 4), columns={IMAGE: images(turned)})
    fit(trial)
    trial.equal("cameras", cameras(trial), {"wrist": list(SIZE)})


@case("moojink/openvla-oft#3")
def pointers_of_git_lfs(trial: Trial) -> None:
    """Pointers of Git LFS are named here too."""
    folder = pictured(trial.folder / "in", (4, 4))
    for path in folder.rglob("*.parquet"):
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    fit(trial, code=2, says="git lfs")


@case()
def a_folder_that_is_not_there(trial: Trial) -> None:
    """A folder without meta/info.json is named in one line."""
    (trial.folder / "in").mkdir()
    fit(trial, code=2, says=r"info\.json")
