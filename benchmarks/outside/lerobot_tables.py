"""LeRobot data sets v2.0, v2.1 and v3.0: tables, tasks and features."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from outside import written
from outside.lerobot_folder import (
    FILM,
    IMAGE,
    action,
    images,
    pictured,
    vectors,
    video,
    write,
)
from outside.lerobot_lists import converted
from outside.pixels import SIZE, encoded, level, plain
from outside.trial import Trial, case


@case()
def a_null_task_in_one_episode(trial: Trial) -> None:
    """A null task_index is damage of that episode: verify goes on, and --on-error skip writes the others."""
    columns = {"task_index": lambda e, n: pa.array([None if e == 1 and t == 1 else 0 for t in range(n)], pa.int64())}
    pictured(trial.folder / "in", (3, 4, 2), columns=columns)
    trial.vla("data", "verify", "in", "--workers=1", code=1, says="episode 1.* 1 damaged")
    converted(trial, [3, 2], "--on-error=skip", code=1)


@case()
def a_null_frame_index_in_one_episode(trial: Trial) -> None:
    """The same for frame_index."""
    columns = {"frame_index": lambda e, n: pa.array([None if e == 1 and t == 1 else t for t in range(n)], pa.int64())}
    pictured(trial.folder / "in", (3, 4, 2), columns=columns)
    trial.vla("data", "verify", "in", "--workers=1", code=1, says="1 damaged")
    converted(trial, [3, 2], "--on-error=skip", code=1)


@case()
def a_task_that_is_not_listed(trial: Trial) -> None:
    """task_index 7 of two tasks is named with its episode, and skipped."""
    pictured(trial.folder / "in", (3, 4, 2), columns={"task_index": lambda e, n: pa.array(np.full(n, 7 if e == 1 else 0))})
    trial.vla("data", "convert", "in", "out", "--workers=1", code=2, says="episode 1.*task_index is 7")
    converted(trial, [3, 2], "--on-error=skip", "--overwrite", code=1)


@case("NVIDIA/Isaac-GR00T#288")
def blank_lines_in_the_list_of_tasks(trial: Trial) -> None:
    """tasks.jsonl with blank lines and one task is read."""
    folder = pictured(trial.folder / "in", (3,))
    (folder / "meta/tasks.jsonl").write_text('\n{"task_index": 0, "task": "left hand pick the battery"}\n\n')
    converted(trial, [3])
    trial.equal("instructions", written.instructions(trial.folder / "out"), ["left hand pick the battery"])


@case()
def chinese_tasks(trial: Trial) -> None:
    """Tasks in Chinese arrive as they are, in v2.1 and v3.0."""
    for version in ("v2.1", "v3.0"):
        pictured(trial.folder / version, (2, 2), version=version, tasks=("拿起红色方块", "Würfel ablegen 🟥"))
        trial.vla("data", "convert", version, f"out-{version}", "--workers=1")
        trial.equal("instructions", written.instructions(trial.folder / f"out-{version}"), ["拿起红色方块", "Würfel ablegen 🟥"])


@case("unitreerobotics/unifolm-world-model-action#14")
def a_list_of_tasks_that_is_missing(trial: Trial) -> None:
    """Without tasks.parquet the error names the file; it is no traceback."""
    folder = pictured(trial.folder / "in", (3,), version="v3.0")
    (folder / "meta/tasks.parquet").unlink()
    trial.vla("data", "convert", "in", "out", "--workers=1", code=2, says=r"tasks\.parquet")


@case()
def an_empty_task(trial: Trial) -> None:
    """Episodes with an empty task are left out and counted; the others are written."""
    pictured(trial.folder / "in", (3, 4, 2), tasks=("pick it", ""))
    converted(trial, [3, 2], says=r"left out: 1.*no instruction")


@case("huggingface/lerobot#2158")
def names_in_a_dictionary(trial: Trial) -> None:
    """names {"motors": [...]} are the dimensions' names."""
    described = {"action": {"dtype": "float32", "shape": [2], "names": {"motors": ["pan", "gripper"]}}}
    pictured(trial.folder / "in", (3,), described=described)
    converted(trial, [3])
    trial.equal("names", written.card(trial.folder / "out")["spec"]["action"]["names"], ["pan", "gripper"])


@case()
def doubles_and_integers(trial: Trial) -> None:
    """States of float64 and actions of int64 are read as numbers."""
    columns = {
        "observation.state": lambda e, n: vectors(action(e, n) + 1, pa.float64()),
        "action": lambda e, n: pa.array([[t, 7] for t in range(n)], pa.list_(pa.int64())),
    }
    pictured(trial.folder / "in", (3,), columns=columns)
    samples = converted(trial, [3])
    trial.near("actions", [s.array("action") for s in samples], [[0, 7], [1, 7], [2, 7]], 1e-6)
    trial.near("states", [s.array("state")[0] for s in samples], [1, 1.1, 1.2], 1e-6)


@case()
def one_dimension_as_a_plain_column(trial: Trial) -> None:
    """A gripper action of shape [1] that is a plain column is read."""
    described = {"action": {"dtype": "float32", "shape": [1], "names": ["gripper"]}}
    pictured(
        trial.folder / "in", (3,), described=described, columns={"action": lambda e, n: pa.array(np.arange(n, dtype=np.float32))}
    )
    samples = converted(trial, [3])
    trial.near("actions", [s.array("action") for s in samples], [[0], [1], [2]], 1e-6)


@case()
def an_episode_of_one_step(trial: Trial) -> None:
    """An episode of one step is an episode."""
    pictured(trial.folder / "in", (1, 3, 1))
    converted(trial, [1, 3, 1])


