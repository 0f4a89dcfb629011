"""Recognises the format of a data set and opens its reader."""

from __future__ import annotations

import codecs
import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path

from vla import hub
from vla.datasets.formats.readers.base import Reader
from vla.errors import UserError
from vla.files import why_not_data


def _rlds(path: Path, images: str) -> Reader:
    from vla.datasets.formats.readers.rlds import RLDSReader

    return RLDSReader(path)


def _lerobot(path: Path, images: str) -> Reader:
    from vla.datasets.formats.readers.lerobot import LeRobotReader

    return LeRobotReader(path)


def _hdf5(path: Path, images: str) -> Reader:
    from vla.datasets.formats.readers.hdf5 import HDF5Reader

    return HDF5Reader(path)


def _shards(path: Path, images: str) -> Reader:
    from vla.datasets.formats.readers.tars import ShardsReader

    return ShardsReader(path)


def _webdataset(path: Path, images: str) -> Reader:
    from vla.datasets.formats.readers.tars import TarReader

    return TarReader(path)


def _image_text(path: Path, images: str) -> Reader:
    from vla.datasets.formats.readers.tars import ImageTextReader

    return ImageTextReader(path)


def _llava(path: Path, images: str) -> Reader:
    from vla.datasets.formats.readers.visual_questions import LLaVAReader

    return LLaVAReader(path, images)


def _vqav2(path: Path, images: str) -> Reader:
    from vla.datasets.formats.readers.visual_questions import VQAv2Reader

    return VQAv2Reader(path, images)


def _easy_vqa(path: Path, images: str) -> Reader:
    from vla.datasets.formats.readers.visual_questions import EasyVQAReader

    return EasyVQAReader(path, images)


READERS: dict[str, Callable[[Path, str], Reader]] = {
    "rlds": _rlds,
    "lerobot": _lerobot,
    "hdf5": _hdf5,
    "shards": _shards,
    "webdataset": _webdataset,
    "image-text": _image_text,
    "llava": _llava,
    "vqav2": _vqav2,
    "easy-vqa": _easy_vqa,
}


def recognise(path: Path) -> str:
    """Returns the name of a data set's format.

    Raises:
        UserError: the path does not exist, or its format is unknown.
    """
    if not path.exists():
        raise UserError("it does not exist", str(path), "give a folder or file")
    if path.is_file():
        if why := why_not_data(path):
            raise UserError(why, str(path))
        suffix = path.suffix.lower()
        if suffix in (".hdf5", ".h5"):
            return "hdf5"
        if suffix == ".tar":
            return _kind_of_tar([path])
        if suffix in (".json", ".jsonl"):
            if _starts_with_object(path):
                return "vqav2"
            return "easy-vqa" if _starts_with_lists(path) else "llava"
    elif (path / "meta/info.json").is_file():
        return "lerobot"
    elif (path / "card.yaml").is_file() and any(path.glob("shard-*.tar")):
        return "shards"
    elif any(path.glob("*.tfrecord-*")) or any(path.glob("*/*.tfrecord-*")) or any(path.glob("*/*/*.tfrecord-*")):
        return "rlds"
    elif any(path.glob("*.hdf5")) or any(path.glob("*.h5")):
        return "hdf5"
    elif any(path.glob("*.tar")):
        return _kind_of_tar(sorted(path.glob("*.tar")))
    elif any(path.glob("**/*.array_record*")):
        raise UserError("the data set is in array_record files", str(path), "write or download it with file_format tfrecord")
    looked_for = "meta/info.json (LeRobot), *.tfrecord-* (RLDS), *.hdf5, *.tar (WebDataset), *.json (LLaVA, VQAv2, easy-VQA)"
    raise UserError(f"unknown format: found none of {looked_for}", str(path), f"name it: --format {'|'.join(READERS)}")


def open_reader(path: str | Path, format: str = "auto", images: str = "") -> Reader:
    """Opens a data set's reader; of one on the hub (hf://datasets/OWNER/NAME), after its files have been fetched.

    Raises:
        UserError: as in `recognise`; the format's name is unknown; or the files cannot be fetched.
    """
    path = hub.data_set(path)
    name = recognise(path) if format == "auto" else format
    if name not in READERS:
        raise UserError(f"unknown format {name!r}", "--format", f"one of auto, {', '.join(READERS)}")
    if not path.exists():
        raise UserError("it does not exist", str(path), "give a folder or file")
    return READERS[name](path, images)


def _starts_with_object(path: Path) -> bool:
    """Tells VQAv2 files, one object, from LLaVA files: a list, or one object per line."""
    with path.open("rb") as file:
        head = file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
    if not head.startswith(b"{"):
        return False
    try:
        json.loads(head.partition(b"\n")[0])
    except ValueError:
        return True
    return b'"questions"' in head or b'"annotations"' in head


def _starts_with_lists(path: Path) -> bool:
    """Tells easy-VQA's list of lists from LLaVA's list of objects."""
    with path.open("rb") as file:
        return re.match(rb"\s*\[\s*\[", file.read(4096).removeprefix(codecs.BOM_UTF8)) is not None


def _kind_of_tar(paths: list[Path]) -> str:
    """Returns the format of tar files, judged by the first readable sample."""
    from vla.datasets.formats.readers.tars import lower_case
    from vla.datasets.tar import CutOff

    for path in paths:
        with contextlib.suppress(CutOff):
            for sample in lower_case(path):
                arrays = any(name.endswith((".npy", ".npz")) or name == "npy" for name in sample.members)
                return "webdataset" if arrays else "image-text"
    return "webdataset"
