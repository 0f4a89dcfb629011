"""Adapters in a process of their own: peft and bitsandbytes say nothing."""

import subprocess
import sys

import pytest

CODE = """
from vla.models.adapters import Lora, add_lora
from vla.models.load import load_vlm
model = add_lora(load_vlm("tiny")[0], Lora(rank=2))
import bitsandbytes
"""


def test_adapters_say_nothing():
    pytest.importorskip("peft")
    pytest.importorskip("bitsandbytes")
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert "gemm_4bit" not in done.stderr and "is_gradient_checkpointing" not in done.stderr