@case("huggingface/lerobot#2529")
def names_of_openpi(trial: Trial) -> None:
    """openpi's LIBERO sets call their features image, wrist_image, state and actions; no card is needed for them."""
    columns = {
        **dict.fromkeys(("action", "observation.state", IMAGE)),
        "actions": lambda e, n: vectors(action(e, n)),
        "state": lambda e, n: vectors(action(e, n) + 1),
        **{name: images(lambda e, t: encoded(plain(level(e, t)))) for name in ("image", "wrist_image")},
    }
    feature = {"dtype": "image", "shape": [*SIZE, 3], "names": ["height", "width", "channel"]}
    described = {
        **dict.fromkeys(("action", "observation.state", IMAGE)),
        "actions": {"dtype": "float32", "shape": [2], "names": ["actions"]},
        "state": {"dtype": "float32", "shape": [2], "names": ["state"]},
        "image": feature,
        "wrist_image": feature,
    }
    pictured(trial.folder / "in", (3, 2), columns=columns, described=described, version="v2.0")
    samples = converted(trial, [3, 2])
    trial.equal("cameras", list(written.cameras(trial.folder / "out")), ["image", "wrist_image"])
    trial.near("states", [s.array("state")[0] for s in samples][:3], [1, 1.1, 1.2], 1e-6)


@case()
def nan_in_the_state(trial: Trial) -> None:
    """A NaN is named with its dimension and step, and that episode is skipped."""
    state = action(1, 4) + 1
    state[2, 0] = np.nan
    columns = {"observation.state": lambda e, n: vectors(state if e == 1 else action(e, n) + 1)}
    pictured(trial.folder / "in", (3, 4, 2), columns=columns)
    trial.vla("data", "convert", "in", "out", "--workers=1", code=2, says="episode 1.* a is nan at step 2")
    converted(trial, [3, 2], "--on-error=skip", "--overwrite", code=1)


@case("huggingface/lerobot#3786")
def features_that_nobody_uses(trial: Trial) -> None:
    """Columns of nulls, lists of structs, structs, texts and lists of any length do not matter."""
    columns = {
        "annotation": lambda e, n: pa.array([[{"start": 0, "label": "a"}]] * n),
        "subtask": lambda e, n: pa.array([None] * n, pa.string()),
        "next.reward": lambda e, n: pa.array([None] * n, pa.float32()),
        "meta": lambda e, n: pa.array([{"a": 1, "b": None}] * n),
        "points": lambda e, n: pa.array([list(range(t)) for t in range(n)], pa.list_(pa.int64())),
        "style": lambda e, n: pa.array([b"\xff\xfe"] * n),
    }
    pictured(trial.folder / "in", (3, 2), columns=columns)
    samples = converted(trial, [3, 2])
    trial.near("actions", [s.array("action")[0] for s in samples], [0, 0.1, 0.2, 0, 0.1], 1e-6)
    trial.vla("data", "verify", "in", "--workers=1", says="2 records.* 0 damaged")


@case("huggingface/lerobot#3471")
def language_annotations(trial: Trial) -> None:
    """LeRobot's own language columns, lists of structs with nulls, do not matter, even with a card."""
    row = [{"role": "user", "content": None, "style": "plan", "timestamp": 0.0}]
    pictured(trial.folder / "in", (3, 2), version="v3.0", columns={"language_persistent": lambda e, n: pa.array([row] * n)})
    (trial.folder / "card.yaml").write_text(
        "embodiment: arm\ncameras: {wrist: {key: observation.images.wrist}}\n"
        "action: [{key: action, names: [x, gripper]}]\ninstruction: [task]\n"
    )
    converted(trial, [3, 2], "--card=card.yaml")


@case()
def images_beside_the_tables(trial: Trial) -> None:
    """An image column that holds paths reads the files, and names one that is missing."""
    folder = trial.folder / "in"
    columns = {IMAGE: lambda e, n: pa.array([{"bytes": None, "path": f"images/{e}-{t}.png"} for t in range(n)])}
    pictured(folder, (3, 2), columns=columns)
    (folder / "images").mkdir()
    for e, n in enumerate((3, 2)):
        for t in range(n):
            (folder / f"images/{e}-{t}.png").write_bytes(encoded(plain(level(e, t))))
    (folder / "images/1-1.png").unlink()
    converted(trial, [3], "--on-error=skip", code=1, says="1-1.png")
    trial.near("images", written.levels(trial.folder / "out", "wrist"), [level(0, t) for t in range(3)], 4)


@case("huggingface/lerobot#4143")
def rows_in_another_order(trial: Trial) -> None:
    """Rows that are not in the order of frame_index are refused, not trained on."""
    columns = {"frame_index": lambda e, n: pa.array(np.arange(n)[::-1] if e == 1 else np.arange(n))}
    pictured(trial.folder / "in", (3, 4), columns=columns)
    trial.vla("data", "convert", "in", "out", "--workers=1", code=2, says="episode 1")


@case("huggingface/lerobot#3644")
def the_present_flag_of_depth(trial: Trial) -> None:
    """`is_depth_map` and `video.is_depth_map` both say that a film is no colour camera."""
    films = {
        key: lambda e, n: [plain(level(e, t)) for t in range(n)] for key in (FILM, "observation.images.a", "observation.images.b")
    }
    described = {"observation.images.a": video(is_depth_map=True), "observation.images.b": video(**{"video.is_depth_map": True})}
    write(trial.folder / "in", (3,), described=described, films=films)
    converted(trial, [3])
    trial.equal("cameras", list(written.cameras(trial.folder / "out")), ["top"])
    trial.vla("data", "inspect", "in", never=r"cameras:[^\n]*\b[ab]\b")
