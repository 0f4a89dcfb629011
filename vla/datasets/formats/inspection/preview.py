"""A web page that shows a data set's conventions: images as a policy would see them, actions and states over time."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vla.datasets.formats.conventions.prepare import Changes, Dropped, prepare
from vla.datasets.formats.conventions.source_card import CONVENTIONS, SourceCard
from vla.datasets.formats.inspection import sheets
from vla.datasets.formats.readers.base import Reader, Ref
from vla.errors import UserError

PAGE = """<!doctype html><meta charset="utf-8"><title>{title}</title>
<style>body{{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1080px;color:#16202b}}
img{{max-width:100%;display:block;margin:.4rem 0}} h2{{margin-top:2rem}} td{{padding:0 1.2rem .2rem 0;vertical-align:top}}
p.small,td:first-child{{color:#5a6875}}</style>
<h1>{title}</h1><table>{rows}</table>{episodes}"""
UPRIGHT = """<h2>Which way up?</h2><p class="small">Each camera in every orientation that a card can name. The framed image
is what a policy will see: it must be upright, and writing must be readable. If another one is, name its orientation in the
card.</p>"""
CAPTIONS = """<h2>Do images and numbers agree?</h2><p class="small">Below each image: its step, and the gripper and height by
the card. At <b style="color:{open}">open</b> the fingers must open, at <b style="color:{closed}">closed</b> they must close;
otherwise the card has the gripper inverted. When z grows, the arm must go up in the image of a fixed camera; otherwise the
image is upside down.</p>"""


def preview(reader: Reader, card: SourceCard, out: Path, episodes: int = 3) -> list[str]:
    """Writes index.html, a PNG of all cameras' orientations, and a contact sheet and a plot per episode.

    Returns:
        The names of the files.

    Raises:
        UserError: no record can be shown.
    """
    out.mkdir(parents=True, exist_ok=True)
    parts, written = [], []
    chosen = [ref for ref in reader.refs_for(card) if not ref.damage]
    for ref in _spread(chosen, max(episodes * 4, 8)):
        if len(parts) == episodes:
            break
        show = _show_episode if reader.kind == "robot" else _show_questions
        try:
            summary, files = show(reader, card, ref, out, len(parts))
        except (Dropped, UserError):
            # `vla data verify` names the unreadable records.
            continue
        title = f"<h2>{html.escape(ref.name.rpartition('/')[2])}</h2><p>{html.escape(summary)}</p>"
        parts.append(title + "".join(f'<img src="{file}" alt="">' for file in files))
        written += files
    if not parts:
        raise UserError("no record can be shown", str(reader.path), "run `vla data verify` to see why")
    if reader.kind == "robot":
        parts.insert(0, CAPTIONS.format(open=sheets.OPEN, closed=sheets.CLOSED))
        if card.cameras:
            parts.insert(0, f'{UPRIGHT}<img src="orientations.png" alt="">')
            written.append("orientations.png")
    rows = "".join(f"<tr><td>{k}</td><td>{html.escape(str(v))}</td></tr>" for k, v in _facts(reader, card, len(chosen)))
    title = html.escape(card.title or reader.path.name)
    (out / "index.html").write_text(PAGE.format(title=title, rows=rows, episodes="".join(parts)))
    return ["index.html", *written]


def _facts(reader: Reader, card: SourceCard, records: int) -> Iterator[tuple[str, str | int]]:
    yield from (("format", reader.format), ("records", records))
    if reader.kind == "robot":
        yield "cameras", ", ".join(f"{k} ({c.key}, {card.upright(k)})" for k, c in card.cameras.items())
        yield from ((name, card.convention(name)) for name in CONVENTIONS)
    yield "card", card.verified if card.stated is None else "none"
    yield from card.conventions.items()


def _spread(refs: list[Ref], count: int) -> list[Ref]:
    """`count` records: the first, the last and evenly spaced ones between."""
    positions = np.unique(np.linspace(0, len(refs) - 1, min(count, len(refs))).round().astype(int)) if refs else []
    return [refs[i] for i in positions]


def _show_episode(reader: Reader, card: SourceCard, ref: Ref, out: Path, number: int) -> tuple[str, list[str]]:
    """A summary of an episode, and the files that show it."""
    episode = prepare(reader.read(ref), card, Changes(text="(not said)"), ref.name)
    steps, files = sheets.shown_steps(card, episode), [f"{number:03d}-images.png", f"{number:03d}-values.png"]
    if not episode.images:
        del files[0]
    else:
        sheets.contact_sheet(card, episode, steps, ref.name).save(out / files[0])
        if not number:
            middle = [int(steps[len(steps) // 2])]
            frames = {name: next(iter(f.rows(rows[middle].tolist()))) for name, (f, rows) in episode.images.items()}
            sheets.orientations(card, frames, ref.name).save(out / "orientations.png")
    sheets.plot(card, episode, steps, out / files[-1])
    return f"{len(episode)} steps: {episode.instruction[0]}", files


def _show_questions(reader: Reader, card: SourceCard, ref: Ref, out: Path, number: int) -> tuple[str, list[str]]:
    """The first questions on an image, and the file that shows it."""
    raw, file = reader.read(ref), f"{number:03d}-images.png"
    camera = next(iter(card.cameras.values()))
    frame = next(iter(raw[camera.key].rows([0])))
    sheets.tile(frame, camera.orientation, ref.name, 4 * sheets.TILE).save(out / file)
    return "; ".join(f"{q['question']} – {q['answer']}" for q in raw["questions"][:5]), [file]
