"""`vla doctor`: checks the machine; prints one line per subject, and how to fix each problem."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypedDict

from vla import fetched, openmp
from vla.errors import UserError
from vla.sim import gl

if TYPE_CHECKING:
    from torch import dtype

LIBRARIES = "apt-get install libegl1 libgl1-mesa-dri libgles2 (and libosmesa6 where there is one)"
SECONDS = 60.0
"""Time limit of a render process, which may hang (mujoco #3444)."""
DISK_GB = 1.0
"""Free space needed for a run of the demo, which writes 0.2 GB."""

_PROBE = """
import json, sys, time
from vla.sim import gl
gl.choose()
import mujoco
ball = '<mujoco><worldbody><light pos="0 0 3"/><geom type="sphere" size="0.2" group="1"/></worldbody></mujoco>'
model = mujoco.MjModel.from_xml_string(ball)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with gl.renderer(model, 64, 64) as renderer:
    frames = int(sys.argv[1])
    renderer.update_scene(data)
    renderer.render()
    started = time.perf_counter()
    for _ in range(frames):
        renderer.update_scene(data)
        image = renderer.render()
    seconds = (time.perf_counter() - started) / frames
    try:
        from OpenGL import GL
        name = GL.glGetString(GL.GL_RENDERER).decode()
    except (ImportError, AttributeError):
        name = "unnamed renderer"
    print(json.dumps({"name": name, "milliseconds": seconds * 1000, "blank": int(image.max()) == int(image.min())}))
"""


class Rendered(TypedDict):
    """What a render process prints: the renderer's name, the time of a frame, and whether the image is of one colour."""

    name: str
    milliseconds: float
    blank: bool


@dataclasses.dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        subject: what was checked.
        ok: whether it is in order.
        detail: the finding.
        fix: what to do about a problem.
        fatal: whether nothing works on this machine before the problem is fixed.
    """

    subject: str
    ok: bool
    detail: str
    fix: str = ""
    fatal: bool = False

    def __str__(self) -> str:
        line = f"{'ok     ' if self.ok else 'problem'}  {self.subject:<10} {self.detail}"
        return line if self.ok or not self.fix else f"{line}\n{'':20}fix: {self.fix}"


def doctor(renderers: int = 2) -> int:
    """Checks that this machine can train, simulate and render; prints one line per check.

    Args:
        renderers: number of processes that render at the same time, as the workers of an evaluation do.

    Returns:
        The exit code: 1 if the Python version is wrong, torch does not load or no image can be rendered, else 0.
    """
    if renderers < 1:
        raise UserError(f"{renderers} renderers", "doctor", "give at least 1")
    fatal = False
    for check in checks(renderers):
        print(check, flush=True)
        fatal |= check.fatal and not check.ok
    return int(fatal)


def checks(renderers: int = 2) -> Iterator[Check]:
    """Yields the checks; each runs when the iterator reaches it."""
    yield python()
    yield from torch()
    yield from rendering(renderers)
    yield disk()
    yield ffmpeg()
    yield models()
    yield from simulators()


def python() -> Check:
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Check("python", fits, f"{platform.python_version()}, {sys.executable}", "use Python 3.11, 3.12 or 3.13", fatal=True)


def torch() -> Iterator[Check]:
    """Checks torch and its device, then how fast bf16 is on this CPU."""
    try:
        import torch
    except (ImportError, OSError) as error:
        fix = "make setup; torch and torchvision must come from the same index"
        yield Check("torch", False, f"does not load: {error}", fix, fatal=True)
        return
    device = f"CUDA: {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "no CUDA device"
    yield Check("torch", True, f"{torch.__version__}, {device}")
    yield threads(torch.get_num_threads())
    flags = _cpu_flags() & {"avx2", "avx512f", "avx512_bf16", "amx_bf16"}
    timings = {dtype: _product_seconds(torch, dtype) for dtype in (torch.float32, torch.bfloat16)}
    gain = timings[torch.float32] / timings[torch.bfloat16]
    features = ", ".join(sorted(flags)) or platform.machine()
    yield Check("cpu", True, f"{os.cpu_count()} cores, {features}; bf16 products at {gain:.1f} times the speed of fp32")


def threads(count: int) -> Check:
    """Says how torch's threads wait for one another, which decides how two commands at once get on."""
    settings = openmp.settings()
    spins = settings.get("OMP_WAIT_POLICY", "").upper() == "ACTIVE"
    waiting = "spin while they wait" if spins else "soon sleep while they wait"
    told = " ".join(f"{name}={value}" for name, value in settings.items())
    fix = "unset OMP_WAIT_POLICY, unless one command at a time has the machine"
    return Check("threads", not spins, f"{count} of torch; they {waiting} ({told})", fix)


def rendering(renderers: int = 2) -> Iterator[Check]:
    """Checks EGL, then OSMesa, with a timed frame; then so many renderers at the same time.

    If those hang or fail, the fix names what works: another library, or fewer renderers.
    """
    if importlib.util.find_spec("mujoco") is None:
        yield Check("rendering", False, "mujoco is not installed", "make setup, or: pip install 'vla[sim]'", True)
        return
    chosen = gl.choose()
    platforms = [chosen, *(p for p in gl.PLATFORMS if p != chosen and sys.platform == "linux")]
    for name in platforms:
        result = _finish(_start(name, 20))
        if not isinstance(result, str):
            yield Check("rendering", True, f"{name or 'native'}: {result['name']}, {result['milliseconds']:.1f} ms per frame")
            break
        yield Check("rendering", False, f"{name or 'native'}: {result}", LIBRARIES if sys.platform == "linux" else "")
    else:
        yield Check("rendering", False, "no image can be rendered", "fix one of the problems above", True)
        return
    if name != chosen:
        yield Check("rendering", False, f"{chosen} is selected, but only {name} works", f"export MUJOCO_GL={name}")
    failure, seconds = _render_together(name, renderers)
    if not failure:
        yield Check("rendering", True, f"{renderers} at the same time: done in {seconds:.1f} s")
        return
    yield Check("rendering", False, f"{renderers} at the same time: {failure}", _alternative(name, renderers))


def _render_together(name: str, renderers: int) -> tuple[str, float]:
    """Runs that many renderers at the same time; returns the first failure, or "", and the seconds they took."""
    started = time.perf_counter()
    processes = [_start(name, 50) for _ in range(renderers)]
    # One time limit for all: they started at the same time.
    answers = [_finish(p, started + SECONDS - time.perf_counter()) for p in processes]
    failures = [answer for answer in answers if isinstance(answer, str)]
    return (failures[0] if failures else ""), time.perf_counter() - started


def _alternative(name: str, renderers: int) -> str:
    """Returns the setting that works although that many renderers do not."""
    for other in gl.PLATFORMS if sys.platform == "linux" else ():
        if other != name and not _render_together(other, renderers)[0]:
            return f"export MUJOCO_GL={other}; {renderers} renderers work with it"
    fewer = renderers // 2
    while fewer > 1 and _render_together(name, fewer)[0]:
        fewer //= 2
    return f"--workers {max(fewer, 1)} for evaluations and collecting"


def disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Check("disk", free >= DISK_GB, f"{free:.0f} GiB free here", f"free some space: the demo needs {DISK_GB:.0f} GiB")


def ffmpeg() -> Check:
    try:
        import imageio_ffmpeg

        return Check("ffmpeg", True, Path(imageio_ffmpeg.get_ffmpeg_exe()).name)
    except (ImportError, RuntimeError):
        path = shutil.which("ffmpeg")
        return Check("ffmpeg", path is not None, path or "none", "make setup, or: pip install 'vla[report]' (videos need it)")


def models() -> Check:
    """Says which pre-trained models are in the cache. None is needed."""
    cached = {name: fetched.is_fetched(name) for name in fetched.FETCHABLE}
    have, lack = (", ".join(name for name, here in cached.items() if here is wanted) for wanted in (True, False))
    parts = [f"fetched: {have}"] * bool(have) + [f"not fetched: {lack} (vla models fetch NAME)"] * bool(lack)
    return Check("models", True, "; ".join(parts))


def simulators() -> Iterator[Check]:
    """Says whether the packages of simulators that need a folder of their own are installed. None is needed."""
    from vla.sim.registry import simulators as known

    for simulator in known():
        if folder := simulator.packages:
            command, lacks = f"vla sim install {simulator.name}", folder.missing()
            if len(lacks) == len(folder.parts):
                yield Check(simulator.name, True, f"not installed ({command}: {folder.download} MB to download)")
            else:
                yield Check(simulator.name, not lacks, f"lacks {', '.join(lacks)}" if lacks else str(folder.folder), command)


def _start(gl_platform: str, frames: int) -> subprocess.Popen[str]:
    environment = dict(os.environ)
    if gl_platform:
        environment["MUJOCO_GL"] = gl_platform
    command = [sys.executable, "-c", _PROBE, str(frames)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _finish(process: subprocess.Popen[str], seconds: float | None = None) -> Rendered | str:
    """Returns the result of a render process, or its error. It is ended after `seconds`, by default SECONDS."""
    try:
        out, errors = process.communicate(timeout=SECONDS if seconds is None else max(seconds, 0.1))
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"hangs (ended after {SECONDS:.0f} s)"
    if process.returncode:
        # Errors of destructors at exit follow the error that matters.
        lines = errors.split("Exception ignored")[0].strip().splitlines()
        return lines[-1] if lines else f"ended with code {process.returncode}"
    result: Rendered = json.loads(out.splitlines()[-1])
    return "the image is blank" if result["blank"] else result


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), set())


def _product_seconds(torch: ModuleType, dtype: dtype, size: int = 512, times: int = 10) -> float:
    a = torch.ones(size, size, dtype=dtype)
    _ = a @ a
    started = time.perf_counter()
    for _ in range(times):
        _ = a @ a
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(doctor())
