"""Vision-language-action policies: co-fine-tune, evaluate in simulation, export and serve."""

__version__ = "0.1.0"
