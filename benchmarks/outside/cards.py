"""Source cards: rotations, numbers and operations."""

from __future__ import annotations

import numpy as np

from outside import written
from outside.rlds_folder import described, episode, tensor, write
from outside.trial import Trial, case

CARD = """embodiment: arm
cameras: {{image: {{key: observation/image}}}}
action: [{{{action}}}]
instruction: [language_instruction]
steps: [drop_last]
limits: range
{more}
"""


def turned(trial: Trial, values: np.ndarray, part: str, rotation: str) -> tuple[str, np.ndarray, list[float]]:
    """Converts states of an angle with the operation `difference`; returns the output, the actions and the highest limits."""
    length, width = values.shape
    name = f"in-{rotation}"
    features = described(observation={"state": tensor("float32", width)})
    changes = {"observation/state": values.astype(np.float32).ravel()}
    write(trial.folder / name, [episode(0, length, **changes)], features)
    (trial.folder / f"{rotation}.yaml").write_text(CARD.format(action=part, more=f"rotation: {rotation}"))
    output = trial.vla("data", "convert", name, f"out-{rotation}", "--workers=1", f"--card={rotation}.yaml", code=(0, 2))
    if not (trial.folder / f"out-{rotation}/card.yaml").exists():
        return output, np.zeros((0, 0)), []
    samples = written.samples(trial.folder / f"out-{rotation}")
    return (
        output,
        np.array([s.array("action") for s in samples]),
        written.card(trial.folder / f"out-{rotation}")["spec"]["action"]["high"],
    )


@case()
def euler_angles_beyond_pi(trial: Trial) -> None:
    """The difference of angles that pass pi is the turn, 0.05 rad, not -6.23; limits follow."""
    yaw = (np.pi - 0.11 + 0.05 * np.arange(6) + np.pi) % (2 * np.pi) - np.pi
    values = np.stack([np.zeros(6), np.zeros(6), yaw], 1)
    part = "key: observation/state, names: [roll, pitch, yaw], units: [rad], role: rotation, do: [difference]"
    output, actions, high = turned(trial, values, part, "euler_xyz")
    trial.true(f"it was refused: {output}", len(actions))
    trial.near("turns", actions, [[0, 0, 0.05]] * 5, 1e-3)
    trial.true(f"the limit is {high}", high[2] < 0.1)


@case()
def axis_angles_beyond_pi(trial: Trial) -> None:
    """The same for axis-angle vectors, which differ on their group, or are refused."""
    angle = (np.pi - 0.11 + 0.05 * np.arange(6) + np.pi) % (2 * np.pi) - np.pi
    values = np.stack([np.zeros(6), np.zeros(6), angle], 1)
    part = "key: observation/state, names: [rx, ry, rz], units: [rad], role: rotation, do: [difference]"
    output, actions, _ = turned(trial, values, part, "axis_angle")
    if len(actions):
        trial.near("turns", actions, [[0, 0, 0.05]] * 5, 1e-3)
    else:
        trial.true(f"it does not say why: {output}", "rotation" in output)


@case()
def quaternions_that_change_sign(trial: Trial) -> None:
    """Quaternions q and -q are the same turn: the difference is small, or it is refused."""
    half = 0.05 * np.arange(6) / 2
    values = np.stack([np.zeros(6), np.zeros(6), np.sin(half), np.cos(half)], 1) * np.where(np.arange(6) % 2, -1, 1)[:, None]
    part = "key: observation/state, names: [qx, qy, qz, qw], role: rotation, do: [difference]"
    output, actions, _ = turned(trial, values, part, "quaternion_xyzw")
    if len(actions):
        trial.true(f"a turn of 0.05 rad becomes {actions[0].round(2).tolist()}", np.abs(actions[:, :3]).max() < 0.1)
    else:
        trial.true(f"it does not say why: {output}", "quaternion" in output or "rotation" in output)


@case()
def six_dimensions_of_a_rotation(trial: Trial) -> None:
    """Two rows of a matrix are no numbers to subtract: on the group, or refused."""
    angle = 0.05 * np.arange(6)
    zero, one = np.zeros(6), np.ones(6)
    values = np.stack([np.cos(angle), -np.sin(angle), zero, np.sin(angle), np.cos(angle), zero + 0 * one], 1)
    part = "key: observation/state, names: [a, b, c, d, e, f], role: rotation, do: [difference]"
    output, actions, _ = turned(trial, values, part, "matrix_rows")
    if len(actions):
        trial.near("first row of the turn", actions[0][:2], [np.cos(0.05), -np.sin(0.05)], 1e-3)
    else:
        trial.true(f"it does not say why: {output}", "rotation" in output or "6" in output)


@case()
def differences_of_positions(trial: Trial) -> None:
    """Positions are subtracted as before."""
    values = np.stack([np.arange(6) * 0.5, np.zeros(6), np.zeros(6)], 1)
    part = "key: observation/state, names: [x, y, z], role: position, do: [difference]"
    output, actions, _ = turned(trial, values, part, "euler_xyz")
    trial.true(f"it was refused: {output}", len(actions))
    trial.near("movements", actions, [[0.5, 0, 0]] * 5, 1e-6)


@case("yaml/pyyaml#173")
def numbers_like_1e_3(trial: Trial) -> None:
    """`low: -1e-3` in a card is a number, as YAML 1.2 has it."""
    write(trial.folder / "in", [episode(0, 3)])
    part = "key: action, names: [x, y], low: -1e-3, high: 2e2"
    (trial.folder / "card.yaml").write_text(CARD.format(action=part, more="control_hz: 1e1"))
    trial.vla("data", "convert", "in", "out", "--workers=1", "--card=card.yaml")
    trial.near("low", written.card(trial.folder / "out")["spec"]["action"]["low"], [-0.001] * 2, 1e-9)


@case()
def a_card_with_tabs(trial: Trial) -> None:
    """A card with tabs is refused in one line that names the file and the place."""
    write(trial.folder / "in", [episode(0, 3)])
    (trial.folder / "card.yaml").write_text("embodiment: arm\ncameras:\n\timage: {key: observation/image}\n")
    trial.vla("data", "convert", "in", "out", "--card=card.yaml", code=2, says=[r"card\.yaml", "line 3|tab|\\\\t"])


@case()
def a_key_that_is_misspelt(trial: Trial) -> None:
    """An unknown key of a card is named with those that are known."""
    write(trial.folder / "in", [episode(0, 3)])
    (trial.folder / "card.yaml").write_text(CARD.format(action="key: action, names: [x, y], unit: [m]", more=""))
    trial.vla("data", "convert", "in", "out", "--card=card.yaml", code=2, says=["unit", "units"])


@case()
def yes_and_no_as_names(trial: Trial) -> None:
    """YAML 1.1 reads a dimension named `y` or `on` as true; the card keeps the names, or the message says to quote them."""
    write(trial.folder / "in", [episode(0, 3)])
    (trial.folder / "card.yaml").write_text(CARD.format(action="key: action, names: [on, off]", more=""))
    output = trial.vla("data", "convert", "in", "out", "--workers=1", "--card=card.yaml", code=(0, 2))
    if (trial.folder / "out/card.yaml").exists():
        trial.equal("names", written.card(trial.folder / "out")["spec"]["action"]["names"], ["on", "off"])
    else:
        trial.true(f"it does not say what to do: {output}", "quote" in output or "text" in output)
