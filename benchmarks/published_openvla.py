"""A small OpenVLA checkpoint with random weights, laid out as the published ones are: file by file and weight by weight.

    python benchmarks/published_openvla.py FOLDER

The vision networks, the language model and its vocabulary are those of openvla/openvla-7b with small widths and depths. Nothing
here uses the product's own classes, so that these can be tested with it.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

TIMM = ("vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224")
TIMM_ARGS = ({"embed_dim": 32, "depth": 3, "num_heads": 2}, {"embed_dim": 48, "depth": 4, "num_heads": 2})
TEXT = {
    "vocab_size": 32064,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "pad_token_id": 32000,
}
WORDS = 32000
ACTIONS = slice(WORDS - 256, WORDS)


def statistics(seed: int = 0, constant: int = -1) -> dict[str, Any]:
    """Statistics of one data set with seven action dimensions; the gripper is not scaled."""
    draw = torch.Generator().manual_seed(seed)
    low, high = -torch.rand(7, generator=draw), torch.rand(7, generator=draw)
    low[6], high[6] = 0.0, 1.0
    if constant >= 0:
        low[constant] = high[constant]
    rows = {"mean": (low + high) / 2, "std": (high - low) / 4, "min": low - 0.1, "max": high + 0.1, "q01": low, "q99": high}
    if constant >= 0:
        rows["min"][constant] = rows["max"][constant] = high[constant]
    action = {name: row.tolist() for name, row in rows.items()} | {"mask": [True] * 6 + [False]}
    proprio = {name: [0.0] * 7 for name in rows}
    return {"action": action, "proprio": proprio, "num_transitions": 1000, "num_trajectories": 20}


NORM_STATS = {"bridge_orig": statistics(1), "fractal20220817_data": statistics(2)}


@dataclasses.dataclass
class Parts:
    """The networks of a checkpoint: the vision networks, the projector's layers, and the language model."""

    vision: list[nn.Module]
    projector: nn.ModuleDict
    language: LlamaForCausalLM


