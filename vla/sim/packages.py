"""Packages of a simulator that must not be in the environment itself: a folder of the cache, which `vla sim install` fills.

A worker process puts the folder before all other packages when the simulation starts. No other process reads it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from filelock import FileLock

from vla.errors import UserError
from vla.fetched import cache_folder

PROGRESS = ("warning", "resolved ", "using ", "downloading ", "downloaded ", "building ", "built ", "prepared ", "[notice]")
"""How lines of an installer begin that say nothing of a failure."""


@dataclasses.dataclass(frozen=True)
class PackageFolder:
    """The packages of one simulator, with versions and hashes.

    Attributes:
        name: the simulator's name.
        what: what the packages are, with their licences.
        download, size: megabytes to download, and on the disk.
        requirements: text of a requirements file with `--hash` for every package; packages that these require are not installed.
        parts: files and folders that must be there, relative to the folder.
        shadowed: top-level modules that the folder has another version of than the environment.
    """

    name: str
    what: str
    download: int
    size: int
    requirements: str
    parts: tuple[str, ...]
    shadowed: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where the packages are: the folder's name has the hash of the requirements, so that other versions are apart."""
        digest = hashlib.sha256(self.requirements.encode()).hexdigest()[:12]
        return cache_folder().parent / "sims" / f"{self.name}-{digest}"

    @property
    def packages(self) -> list[str]:
        """The packages with their versions."""
        return [line.split()[0] for line in self.requirements.splitlines() if line[:1].isalnum()]

    @property
    def sizes(self) -> str:
        """How large they are, as text."""
        return f"{self.download} MB to download, {self.size} MB on the disk"

    def missing(self) -> list[str]:
        """The parts that are not there; all of them before the installation."""
        return [part for part in self.parts if not (self.folder / part).exists()]

    def require(self) -> Path:
        """Returns the folder. Raises UserError if it is not there, or lacks parts."""
        if lacks := self.missing():
            whole = len(lacks) == len(self.parts)
            what = f"{self.what}: not installed" if whole else f"lacks {', '.join(lacks)}"
            raise UserError(what, self.name if whole else str(self.folder), f"run `vla sim install {self.name}` ({self.sizes})")
        return self.folder

    def enter(self) -> Path:
        """Puts the folder before all other packages of this process, and returns it.

        Raises:
            UserError: it is not installed, or the process has imported other versions of its packages.
        """
        folder = self.require()
        for module in self.shadowed:
            loaded = getattr(sys.modules.get(module), "__file__", None)
            if loaded and not Path(loaded).is_relative_to(folder):
                fix = "run the two simulators in two commands: a process holds one version of a package"
                raise UserError(f"another version of {module} is loaded in this process", loaded, fix)
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
        return folder

    def install(self) -> Path:
        """Installs what is not there, and returns the folder. Several processes may ask at once.

        Raises:
            UserError: the disk is too full, the folder cannot be written, or the installer fails: it says why.
        """
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder.parent / f".{self.folder.name}.lock"):
                if self.missing():
                    self._install()
        except OSError as error:
            why = error.strerror or str(error)
            raise UserError(
                f"cannot be written: {why}", str(error.filename or self.folder), "set XDG_CACHE_HOME, or free space"
            ) from error
        return self.folder

    def _install(self) -> None:
        free, needed = shutil.disk_usage(self.folder.parent).free / 1e6, self.download + 1.1 * self.size
        if free < needed:
            what = f"{free:.0f} MB are free, {needed:.0f} MB are needed"
            raise UserError(what, str(self.folder.parent), "free space, or set XDG_CACHE_HOME")
        # The lock is held: what is there was left by a process that was killed.
        for left in self.folder.parent.glob(f".{self.folder.name}.*.unfinished"):
            shutil.rmtree(left, ignore_errors=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{self.folder.name}.", suffix=".unfinished", dir=self.folder.parent))
        try:
            file, target = unfinished / "requirements.txt", unfinished / "packages"
            file.write_text(self.requirements, encoding="utf-8")
            done = subprocess.run([*_installer(), "--target", str(target), "-r", str(file)], capture_output=True, text=True)
            if done.returncode:
                fix = "check the connection and the package index; nothing was kept"
                raise UserError(f"cannot be installed: {_reason(done.stderr)}", f"vla sim install {self.name}", fix)
            if lacks := [part for part in self.parts if not (target / part).exists()]:
                fix = "ask where your package index takes them from"
                raise UserError(f"the packages lack {', '.join(lacks)}", f"vla sim install {self.name}", fix)
            shutil.rmtree(self.folder, ignore_errors=True)
            os.replace(target, self.folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def _installer() -> list[str]:
    """The command of uv, which is several times faster, or of pip; both know the user's index, proxy and certificates."""
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.is_file() else shutil.which("uv")
    options = ["--no-deps", "--require-hashes"]
    if uv:
        return [uv, "pip", "install", "--python", sys.executable, *options]
    if importlib.util.find_spec("pip") is None:
        raise UserError("neither uv nor pip is installed", "vla sim install", f"run `{sys.executable} -m ensurepip`")
    return [sys.executable, "-m", "pip", "install", "--quiet", *options]


def _reason(errors: str) -> str:
    """What an installer says of its failure, in one line: without its warnings and its progress."""
    lines = [line.strip(" ×│╰─▶├") for line in errors.splitlines()]
    said = " ".join(line for line in lines if line and not line.lower().startswith(PROGRESS))
    return said[:500] or "it says nothing"
