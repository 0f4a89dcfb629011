"""Measures training: the loop of `vla fit` against a bare PyTorch loop over the same batches and model, in turns; the wait for
data; on a GPU also the speed of large models with random weights, trained in full or with adapters.

Reads the demo's data and configuration (run `make demo` first), except with --structure.
"""

import argparse
import dataclasses
import json
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

# It says how torch's threads wait, which they read when torch is loaded.
import vla  # noqa: F401

# isort: split
import decode
import lightning as L
import numpy as np
import published
import torch
import yaml
from torch.utils.data import DataLoader

from vla.commands.training import new_tokenizer
from vla.contract import Camera, PolicyContract
from vla.datasets.samples import RobotSample
from vla.models.adapters import Lora, add_lora, with_token_rows
from vla.models.blocks import compute_again
from vla.models.families.find import family_of
from vla.models.load import new_tiny
from vla.report.provenance import provenance
from vla.sequences.encode import Encoder
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME
from vla.training.batch import Failure, TrainingBatch
from vla.training.callbacks import StepProgress, Throughput
from vla.training.contract import ContractOptions, resolve, with_tokens
from vla.training.data import VLAData
from vla.training.module import VLAModule
from vla.training.optimizer import make_optimizer, parameter_groups
from vla.training.rows import Row, collate

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / "runs/demo"


def build(config: dict) -> tuple[VLAModule, VLAData]:
    """Makes module and data as `vla fit -c demo.yaml` does."""
    from vla.datasets.questions import QuestionSource
    from vla.datasets.robot import RobotSource
    from vla.transforms import Augmentation

    kinds = {"RobotSource": RobotSource, "QuestionSource": QuestionSource}
    sources = {}
    for name, source in config["data"].pop("sources").items():
        arguments = dict(source["init_args"])
        arguments["folder"] = ROOT / arguments["folder"]
        arguments["augment"] = [Augmentation(**a) for a in arguments.get("augment", [])]
        sources[name] = kinds[source["class_path"].rsplit(".", 1)[1]](**arguments)
    data = VLAData(sources, **config["data"])
    contract = resolve(ContractOptions(**{**config["contract"], "plan": tuple(config["contract"]["plan"])}), data.cards())
    module = VLAModule(**config["model"])
    module.build()
    encoder = Encoder(contract, module.family)
    data.bind(encoder)
    module.bind(encoder, list(sources))
    return module, data


class Prepared(L.LightningDataModule):
    """A loader of prepared batches."""

    def __init__(self, batches: list, drawn: Callable[[], dict[str, float]] = dict):
        super().__init__()
        self.batches, self.drawn = batches, drawn
        self.seed, self.batch_size, self.consumed = 0, len(batches[0]), 0

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]


class Clock(L.Callback):
    """A callback that records when each batch ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_) -> None:
        self.ends.append(time.perf_counter())


def fitted(module: VLAModule, data: L.LightningDataModule, batches: int, config: dict) -> tuple[list[float], float]:
    """Returns when each batch of `vla fit`'s loop ended, and the share of time that it waited for data."""
    clock, folder = Clock(), tempfile.mkdtemp()
    steps = batches // config["trainer"]["accumulate_grad_batches"]
    trainer = L.Trainer(
        accelerator="auto",
        devices=1,
        max_steps=steps,
        accumulate_grad_batches=config["trainer"]["accumulate_grad_batches"],
        gradient_clip_val=config["trainer"]["gradient_clip_val"],
        default_root_dir=folder,
        log_every_n_steps=min(config["trainer"]["log_every_n_steps"], steps),
        logger=L.pytorch.loggers.TensorBoardLogger(folder),
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[StepProgress(), clock],
    )
    trainer.fit(module, datamodule=data)
    shutil.rmtree(folder)
    return clock.ends, float(trainer.callback_metrics["train/data_wait"])


