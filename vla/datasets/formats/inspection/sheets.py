"""Images of an episode: a contact sheet with gripper commands, the cameras in every orientation, and plots of the values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from vla.datasets.formats.conventions.prepare import PreparedEpisode
from vla.datasets.formats.conventions.source_card import Orientation, SourceCard
from vla.datasets.formats.images import decode, rgb
from vla.transforms import Orient

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TILE, LARGE, EDGE, COLUMNS, LINE = 128, 224, 4, 8, 18
OPEN, CLOSED, PLAIN = "#0f766e", "#b4531f", "#5a6875"
COLOURS = {"open": OPEN, "closed": CLOSED}
ACTION, STATE = OPEN, "#4453a8"


def gripper_ends(convention: str) -> dict[str, float]:
    """A card's gripper convention as values: "0 closed, 1 open" -> {"closed": 0, "open": 1}; {} unless it names both."""
    ends = {word: float(value) for value, word in re.findall(r"([-+]?\d+(?:\.\d+)?) (open|closed)", convention)}
    return ends if len(ends) == 2 else {}


def gripper_columns(card: SourceCard) -> list[int]:
    """The dimensions of the action that belong to a gripper."""
    return [i for i, role in enumerate(part.role for part in card.action for _ in part.names) if role == "gripper"]


