"""`vla sim`: what a simulator needs besides this package."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable

from vla.errors import UserError
from vla.sim.packages import PackageFolder
from vla.sim.registry import simulator_of, simulators


def folders() -> dict[str, PackageFolder]:
    """The simulators that need packages in a folder of their own."""
    return {simulator.name: simulator.packages for simulator in simulators() if simulator.packages is not None}


def install(*simulators: str) -> int:
    """Installs what simulators need besides this package, into a folder of the cache, and checks it by SHA-256.

    Args:
        simulators: names of simulators, see `vla sim list`.
    """
    known = folders()
    for name in simulators:
        if name not in known:
            raise UserError(f"{name!r} needs no installation, or is unknown", "vla sim install", f"one of {', '.join(known)}")
    for name in simulators:
        install_one(known[name])
    return 0


def install_one(folder: PackageFolder) -> None:
    """Installs one folder and says how large it is and where."""
    print(f"{folder.what}: {folder.sizes} ({', '.join(folder.packages)})", flush=True)
    here, started = not folder.missing(), time.perf_counter()
    path = folder.install()
    print(f"{folder.name}: {path}" + (" (was there)" if here else f" ({time.perf_counter() - started:.0f} s)"))


def list_simulators() -> int:
    """Lists the simulators, and which of them need `vla sim install`."""
    for simulator in simulators():
        state = "no installation"
        if folder := simulator.packages:
            state = f"not installed, {folder.download} MB" if folder.missing() else f"installed, {folder.folder}"
        print(f"{simulator.name:<12}{len(simulator.tasks):>4} tasks   {state}")
    return 0


def offer(tasks: Iterable[str], yes: bool) -> None:
    """Installs what the simulators of these tasks need and lack, if the user agrees.

    Args:
        yes: the user has agreed already.

    Raises:
        UserError: something is missing, and the user does not agree or cannot be asked.
    """
    needed = {simulator.name: simulator.packages for simulator in map(simulator_of, tasks) if simulator.packages is not None}
    for folder in needed.values():
        if not folder.missing():
            continue
        if not yes and not _agrees(folder):
            folder.require()
        install_one(folder)


def _agrees(folder: PackageFolder) -> bool:
    if not sys.stdin.isatty():
        return False
    return input(f"{folder.name} needs {folder.what}: {folder.sizes}. Install it? [y/N] ").strip().lower() in ("y", "yes")