def bare(module: VLAModule, batches: list, config: dict) -> list[float]:
    """Runs the same computation without Lightning: forward, loss, backward, clipping, AdamW."""
    model, every = module.model.train(), config["trainer"]["accumulate_grad_batches"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    groups = parameter_groups(model, module.learning_rate, module.weight_decay, {})
    optimizer = make_optimizer("adamw", groups, fused=True)
    ends = []
    for number, batch in enumerate(batches, 1):
        batch = {name: v.to(device) if isinstance(v, torch.Tensor) else v for name, v in batch.items()}
        logits, ids, answers = module._score(batch)
        per_sample = module._loss(logits, ids, batch, answers)
        ((per_sample * batch["weight"]).sum() / batch["weight"].sum() / every).backward()
        if number % every == 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config["trainer"]["gradient_clip_val"])
            optimizer.step()
            optimizer.zero_grad()
        ends.append(time.perf_counter())
    return ends


STRUCTURES = {
    # PaliGemma's proportions: SigLIP-So400m, and a language model of 2.5 billion weights.
    "3b": (
        {"image_size": 224, "stride": 14, "vision_name": "vit_so400m_patch14_siglip_224", "vision_args": {}, "pools": [1, 1]},
        {"hidden_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 20, "intermediate_size": 6912},
    ),
    "toy": (
        {"image_size": 32, "stride": 16, "vision_name": "vit_tiny_patch16_224", "vision_args": {"img_size": 32}, "pools": [1, 1]},
        {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128},
    ),
}


PUBLIC = ("paligemma-3b", "openvla-7b")
"""Public models' structures, as `decode.random_model` makes them."""


def random_vlm(name: str, toy: bool) -> tuple[Any, Any, int]:
    """A model with random weights, its processor, and the side of its images."""
    if name in PUBLIC:
        model = decode.random_model(name, torch.bfloat16, "cuda" if torch.cuda.is_available() else "cpu", toy)
        # Its placeholder for images is the last word, as the model's.
        _, processor = published.FAMILIES["paligemma"](published.Toy(words=model.config.text_config.vocab_size))
        return model, processor, 224
    vision, text = STRUCTURES[name]
    text = {"model_type": "llama", "num_key_value_heads": text["num_attention_heads"], **text}
    return *new_tiny(new_tokenizer(), text_config=text, **vision), vision["image_size"]


def structure(name: str, batch: int, steps: int, rank: int = 0, toy: bool = False) -> dict:
    """Measures `vla fit`'s loop with a random model of a given structure, on random images, in bf16.

    Args:
        rank: of adapters of all linear layers; 0: all weights learn.
        toy: whether a public model's structure is made small.
    """
    model, processor, size = random_vlm(name, toy)
    spec = dataclasses.replace(EMBODIMENT, cameras=tuple(Camera(c.name, size, size) for c in EMBODIMENT.cameras))
    contract = PolicyContract({EMBODIMENT_NAME: spec}, chunk=4)
    if name in PUBLIC:
        contract = with_tokens(dataclasses.replace(contract, tokens="", plan=(), modes=()), model, processor.tokenizer)
    module = VLAModule(learning_rate=1e-5, gradient_checkpointing=name != "toy", lora=Lora(rank=rank))
    module.processor, module.family = processor, family_of(model, processor)
    if module.gradient_checkpointing:
        compute_again(model)
    encoder = Encoder(contract, module.family)
    lora = with_token_rows(module.lora, contract, encoder.vocabulary)
    module.model = add_lora(model, lora).train()
    module.bind(encoder, ["robot"])
    rng = np.random.default_rng(0)

    def item() -> RobotSample:
        return RobotSample(
            images={c.name: rng.integers(0, 255, (size, size, 3), np.uint8) for c in spec.cameras},
            state=np.array([0, 0, 0.1, 0, 0.04], np.float32),
            actions=rng.uniform(spec.action.low, spec.action.high, (4, 7)).astype(np.float32),
            mask=np.ones(4, bool),
            terminate=np.zeros(4, bool),
            instruction="lift the red cube",
            target="red cube",
            point=(0.5, 0.5),
            offset=None,
            episode=0,
            step=0,
            embodiment=EMBODIMENT_NAME,
        )

    def made() -> TrainingBatch | Failure:
        items = [item() for _ in range(batch)]
        return collate(module.encoder, [Row(0, 1.0, i, module.encoder.robot(i), [], 0) for i in items])

    batches = [made() for _ in range(4)] * -(-steps // 4)
    throughput = Throughput(every=5)
    trainer = L.Trainer(
        max_steps=steps,
        precision="bf16-true",
        logger=False,
        log_every_n_steps=5,
        enable_checkpointing=False,
        enable_model_summary=False,
        # Lightning's own bar would stand between the lines of JSON.
        enable_progress_bar=False,
        use_distributed_sampler=False,
        callbacks=[throughput],
    )
    trainer.fit(module, datamodule=Prepared(batches[:steps]))
    # Without a GPU whose peak is known there is no MFU.
    rates = {"mfu": None, **{name: round(value, 4) for name, value in throughput.medians().items()}}
    parameters = list(module.model.parameters())
    memory = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
    return {
        "structure": name,
        "weights": sum(p.numel() for p in parameters),
        "learning": sum(p.numel() for p in parameters if p.requires_grad),
        "batch": batch,
        "tokens": batches[0].sequences.labels.shape[1],
        **rates,
        "GiB": memory,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=45, help="of a turn; the first nine are not timed")
    parser.add_argument("--rounds", type=int, default=7)
    names = [*STRUCTURES, *PUBLIC]
    parser.add_argument("--structure", choices=names, help="only the speed of a model of this structure")
    parser.add_argument("--rank", type=int, default=0, help="adapters of this rank learn in the structure; 0: all weights")
    parser.add_argument("--toy", action="store_true", help="make a public model's structure small: does it run?")
    parser.add_argument("--batch", type=int, default=16, help="samples per batch of the structure")
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps of the structure")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    where = provenance()
    if options.structure:
        results = structure(options.structure, options.batch, options.steps, options.rank, options.toy)
        mfu = results["mfu"]
        bars = {"MFU (aim)": {"value": mfu, "bar": ">= 0.5", "holds": mfu is not None and mfu >= 0.5}}
        print(json.dumps({"bars": bars, "measured": results, **where}, indent=1))
        return 0
    if not (RUN / "demo.yaml").is_file():
        print("no runs/demo/demo.yaml: run make demo", file=sys.stderr)
        return 2
    config = yaml.safe_load((RUN / "demo.yaml").read_text())
    module, data = build(config)
    loader = iter(data.train_dataloader())
    batches = [next(loader) for _ in range(options.batches)]
    times: dict[str, list[float]] = {"vla fit": [], "bare": []}
    for turn in range(options.rounds):
        for name in ("vla fit", "bare") if turn % 2 else ("bare", "vla fit"):
            if name == "bare":
                ends = bare(module, batches, config)
            else:
                ends, _ = fitted(module, Prepared(batches, data.drawn), len(batches), config)
            # The first batches warm up caches and progress bars.
            times[name].append((ends[-1] - ends[8]) / (len(ends) - 9))
    results = {name: statistics.median(values) for name, values in times.items()}
    # Turn by turn, so that what slows the machine for a while slows both.
    overhead = statistics.median(one / other for one, other in zip(times["vla fit"], times["bare"], strict=True)) - 1
    waited = statistics.median(fitted(module, data, 2 * len(batches), config)[1] for _ in range(3))
    bars = {
        "vla fit over bare PyTorch": {"value": round(overhead, 4), "bar": "<= 0.05", "holds": overhead <= 0.05},
        "data wait in the demo's training": {"value": round(waited, 4), "bar": "<= 0.05", "holds": waited <= 0.05},
    }
    measured = {f"{name} (s per batch)": round(value, 4) for name, value in results.items()}
    print(json.dumps({"bars": bars, "measured": measured, "rounds": options.rounds, **where}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
