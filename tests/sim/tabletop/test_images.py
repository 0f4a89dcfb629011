"""Our images are robosuite's, but for shadows, smooth edges and simplified meshes."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest

from vla.sim.episodes import Episode
from vla.sim.tabletop.episodes import set_up

ROOT = Path(__file__).resolve().parents[3]
SCENES = 20


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    """Structural similarity of two images' brightness (Wang et al. 2004): a Gaussian window of 1.5 pixels."""
    a, b = (cv2.cvtColor(np.ascontiguousarray(p), cv2.COLOR_RGB2GRAY).astype(np.float64) for p in (one, other))

    def blur(x):
        return cv2.GaussianBlur(x, (11, 11), 1.5)

    ma, mb = blur(a), blur(b)
    va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float(np.mean((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))))


@pytest.mark.slow
def test_images_are_like_stock_ones(table):
    spec = importlib.util.spec_from_file_location("benchmark_sim", ROOT / "benchmarks/sim.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    stock = benchmark.Stock(benchmark.LARGE)
    # The light is a choice of ours, not a simplification.
    stock.model.vis.headlight.ambient[:] = table.model.vis.headlight.ambient
    found = []
    for seed in range(SCENES):
        scene = set_up(Episode(seed))[0]
        table.reset(scene)
        # The robot stands where it stood; a hard reset would undo the light.
        stock.show(scene)
        seen = stock.images()
        found += [similarity(table.render(name, benchmark.LARGE), image) for name, image in seen.items()]
    assert np.mean(found) >= 0.9 and min(found) >= 0.8, (np.mean(found), min(found))
