"""A small model and small data of the tabletop's form."""

import functools
import os
import re
import shutil
import sys
import time
from pathlib import Path

# It says how torch's threads wait, which they read when torch is loaded.
import vla  # noqa: F401

# isort: split
import numpy as np
import pytest

from vla.contract import PolicyContract
from vla.datasets.card import DatasetCard
from vla.datasets.shards import ShardWriter
from vla.observation import ActionChunk
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME

# One thread in every process: cores are shared with other tests. pytest's workers inherit it, and what a test starts.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
# Toys of public models: published.py, published_openvla.py.
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
LONGEST = {"demo", "sim", "training"}
"""Folders whose files take longest."""
SMALL = {"text_config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}}


def pytest_configure(config):
    """Torch and its triton come first: Mesa's LLVM, once loaded, crashes them (sim/gl.py).

    xdist's own process runs no test and goes without, so that the others start seconds earlier.
    """
    if not config.getoption("numprocesses", None):
        import torch

        import vla.models.load  # noqa: F401

        torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    # The longest files first: what is left in the end is short, and neither of two processes waits long for the other.
    items.sort(key=lambda item: LONGEST.isdisjoint(item.path.parts))
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(scope="session")
def vlm(tmp_path_factory):
    """A model folder of the real classes, small and random."""
    from vla.commands.training import new_tokenizer
    from vla.models.load import new_tiny

    folder = tmp_path_factory.mktemp("vlm")
    model, processor = new_tiny(new_tokenizer(), **SMALL)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Robot and question data of the tabletop's form, with noise for images."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("data")

    def images():
        return {f"{c.name}.jpg": rng.integers(0, 255, (64, 64, 3), np.uint8) for c in EMBODIMENT.cameras}

    with ShardWriter(root / "robot") as writer:
        for episode in range(4):
            for step in range(6):
                action = rng.uniform(EMBODIMENT.action.low, EMBODIMENT.action.high).astype(np.float32)
                action[3:5] = 0
                description = {
                    "episode": episode,
                    "step": step,
                    "length": 6,
                    "instruction": "lift the red cube",
                    "terminate": int(step == 5),
                    "embodiment": EMBODIMENT_NAME,
                    "target": "red cube",
                    "point": [0.5, 0.25],
                    "reach": [10, 20, 30, 40],
                }
                state = np.array([0, 0, 0.1, 0, 0.04], np.float32)
                members = {**images(), "action.npy": action, "state.npy": state, "json": description}
                writer.write(f"e{episode:06d}_s{step:04d}", members)
    with ShardWriter(root / "questions") as writer:
        for i in range(12):
            asked = [
                {"type": "where", "question": "where is the red cube", "answer": [[0.5, 0.25]]},
                {"type": "colour", "question": "what colour is the cube", "answer": "red"},
                {"type": "list", "question": "list the objects", "answer": ["red cube", [0.5, 0.25]]},
                {"type": "reach", "question": "where is the red cube from the gripper", "answer": [10, 20, 30, 40]},
            ]
            writer.write(f"q{i:06d}", {**images(), "json": {"questions": asked}})
    for kind in ("robot", "questions"):
        DatasetCard(kind, kind, EMBODIMENT_NAME, EMBODIMENT).save(root / kind)
    return root


class Seeing:
    """A policy whose actions depend on the images, the state and the instruction; it executes two at a time and has no memory."""

    contract = PolicyContract({EMBODIMENT_NAME: EMBODIMENT}, chunk=3, execute=2)

    def __init__(self, spoil=None):
        self.spoil = spoil or (lambda observation, actions: actions)

    def reset(self, ids):
        pass

    def act(self, observations):
        return [ActionChunk(self.spoil(o, self._one(o)), np.zeros(3, bool)) for o in observations]

    @staticmethod
    def _one(o):
        assert set(o.images) == {"front", "wrist"}
        numbers = np.array([p.mean() / 255 for p in o.images.values()] + [len(o.instruction) / 100])
        return np.array([[*0.02 * numbers, 0, 0, o.state[0] / 10, -1]] * 3)


@pytest.fixture
def seeing():
    return Seeing


@pytest.fixture
def toy(monkeypatch):
    """toy(trouble, marker): makes what worker processes hold instead of a simulator."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "sim"))
    from toy_simulation import ToySimulation

    return lambda trouble="", marker="": functools.partial(ToySimulation, trouble, str(marker))


@pytest.fixture(scope="module")
def browser():
    """Chromium with a made-up webcam; whoever asks for it is skipped where it is not installed."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        camera = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        chromium = driver.chromium.launch(executable_path=path, args=["--no-sandbox", *camera])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    """A page in the browser. A script's error, or a request to another site, fails the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.set_default_timeout(20_000)
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request", lambda request: problems.append(request.url) if not re.match(r"http://127|data:|blob:", request.url) else None
    )
    yield page
    context.close()
    assert not problems, "errors, or something was loaded from another site"


@pytest.fixture
def until(page):
    """until(expression, argument, other page): waits by polling: playwright's own waiting needs `eval`, which pages forbid."""

    def wait(expression, argument=None, where=page):
        end = time.monotonic() + 30
        while not where.evaluate(expression, argument):
            assert time.monotonic() < end, expression
            where.wait_for_timeout(50)

    return wait
