"""`vla doctor`: whether this machine can do the job, one line per subject, each with what to do about a problem."""

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

from vla.errors import UserError
from vla.sim import gl

LIBRARIES = "apt-get install libegl1 libgl1-mesa-dri libgles2 (and libosmesa6 where there is one)"
SECONDS = 60.0
"""How long one render process may take; a hanging one is ended then (mujoco #3444)."""
DISK_GB = 1.0
"""What must be free for a run of the demo, which writes 0.2."""

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
        picture = renderer.render()
    seconds = (time.perf_counter() - started) / frames
    try:
        from OpenGL import GL
        name = GL.glGetString(GL.GL_RENDERER).decode()
    except (ImportError, AttributeError):
        name = "unnamed renderer"
    print(json.dumps({"name": name, "milliseconds": seconds * 1000, "blank": int(picture.max()) == int(picture.min())}))
"""


@dataclasses.dataclass(frozen=True)
class Check:
    """One line of the doctor's answer.

    Attributes:
        subject: what was looked at.
        ok: whether it is as it should be.
        detail: what was found.
        fix: what to do if it is not.
        fatal: whether nothing can be done on this machine until it is mended.
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
    """Prints one line per check as it is done.

    Args:
        renderers: processes that render at the same time; each worker of an evaluation is one.

    Returns:
        the exit code: 1 if the wrong Python runs, torch does not load or no picture can be rendered, else 0.
    """
    if renderers < 1:
        raise UserError(f"{renderers} renderers", "doctor", "ask for at least 1")
    fatal = False
    for check in checks(renderers):
        print(check, flush=True)
        fatal |= check.fatal and not check.ok
    return int(fatal)


def checks(renderers: int = 2) -> Iterator[Check]:
    """All checks in turn; each is made when it is asked for."""
    yield python()
    yield from torch()
    yield from rendering(renderers)
    yield disk()
    yield ffmpeg()


def python() -> Check:
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Check("python", fits, f"{platform.python_version()}, {sys.executable}", "use Python 3.11, 3.12 or 3.13", fatal=True)


def torch() -> Iterator[Check]:
    """torch and what it can use, then whether bf16 pays on this CPU."""
    try:
        import torch
    except (ImportError, OSError) as error:
        fix = "make setup; torch and torchvision must come from the same index"
        yield Check("torch", False, f"does not load: {error}", fix, fatal=True)
        return
    device = f"CUDA: {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "no CUDA device"
    yield Check("torch", True, f"{torch.__version__}, {torch.get_num_threads()} threads, {device}")
    flags = _cpu_flags() & {"avx2", "avx512f", "avx512_bf16", "amx_bf16"}
    timings = {dtype: _product_seconds(torch, dtype) for dtype in (torch.float32, torch.bfloat16)}
    gain = timings[torch.float32] / timings[torch.bfloat16]
    found = ", ".join(sorted(flags)) or platform.machine()
    yield Check("cpu", True, f"{os.cpu_count()} cores, {found}; bf16 products at {gain:.1f} times the speed of fp32")


def rendering(renderers: int = 2) -> Iterator[Check]:
    """EGL, then OSMesa: the name of the renderer and a timed frame; then so many renderers at the same time, and where they
    hang or fail what works instead: another library, or fewer of them."""
    if importlib.util.find_spec("mujoco") is None:
        yield Check("rendering", False, "mujoco is not installed", "make setup, or: pip install 'vla[sim]'", True)
        return
    chosen = gl.choose()
    platforms = [chosen, *(p for p in gl.PLATFORMS if p != chosen and sys.platform == "linux")]
    works: dict[str, dict] = {}
    for name in platforms:
        found = _finish(_start(name, 20))
        if isinstance(found, dict):
            works[name] = found
            yield Check("rendering", True, f"{name or 'native'}: {found['name']}, {found['milliseconds']:.1f} ms a frame")
            break
        yield Check("rendering", False, f"{name or 'native'}: {found}", LIBRARIES if sys.platform == "linux" else "")
    if not works:
        yield Check("rendering", False, "no picture can be rendered", "mend one of the above", True)
        return
    name = next(iter(works))
    if name != chosen:
        yield Check("rendering", False, f"{chosen} was chosen, only {name} works", f"export MUJOCO_GL={name}")
    failed, seconds = _together(name, renderers)
    if not failed:
        yield Check("rendering", True, f"{renderers} at the same time: done in {seconds:.1f} s")
        return
    yield Check("rendering", False, f"{renderers} at the same time: {failed}", _instead(name, renderers))


def _together(name: str, renderers: int) -> tuple[str, float]:
    """What went wrong with that many at the same time, "" if nothing, and how long they took."""
    started = time.perf_counter()
    processes = [_start(name, 50) for _ in range(renderers)]
    # All together: one that hangs has been hanging for as long as the others.
    answers = [_finish(p, started + SECONDS - time.perf_counter()) for p in processes]
    failed = [a for a in answers if not isinstance(a, dict)]
    return (str(failed[0]) if failed else ""), time.perf_counter() - started


def _instead(name: str, renderers: int) -> str:
    """What does work where that many renderers do not."""
    for other in gl.PLATFORMS if sys.platform == "linux" else ():
        if other != name and not _together(other, renderers)[0]:
            return f"export MUJOCO_GL={other}, with which {renderers} work"
    fewer = renderers // 2
    while fewer > 1 and _together(name, fewer)[0]:
        fewer //= 2
    return f"--workers {max(fewer, 1)} for evaluations and collecting"


def disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Check("disk", free >= DISK_GB, f"{free:.0f} GiB free here", f"make room: the demo needs {DISK_GB:.0f} GiB")


def ffmpeg() -> Check:
    try:
        import imageio_ffmpeg

        return Check("ffmpeg", True, Path(imageio_ffmpeg.get_ffmpeg_exe()).name)
    except (ImportError, RuntimeError):
        found = shutil.which("ffmpeg")
        return Check("ffmpeg", found is not None, found or "none", "make setup, or: pip install 'vla[report]' (videos need it)")


def _start(gl_platform: str, frames: int) -> subprocess.Popen[str]:
    environment = dict(os.environ)
    if gl_platform:
        environment["MUJOCO_GL"] = gl_platform
    command = [sys.executable, "-c", _PROBE, str(frames)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _finish(process: subprocess.Popen[str], seconds: float | None = None) -> dict | str:
    """What the probe found, or why it found nothing; it has SECONDS for it, or that many."""
    try:
        out, errors = process.communicate(timeout=SECONDS if seconds is None else max(seconds, 0.1))
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"hangs (ended after {SECONDS:.0f} s)"
    if process.returncode:
        # Objects that die with the interpreter complain after the error that matters.
        lines = errors.split("Exception ignored")[0].strip().splitlines()
        return lines[-1] if lines else f"ended with code {process.returncode}"
    found = json.loads(out.splitlines()[-1])
    return "the picture is blank" if found["blank"] else found


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), set())


def _product_seconds(torch, dtype, size: int = 512, times: int = 10) -> float:
    a = torch.ones(size, size, dtype=dtype)
    _ = a @ a
    started = time.perf_counter()
    for _ in range(times):
        _ = a @ a
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(doctor())
