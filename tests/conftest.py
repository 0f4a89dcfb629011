"""Torch comes before the simulator: Mesa's LLVM, once loaded, crashes torch's (see vla/sim/gl.py)."""

import torch

torch.set_num_threads(1)
