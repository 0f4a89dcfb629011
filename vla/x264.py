"""Options of the H.264 encoder x264 with which equal frames give equal bytes."""

from __future__ import annotations

from pathlib import Path


def equal_bytes() -> dict[str, str]:
    """Returns options that keep x264 from its code for AVX-512, which reads memory that nothing was written to.

    Its videos differ from process to process, and from those of other CPUs.
    """
    cpu = Path("/proc/cpuinfo")
    return {"x264-params": "asm=AVX2"} if cpu.is_file() and "avx512" in cpu.read_text() else {}
