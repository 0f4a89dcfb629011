"""The configuration of the small vision-language model."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from vla.errors import UserError

# A residual network. One group of group normalisation instead of batch statistics: training equals evaluation, and the other
# images of a batch have no influence.
VISION = {
    "layers": [1, 1, 1, 1],
    "channels": [32, 96, 96, 96],
    "stem_width": 16,
    "norm_layer": "groupnorm1",
    "zero_init_last": False,
}
TEXT = {
    "model_type": "gpt_neox",
    "hidden_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "hidden_act": "gelu",
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 0.5},
    # transformers' 0.02 suits widths of thousands. At this width attention would start flat and stay so for long.
    "initializer_range": 0.05,
    "tie_word_embeddings": True,
    "max_position_embeddings": 1024,
}


class TinyVLMConfig(PreTrainedConfig):
    """The configuration of a timm vision network, a projector and a causal language model of transformers.

    Attributes:
        text_config: configuration of any causal language model that takes `inputs_embeds` and a 4-D mask; a dict with
            `model_type`, or a config object. Missing entries of the default type come from `TEXT`.
        vision_name: a network of `timm.create_model` that supports `features_only`.
        vision_args: further arguments of the network (plain JSON types); None: `VISION` for the default network, none for others.
        stride: image pixels per side of a feature map cell; the network must have a feature map of that stride.
        image_size: side of the square images, in pixels.
        pools: one per camera; the feature map is averaged over pool x pool cells, so a camera has
            (image_size / stride / pool)^2 tokens.
        history: images per camera.
        image_token_id: the placeholder in `input_ids`, repeated once per image token.
        prefix: "bidirectional": tokens of the prefix attend to the whole prefix; "causal": only to earlier tokens.
        vision_width: width of the image tokens before they are mapped to the language model's width; 0: they have that width.
        frozen_norm: whether the batch norms of the vision network keep the statistics and scales of its pre-trained weights.
        own_words: number of words of the pre-trained language model, those before the words that were added; 0: there is none.
        encoder_config: configuration of a frozen text encoder (a dict with `model_type`), which reads instructions and questions
            in place of the language model's embeddings; None: there is no encoder.
        first_id: the encoder's id that every text begins with.
        text_encoder: name of that encoder, and the beginning of its weights' SHA-256.
        int8: whether the language model's weights are 8-bit integers (`vla.models.int8`); such a model cannot be trained.
    """

    model_type = "vla-tiny"
    sub_configs = {"text_config": AutoConfig}  # type: ignore[assignment]

    text_config: PreTrainedConfig = None  # type: ignore[assignment]
    vision_name: str = "resnet10t"
    vision_args: dict = None  # type: ignore[assignment]
    stride: int = 8
    image_size: int = 64
    pools: list = None  # type: ignore[assignment]  # None is [1, 2]
    history: int = 1
    image_token_id: int = 3
    prefix: str = "bidirectional"
    vision_width: int = 0
    frozen_norm: bool = False
    own_words: int = 0
    encoder_config: dict = None  # type: ignore[assignment]
    first_id: int = 0
    text_encoder: str = ""
    int8: bool = False
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        if self.text_config is None or isinstance(self.text_config, dict):
            text = dict(self.text_config or {})
            if text.get("model_type", TEXT["model_type"]) == TEXT["model_type"]:
                text = {**TEXT, **text}
            self.text_config = AutoConfig.for_model(text.pop("model_type"), **text)
        if self.vision_args is None:
            self.vision_args = dict(VISION) if self.vision_name == TinyVLMConfig.vision_name else {}
        self.pools = list(self.pools or (1, 2))
        if self.prefix not in ("bidirectional", "causal"):
            raise UserError(f"prefix {self.prefix!r}", "model configuration", "one of bidirectional, causal")
        for pool in self.pools:
            if self.image_size % (self.stride * pool):
                raise UserError(
                    f"images of {self.image_size} px do not divide into cells of {self.stride} x {pool} px",
                    "model configuration",
                    "choose image_size, stride and pools so that they divide",
                )
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The settings. Those of pre-trained halves are left out where there are none, as in models of earlier versions."""
        unused = {
            "vision_width": 0,
            "frozen_norm": False,
            "own_words": 0,
            "encoder_config": None,
            "first_id": 0,
            "text_encoder": "",
        }
        return {k: v for k, v in super().to_dict().items() if k not in unused or v != unused[k]}

    @property
    def image_tokens(self) -> list[int]:
        """Number of image tokens of each camera."""
        return [(self.image_size // self.stride // pool) ** 2 for pool in self.pools]

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        # A frozen text encoder has a configuration, too, and transformers would not know which is meant.
        return self.text_config
