"""Settings and logged values that have a new name."""

from __future__ import annotations

RENAMED = {"lead": "warmup_samples", "asked": "questions_per_image", "pictures": "images"}
"""Old name -> new name. Configurations, checkpoints and command lines may have the old one for one more version."""

TEACHER_FORCED = "teacher_forced/"
"""Part of the name of a logged error whose tokens are each predicted after the true ones."""
METRICS = {
    f"{part}/{name}": f"{part}/{TEACHER_FORCED}{name}" for part in ("train", "val") for name in ("action_l1", "action_bin_error")
}
"""Old name of a logged value -> new name. A checkpoint may be chosen by the old one for one more version."""
