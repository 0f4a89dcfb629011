"""Makes the files beside it with the code of commit aec6fd7, in a checkout of that commit:

cd tests/saved && PYTHONPATH=CHECKOUT OMP_NUM_THREADS=1 python make.py
"""

import json
from pathlib import Path

import numpy as np
import torch
import yaml

from vla import cli
from vla.commands import new_tokenizer
from vla.datasets.card import DatasetCard
from vla.datasets.shards import ShardWriter
from vla.models.load import new_tiny
from vla.policies.base import Observation
from vla.policies.load import load_policy
from vla.promptable.representation import Settings
from vla.rl.fit import fit
from vla.rl.options import CacheOptions, EnvironmentOptions, PoolerOptions, RLOptions
from vla.sim.embodiment import EMBODIMENT, EMBODIMENT_NAME

TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
VISION = {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1], "norm_layer": "groupnorm1", "stem_width": 8, "zero_init_last": False}


def plain(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Images of one colour each: small files."""
    return {f"{c.name}.jpg": np.full((64, 64, 3), rng.integers(0, 256, 3), np.uint8) for c in EMBODIMENT.cameras}


def write_data(root: Path) -> None:
    """Robot and question data of the tabletop's form."""
    rng = np.random.default_rng(0)
    with ShardWriter(root / "robot") as writer:
        for episode in range(2):
            for step in range(3):
                action = rng.uniform(EMBODIMENT.action.low, EMBODIMENT.action.high).astype(np.float32)
                action[3:5] = 0
                description = {
                    "episode": episode,
                    "step": step,
                    "length": 3,
                    "instruction": "lift the red cube",
                    "terminate": int(step == 2),
                    "embodiment": EMBODIMENT_NAME,
                    "target": "red cube",
                    "point": [0.5, 0.25],
                    "reach": [10, 20, 30, 40],
                }
                state = np.array([0, 0, 0.1, 0, 0.04], np.float32)
                members = {**plain(rng), "action.npy": action, "state.npy": state, "json": description}
                writer.write(f"e{episode:06d}_s{step:04d}", members)
    with ShardWriter(root / "questions") as writer:
        for i in range(4):
            asked = [
                {"type": "where", "question": "where is the red cube", "answer": [[0.5, 0.25]]},
                {"type": "colour", "question": "what colour is the cube", "answer": "red"},
                {"type": "reach", "question": "where is the red cube from the gripper", "answer": [10, 20, 30, 40]},
            ]
            writer.write(f"q{i:06d}", {**plain(rng), "json": {"questions": asked}})
    for kind in ("robot", "questions"):
        DatasetCard(kind, kind, EMBODIMENT_NAME, EMBODIMENT).save(root / kind)


def recipe() -> dict:
    """Two optimizer steps; what is made here is small."""
    robot = {"folder": "data/robot", "weight": 0.5, "holdout": 0.5}
    questions = {"folder": "data/questions", "weight": 0.5, "loss_weight": 0.5, "holdout": 0.5}
    checkpoints = {"dirpath": "run/checkpoints", "every": 2, "keep": 1}
    logger = {"save_dir": "run", "name": "", "version": "logs"}
    return {
        "data": {
            "batch_size": 4,
            "val_samples": 4,
            "epoch_steps": 4,
            "sources": {
                "robot": {"class_path": "vla.datasets.robot.RobotSource", "init_args": robot},
                "questions": {"class_path": "vla.datasets.questions.QuestionSource", "init_args": questions},
            },
        },
        "contract": {"chunk": 2, "execute": 1, "plan": ["where", "reach"]},
        "model": {"vlm": "vlm", "warmup": 2},
        "trainer": {
            "accelerator": "cpu",
            "precision": "32-true",
            "max_steps": 2,
            "num_sanity_val_steps": 0,
            "val_check_interval": 4,
            "check_val_every_n_epoch": None,
            "log_every_n_steps": 1,
            "gradient_clip_val": 1.0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": "run",
            "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": logger},
            "callbacks": [
                {"class_path": "vla.training.saving.Checkpoints", "init_args": checkpoints},
                {"class_path": "vla.training.callbacks.WritePredictions"},
            ],
        },
    }


def observations() -> list[Observation]:
    """What the exports act on; `test_saved.py` makes the same."""
    rng = np.random.default_rng(0)
    state = np.array([0, 0, 0.1, 0, 0.04])
    cameras = [c.name for c in EMBODIMENT.cameras]
    images = [{name: rng.integers(0, 256, (64, 64, 3), np.uint8) for name in cameras} for _ in range(2)]
    return [Observation(str(i), images[i], state, f"lift the {goal}") for i, goal in enumerate(("red cube", "green cylinder"))]


def main() -> None:
    torch.set_num_threads(1)
    write_data(Path("data"))
    model, processor = new_tiny(new_tokenizer(), text_config=TEXT, vision_args=VISION)
    with torch.no_grad():
        for name, value in model.language.named_parameters():
            if "query_key_value" in name or "dense" in name:
                value.mul_(6)  # as they are drawn, what a token is outweighs what the layer adds, and images change no action
    model.save_pretrained("vlm")
    processor.save_pretrained("vlm")
    Path("fit.yaml").write_text(yaml.safe_dump(recipe(), sort_keys=False))
    assert cli.main(["fit", "-c", "fit.yaml"]) == 0
    (checkpoint,) = Path("run/checkpoints").glob("step=*.ckpt")
    assert cli.main(["export", "--ckpt", str(checkpoint), "--out", "export"]) == 0
    fit(
        RLOptions(
            out="pr2l",
            environment=EnvironmentOptions("tabletop/lift", 1),
            vlm="export",
            prompt="Q: where is the {object}? A:",
            representation=Settings(tokens=2, batch=1, image=False, words=40),
            pooler=PoolerOptions(width=8, hidden=8, out=8),
            cache=CacheOptions("cache", 16),
            arguments={"n_steps": 8, "batch_size": 8, "n_epochs": 1},
            net=[8],
            steps=8,
            checkpoint=8,
        )
    )
    seen = observations()
    actions = {name: [chunk.actions.tolist() for chunk in load_policy(name).act(seen)] for name in ("export", "pr2l/export")}
    Path("actions.json").write_text(json.dumps(actions, indent=1) + "\n")


if __name__ == "__main__":
    main()
