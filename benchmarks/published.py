"""Toy instances of public vision-language models: the published configuration of a named checkpoint with small widths and depths,
and a processor with the published special tokens. `words` also makes the vocabulary small.

The tokenizers know the same characters as any text needs, but no words: the rest of the vocabulary is filler.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    AutoModelForImageTextToText,
    Gemma3Config,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Idefics3Config,
    Idefics3ImageProcessor,
    Idefics3Processor,
    InternVLConfig,
    InternVLProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    PaliGemmaConfig,
    PaliGemmaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen3VLConfig,
    Qwen3VLProcessor,
    SiglipImageProcessor,
    SmolVLMConfig,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
)
from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor
from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor
from transformers.models.llava_onevision.video_processing_llava_onevision import LlavaOnevisionVideoProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor


@dataclasses.dataclass(frozen=True)
class Toy:
    """Widths and depths of a toy.

    Attributes:
        hidden, layers, heads, key_heads: of the language model; heads are `hidden // heads` wide.
        vision, vision_layers: of the vision network.
        words: size of the vocabulary; 0 is the published one.
    """

    hidden: int = 64
    layers: int = 2
    heads: int = 4
    key_heads: int = 2
    vision: int = 32
    vision_layers: int = 2
    words: int = 1024

    @property
    def text(self) -> dict[str, Any]:
        return {
            "hidden_size": self.hidden,
            "intermediate_size": 2 * self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "head_dim": self.hidden // self.heads,
        }

    @property
    def siglip(self) -> dict[str, Any]:
        return {
            "hidden_size": self.vision,
            "intermediate_size": 2 * self.vision,
            "num_hidden_layers": self.vision_layers,
            "num_attention_heads": 2,
        }


def tokenizer(published: int, special: dict[int, str], toy: Toy, plain: dict[int, str] | None = None, **kinds: Any) -> Any:
    """A byte-level tokenizer with special tokens at their published ids (moved to the end of a smaller vocabulary).

    Args:
        published: size of the published vocabulary.
        special, plain: published id -> token; plain ones are no special tokens.
        kinds: arguments of `PreTrainedTokenizerFast`: bos_token, eos_token, pad_token, extra_special_tokens …
    """
    tokens = {**special, **(plain or {})}
    size = toy.words or published
    if size < published:
        moved = sorted(i for i in tokens if i >= 256)
        places = {i: size - len(moved) + k for k, i in enumerate(moved)} | {i: i for i in tokens if i < 256}
    else:
        places = {i: i for i in tokens}
    taken = {places[i]: token for i, token in tokens.items()}
    alphabet = iter(sorted(pre_tokenizers.ByteLevel.alphabet()))
    vocabulary = {}
    for i in range(size):
        vocabulary[taken.get(i) or next(alphabet, None) or f"word{i}"] = i
    made = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=made, **kinds)
    fast.add_tokens(list(special.values()), special_tokens=True)
    if plain:
        fast.add_tokens(list(plain.values()))
    return fast


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chatml(image: str) -> str:
    return CHATML.replace("IMAGE", image)


def _paligemma(toy: Toy, second: bool) -> tuple[Any, Any]:
    """google/paligemma-3b-pt-224 and google/paligemma2-3b-pt-224."""
    loc = {256000 + i: f"<loc{i:04d}>" for i in range(1024)}
    special = {0: "<pad>", 1: "<eos>", 2: "<bos>", 3: "<unk>", 257152: "<image>"}
    words = tokenizer(257153, special, toy, loc, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>")
    images = SiglipImageProcessor(size={"height": 224, "width": 224}, image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=3)
    images.image_seq_length = 256
    processor = PaliGemmaProcessor(images, words)
    text = {**toy.text, "model_type": "gemma2" if second else "gemma", "vocab_size": len(words) + (0 if toy.words else 63)}
    text |= {"num_image_tokens": 256, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
    if second:
        text |= {
            "query_pre_attn_scalar": toy.hidden // toy.heads,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
        }
    vision = {"model_type": "siglip_vision_model", **toy.siglip, "image_size": 224, "patch_size": 14}
    vision |= {"projection_dim": toy.hidden, "vision_use_head": False, "num_image_tokens": 256}
    config = PaliGemmaConfig(
        text_config=text, vision_config=vision, projection_dim=toy.hidden, hidden_size=toy.hidden,
        image_token_index=words.convert_tokens_to_ids("<image>"), bos_token_id=2, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    return config, processor


def _gemma3(toy: Toy) -> tuple[Any, Any]:
    """google/gemma-3-4b-it."""
    unused = {6 + i: f"<unused{i}>" for i in range(99)} | {256001 + i: f"<unused{99 + i}>" for i in range(6000)}
    unused = {} if toy.words else unused
    special = {0: "<pad>", 1: "<eos>", 2: "<bos>", 3: "<unk>", 105: "<start_of_turn>", 106: "<end_of_turn>"}
    special |= {255999: "<start_of_image>", 256000: "<end_of_image>", 262144: "<image_soft_token>"}
    kinds = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    words = tokenizer(
        262145, special, toy, unused, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>",
        extra_special_tokens=kinds,
    )  # fmt: skip
    known = words.convert_tokens_to_ids
    _begins_with(words, "<bos>")
    images = Gemma3ImageProcessor(size={"height": 224, "width": 224}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    template = (
        "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<start_of_image>{% else %}{{ c['text'] | trim }}{% endif %}{% endfor %}<end_of_turn>\n"
        "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    )
    processor = Gemma3Processor(images, words, chat_template=template, image_seq_length=16)
    text = {
        **toy.text,
        "vocab_size": len(words) + (0 if toy.words else 63),
        "sliding_window": 1024,
        "pad_token_id": 0,
        "rope_scaling": None,
    }
    text |= {
        "query_pre_attn_scalar": toy.hidden // toy.heads,
        "layer_types": ["sliding_attention", "full_attention"] * (toy.layers // 2),
    }
    vision = {"model_type": "siglip_vision_model", **toy.siglip, "image_size": 224, "patch_size": 14, "vision_use_head": False}
    config = Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=16, boi_token_index=known("<start_of_image>"),
        eoi_token_index=known("<end_of_image>"), image_token_index=known("<image_soft_token>"),
    )  # fmt: skip
    return config, processor


def _begins_with(words: Any, token: str) -> None:
    """The tokenizer puts this token before every text."""
    from tokenizers.processors import TemplateProcessing

    words.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=[(token, words.convert_tokens_to_ids(token))]
    )


def _qwen(toy: Toy, version: str) -> tuple[Any, Any]:
    """Qwen/Qwen2-VL-2B-Instruct, Qwen/Qwen2.5-VL-3B-Instruct and Qwen/Qwen3-VL-2B-Instruct."""
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"]
    names += ["<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"]
    names += ["<|image_pad|>", "<|video_pad|>"]
    special = {151643 + i: name for i, name in enumerate(names)}
    words = tokenizer(151657, special, toy, pad_token="<|endoftext|>", eos_token="<|im_end|>")
    pixels = {"min_pixels": 56 * 56, "max_pixels": 28 * 28 * 1280}
    template = chatml("<|vision_start|><|image_pad|><|vision_end|>")
    ids = {f"{name}_token_id": words.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end")}
    ids |= {
        "image_token_id": words.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": words.convert_tokens_to_ids("<|video_pad|>"),
    }
    # The published embeddings have more rows than the tokenizer has tokens.
    text = {
        **toy.text,
        "vocab_size": len(words) + 279,
        "bos_token_id": None,
        "eos_token_id": words.convert_tokens_to_ids("<|im_end|>"),
    }
    width = toy.hidden // toy.heads // 2
    section = [width // 4, width * 3 // 8, width - width // 4 - width * 3 // 8]
    rope = {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": section}
    if version == "3":
        images = Qwen2VLImageProcessor(size={"shortest_edge": 65536, "longest_edge": 16777216}, patch_size=16, merge_size=2)
        processor = Qwen3VLProcessor(images, words, Qwen3VLVideoProcessor(), chat_template=template)
        vision = {"depth": toy.vision_layers, "hidden_size": toy.vision, "intermediate_size": 2 * toy.vision, "num_heads": 2}
        vision |= {"out_hidden_size": toy.hidden, "patch_size": 16, "spatial_merge_size": 2, "deepstack_visual_indexes": [0]}
        rope |= {"mrope_interleaved": True, "rope_theta": 5000000.0}
        return Qwen3VLConfig(
            text_config={**text, "rope_parameters": rope}, vision_config=vision, tie_word_embeddings=True, **ids
        ), processor
    images = Qwen2VLImageProcessor(patch_size=14, merge_size=2, **pixels)
    if version == "2":
        processor = Qwen2VLProcessor(images, words, Qwen2VLVideoProcessor(), chat_template=template)
        vision = {
            "depth": toy.vision_layers,
            "embed_dim": toy.vision,
            "num_heads": 2,
            "hidden_size": toy.hidden,
            "patch_size": 14,
        }
        return Qwen2VLConfig(
            text_config={**text, "rope_parameters": rope}, vision_config=vision, tie_word_embeddings=True, **ids
        ), processor
    processor = Qwen2_5_VLProcessor(images, words, Qwen2VLVideoProcessor(), chat_template=template)
    vision = {"depth": toy.vision_layers, "hidden_size": toy.vision, "intermediate_size": 2 * toy.vision, "num_heads": 2}
    vision |= {
        "out_hidden_size": toy.hidden,
        "patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [toy.vision_layers - 1],
    }
    return Qwen2_5_VLConfig(
        text_config={**text, "rope_parameters": rope}, vision_config=vision, tie_word_embeddings=True, **ids
    ), processor


def _idefics(toy: Toy, smol: bool) -> tuple[Any, Any]:
    """HuggingFaceTB/SmolVLM2-256M-Video-Instruct and HuggingFaceM4/Idefics3-8B-Llama3."""
    special = {0: "<|endoftext|>", 1: "<|im_start|>", 2: "<|im_end|>", 49189: "<fake_token_around_image>", 49190: "<image>"}
    special |= {49152: "<global-img>", 49279: "<end_of_utterance>"}
    words = tokenizer(49280, special, toy, bos_token="<|im_start|>", eos_token="<end_of_utterance>", pad_token="<|im_end|>")
    side = {"longest_edge": 512 if smol else 364}
    kind = (
        (SmolVLMImageProcessor, SmolVLMProcessor, SmolVLMConfig)
        if smol
        else (Idefics3ImageProcessor, Idefics3Processor, Idefics3Config)
    )
    images = kind[0](
        size={"longest_edge": 4 * side["longest_edge"]}, max_image_size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    patch, scale = (16, 4) if smol else (14, 2)
    length = (side["longest_edge"] // patch // scale) ** 2
    arguments = {"video_processor": SmolVLMVideoProcessor()} if smol else {}
    processor = kind[1](images, words, image_seq_len=length, chat_template=chatml("<image>"), **arguments)
    text = {**toy.text, "model_type": "llama", "vocab_size": len(words), "pad_token_id": 2, "tie_word_embeddings": False}
    vision = {**toy.siglip, "image_size": side["longest_edge"], "patch_size": patch}
    config = kind[2](
        text_config=text, vision_config=vision, image_token_id=words.convert_tokens_to_ids("<image>"), scale_factor=scale,
        tie_word_embeddings=False,
    )  # fmt: skip
    return config, processor


def _llava(toy: Toy) -> tuple[Any, Any]:
    """llava-hf/llava-onevision-qwen2-0.5b-ov-hf."""
    special = {151643: "<|endoftext|>", 151644: "<|im_start|>", 151645: "<|im_end|>", 151646: "<image>", 151647: "<video>"}
    words = tokenizer(151648, special, toy, pad_token="<|endoftext|>", eos_token="<|im_end|>")
    pinpoints = [[384 * i, 384 * j] for i in range(1, 7) for j in range(1, 7)]
    images = LlavaOnevisionImageProcessor(image_grid_pinpoints=pinpoints)
    processor = LlavaOnevisionProcessor(
        images, words, LlavaOnevisionVideoProcessor(), num_image_tokens=729, vision_feature_select_strategy="full",
        chat_template=chatml("<image>"),
    )  # fmt: skip
    text = {
        **toy.text,
        "model_type": "qwen2",
        "vocab_size": len(words) + 352,
        "eos_token_id": words.convert_tokens_to_ids("<|im_end|>"),
    }
    vision = {"model_type": "siglip_vision_model", **toy.siglip, "image_size": 384, "patch_size": 14, "vision_use_head": False}
    config = LlavaOnevisionConfig(
        text_config=text, vision_config=vision, image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"), image_grid_pinpoints=pinpoints, vision_feature_layer=-1,
        tie_word_embeddings=True,
    )  # fmt: skip
    return config, processor


def _internvl(toy: Toy) -> tuple[Any, Any]:
    """OpenGVLab/InternVL3-1B-hf."""
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<IMG_CONTEXT>", "<img>", "</img>", "<video>"]
    special = {151643 + i: name for i, name in enumerate(names)}
    kinds = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    words = tokenizer(151650, special, toy, pad_token="<|endoftext|>", eos_token="<|im_end|>", extra_special_tokens=kinds)
    images = GotOcr2ImageProcessor(size={"height": 448, "width": 448}, crop_to_patches=True, max_patches=12)
    processor = InternVLProcessor(
        images, words, InternVLVideoProcessor(), image_seq_length=256, chat_template=chatml("<IMG_CONTEXT>\n")
    )
    text = {
        **toy.text,
        "model_type": "qwen2",
        "vocab_size": len(words) + 292,
        "eos_token_id": words.convert_tokens_to_ids("<|im_end|>"),
    }
    vision = {**toy.siglip, "image_size": [448, 448], "patch_size": [14, 14]}
    config = InternVLConfig(
        text_config=text, vision_config=vision, image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"), image_seq_length=256,
    )  # fmt: skip
    return config, processor


FAMILIES: dict[str, Callable[[Toy], tuple[Any, Any]]] = {
    "paligemma": lambda toy: _paligemma(toy, False),
    "paligemma2": lambda toy: _paligemma(toy, True),
    "qwen2-vl": lambda toy: _qwen(toy, "2"),
    "qwen2.5-vl": lambda toy: _qwen(toy, "2.5"),
    "qwen3-vl": lambda toy: _qwen(toy, "3"),
    "smolvlm": lambda toy: _idefics(toy, True),
    "idefics3": lambda toy: _idefics(toy, False),
    "llava-onevision": _llava,
    "internvl": _internvl,
    "gemma3": _gemma3,
}


def make(name: str, toy: Toy | None = None, seed: int = 0) -> tuple[PreTrainedModel, Any]:
    """A toy with random weights, and its processor."""
    config, processor = FAMILIES[name](toy or Toy())
    torch.manual_seed(seed)
    return AutoModelForImageTextToText.from_config(config).eval(), processor
