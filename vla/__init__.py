"""Vision-language-action policies: co-fine-tune, evaluate in simulation, export and serve.

The names in `__all__` are what a notebook needs (docs/python.md). Each is imported at its first use: `import vla` itself loads
neither torch nor transformers.
"""

import importlib
from typing import TYPE_CHECKING, Any

from vla import openmp

if TYPE_CHECKING:
    from vla.datasets.open import open_dataset
    from vla.evaluation.offline.run import evaluate_offline
    from vla.models.load import load_vlm
    from vla.observation import Observation
    from vla.policies.load import load_policy

__version__ = "0.1.0"
__all__ = ["Observation", "evaluate_offline", "load_policy", "load_vlm", "open_dataset"]

_MODULES = {
    "Observation": "vla.observation",
    "evaluate_offline": "vla.evaluation.offline.run",
    "load_policy": "vla.policies.load",
    "load_vlm": "vla.models.load",
    "open_dataset": "vla.datasets.open",
}
"""Name -> the module that it is imported from."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Kept here, so that this function is not asked again.
    globals()[name] = value = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


# Here, because every command and worker imports this before torch.
openmp.choose()
