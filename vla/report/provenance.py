"""Records where a result comes from (versions, commit, machine, command) and how much memory it took."""

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
    """Returns versions, commit, hardware and command line of this process."""
    import vla

    program = Path(sys.argv[0]).resolve()
    script = program.suffix == ".py" and program.name != "__main__.py"
    return {
        "versions": {"python": platform.python_version(), "vla": vla.__version__, **_installed()},
        "commit": commit(),
        "hardware": ", ".join([f"{os.cpu_count()} cores", _processor(), *_accelerator(), platform.system()]),
        "command": " ".join([f"{program.parent.name}/{program.name}" if script else "vla", *sys.argv[1:]]),
    }


def commit() -> str:
    """Returns the checkout's commit, with "-dirty" if tracked files were changed; "unknown" outside a checkout."""
    package = Path(__file__).resolve().parents[1]

    def git(*command: str) -> str:
        return subprocess.run(["git", *command], cwd=package, capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        # A package installed inside another project's checkout must not report that project's commit.
        if Path(git("rev-parse", "--show-toplevel") or "/") != package.parent:
            return "unknown"
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"


def _installed() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        # Extras, such as the simulator, may be missing.
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    entries = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    vectors = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in entries.get("flags", "").split()]
    return " ".join([entries.get("model name", platform.machine()), *vectors])


def _accelerator() -> list[str]:
    """The GPU that this process uses, if it does."""
    torch = sys.modules.get("torch")
    # Asking for its name would begin to use it.
    return [torch.cuda.get_device_name()] if torch is not None and torch.cuda.is_initialized() else []


class Memory(threading.Thread):
    """A thread that measures the summed PSS of this process and all its children, in MiB."""

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
        """Returns the peak since the last call and starts anew."""
        peak, self._peak = self._peak, 0.0
        return peak

    def stop(self) -> None:
        """Stops measuring."""
        self._stop_now.set()
