"""`vla data …`: converts, checks, describes and shows data sets of other formats."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from vla import hub
from vla.datasets.formats.conventions.prepare import Changes
from vla.datasets.formats.conventions.source_card import SourceCard, load_source_card
from vla.datasets.formats.conventions.undecided import undecided
from vla.datasets.formats.convert import run
from vla.datasets.formats.job import PARTS, Choice, ConvertOptions, Job, make_job
from vla.datasets.formats.notes import REPORT
from vla.datasets.formats.readers.base import Reader
from vla.datasets.formats.readers.recognise import open_reader
from vla.errors import UserError
from vla.folders import check_writable, check_writable_file


@dataclasses.dataclass(frozen=True)
class Convert(Choice):
    """What to convert, the target format, and the changes to make.

    Attributes:
        instruction: the instruction for data without any.
        size: size of the images to write, e.g. 224 or 240x320 (height x width); "" keeps the original size.
        cameras: cameras to render for robosuite's demo.hdf5, which has states but no images, e.g.
            agentview,robot0_eye_in_hand.
        noops: keep or drop steps without movement.
        rate: actions per second after resampling; 0 keeps the source's rate.
        holdout: fraction of the records for validation; if above 0, writes OUT/train and OUT/val.
        on_error: fail at the first damaged record, or skip, count and name damaged records.
        workers: number of processes; 0 is one per core.
        overwrite: replace existing data.
        dry_run: only print what would be written.
    """

    instruction: str = ""
    size: str = ""
    cameras: str = ""
    noops: Literal["keep", "drop"] = "keep"
    rate: float = 0.0
    holdout: float = 0.0
    on_error: Literal["fail", "skip"] = "fail"
    workers: int = 0
    overwrite: bool = False
    dry_run: bool = False


def convert(chosen: Convert) -> int:
    """Converts a data set to our shards or to LeRobot v3.0. Run it again to resume an interrupted conversion."""
    if not 0 <= chosen.holdout < 1:
        raise UserError(f"holdout {chosen.holdout}", "--holdout", "give a fraction from 0 to 1")
    _check_numbers(rate=chosen.rate, workers=chosen.workers)
    height, width = _size(chosen.size)
    chosen = dataclasses.replace(chosen, source=hub.pinned(chosen.source))
    options = ConvertOptions(
        **{field.name: getattr(chosen, field.name) for field in dataclasses.fields(Choice)},
        height=height,
        width=width,
        changes=Changes(chosen.noops == "drop", chosen.rate, chosen.instruction),
        skip=chosen.on_error == "skip",
    )
    reader = _rendered(open_reader(chosen.source, chosen.format, chosen.images), chosen.cameras, height, width)
    if not chosen.dry_run:
        check_writable(chosen.out, "OUT")
    parts = {"train": f"{chosen.out}/train", "val": f"{chosen.out}/val"} if chosen.holdout else {"all": chosen.out}
    damaged = 0
    for part, folder in parts.items():
        job = make_job(dataclasses.replace(options, part=part, share=chosen.holdout, out=folder), reader)  # type: ignore[arg-type]
        count = sum(map(len, job.parts))
        print(f"{folder}: about {_bytes(job.expected)} in {len(job.parts)} parts, from {count} records ({job.reader.format})")
        print("images: " + ", ".join(f"{name} {r.height} x {r.width}" for name, r in job.ready.items()))
        for note in _notes(job):
            print(f"note: {note}")
        if chosen.dry_run:
            continue
        if chosen.overwrite:
            _clear(Path(folder))
        with _bar(count, "convert") as progress:
            report = run(job, chosen.workers or os.cpu_count() or 1, progress)
        print(summary(report))
        damaged += report["damaged"]["count"]
    return 1 if damaged else 0


def _notes(job: Job) -> Iterator[str]:
    """What a user should know before a long conversion."""
    sizes = {name: (size, (job.ready[name].height, job.ready[name].width)) for name, size in job.sizes.items()}
    enlarged = [f"{name} from {h} x {w}" for name, ((h, w), (height, width)) in sizes.items() if height > h or width > w]
    if enlarged:
        yield f"images are enlarged, which adds no detail: {', '.join(enlarged)}; a smaller --size would do"
    card = job.card
    if job.reader.kind == "robot" and card.stated is not None:
        assumed = ", ".join(card.assumed.values())
        yield f"not said by the data and assumed: {assumed}; unknown: {', '.join(card.unknown) or 'nothing'}"
        yield _write_one(job.options.source)
    elif job.reader.kind == "robot" and card.verified.startswith("unverified"):
        yield f"the card of {card.title or job.options.card} is {card.verified}; check it with `vla data preview`"


def _write_one(source: str) -> str:
    return f"to say what the data do not: vla data card {source} --out card.yaml; fill it in, and give it with --card"


def summary(report: dict[str, Any]) -> str:
    """Returns the summary of a conversion's report as text."""
    records = report["records"]
    lines = [f"written: {records['written']} of {records['found']} records, {report['steps']} steps"]
    lines += [f"not chosen: {count} records ({option})" for option, count in report["not_chosen"].items()]
    lines += [f"dropped: {count} steps ({reason})" for reason, count in report["dropped_steps"].items() if count]
    for reason, entry in report["left_out"].items():
        lines.append(f"left out: {entry['count']} records ({reason}), e.g. {entry['records'][0]}")
    if report["damaged"]["count"]:
        lines.append(f"damaged: {report['damaged']['count']} records")
        lines += [f"  {text}" for text in report["damaged"]["records"][:10]]
    lines += [f"constant: {name} is always {value:g}" for name, value in report.get("constant", {}).items()]
    return "\n".join(lines)


