"""Where a result comes from: versions, commit, machine and command, and how much memory it took."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("torch", "transformers", "lightning", "mujoco", "robosuite", "numpy", "webdataset", "timm")
PACKAGES += ("stable-baselines3", "minigrid")


def provenance() -> dict[str, Any]:
    """Versions, commit, hardware and command line of this process."""
    import vla

    program = Path(sys.argv[0]).resolve()
    script = program.suffix == ".py" and program.name != "__main__.py"
    return {
        "versions": {"python": platform.python_version(), "vla": vla.__version__, **_installed()},
        "commit": commit(),
        "hardware": f"{os.cpu_count()} cores, {_processor()}, {platform.system()}",
        "command": " ".join([f"{program.parent.name}/{program.name}" if script else "vla", *sys.argv[1:]]),
    }


def commit() -> str:
    """The checkout's commit, with "-dirty" where files of it were changed; "unknown" outside of one."""
    package = Path(__file__).resolve().parents[1]

    def git(*command: str) -> str:
        done = subprocess.run(["git", *command], cwd=package, capture_output=True, text=True, timeout=10)
        return done.stdout.strip()

    try:
        # Installed into somebody else's checkout it is not of that one's commit.
        if Path(git("rev-parse", "--show-toplevel") or "/") != package.parent:
            return "unknown"
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"


def _installed() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        # The simulator is an extra: comparing records works without.
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    vectors = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in found.get("flags", "").split()]
    return " ".join([found.get("model name", platform.machine()), *vectors])


class Memory(threading.Thread):
    """Watches the summed PSS of this process and all its children, in MiB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._peak, self._stop_now = 0.0, threading.Event()

    def run(self) -> None:
        me = psutil.Process()
        while not self._stop_now.wait(2.0):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    info = process.memory_full_info()
                except psutil.Error:
                    continue
                total += getattr(info, "pss", getattr(info, "uss", 0))
            self._peak = max(self._peak, total / 2**20)

    def take(self) -> float:
        """The peak since this was last called."""
        peak, self._peak = self._peak, 0.0
        return peak

    def stop(self) -> None:
        """Ends the watch."""
        self._stop_now.set()