def shown_steps(card: SourceCard, episode: PreparedEpisode) -> np.ndarray:
    """At most COLUMNS steps: evenly spaced ones, and the middles of the longest periods of constant gripper command."""
    length, commands = len(episode), episode.action[:, gripper_columns(card)]
    if length <= COLUMNS:
        return np.arange(length)
    range_ = np.ptp(commands, axis=0)
    changes = np.flatnonzero((np.abs(np.diff(commands, axis=0)) > range_ / 2).any(1)) + 1
    starts, ends = [0, *changes.tolist()], [*changes.tolist(), length]
    periods = sorted(zip(starts, ends, strict=True), key=lambda p: p[0] - p[1])[: COLUMNS - 2] if len(changes) else []
    middles = [(start + end) // 2 for start, end in periods]
    even = np.linspace(0, length - 1, COLUMNS - len(periods)).round().astype(int).tolist()
    # An evenly spaced step close to a middle would show nothing new.
    apart = [step for step in even if all(abs(step - middle) > length / (4 * COLUMNS) for middle in middles)]
    return np.unique([*apart, *middles])


def contact_sheet(card: SourceCard, episode: PreparedEpisode, steps: np.ndarray, where: str) -> Image.Image:
    """A row of upright images per camera, and below them step, gripper command (also as colour) and height."""
    width, height = TILE * len(steps), TILE * len(episode.images)
    sheet = Image.new("RGB", (width, height + LINE), "white")
    for row, (name, (frames, rows)) in enumerate(episode.images.items()):
        for column, frame in enumerate(frames.rows(rows[steps].tolist())):
            sheet.paste(tile(frame, card.cameras[name].orientation, where), (column * TILE, row * TILE))
        caption(sheet, 0, row * TILE, 7 * len(name) + 8, name)
    for column, step in enumerate(steps.tolist()):
        gripper, colour = command(card, episode.action[step])
        z = [f"z {episode.state[step, i]:.2f}" for i, name, _ in dimensions(card, "state") if name in ("z", "z (m)")]
        caption(sheet, column * TILE, height, TILE, "  ".join([str(step), gripper, *z]), colour)
    return sheet


def command(card: SourceCard, action: np.ndarray) -> tuple[str, str]:
    """An action's gripper command in words, and its colour."""
    ends, columns = gripper_ends(card.gripper), gripper_columns(card)
    commands = [min(ends, key=lambda end: abs(ends[end] - action[i])) if ends else f"gripper {action[i]:.3g}" for i in columns]
    return ", ".join(commands), COLOURS.get(commands[0], PLAIN) if commands else PLAIN


def orientations(card: SourceCard, frames: Mapping[str, bytes | np.ndarray], where: str) -> Image.Image:
    """A row per camera: an image turned by each orientation that a card can name. The card's own is framed.

    Args:
        card: names the cameras' orientations.
        frames: camera -> an image as the format has it.
        where: name of the record, for errors.
    """
    known, wide, high = get_args(Orientation), LARGE + 2 * EDGE, LARGE + LINE + 2 * EDGE
    sheet = Image.new("RGB", (wide * len(known), high * len(frames)), "white")
    for row, (name, frame) in enumerate(frames.items()):
        for column, orientation in enumerate(known):
            x, y, chosen = column * wide, row * high, orientation == card.cameras[name].orientation
            if chosen:
                ImageDraw.Draw(sheet).rectangle((x, y, x + wide - 1, y + high - 1), fill=OPEN)
            sheet.paste(tile(frame, orientation, where, LARGE), (x + EDGE, y + EDGE))
            caption(sheet, x + EDGE, y + EDGE + LARGE, LARGE, f"{name}: {orientation}", OPEN if chosen else PLAIN)
    return sheet


def tile(frame: bytes | np.ndarray, orientation: Orientation, where: str, size: int = TILE) -> Image.Image:
    """An image turned upright, on a square of `size` pixels."""
    pixels = Orient(orientation)(rgb(decode(frame, where) if isinstance(frame, bytes) else frame, where))
    return ImageOps.pad(Image.fromarray(pixels), (size, size), color="white", centering=(0, 0))


def caption(sheet: Image.Image, x: int, y: int, width: int, text: str, colour: str = PLAIN) -> None:
    """Writes white text on a bar of `width` pixels."""
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((x, y, x + width - 1, y + LINE - 1), fill=colour)
    draw.text((x + 4, y + 1), text, "white", ImageFont.load_default(12))


def plot(card: SourceCard, episode: PreparedEpisode, steps: np.ndarray, path: Path) -> None:
    """Plots every dimension over the steps, and marks the steps of the contact sheet.

    Gripper commands come first, over the width of the page, with open at the top and the fingers' state on a second axis.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    all_dimensions = [(space, dimension) for space in ("action", "state") for dimension in dimensions(card, space)]
    grippers = [d for space, d in all_dimensions if space == "action" and d[2] == "gripper"]
    fingers = [d for space, d in all_dimensions if space == "state" and d[2] == "gripper"] if grippers else []
    others = [(space, d) for space, d in all_dimensions if d not in (grippers if space == "action" else fingers)]
    height = len(grippers) + -(-len(others) // 4)
    figure = Figure(figsize=(10.6, 1.5 * height))
    FigureCanvasAgg(figure)
    # Explicit margins: an automatic layout would draw everything twice.
    figure.subplots_adjust(0.06, 0.25 / (1.5 * height), 0.95 if grippers else 0.99, 1 - 0.25 / (1.5 * height), 0.25, 0.55)

    def subplot(space: str, columns: int, index: int, dimension: tuple[int, str, str], note: str = "") -> Axes:
        column, name, _ = dimension
        axes = figure.add_subplot(height, columns, index)
        for step in steps.tolist():
            axes.axvline(step, color="#e2e7ec", linewidth=0.8)
        axes.plot(getattr(episode, space)[:, column], color=ACTION if space == "action" else STATE, linewidth=1)
        axes.set_title(f"{space} {name}{note}", fontsize=8)
        axes.tick_params(labelsize=7)
        return axes

    ends = gripper_ends(card.gripper)
    for row, dimension in enumerate(grippers):
        note = f": {card.gripper}" if ends else " (the card does not say which end is open)"
        wide = subplot("action", 1, row + 1, dimension, note)
        if ends:
            wide.set_yticks(list(ends.values()), list(ends))
            if ends["open"] < ends["closed"]:
                wide.invert_yaxis()
        beside = wide.twinx()
        beside.tick_params(labelsize=7)
        for column, name, _ in fingers:
            beside.plot(episode.state[:, column], color=STATE, linewidth=1, linestyle="--", label=f"state {name}")
        if fingers:
            beside.legend(fontsize=7, loc="upper right")
    for index, (space, dimension) in enumerate(others, 4 * len(grippers) + 1):
        subplot(space, 4, index, dimension)
    figure.savefig(path, format="png", dpi=100, metadata={"Software": None})


def dimensions(card: SourceCard, space: str) -> list[tuple[int, str, str]]:
    """Column, name with its unit, and role of each dimension."""
    rows = [(n, u, part.role) for part in getattr(card, space) for n, u in zip(part.names, part.all_units, strict=True)]
    return [(column, f"{name} ({unit})" if unit else name, role) for column, (name, unit, role) in enumerate(rows)]