def inspect(source: str, format: str = "auto", card: str = "", images: str = "") -> int:
    """Prints what a data set contains, according to its metadata. Exits with 1 if a card names what the data do not have.

    Args:
        source: folder or file in any supported format, or hf://datasets/OWNER/NAME.
        format: the format's name; auto detects it.
        card: conventions, as in `vla data convert`.
        images: folder of the images that a JSON file names.
    """
    from vla.datasets.formats.inspection.describe import inspect as describe
    from vla.datasets.formats.inspection.names import existing, mismatches

    reader = _rendered(open_reader(source, format, images))
    files = [reader.path] if reader.path.is_file() else reader.path.rglob("*")
    size = _bytes(sum(path.stat().st_size for path in files if path.is_file()))
    print(_lines({"size": size, **describe(reader, _card(card, reader))}))
    if not card:
        if reader.kind == "robot" and reader.card().stated is not None:
            print(_write_one(source))
        return 0
    fields = reader.fields()
    wrong = mismatches(load_source_card(card), fields)
    if not wrong:
        print("all names of the card are in the data")
        return 0
    print("\n".join(["the card does not fit the data:", *_indented(wrong), "the data have:", *_indented(existing(fields))]))
    return 1


def card(source: str, format: str = "auto", out: str = "") -> str:
    """Writes a card to fill in: what was found in the data, what is guessed and from what, what is to be decided.

    Args:
        source: folder or file of robot data in any supported format.
        format: the format's name; auto detects it.
        out: YAML file to write; "" prints it.
    """
    from vla.datasets.formats.inspection.skeleton import skeleton

    if out:
        check_writable_file(out)
        if Path(out).exists():
            raise UserError("the file exists, and may have been filled in", out, "give another name, or remove it")
    text = skeleton(_rendered(open_reader(source, format)))
    if not out:
        return text.rstrip()
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(text)
    lines = undecided(text)
    what = [f"  line {number}: {name}" + f" – {choices}" * bool(choices) for number, (name, choices) in lines.items()]
    heading = f"{out}: {len(lines)} values to decide; check what is guessed too" if lines else f"{out}: check what is guessed"
    return "\n".join([heading, *what, f"next: vla data preview {source} page", f"      vla data inspect {source} --card {out}"])


def verify(source: str, format: str = "auto", card: str = "", images: str = "", workers: int = 0) -> int:
    """Reads a whole data set: every record, every image, checksums. Exits with 1 if anything is damaged.

    Args:
        source: folder or file in any supported format.
        format: the format's name; auto detects it.
        card: conventions, as in `vla data convert`.
        images: folder of the images that a JSON file names.
        workers: number of processes; 0 is one per core.
    """
    from vla.datasets.formats.inspection.check import verify as check

    _check_numbers(workers=workers)
    reader, chosen = _opened(source, format, card, images)
    with _bar(0, "verify") as progress:
        result = check(reader, chosen, workers or os.cpu_count() or 1, progress)
    for problem in result.problems:
        print(problem)
    unnamed = result.damaged - len(result.problems)
    print(
        f"{result.records} records, {result.steps} steps and {result.images} images are intact; {result.damaged} damaged",
        end="",
    )
    print(
        f" ({unnamed} of them not named)" * (unnamed > 0)
        + f"; {result.left_out} without instruction, image or steps" * (result.left_out > 0)
    )
    return 1 if result.damaged else 0


def held_out(source: str, words: str = "") -> str:
    """Checks that robot data have no word that only the wide questions teach, and no table top or room of a suite.

    Args:
        source: folder of robot data of the tabletop.
        words: further words or phrases that the data must not have, separated by commas.
    """
    from vla.datasets.held_out import check_held_out
    from vla.sim.tabletop.wide import held_out as looks
    from vla.sim.tabletop.words import HELD_OUT

    further = {word.strip() for word in words.split(",") if word.strip()}
    values = [*sorted(HELD_OUT | further), *(value for field in ("table", "floor", "walls") for value in looks(field))]
    return f"{source}: {check_held_out(source, values)} records and the card have none of {len(values)} words and looks"