def parts(seed: int = 0, networks: tuple[int, ...] = (0, 1)) -> Parts:
    """Networks with random weights. Action tokens have larger rows in the head, so that they are what the model writes.

    Args:
        networks: which vision networks; v0.1 has only the second, SigLIP.
    """
    torch.manual_seed(seed)
    vision = [
        timm.create_model(name, pretrained=False, num_classes=0, img_size=224, **args)
        for name, args in ((TIMM[i], TIMM_ARGS[i]) for i in networks)
    ]
    width, hidden = sum(TIMM_ARGS[i]["embed_dim"] for i in networks), TEXT["hidden_size"]
    layers = {"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, hidden)}
    if len(networks) > 1:
        layers = {"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, hidden), "fc3": nn.Linear(hidden, hidden)}
    language = LlamaForCausalLM(LlamaConfig(**TEXT))
    with torch.no_grad():
        language.lm_head.weight[ACTIONS] *= 20
        # With initial rows of 0.02 the last word would not count, and one token would be written again and again.
        language.get_input_embeddings().weight *= 50
        for network in vision:
            for name, weight in network.named_parameters():
                # timm's initial values would hide a mistake: they scale branches by 1e-5 and start biases at 0.
                weight.copy_(
                    torch.randn_like(weight) * 0.3 if name.endswith("gamma") else weight + 0.02 * torch.randn_like(weight)
                )
    return Parts([network.eval() for network in vision], nn.ModuleDict(layers), language.eval())


def weights(made: Parts) -> dict[str, torch.Tensor]:
    """The weights by their published names."""
    names = ("featurizer", "fused_featurizer")
    found = {
        f"vision_backbone.{name}.{key.replace('.gamma', '.scale_factor')}": value
        for name, network in zip(names, made.vision, strict=False)
        for key, value in network.state_dict().items()
    }
    found |= {f"projector.{key}": value for key, value in made.projector.state_dict().items()}
    return found | {f"language_model.{key}": value for key, value in made.language.state_dict().items()}


def config(norm_stats: dict[str, Any], networks: tuple[int, ...] = (0, 1)) -> dict[str, Any]:
    """config.json; `timm_args` alone is not published."""
    fused = len(networks) > 1
    return {
        "architectures": ["OpenVLAForActionPrediction"],
        "auto_map": {
            "AutoConfig": "configuration_prismatic.OpenVLAConfig",
            "AutoModelForVision2Seq": "modeling_prismatic.OpenVLAForActionPrediction",
        },
        "arch_specifier": "no-align+fused-gelu-mlp" if fused else "no-align+gelu-mlp",
        "hf_llm_id": "meta-llama/Llama-2-7b-hf" if fused else "lmsys/vicuna-7b-v1.5",
        "image_resize_strategy": "resize-naive",
        "image_sizes": [224] * len(networks),
        "llm_backbone_id": "llama2-7b-pure" if fused else "vicuna-v15-7b",
        "llm_max_length": 2048,
        "model_type": "openvla",
        "n_action_bins": 256,
        "norm_stats": norm_stats,
        "output_projector_states": False,
        "pad_to_multiple_of": 64,
        "pad_token_id": 32000,
        "text_config": {"model_type": "llama", **TEXT, "torch_dtype": "float32"},
        "timm_args": [TIMM_ARGS[i] for i in networks],
        "timm_model_ids": [TIMM[i] for i in networks],
        "timm_override_act_layers": [None] * len(networks),
        "torch_dtype": "float32",
        "transformers_version": "4.40.1",
        "use_fused_vision_backbone": fused,
        "vision_backbone_id": "dinosiglip-vit-so-224px" if fused else "siglip-vit-so400m",
    }


PREPROCESSOR = {
    "auto_map": {
        "AutoImageProcessor": "processing_prismatic.PrismaticImageProcessor",
        "AutoProcessor": "processing_prismatic.PrismaticProcessor",
    },
    "image_processor_type": "PrismaticImageProcessor",
    "image_resize_strategy": "resize-naive",
    "input_sizes": [[3, 224, 224], [3, 224, 224]],
    "interpolations": ["bicubic", "bicubic"],
    "means": [[0.484375, 0.455078125, 0.40625], [0.5, 0.5, 0.5]],
    "processor_class": "PrismaticProcessor",
    "stds": [[0.228515625, 0.2236328125, 0.224609375], [0.5, 0.5, 0.5]],
    "use_fused_vision_backbone": True,
}


def tokenizer() -> Tokenizer:
    """A tokenizer in the layout of Llama 2's: bytes, pieces, then single letters from id 29871, which is the space, to 31999."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{i:02X}>": 3 + i for i in range(256)}}
    letters = "▁" + "".join(chr(i) for i in range(33, 127))
    letters += "".join(chr(0x4E00 + i) for i in range(WORDS - 29871 - len(letters)))
    vocabulary |= {f"piece{i}": i for i in range(259, 29871)} | {letter: 29871 + i for i, letter in enumerate(letters)}
    made = Tokenizer(BPE(vocab=vocabulary, merges=[], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(steps)
    made.post_processor = TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    made.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in ("<unk>", "<s>", "</s>", "<PAD>")])
    return made


def preprocessor(networks: tuple[int, ...]) -> dict[str, Any]:
    """preprocessor_config.json."""
    lists = ("input_sizes", "interpolations", "means", "stds")
    return {
        **PREPROCESSOR,
        **{name: [PREPROCESSOR[name][i] for i in networks] for name in lists},
        "use_fused_vision_backbone": len(networks) > 1,
    }


def save(folder: str | Path, made: Parts, norm_stats: dict[str, Any] | None = None) -> Path:
    """Writes the checkpoint. The code that its files name is not there."""
    folder, networks = Path(folder), (0, 1) if len(made.vision) > 1 else (1,)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in weights(made).items()}, folder / "model.safetensors", {"format": "pt"})
    tokenizer().save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<PAD>"}
    files = {
        "config.json": config(norm_stats or NORM_STATS, networks),
        "preprocessor_config.json": preprocessor(networks),
        "processor_config.json": {"auto_map": PREPROCESSOR["auto_map"], "processor_class": "PrismaticProcessor"},
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 32000},
        "special_tokens_map.json": special,
        "tokenizer_config.json": {
            **special,
            "add_bos_token": True,
            "add_eos_token": False,
            "legacy": False,
            "model_max_length": 2048,
            "padding_side": "right",
            "processor_class": "PrismaticProcessor",
            "tokenizer_class": "LlamaTokenizer",
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2))
    return folder


if __name__ == "__main__":
    print(save(sys.argv[1], parts()))
