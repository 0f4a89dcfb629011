"""Predicts the memory of each recipe for public models, with the published sizes and no weights: the numbers of
docs/public-models.md. Prints one JSON object.

The prediction is what `vla fit` shows before it starts (vla/training/size.py). `memory.py` compares it with measured runs.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import vla  # noqa: F401  (before torch)

# isort: split
import lightning as L
import numpy as np
import published
import published_openvla
import torch
import yaml
from lightning.pytorch.strategies import ModelParallelStrategy, SingleDeviceStrategy
from transformers import AutoModelForImageTextToText, PreTrainedConfig

from vla.commands.configs import find_config
from vla.contract import Camera, Embodiment, PolicyContract
from vla.datasets.samples import RobotSample
from vla.models.adapters import Lora, add_lora, with_token_rows
from vla.models.blocks import compute_again
from vla.models.families.find import family_of
from vla.models.load import load_vlm
from vla.models.openvla.config import OpenVLAConfig
from vla.report.provenance import provenance
from vla.sequences.encode import Encoder
from vla.space import Space
from vla.training.batch import TrainingBatch
from vla.training.contract import add_tokens, with_tokens
from vla.training.module import VLAModule
from vla.training.rows import Row, collate
from vla.training.size import GIB, predicted


def text(hidden: int, inner: int, layers: int, heads: int, key_heads: int, width: int = 0, **more: Any) -> dict[str, Any]:
    """Sizes of a language model; heads are `width` wide."""
    sizes = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {**sizes, "num_key_value_heads": key_heads, "head_dim": width or hidden // heads, **more}


def siglip(hidden: int, inner: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads}
    return sizes | more


def qwen(out: int) -> dict[str, Any]:
    sizes = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": out}
    return {**sizes, "fullatt_block_indexes": [7, 15, 23, 31]}


SIZES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "smolvlm-full": ("smolvlm", text(576, 1536, 30, 9, 3), siglip(768, 3072, 12, 12)),
    "paligemma-lora": ("paligemma", text(2048, 16384, 18, 8, 1, 256), siglip(1152, 4304, 27, 16, projection_dim=2048)),
    "qwen2.5-vl-lora": ("qwen2.5-vl", text(2048, 11008, 36, 16, 2), qwen(2048)),
    "fsdp-7b": ("qwen2.5-vl", text(3584, 18944, 28, 28, 4, tie_word_embeddings=False), qwen(3584)),
    "openvla-lora": ("openvla", text(4096, 11008, 32, 32, 32), {}),
}
"""Recipe -> family, and the published sizes of the language model and the vision network."""
STATISTICS = {"mean": 0.0, "std": 0.6, "min": -1.0, "max": 1.0, "q01": -0.98, "q99": 0.98}
SPACE = Space(
    ("x", "y", "z", "roll", "pitch", "yaw", "gripper"), ("",) * 7, (-1.0,) * 7, (1.0,) * 7,
    statistics={name: (value,) * 7 for name, value in STATISTICS.items()},
)  # fmt: skip


def with_sizes(config: PreTrainedConfig, language: dict[str, Any], vision: dict[str, Any]) -> PreTrainedConfig:
    """A toy's configuration with these sizes."""
    fields = config.to_dict()
    for part, sizes in (("text_config", language), ("vision_config", vision)):
        # The kinds of the layers follow from their number.
        fields[part] = {k: v for k, v in fields[part].items() if k != "layer_types"} | sizes
    rope = fields["text_config"].get("rope_parameters") or {}
    if "mrope_section" in rope:
        rope["mrope_section"] = [16, 24, 24]
    fields |= {name: language["hidden_size"] for name in ("hidden_size", "projection_dim") if name in fields}
    fields |= {name: language[name] for name in ("tie_word_embeddings",) if name in language}
    return type(config).from_dict(fields)


