"""Encoders of the small model."""

import sys
from pathlib import Path

import pytest

from vla.contract import PolicyContract
from vla.models.families.find import family_of
from vla.models.load import load_vlm
from vla.sequences.encode import Encoder
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME

# For helpers beside the tests, which are no package.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def examples(vlm):
    return Encoder(PolicyContract({EMBODIMENT_NAME: EMBODIMENT}, chunk=3), family_of(*load_vlm(vlm)))


@pytest.fixture(scope="module")
def looking_back(vlm):
    """Model and examples with three images per camera, two steps apart."""
    model, processor = load_vlm(vlm, history=3)
    contract = PolicyContract({EMBODIMENT_NAME: EMBODIMENT}, chunk=3, execute=2, history=3)
    return model, Encoder(contract, family_of(model, processor))
