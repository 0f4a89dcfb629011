"""Vision-language-action policies: co-fine-tune, evaluate in simulation, export and serve."""

from vla import openmp

__version__ = "0.1.0"

# Here, because every command and worker imports this before torch.
openmp.choose()
