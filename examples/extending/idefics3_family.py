"""A model family in one file: Idefics3 learns actions and answers. Entry point: vla.families, idefics3."""

import numpy as np
import torch

from vla.errors import UserError
from vla.models.decoding.session import DecodingSession
from vla.models.families.hub import HubFamily
from vla.models.inputs import ModelInputs


class Idefics3Family(HubFamily):
    """Causal attention, so one question per image and no blocks; images as the processor makes them, not split into tiles."""

    def __init__(self, processor, config, image_tokens=0, chat=False):
        super().__init__(processor, config, image_tokens, chat)
        side = config.vision_config.image_size
        self.size, self.per_image = side, (side // config.vision_config.patch_size // config.scale_factor) ** 2

    @staticmethod
    def history_settings(model_type, history):
        # Nothing in model or processor depends on the number of images.
        return {}

    def image_ids(self, count):
        return [[self.image_id] * self.per_image] * count

    def images(self, samples):
        blank = np.zeros((self.size, self.size, 3), np.uint8)
        shown = [[blank if image is None else image for image in images] for images in samples]
        made = self.processor.image_processor(shown, do_image_splitting=False, return_tensors="pt")
        return {"pixel_values": made["pixel_values"]}

    def score(self, model, inputs, positions):
        if inputs.branch is not None and inputs.branch.max() > 1:
            raise UserError("several questions per image", "data", "set questions_per_image: 1")
        core = model.get_base_model() if hasattr(model, "get_base_model") else model
        hidden = core.model(inputs.ids, attention_mask=inputs.attention.long(), **inputs.images).last_hidden_state
        return core.lm_head(hidden[positions])

    def session(self, model, inputs, static=None, show=None) -> DecodingSession:
        return super().session(model, left_padded(inputs, self.tokenizer.pad_token_id), static, show)


def left_padded(inputs: ModelInputs, pad: int) -> ModelInputs:
    """Prompts that were padded on the right, padded on the left: what is written follows the prompt."""
    length = inputs.ids.shape[1]
    columns = torch.arange(length)
    used = (inputs.attention * (columns + 1)).amax(1, keepdim=True)
    source = columns - (length - used)
    ids = inputs.ids.gather(1, source.clamp_min(0)).masked_fill(source < 0, pad)
    attention = inputs.attention.gather(1, source.clamp_min(0)).bool() & (source >= 0)
    return ModelInputs(ids, attention.long(), inputs.images)
