"""An episode as pictures: a contact sheet with the gripper's commands, each camera in every orientation, and values over time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from vla.datasets.formats.conventions.prepare import Episode
from vla.datasets.formats.conventions.source_card import Orientation, SourceCard
from vla.datasets.formats.images import decode, rgb
from vla.transforms import Orient

TILE, LARGE, EDGE, COLUMNS, LINE = 128, 224, 4, 8, 18
OPEN, CLOSED, PLAIN = "#0f766e", "#b4531f", "#5a6875"
COLOURS = {"open": OPEN, "closed": CLOSED}
ACTION, STATE = OPEN, "#4453a8"


def gripper_ends(said: str) -> dict[str, float]:
    """What a card says of the gripper, as values: "0 closed, 1 open" -> {"closed": 0, "open": 1}; {} unless it says both."""
    found = {word: float(value) for value, word in re.findall(r"([-+]?\d+(?:\.\d+)?) (open|closed)", said)}
    return found if len(found) == 2 else {}


def gripper_columns(card: SourceCard) -> list[int]:
    """Which dimensions of the action are a gripper's."""
    return [i for i, role in enumerate(part.role for part in card.action for _ in part.names) if role == "gripper"]


def shown_steps(card: SourceCard, episode: Episode) -> np.ndarray:
    """COLUMNS steps at most: spread evenly, and the middles of the longest times in which the gripper's command stays."""
    length, commands = len(episode), episode.action[:, gripper_columns(card)]
    if length <= COLUMNS:
        return np.arange(length)
    range_ = np.ptp(commands, axis=0)
    changes = np.flatnonzero((np.abs(np.diff(commands, axis=0)) > range_ / 2).any(1)) + 1
    starts, ends = [0, *changes.tolist()], [*changes.tolist(), length]
    times = sorted(zip(starts, ends, strict=True), key=lambda time: time[0] - time[1])[: COLUMNS - 2] if len(changes) else []
    middles = [(start + end) // 2 for start, end in times]
    even = np.linspace(0, length - 1, COLUMNS - len(times)).round().astype(int).tolist()
    # Two that are almost the same would show nothing more.
    apart = [step for step in even if all(abs(step - middle) > length / (4 * COLUMNS) for middle in middles)]
    return np.unique([*apart, *middles])


def contact_sheet(card: SourceCard, episode: Episode, steps: np.ndarray, where: str) -> Image.Image:
    """A row of upright pictures for each camera; below them step, gripper command (also as colour) and height."""
    width, height = TILE * len(steps), TILE * len(episode.images)
    sheet = Image.new("RGB", (width, height + LINE), "white")
    for row, (name, (frames, rows)) in enumerate(episode.images.items()):
        for column, frame in enumerate(frames.rows(rows[steps].tolist())):
            sheet.paste(tile(frame, card.cameras[name].orientation, where), (column * TILE, row * TILE))
        caption(sheet, 0, row * TILE, 7 * len(name) + 8, name)
    for column, step in enumerate(steps.tolist()):
        words, colour = command(card, episode.action[step])
        up = [f"z {episode.state[step, i]:.2f}" for i, name, _ in dimensions(card, "state") if name in ("z", "z (m)")]
        caption(sheet, column * TILE, height, TILE, "  ".join([str(step), words, *up]), colour)
    return sheet


def command(card: SourceCard, action: np.ndarray) -> tuple[str, str]:
    """An action's gripper command in words, and the colour of it."""
    ends, columns = gripper_ends(card.gripper), gripper_columns(card)
    said = [min(ends, key=lambda end: abs(ends[end] - action[i])) if ends else f"gripper {action[i]:.3g}" for i in columns]
    return ", ".join(said), COLOURS.get(said[0], PLAIN) if said else PLAIN


def orientations(card: SourceCard, frames: Mapping[str, Any], where: str) -> Image.Image:
    """A row for each camera: one of its pictures turned by each orientation that a card can say; the card's own is framed.

    Args:
        frames: camera -> a picture as the format has it.
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
    """A picture turned upright, on a square of `size` pixels."""
    pixels = Orient(orientation)(rgb(decode(frame, where) if isinstance(frame, bytes) else frame, where))
    return ImageOps.pad(Image.fromarray(pixels), (size, size), color="white", centering=(0, 0))


def caption(sheet: Image.Image, x: int, y: int, width: int, words: str, colour: str = PLAIN) -> None:
    """White words on a bar of `width` pixels."""
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((x, y, x + width - 1, y + LINE - 1), fill=colour)
    draw.text((x + 4, y + 1), words, "white", ImageFont.load_default(12))


def plot(card: SourceCard, episode: Episode, steps: np.ndarray, path: Path) -> None:
    """Every dimension over the steps; the steps that are shown are marked.

    Gripper commands come first, over the width of the page, open at the top; with them, on its own axis, the fingers' state.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    every = [(space, dimension) for space in ("action", "state") for dimension in dimensions(card, space)]
    grippers = [d for space, d in every if space == "action" and d[2] == "gripper"]
    fingers = [d for space, d in every if space == "state" and d[2] == "gripper"] if grippers else []
    others = [(space, d) for space, d in every if d not in (grippers if space == "action" else fingers)]
    height = len(grippers) + -(-len(others) // 4)
    figure = Figure(figsize=(10.6, 1.5 * height))
    FigureCanvasAgg(figure)
    # By hand: a layout that is worked out draws everything twice.
    figure.subplots_adjust(0.06, 0.25 / (1.5 * height), 0.95 if grippers else 0.99, 1 - 0.25 / (1.5 * height), 0.25, 0.55)

    def axes(space: str, place: Any, dimension: tuple[int, str, str], after: str = "") -> Any:
        column, name, _ = dimension
        made = figure.add_subplot(height, *place)
        for step in steps.tolist():
            made.axvline(step, color="#e2e7ec", linewidth=0.8)
        made.plot(getattr(episode, space)[:, column], color=ACTION if space == "action" else STATE, linewidth=1)
        made.set_title(f"{space} {name}{after}", fontsize=8)
        made.tick_params(labelsize=7)
        return made

    ends = gripper_ends(card.gripper)
    for row, dimension in enumerate(grippers):
        wide = axes(
            "action", (1, row + 1), dimension, f": {card.gripper}" if ends else " (the card does not say which end is open)"
        )
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
    for place, (space, dimension) in enumerate(others):
        axes(space, (4, 4 * len(grippers) + place + 1), dimension)
    figure.savefig(path, format="png", dpi=100, metadata={"Software": None})


def dimensions(card: SourceCard, space: str) -> list[tuple[int, str, str]]:
    """Column, name with its unit, and role of each dimension."""
    every = [(n, u, part.role) for part in getattr(card, space) for n, u in zip(part.names, part.all_units, strict=True)]
    return [(column, f"{name} ({unit})" if unit else name, role) for column, (name, unit, role) in enumerate(every)]
