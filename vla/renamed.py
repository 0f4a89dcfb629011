"""Settings that have a new name."""

from __future__ import annotations

RENAMED = {"lead": "warmup_samples", "asked": "questions_per_image", "pictures": "images"}
"""Old name -> new name. Configurations, checkpoints and command lines may have the old one for one more version."""
