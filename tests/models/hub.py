"""Tiny random instances of public vision-language models, and prompts for them."""

import torch
from transformers import (
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

WORDS, IMAGE, PAD = 400, 399, 0
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": WORDS}
TEXT |= {"num_key_value_heads": 1, "head_dim": 16, "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": 2}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def model(name):
    torch.manual_seed(0)
    if name == "paligemma":
        vision = {"model_type": "siglip_vision_model", **VISION, "image_size": 28, "patch_size": 14, "projection_dim": 32}
        config = PaliGemmaConfig(
            vision_config=vision, text_config={"model_type": "gemma", **TEXT}, image_token_index=IMAGE, projection_dim=32
        )
        made = PaliGemmaForConditionalGeneration(config)
    elif name == "qwen2.5-vl":
        vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}
        vision |= {"patch_size": 14, "spatial_merge_size": 2, "window_size": 56, "fullatt_block_indexes": [1]}
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
        config = Qwen2_5_VLConfig(
            vision_config=vision, text_config={**TEXT, "rope_parameters": rope}, image_token_id=IMAGE,
            vision_start_token_id=3, vision_end_token_id=4, video_token_id=5,
        )  # fmt: skip
        made = Qwen2_5_VLForConditionalGeneration(config)
    else:
        vision = {**VISION, "image_size": 28, "patch_size": 7}
        config = SmolVLMConfig(
            vision_config=vision, text_config={"model_type": "llama", **TEXT}, image_token_id=IMAGE, scale_factor=2
        )
        made = SmolVLMForConditionalGeneration(config)
    # Larger output weights, so that answers do not depend on rounding.
    with torch.no_grad():
        for parameter in made.get_output_embeddings().parameters():
            parameter.mul_(20)
    made.generation_config.eos_token_id = None
    return made.eval()


def prompts(name, lengths=(9, 14, 11)):
    """A batch of prompts with one image each, padded on the left."""
    generator = torch.Generator().manual_seed(1)
    longest = max(lengths)
    ids = torch.full((len(lengths), longest), PAD)
    for row, length in enumerate(lengths):
        text = torch.randint(10, 300, (length - 6,), generator=generator)
        ids[row, longest - length :] = torch.cat([torch.tensor([3, *[IMAGE] * 4, 4]), text])
    mask = torch.arange(longest) >= longest - torch.tensor(lengths)[:, None]
    inputs = {"input_ids": ids, "attention_mask": mask.long()}
    if name == "paligemma":
        pixels = torch.rand(len(lengths), 3, 28, 28, generator=generator)
        return {**inputs, "pixel_values": pixels, "token_type_ids": torch.zeros_like(ids)}
    if name == "qwen2.5-vl":
        pixels = torch.rand(16 * len(lengths), 3 * 2 * 14 * 14, generator=generator)
        grid = torch.tensor([[1, 4, 4]] * len(lengths))
        return {**inputs, "pixel_values": pixels, "image_grid_thw": grid, "mm_token_type_ids": (ids == IMAGE).int()}
    return {**inputs, "pixel_values": torch.rand(len(lengths), 1, 3, 28, 28, generator=generator)}


def alone(name, inputs, row):
    """One prompt of a batch, without padding."""
    start = int((inputs["attention_mask"][row] == 0).sum())
    one = {}
    for key, value in inputs.items():
        if key == "pixel_values" and name == "qwen2.5-vl":
            one[key] = value[16 * row : 16 * row + 16]
        else:
            one[key] = value[row : row + 1]
        if value.shape == inputs["input_ids"].shape:
            one[key] = one[key][:, start:]
    return one
