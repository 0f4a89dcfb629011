"""What peft and bitsandbytes say that a user of `vla` need not read: it is left out."""

from __future__ import annotations

import logging
import warnings

WARNING = "`is_gradient_checkpointing` is deprecated"
"""transformers says so of what peft asks it."""
INFO = "Failed to load CPU gemm_4bit_forward"
"""A faster kernel of bitsandbytes for CPUs, which `four_bit.keep_layout` switches off."""


def worth_reading(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(INFO)


def leave_out_noise() -> None:
    """Applies to this process. Called before peft or bitsandbytes is imported: it is then that the latter looks for kernels."""
    warnings.filterwarnings("ignore", message=WARNING, category=FutureWarning)
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(worth_reading)
