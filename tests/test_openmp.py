"""How torch's threads wait, as the runtime itself says (OMP_DISPLAY_ENV)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vla import openmp
from vla.doctor import threads

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in (*openmp.WAITING, *openmp.OTHERS)}


def displayed(code: str, **environment: str) -> dict[str, str]:
    """The settings that GNU's runtime read in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**ENVIRONMENT, "OMP_DISPLAY_ENV": "verbose", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = dict(re.findall(r"(\w+) = '(.*)'", done.stderr))
    if "GOMP_SPINCOUNT" not in found:
        pytest.skip("torch's OpenMP is not GNU's")
    return {name: found[name] for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}


@pytest.mark.parametrize(
    "code",
    [
        "import vla.sim.workers, torch",
        # A child of a program that has loaded torch first.
        pytest.param(
            "import torch, vla, subprocess, sys; subprocess.run([sys.executable, '-c', 'import torch'], check=True)",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_waiting_threads_soon_sleep(code):
    assert displayed(code) == openmp.WAITING


def test_a_setting_of_the_users_own_wins():
    own = {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "88"}
    assert own.items() <= displayed("import vla, torch", **own).items()
    alone = subprocess.run(
        [sys.executable, "-c", "from vla import openmp; print(sorted(openmp.settings()))"],
        cwd=ROOT,
        env={**ENVIRONMENT, "KMP_BLOCKTIME": "5"},
        capture_output=True,
        text=True,
    )
    assert alone.stdout.strip() == "['KMP_BLOCKTIME']"


def test_these_tests_and_their_workers_have_it():
    assert openmp.settings().keys() & openmp.WAITING.keys()


def test_the_doctor_says_it(monkeypatch):
    for name in openmp.OTHERS:
        monkeypatch.delenv(name, raising=False)
    for name, value in openmp.WAITING.items():
        monkeypatch.setenv(name, value)
    assert threads(2).ok and "sleep" in threads(2).detail and "OMP_WAIT_POLICY=PASSIVE" in threads(2).detail
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert not threads(2).ok and "unset OMP_WAIT_POLICY" in threads(2).fix
