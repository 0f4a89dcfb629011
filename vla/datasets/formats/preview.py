"""A page that shows a data set's conventions at a glance: pictures as a policy would see them, actions and states over time."""

from __future__ import annotations

import html
import io
from pathlib import Path

import numpy as np
from PIL import Image

from vla.datasets.formats.base import Reader, Ref
from vla.datasets.formats.pictures import Ready, decode, picture_size
from vla.datasets.formats.prepare import Changes, Dropped, Episode, prepare
from vla.datasets.formats.source_card import SourceCard
from vla.errors import UserError

TILE, COLUMNS = 128, 8
PAGE = """<!doctype html><meta charset="utf-8"><title>{title}</title>
<style>body{{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1080px;color:#16202b}}
img{{max-width:100%;display:block;margin:.4rem 0}} h2{{margin-top:2rem}} td{{padding:0 1.2rem .2rem 0;vertical-align:top}}
p.small,td:first-child{{color:#5a6875}}</style>
<h1>{title}</h1><table>{rows}</table>
<p class="small">Pictures must be upright and not mirrored. The gripper's line must say open and closed
as the table does: compare it with the pictures above it.</p>{episodes}"""


def preview(reader: Reader, card: SourceCard, out: Path, episodes: int = 3) -> list[str]:
    """Writes index.html, and a contact sheet and a plot per episode as PNG; gives the files' names.

    Raises:
        UserError: no record can be shown.
    """
    out.mkdir(parents=True, exist_ok=True)
    parts, written = [], []
    chosen = [ref for ref in reader.refs() if not ref.damage]
    for ref in _spread(chosen, max(episodes * 4, 8)):
        if len(parts) == episodes:
            break
        try:
            name = f"{len(parts):03d}"
            if reader.kind == "robot":
                episode = prepare(reader.read(ref), card, Changes(text="(not said)"), ref.name)
                shown = _columns(len(episode))
                _sheet(card, episode, shown, ref).save(out / f"{name}-pictures.png")
                _plot(card, episode, out / f"{name}-values.png")
                rows = f"{', '.join(episode.images)} at steps {', '.join(map(str, shown))}"
                words = f"{len(episode)} steps: {episode.instruction[0]} (pictures: {rows})"
                files = [f"{name}-pictures.png", f"{name}-values.png"]
            else:
                words = _asked(reader, card, ref, out / f"{name}-pictures.png")
                files = [f"{name}-pictures.png"]
        except (Dropped, UserError):
            # `verify` names what cannot be read; a page shows what can.
            continue
        images = "".join(f'<img src="{file}" alt="">' for file in files)
        parts.append(f"<h2>{html.escape(ref.name.rpartition('/')[2])}</h2><p>{html.escape(words)}</p>{images}")
        written += files
    if not parts:
        raise UserError("no record can be shown", str(reader.path), "look at what `vla data verify` says")
    said = {
        "format": reader.format,
        "records": len(chosen),
        "cameras": ", ".join(f"{k} ({c.key}, comes {c.orientation})" for k, c in card.cameras.items()),
        "gripper": card.gripper,
        "rotation": card.rotation,
        "frame": card.frame,
        "actions": f"{card.mode}, {card.control_hz:g} per second; observations {card.alignment}-action",
        "card": card.verified,
    }
    rows = "".join(f"<tr><td>{k}</td><td>{html.escape(str(v))}</td></tr>" for k, v in said.items())
    title = html.escape(card.title or reader.path.name)
    (out / "index.html").write_text(PAGE.format(title=title, rows=rows, episodes="".join(parts)))
    return ["index.html", *written]


def _spread(refs: list[Ref], count: int) -> list[Ref]:
    """So many of them, the first, the last and even steps between."""
    places = np.unique(np.linspace(0, len(refs) - 1, min(count, len(refs))).round().astype(int)) if refs else []
    return [refs[i] for i in places]


def _columns(length: int) -> np.ndarray:
    """The steps of which pictures are shown."""
    return np.unique(np.linspace(0, length - 1, min(COLUMNS, length)).round().astype(int))


def _sheet(card: SourceCard, episode: Episode, columns: np.ndarray, ref: Ref) -> Image.Image:
    """A row of pictures for each camera."""
    sheet = Image.new("RGB", (TILE * len(columns), TILE * len(episode.images)))
    for row, (name, (frames, rows)) in enumerate(episode.images.items()):
        for column, frame in enumerate(frames.rows(rows[columns].tolist())):
            tile = _upright(frame, card.cameras[name].orientation, ref.name)
            tile.thumbnail((TILE, TILE))
            sheet.paste(tile, (column * TILE, row * TILE))
    return sheet


def _upright(frame: bytes | np.ndarray, orientation, where: str) -> Image.Image:
    height, width = picture_size(frame, where)
    ready = Ready(height, width, orientation)
    return Image.fromarray(decode(ready(frame, where), where))


def _asked(reader: Reader, card: SourceCard, ref: Ref, path: Path) -> str:
    raw = reader.read(ref)
    camera = next(iter(card.cameras.values()))
    picture = _upright(next(iter(raw[camera.key].rows([0]))), camera.orientation, ref.name)
    picture.thumbnail((4 * TILE, 4 * TILE))
    picture.save(path)
    return "; ".join(f"{q['question']} – {q['answer']}" for q in raw["questions"][:5])


def _plot(card: SourceCard, episode: Episode, path: Path) -> None:
    """Every dimension of the action, and below it of the state, over the steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [(space, part, i) for space in ("action", "state") for part in getattr(card, space) for i in range(len(part.names))]
    height = -(-len(rows) // 4)
    figure = Figure(figsize=(10.6, 1.5 * height))
    FigureCanvasAgg(figure)
    # By hand: a layout that is worked out draws everything twice.
    figure.subplots_adjust(0.05, 0.25 / (1.5 * height), 0.99, 1 - 0.25 / (1.5 * height), 0.25, 0.55)
    seen = {"action": 0, "state": 0}
    for place, (space, part, i) in enumerate(rows):
        axes = figure.add_subplot(height, 4, place + 1)
        axes.plot(getattr(episode, space)[:, seen[space]], color="#0f766e" if space == "action" else "#4453a8", linewidth=1)
        unit = f" ({part.all_units[i]})" if part.all_units[i] else ""
        ends = f": {card.gripper}" if part.role == "gripper" and space == "action" else ""
        axes.set_title(f"{space} {part.names[i]}{unit}{ends}", fontsize=8)
        axes.tick_params(labelsize=7)
        seen[space] += 1
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    path.write_bytes(buffer.getvalue())
