"""A model family in one file: LLaVA 1.5 learns actions and answers. Entry point: vla.families, llava."""

from vla.models.families.hub import HubFamily


class LlavaFamily(HubFamily):
    """Causal attention; an image has as many tokens as its processor makes of `<image>`."""

    trains = True

    def _chosen(self, made):
        # What the model takes of what the image processor gives.
        return {"pixel_values": made["pixel_values"]}
