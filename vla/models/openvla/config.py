"""The configuration of a published OpenVLA checkpoint."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from vla.errors import UserError


class OpenVLAConfig(PreTrainedConfig):
    """What config.json of an OpenVLA checkpoint says, by its published names; other fields are kept as they are.

    Attributes:
        text_config: configuration of the language model. Its vocabulary has `pad_to_multiple_of` more rows than the tokenizer of
            the language model had tokens: one for `<PAD>`, the others are unused.
        timm_model_ids: names of the vision networks, one or two.
        timm_override_act_layers: activation function of each; None is the network's own.
        timm_args: further arguments of each network, for small ones. Published checkpoints do not have it.
        image_sizes: side of the image that each sees, in pixels.
        image_resize_strategy: how an image becomes square: resize-naive (scaled), resize-crop or letterbox.
        use_fused_vision_backbone: whether there are two vision networks, whose features are joined patch by patch.
        norm_stats: data set -> statistics of its actions and states.
        n_action_bins: number of edges between the actions' bins.
        image_token_id: stands for a patch of the image in `input_ids`. The tokenizer has no token for that. `<unk>` takes its
            place, which is in no text: the tokenizer spells unknown letters in bytes.
    """

    model_type = "openvla"
    sub_configs = {"text_config": AutoConfig}  # type: ignore[assignment]

    text_config: PreTrainedConfig = None  # type: ignore[assignment]
    timm_model_ids: list = None  # type: ignore[assignment]
    timm_override_act_layers: list = None  # type: ignore[assignment]
    timm_args: list = None  # type: ignore[assignment]
    image_sizes: list = None  # type: ignore[assignment]
    image_resize_strategy: str = "resize-naive"
    use_fused_vision_backbone: bool = True
    norm_stats: dict = None  # type: ignore[assignment]
    n_action_bins: int = 256
    pad_token_id: int = 32000
    pad_to_multiple_of: int = 64
    image_token_id: int = 0
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any):
        if self.text_config is None or isinstance(self.text_config, dict):
            text = dict(self.text_config or {})
            self.text_config = AutoConfig.for_model(text.pop("model_type", "llama"), **text)
        self.timm_model_ids = list(self.timm_model_ids or ())
        count = len(self.timm_model_ids)
        self.timm_override_act_layers = list(self.timm_override_act_layers or [None] * count)
        self.timm_args = list(self.timm_args or [{}] * count)
        self.image_sizes, self.norm_stats = list(self.image_sizes or [224] * count), self.norm_stats or {}
        lengths = {count, len(self.timm_override_act_layers), len(self.timm_args), len(self.image_sizes)}
        if len(lengths) > 1 or count > 2 or (count and count != 1 + self.use_fused_vision_backbone):
            what = f"{count} vision networks, {len(self.image_sizes)} image sizes, fused: {self.use_fused_vision_backbone}"
            raise UserError(what, "config.json", "give an OpenVLA checkpoint as it is published")
        super().__post_init__(**kwargs)

    @property
    def last_action_id(self) -> int:
        """The token id of the first action bin; the others are before it. It is the last token that the language model had."""
        return self.text_config.vocab_size - self.pad_to_multiple_of - 1