def stats(
    source: str,
    format: str = "auto",
    card: str = "",
    scheme: str = "openvla",
    layout: Literal["ours", "theirs"] = "ours",
    out: str = "",
) -> str:
    """Computes statistics of actions and states as OpenVLA, openpi or LeRobot define them; lists constant dimensions.

    Args:
        source: folder or file of robot data in any supported format.
        format: the format's name; auto detects it.
        card: conventions, as in `vla data convert`.
        scheme: the definition to follow: openvla, openpi, openpi-padded, lerobot or lerobot-mean.
        layout: ours has names, constants and unread records; theirs is the scheme's own file, e.g. norm_stats.json.
        out: JSON file to write; "" prints it.
    """
    from vla.datasets.formats.inspection.describe import in_their_file, statistics

    if out:
        check_writable_file(out)
    reader, chosen = _opened(source, format, card, "")
    with _bar(0, "stats") as progress:
        result = statistics(reader, chosen, scheme, progress)
    content = result if layout == "ours" else in_their_file(result, chosen.title or reader.path.name)
    text = json.dumps(content, indent=1)
    if not out:
        return text
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(text + "\n")
    lines = [f"{out}: {result['episodes']} episodes, {result['steps']} steps"]
    for space in ("action", "state"):
        for name, value in result.get(space, {}).get("constant", {}).items():
            lines.append(f"constant: {space} {name} is always {value:g}")
    return "\n".join(lines + [f"not read: {text}" for text in result["not_read"][:10]])


def preview(
    source: str, out: str, format: str = "auto", card: str = "", images: str = "", cameras: str = "", episodes: int = 3
) -> str:
    """Writes a page with images and plots of some episodes, which shows flipped cameras and inverted grippers at once.

    Args:
        source: folder or file in any supported format.
        out: folder for index.html and its PNG files.
        format: the format's name; auto detects it.
        card: conventions, as in `vla data convert`.
        images: folder of the images that a JSON file names.
        cameras: cameras to render for robosuite's demo.hdf5, as in `vla data convert`.
        episodes: number of episodes to show, spread over the data.
    """
    from vla.datasets.formats.inspection.preview import preview as show

    check_writable(out, "OUT")
    if episodes < 1:
        raise UserError(f"episodes {episodes}", "--episodes", "give at least 1")
    reader = _rendered(open_reader(source, format, images), cameras, 128, 128)
    files = show(reader, _card(card, reader), Path(out), episodes)
    return f"{out}/index.html, {len(files) - 1} images"


def _opened(source: str, format: str, card: str, images: str) -> tuple[Reader, SourceCard]:
    reader = open_reader(source, format, images)
    return reader, _card(card, reader)


def _card(name: str, reader: Reader) -> SourceCard:
    return load_source_card(name) if name else reader.card()


def _rendered(reader: Reader, cameras: str = "", height: int = 0, width: int = 0) -> Reader:
    """Returns the reader, or one that renders robosuite's states."""
    from vla.sim.robosuite.replay import replayed

    return replayed(reader, cameras.split(",") if cameras else (), height, width)


def _check_numbers(**numbers: float) -> None:
    for name, number in numbers.items():
        if number < 0:
            raise UserError(f"{name} {number}", f"--{name}", "give at least 0; 0 is the default")


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x") if text else ["0"]
    if len(sides) > 2 or not all(side.isdigit() and len(side) < 6 for side in sides):
        raise UserError(f"size {text!r}", "--size", "give e.g. 224 or 240x320 (height x width)")
    return int(sides[0]), int(sides[-1])


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _clear(folder: Path) -> None:
    """Removes what an earlier conversion wrote, and nothing else. A folder without its report or its parts is not touched."""
    if not any((folder / name).exists() for name in (REPORT, PARTS)):
        return
    for name in (PARTS, "data", "videos", "meta"):
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
    for pattern in ("shard-*.tar", "shard-*.idx", "shard-*.tmp", "*.columns", "card.yaml", REPORT):
        for path in folder.glob(pattern):
            path.unlink()


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"


@contextlib.contextmanager
def _bar(total: int, name: str) -> Iterator[Callable[[int, int], None]]:
    with tqdm(total=total, desc=name, unit="record") as bar:

        def progress(finished: int, total: int) -> None:
            bar.total = total
            bar.update(finished - bar.n)

        yield progress


def _lines(value: Mapping[str, Any], indent: str = "") -> str:
    lines = []
    for name, entry in value.items():
        if isinstance(entry, dict):
            lines += [f"{indent}{name}:", _lines(entry, indent + "  ")] if entry else []
        else:
            lines.append(f"{indent}{name}: {', '.join(map(str, entry)) if isinstance(entry, list) else entry}")
    return "\n".join(lines)
