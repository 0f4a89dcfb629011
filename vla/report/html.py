"""Writes report.html, one self-contained page with the results of a demo; other pages share its helpers."""

from __future__ import annotations

import base64
import io
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vla.report.bars import Outcome, lookup, outcomes
from vla.report.intervals import percent
from vla.report.plots import Logged, curves

# Name in report.json -> name and explanation on the page. Shares of all episodes unless the explanation says otherwise.
RATES = {
    "success": ("Success", "lifted the named object, and no other before it"),
    "wrong_object": ("Wrong object", "lifted and held another object"),
    "execution": ("Execution", "lifted and held some object"),
    "recognition": ("Recognition", "lifted the named object first, as a share of executed episodes"),
    "swapped_instruction": ("Swapped instruction", "same scenes with the other object named: lifted that one"),
    "empty_instruction": ("Empty instruction", "lifted the object that the correct instruction would name"),
    "vqa": ("Questions", "correct answers on held-out scenes, mean over question types"),
    "vqa.blank": ("Questions, blank image", "the same model without the image"),
    "vqa.lead": ("Lead over a blank image", "what the image contributes"),
    "valid_mass": ("Valid mass", "probability on valid action tokens, decoding unconstrained"),
    "expert": ("Scripted expert", "the upper bound: it recorded the demonstrations"),
}
KEYS = {
    "vqa": "vqa.accuracy",
    "vqa.blank": "vqa.blank_accuracy",
    "vqa.lead": "vqa.accuracy - vqa.blank_accuracy",
    "valid_mass": "valid_mass",
}


