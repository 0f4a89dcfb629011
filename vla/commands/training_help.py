"""`vla fit --help` and the like: the settings that matter most, on one page. It is printed without loading what trains."""

from __future__ import annotations

from collections.abc import Sequence

Rows = dict[str, tuple[str, str]]
"""Setting -> its default where no recipe sets it ("" is none), and what it is."""

RUN: Rows = {
    "trainer.max_steps": ("-1", "optimizer steps; -1 has no end, so a recipe sets it"),
    "trainer.accumulate_grad_batches": ("1", "batches per optimizer step"),
    "trainer.val_check_interval": ("", "batches between validations; below 1 a share of max_steps if the next is null"),
    "trainer.check_val_every_n_epoch": ("1", "null counts batches over all epochs, as our recipes do"),
    "trainer.log_every_n_steps": ("", "steps between logged values"),
    "trainer.gradient_clip_val": ("", "largest norm of the gradient"),
    "trainer.callbacks+": ("", "one more callback, by its class path"),
}
MACHINE: Rows = {
    "trainer.accelerator": ("auto", "cpu, gpu …"),
    "trainer.devices": ("auto", "number of processes or GPUs"),
    "trainer.precision": ("", "bf16-mixed where that is faster, else 32-true"),
    "trainer.default_root_dir": ("", "folder of the run"),
}
MODEL: Rows = {"model.vlm": ("tiny", "tiny, the folder of an export, or a small model: vlm.image_size …")}
LEARNING: Rows = {
    "model.learning_rate": ("0.001", "its peak; it rises to it, then falls along a cosine"),
    "model.warmup": ("100", "steps until the peak; below 1 a share of max_steps"),
    "model.weight_decay": ("0.05", "of matrices"),
    "model.bin_smoothing": ("0.0", "softens integer targets, in bins"),
    "model.freeze": ("", "names of parameters that do not learn, e.g. [vision]"),
    "model.lora.rank": ("0", "above 0, adapters learn in place of the weights"),
}
CONTRACT: Rows = {
    "contract.source": ("", "an export whose contract is used (fine-tuning)"),
    "contract.codec": ("uniform", "how actions become tokens"),
    "contract.chunk": ("4", "actions written per call"),
    "contract.execute": ("2", "actions executed of them"),
    "contract.plan": ("[where]", "what is written before the actions; [] is nothing"),
}
SOURCES: Rows = {
    "data.sources.NAME.init_args.folder": ("", "where the data are; likewise .weight, .holdout, .cache …"),
    "data.batch_size": ("128", "samples per batch over all processes"),
    "data.workers": ("0", "loader processes"),
}
DRAWN: Rows = {
    "data.robot_share": ("", "share of robot samples; by default the weights decide"),
    "data.epoch_steps": ("1000", "batches that count as an epoch"),
}
VALIDATION: Rows = {
    "data.val_samples": ("256", "held-out samples per source at a validation"),
    "data.decoded_samples": ("32", "held-out robot steps that are decoded at a validation"),
}
AFTER: Rows = {
    "export": ("", "folder that gets the export"),
    "evaluate": ("8", "held-out episodes on which the export is evaluated"),
}
PREDICT: Rows = {"data.predict": ("", "robot data, used whole: a folder or a shard; by default what was held out")}
TEST: Rows = {"model.test_episodes": ("40", "episodes that are rolled out")}
CHECKED = {"The model and its data": {**MODEL, **SOURCES}, "Machine": MACHINE}

PAGES: dict[str, tuple[str, str, dict[str, Rows]]] = {
    "fit": (
        "Trains a policy, evaluates it on held-out episodes, and exports it.",
        "resumes from the newest checkpoint, or from FILE; exactly",
        {
            "Training": {**RUN, **LEARNING},
            "Model and contract": {**MODEL, **CONTRACT},
            "Data": {**SOURCES, **DRAWN, **VALIDATION},
            "Machine": MACHINE,
            "At the end": AFTER,
        },
    ),
    "validate": (
        "Reports loss, decoded and teacher-forced errors, and question accuracy on held-out data.",
        "validates the newest checkpoint, or FILE",
        {"Validation": VALIDATION, **CHECKED},
    ),
    "test": ("Rolls a policy out in simulation.", "tests the newest checkpoint, or FILE", {"Test": TEST, **CHECKED}),
    "predict": (
        "Writes decoded and true actions, one JSON line per step, to predictions.jsonl in the run's folder.",
        "acts with the newest checkpoint, or FILE",
        {"Prediction": PREDICT, **CHECKED},
    ),
}
"""Command -> what it does, what `--ckpt_path` is for, and its settings by topic."""


def page(command: str) -> str:
    """The page of one command."""
    what, checkpoint, topics = PAGES[command]
    options: Rows = {
        "-c FILE": ("", "a recipe; of several, the later ones win. The package has configs/demo.yaml, configs/own.yaml …"),
        "--ckpt_path last|FILE": ("", checkpoint),
        "--print_config": ("", "prints the merged recipe and ends: the value of every setting"),
        "--help all": ("", "lists all settings with types and defaults (takes longer: it loads everything)"),
    }
    lines = [f"usage: vla {command} -c FILE [-c FILE ...] [--SETTING=VALUE ...]", "", what, ""]
    lines += [f"  {name:<24}{text}" for name, (_, text) in options.items()]
    lines += [
        "",
        "Every field of a recipe can be set, e.g. --data.batch_size=32. The most important, with their defaults where no",
    ]
    lines += ["recipe sets them:"]
    for topic, rows in topics.items():
        lines += ["", f"{topic}:", *(f"  --{name:<37}{default:<9}{text}" for name, (default, text) in rows.items())]
    return "\n".join(lines)


def requested(argv: Sequence[str]) -> str | None:
    """The page that the arguments ask for; None if they ask for none, or for `--help all`."""
    asks = [argument for argument in argv if argument in ("-h", "--help")]
    return page(argv[0]) if asks and not asks_for_all(argv) else None


def asks_for_all(argv: Sequence[str]) -> bool:
    """Whether `--help all` is among the arguments."""
    return any(pair in (("--help", "all"), ("-h", "all")) for pair in zip(argv, argv[1:], strict=False))