def published_vlm(family: str, language: dict[str, Any], vision: dict[str, Any]) -> tuple[Any, Any]:
    """A model of the published size, whose weights are never written and so take no memory, and its processor."""
    if family == "openvla":
        fields = published_openvla.config(published_openvla.NORM_STATS)
        fields |= {"timm_args": None, "text_config": {**fields["text_config"], **language}}
        config: PreTrainedConfig = OpenVLAConfig(**{k: v for k, v in fields.items() if k not in ("model_type", "auto_map")})
        with tempfile.TemporaryDirectory() as folder:
            _, processor = load_vlm(published_openvla.save(folder, published_openvla.parts()))
    else:
        config, processor = published.FAMILIES[family](published.Toy(words=0))
        config = with_sizes(config, language, vision)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model = model.to_empty(device="cpu")
    model.tie_weights()  # `to_empty` parts them
    return model, processor


def footprint(recipe: str) -> dict[str, Any]:
    """What a step of the recipe is predicted to need per process, in GiB."""
    settings = yaml.safe_load(Path(find_config(f"configs/{recipe}.yaml")).read_text())
    family, language, vision = SIZES[recipe]
    precision, options = settings["trainer"]["precision"], settings["model"]
    model, processor = published_vlm(family, language, vision)
    names = ("front",) if family == "openvla" else ("front", "wrist")
    robot = Embodiment(cameras=tuple(Camera(name, 224, 224) for name in names), state=SPACE, action=SPACE)
    known = {k: v for k, v in settings["contract"].items() if k in {f.name for f in dataclasses.fields(PolicyContract)}}
    contract = PolicyContract({"r": robot}, **{"tokens": "", **known, "plan": (), "modes": ()})
    contract = with_tokens(contract, model, processor.tokenizer)
    add_tokens(contract, model, processor.tokenizer, points=False)
    module = VLAModule(optimizer=options.get("optimizer", "adamw"), lora=Lora(**options.get("lora", {})))
    module.processor, module.family = processor, family_of(model, processor)
    encoder = Encoder(contract, module.family)
    if options.get("gradient_checkpointing"):
        compute_again(model)
    module.model = add_lora(model, with_token_rows(module.lora, contract, encoder.vocabulary)).train()
    module.bind(encoder, ["robot"])
    ranks = settings["trainer"]["devices"]
    rng = np.random.default_rng(0)

    def sample() -> RobotSample:
        images = {name: rng.integers(0, 256, (224, 224, 3), np.uint8) for name in names}
        actions, mask = rng.uniform(-1, 1, (contract.chunk, 7)).astype(np.float32), np.ones(contract.chunk, bool)
        return RobotSample(images, np.zeros(7, np.float32), actions, mask, ~mask, "lift the red cube", "", None, None, 0, 0, "r")

    rows = [Row(0, 1.0, i, encoder.robot(sample()), [], 0) for i in range(settings["data"]["batch_size"] // ranks)]
    trainer = SimpleNamespace(
        precision=precision,
        world_size=ranks,
        strategy=ModelParallelStrategy() if ranks > 1 else SingleDeviceStrategy(),
        accumulate_grad_batches=settings["trainer"]["accumulate_grad_batches"],
        callbacks=[],
        precision_plugin=L.pytorch.plugins.HalfPrecision("bf16-true"),
    )
    batch = collate(encoder, rows)
    assert isinstance(batch, TrainingBatch)
    found = predicted(module, batch, cast(L.Trainer, trainer))
    parameters = list(module.model.parameters())
    return {
        "parameters": sum(p.numel() for p in parameters),
        "learning": sum(p.numel() for p in parameters if p.requires_grad),
        "rows": len(rows),
        "tokens": batch.sequences.inputs.ids.shape[1],
        "total GiB": round(found.total / GIB, 1),
        **{f"{name} GiB": round(size / GIB, 1) for name, size in dataclasses.asdict(found).items()},
    }


def main() -> int:
    recipes = {}
    for recipe in SIZES:
        recipes[recipe] = footprint(recipe)
        print(recipe, recipes[recipe], file=sys.stderr)
    print(json.dumps({"bars": {}, "recipes": recipes, **provenance()}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