def write_report(
    path: str | Path,
    data: Mapping[str, Any],
    *,
    videos: Sequence[Mapping[str, Any]] = (),
    samples: Sequence[Mapping[str, Any]] = (),
    metrics: Logged | None = None,
) -> Path:
    """Writes report.html; missing parts are left out. Videos outside its folder are copied to `videos/`.

    Args:
        path: the file to write.
        data: the content of report.json; also `notes` (sentences at the top), `starting_points` ({"tiny": {...}, …}, numbers by
            name), `command`, `hardware`, `title`.
        videos: dicts with "path", "title" and optionally "note" and "outcome" ("success" or "failure"), in the order of display.
        samples: dicts with "image" (uint8 [H, W, 3] or a file), "question", "answer", "truth" and optionally "correct", "point"
            and "truth_point" ((u, v) in [0, 1], drawn on the image).
        metrics: metric name -> (steps, values), as `read_metrics` returns them.
    """
    path, data = Path(path), dict(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    bar_outcomes = outcomes(data)
    return write_page(
        path,
        "template.html",
        title=data.get("title", "Evaluation of a vision-language-action policy"),
        headline=_headline(data),
        verdict=_verdict(bar_outcomes),
        notes=data.get("notes", ()),
        rates=[row for key in RATES if (row := _rate_row(data, key, bar_outcomes))],
        costs=[_cost(one) for one in bar_outcomes if one.bar.unit in ("s", "MiB") and one.value is not None],
        types=_types(data),
        videos=[{**video, "path": _beside(path.parent, video["path"])} for video in videos],
        charts={title: data_address("image/svg+xml", svg.encode()) for title, svg in curves(metrics or {}).items()},
        samples=[_sample(sample) for sample in samples],
        times=_times(data.get("seconds", {})),
        starts=_starts(data.get("starting_points", {})),
        facts=facts(data),
    )


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Writes a page from one of this package's templates atomically, into an existing folder."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vla.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template(template).render(**values)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(page, encoding="utf-8")
    unfinished.replace(path)
    return path


def _headline(data: Mapping[str, Any]) -> str:
    rate, n = lookup(data, "success.rate"), lookup(data, "success.n")
    if rate is None or not n:
        return "No rollouts were made"
    return f"The robot lifted the object it was told to lift in {round(rate * n)} of {int(n)} unseen scenes"


def _verdict(bar_outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Returns the outcomes that missed their bar, and those that reached it by less than the noise."""
    missed = [str(one) for one in bar_outcomes if not one.holds]
    narrow = [str(one) for one in bar_outcomes if one.holds and one.within_noise]
    return {"count": len(bar_outcomes), "missed": missed, "narrow": narrow}


def _rate_row(data: Mapping[str, Any], key: str, bar_outcomes: Sequence[Outcome]) -> dict[str, Any] | None:
    where = KEYS.get(key, f"{key}.rate")
    value = lookup(data, where)
    if value is None:
        return None
    outcome = next((one for one in bar_outcomes if one.bar.key == where), None)
    name, meaning = RATES[key]
    low, high = lookup(data, f"{key}.low"), lookup(data, f"{key}.high")
    shown = (outcome or bar_outcomes[0]).bar.show(value)
    row = {"name": name, "meaning": meaning, "at": track_percent(value), "value": shown}
    if low is not None and high is not None:
        interval = f"{100 * low:.0f} to {100 * high:.0f} %"
        row |= {"low": track_percent(low), "high": track_percent(high), "interval": interval}
    if n := lookup(data, f"{key}.n"):
        row["n"] = int(n)
    if outcome:
        bar = outcome.bar
        row |= {"bar": track_percent(bar.limit), "most": bar.most, "limit": bar.show(bar.limit)}
        row |= {"holds": outcome.holds, "verdict": outcome.verdict}
    return row


def track_percent(share: float) -> float:
    """Returns a share's position on a track in per cent, clipped to its ends."""
    return round(100 * min(1.0, max(0.0, share)), 2)


def _cost(one: Outcome) -> dict[str, Any]:
    bar = one.bar
    texts = {"name": bar.name, "value": bar.show(one.value or 0.0), "limit": bar.show(bar.limit)}
    return {**texts, "holds": one.holds, "verdict": one.verdict}


def _types(data: Mapping[str, Any]) -> list[dict[str, str]]:
    """Returns the rows of the table of questions by type; unknown numbers are "–"."""
    by_type = data.get("vqa", {}).get("types", {})
    return [
        {
            "name": name,
            "n": _number(one.get("n")),
            "accuracy": _share(lookup(one, "accuracy"), one),
            "blank": _share(lookup(one, "blank.rate"), one.get("blank", {})),
        }
        for name, one in sorted(by_type.items())
    ]


def _share(value: float | None, interval: Mapping[str, Any]) -> str:
    if value is None:
        return "–"
    low, high = lookup(interval, "low"), lookup(interval, "high")
    limits = "" if low is None or high is None else f" ({percent(low)} to {percent(high)})"
    return f"{percent(value)} %{limits}"


def _beside(folder: Path, video: str | Path) -> str:
    """Returns the video's address relative to the page; a video outside the page's folder is copied to videos/."""
    video = Path(video)
    if not video.resolve().is_relative_to(folder.resolve()):
        (folder / "videos").mkdir(exist_ok=True)
        video = Path(shutil.copy2(video, folder / "videos" / video.name))
    return video.resolve().relative_to(folder.resolve()).as_posix()


def data_address(kind: str, content: bytes) -> str:
    """Returns the content as a data URL, which a page can load without a file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    source = sample["image"]
    image = Image.fromarray(source) if isinstance(source, np.ndarray) else Image.open(source).convert("RGB")
    file = io.BytesIO()
    image.save(file, "PNG")
    points = {k: [track_percent(x) for x in sample[k]] for k in ("point", "truth_point") if sample.get(k) is not None}
    correct = sample.get("correct", sample["answer"] == sample["truth"])
    return {**sample, **points, "correct": correct, "image": data_address("image/png", file.getvalue())}


def _times(seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    stages = {name: value for name, value in seconds.items() if name != "total"}
    total = max(seconds.get("total", 0.0), sum(stages.values()))
    # Time that no stage accounts for is shown as well.
    rest = total - sum(stages.values())
    if stages and rest > 0.01 * total:
        stages["other"] = rest
    return [
        {
            "name": name,
            "share": round(100 * value / total, 2),
            "time": f"{value / 60:.1f} min" if value >= 60 else f"{value:.0f} s",
        }
        for name, value in stages.items()
        if value > 0
    ]


def _starts(starts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    names = list(dict.fromkeys(name for numbers in starts.values() for name in numbers))
    rows = [[name.replace("_", " "), *(_number(numbers.get(name)) for numbers in starts.values())] for name in names]
    return {"names": list(starts), "rows": rows}


def _number(value: float | str | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def facts(data: Mapping[str, Any]) -> dict[str, str]:
    """Returns command, commit, hardware and versions as text, as far as they are known."""
    known = {"Command": data.get("command"), "Commit": data.get("commit"), "Hardware": data.get("hardware")}
    versions = data.get("versions")
    known["Versions"] = ", ".join(f"{k} {v}" for k, v in versions.items()) if isinstance(versions, Mapping) else versions
    hardware = known["Hardware"]
    if isinstance(hardware, Mapping):
        known["Hardware"] = ", ".join(f"{k} {v}" for k, v in hardware.items())
    return {name: str(value) for name, value in known.items() if value}
