"""The family of InternVL, as transformers has it (checkpoints named -hf)."""

from vla.models.families.hub import HubFamily


class InternVLFamily(HubFamily):
    """InternVL 2.5 and 3 (Zhu et al. 2025): an image is one tile."""

    trains = True
    one_tile = {"crop_to_patches": False}
