"""robosuite's demo.hdf5: its states rendered again are what the environment showed, in robomimic's form."""

import json

import numpy as np
import pytest
from PIL import Image

from vla import cli
from vla.datasets.card import DatasetCard
from vla.datasets.formats.inspection.sheets import TILE
from vla.datasets.formats.readers.hdf5 import HDF5Reader
from vla.datasets.robot import RobotSource
from vla.errors import UserError
from vla.sim.robosuite.environment import Environment
from vla.sim.robosuite.experts import expert_action
from vla.sim.robosuite.replay import ReplayReader, replayed

h5py = pytest.importorskip("h5py")
STEPS = 4


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A file as robosuite's collect_human_demonstrations.py writes it, and what was seen meanwhile."""
    path, environment, seen = tmp_path_factory.mktemp("demo") / "demo.hdf5", Environment("Lift"), []
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env"], data.attrs["env_info"] = "Lift", json.dumps({"robots": "Panda"})
        for number in (1, 2):
            environment.reset(number)
            demo, states, actions = data.create_group(f"demo_{number}"), [], []
            demo.attrs["model_file"] = environment.env.sim.model.get_xml()
            for _ in range(STEPS):
                states.append(environment.env.sim.get_state().flatten())
                # After a step, what robosuite shows is one physics step older than the positions that it records.
                environment.env.sim.forward()
                seen.append(
                    (
                        environment.render("agentview", 48).copy(),
                        environment.render("eye_in_hand", 48).copy(),
                        environment.state(),
                    )
                )
                actions.append(expert_action(environment))
                environment.step(actions[-1])
            demo["states"], demo["actions"] = np.array(states), np.array(actions)
    environment.close()
    return path, seen


def test_images_and_state_are_what_the_environment_showed(recorded):
    path, seen = recorded
    reader = replayed(HDF5Reader(path), height=48, width=48)
    for number, ref in enumerate(reader.refs()):
        raw = reader.read(ref)
        assert raw["language_instruction"] == "lift the red cube"
        for camera, name in enumerate(("agentview", "robot0_eye_in_hand")):
            shown = list(raw[f"obs/{name}_image"].rows(range(STEPS)))
            expected = [seen[number * STEPS + t][camera] for t in range(STEPS)]
            # A model that was written down has six digits of each number.
            assert np.abs(np.stack(shown).astype(int) - expected).mean() < 0.5 < np.std(expected)
        place = np.stack([state for _, _, state in seen[number * STEPS : (number + 1) * STEPS]])
        assert np.allclose(raw["obs/robot0_eef_pos"], place[:, :3], atol=1e-4)
        assert np.allclose(raw["obs/robot0_gripper_qpos"], place[:, 6:])


@pytest.mark.slow
def test_converted_data_is_that_of_rollouts(recorded, tmp_path):
    path, seen = recorded
    out = str(tmp_path / "out")
    assert cli.main(["data", "convert", str(path), out, "--size", "64", "--workers", "1"]) == 0
    card, source = DatasetCard.load(out), RobotSource(out, chunk=1)
    assert card.embodiment == "robosuite-panda" and [c.name for c in card.spec.cameras] == ["agentview", "eye_in_hand"]
    assert np.allclose(source.states, [state for _, _, state in seen], atol=1e-3) and len(source.actions) == 2 * STEPS
    chosen = ["--cameras", "frontview,birdview", "--size", "32x40", "--workers", "1"]
    assert cli.main(["data", "convert", str(path), str(tmp_path / "views"), *chosen]) == 0
    assert [(c.name, c.height, c.width) for c in DatasetCard.load(tmp_path / "views").spec.cameras] == [
        ("frontview", 32, 40),
        ("birdview", 32, 40),
    ]


def test_it_is_looked_at_as_it_will_be_converted(recorded, tmp_path, capsys):
    path, _ = recorded
    assert cli.main(["data", "inspect", str(path)]) == 0
    assert "agentview: obs/agentview_image, comes upright" in capsys.readouterr().out
    assert cli.main(["data", "preview", str(path), str(tmp_path), "--cameras", "frontview", "--episodes", "1"]) == 0
    with Image.open(tmp_path / "000-images.png") as sheet:
        assert sheet.width == STEPS * TILE and np.std(np.asarray(sheet)[:TILE]) > 10


def test_what_cannot_be_rendered_is_refused(recorded, tmp_path):
    path, _ = recorded
    with pytest.raises(UserError, match="no camera ceiling") as refused:
        reader = ReplayReader(path, ["ceiling"], 48, 48)
        reader.read(reader.refs()[0])
    assert "agentview" in str(refused.value)
    for change, says in (("states", "the model has 32 values"), ("files", "/etc/passwd"), ("xml", "cannot be read")):
        broken = tmp_path / f"{change}.hdf5"
        broken.write_bytes(path.read_bytes())
        with h5py.File(broken, "a") as file:
            demo = file["data/demo_1"]
            if change == "states":
                del demo["states"]
                demo["states"] = np.zeros((STEPS, 30))
            else:
                text = demo.attrs["model_file"]
                demo.attrs["model_file"] = (
                    text[:500] if change == "xml" else text.replace("<worldbody>", '<worldbody><include file="/etc/passwd"/>', 1)
                )
        reader = replayed(HDF5Reader(broken))
        with pytest.raises(UserError, match=says):
            reader.read(reader.refs()[0])
    with h5py.File(tmp_path / "plain.hdf5", "w") as file:
        file["data/demo_0/actions"] = np.zeros((2, 7))
    with pytest.raises(UserError, match="nothing to render"):
        replayed(HDF5Reader(tmp_path / "plain.hdf5"), ["agentview"])
