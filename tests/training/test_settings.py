"""What cannot be trained is refused in one line, before anything is collected, and leaves an earlier run as it is."""

import sys

import pytest
import yaml

from vla import cli

REFUSED = [
    (["--data.sources.robot.init_args.holdout=0"], "holdout 0"),
    (["--data.sources.robot.init_args.first_times=0"], "first_times 0"),
    (["--data.sources.robot.init_args.tolerate=2"], "tolerate 2"),
    (["--data.sources.robot.init_args.weight=-1"], "weights {"),
    (["--data.sources.robot.init_args.modes={act: 1, fly: 2}"], "modes act, fly"),
    (["--data.sources.robot.init_args.augment=[{brightness: -1}]"], "brightness=-1"),
    (["--data.sources.robot.init_args.augment=[{shift: {side: 1}}]"], "unknown cameras side"),
    (["--data.sources.questions.init_args.questions_per_image=0"], "questions_per_image 0"),
    (["--data.sources.questions.init_args.types={where: -1}"], "types {'where': -1.0}"),
    (["--data.seed=-1"], "data: seed -1"),
    (["--data.val_samples=-1"], "val_samples -1"),
    (["--data.robot_share=2"], "robot_share 2"),
    (["--seed_everything=-1"], "seed_everything: seed -1"),
    (["--trainer.accumulate_grad_batches=0"], "accumulate_grad_batches 0"),
    (["--trainer.val_check_interval=0"], "val_check_interval 0"),
    (["--trainer.check_val_every_n_epoch=0"], "check_val_every_n_epoch 0"),
    (["--trainer.log_every_n_steps=-1"], "log_every_n_steps -1"),
    (["--trainer.gradient_clip_val=-1"], "gradient_clip_val -1"),
    # Not 1: which of `int | float` reads it depends on what else was imported.
    (["--trainer.limit_train_batches=2"], "limit_train_batches"),
    (["--trainer.strategy=fsdp"], "requires a GPU accelerator"),
    (["--trainer.devices=0"], "devices"),
    (["--trainer.max_steps=-5"], "max_steps"),
    (["--trainer.precision=half"], "trainer.precision: expected int; expected one of"),
    (["--trainer.default_root_dir={tmp}/file"], "{tmp}/file: nothing can be written there"),
    (["--trainer.callbacks+=vla.training.callbacks.Throughput", "--trainer.callbacks.every=0"], "Throughput: every 0"),
    (["--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint", "--trainer.callbacks.save_top_k=-5"], "save_top_k=-5"),
    (["--trainer.barebones=true"], "CSVLogger>"),
    (["--model.vlm={tmp}/none"], "there is no such folder"),
    (["--model.vlm.text_config={tie_word_embeddings: false}"], "the output layer is always that of the embeddings"),
    (["--model.vlm.text_config={hiden_size: 32}"], "gpt_neox has no setting hiden_size"),
    (["--model.rates={nothing: 0.1}"], "no parameter's name begins with 'nothing'"),
    (["--model.weight_decay=-1"], "weight_decay -1"),
    (["--contract.crop=2"], "crop 2"),
    (["--contract.prompt=go"], "it has no {instruction}"),
    (["--contract.question=what"], "it has no {question}"),
    (["--contract.codec=nothing"], "unknown codec 'nothing'"),
    (["--export={tmp}"], "the folder is there and is no export"),
    (["--export={tmp}/file"], "{tmp}/file: nothing can be written there"),
    (["--ckpt_path={tmp}/none.ckpt"], "no such checkpoint"),
    # What only the checkpoint, or the first batch, can tell.
    (["--ckpt_path=last", "--model.learning_rate=0.5"], "the checkpoint was trained with learning_rate"),
    (["--ckpt_path=last", "--data.seed=3"], "trained with seed 0, now it is 3"),
    (["--contract.words=2", "--contract.plan=[words]"], "words"),
    (["--trainer.val_check_interval=9", "--trainer.check_val_every_n_epoch=1"], "val_check_interval"),
]


def content(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[" ".join(arguments) for arguments, _ in REFUSED])
def test_a_refused_run_says_why_in_one_line_and_touches_nothing(trained, tmp_path, capsys, arguments, message):
    (tmp_path / "file").write_text("")
    before = content(tmp_path)
    code = cli.main(["fit", "-c", str(trained), *[a.replace("{tmp}", str(tmp_path)) for a in arguments]])
    errors = capsys.readouterr().err
    said = errors[errors.index("error: ") :].splitlines()
    assert code == 2 and message.replace("{tmp}", str(tmp_path)) in said[0]
    assert len(said) == 1 or (len(said) == 2 and said[1].startswith("Fix: "))
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.vlm={tmp}/none"], "there is no such folder"),
        (["--model.freeze=[nothing]"], "no parameter's name begins with 'nothing'"),
        (["--model.optimizer=adamw8bit"], "bitsandbytes is not installed"),
        (["--model.quantise=4bit", "--model.lora.rank=4"], "bitsandbytes is not installed"),
        (["--model.quantise=4bit"], "weights in 4 bits do not learn in full"),
        (["--contract.prompt=go"], "it has no {instruction}"),
        (["--contract.chunk=0"], "of chunk 0"),
        (["--data.robot_share=2"], "robot_share 2"),
        (["--export={tmp}/file"], "choose another --export"),
        (["--ckpt_path={tmp}/none.ckpt"], "no such checkpoint"),
        (["--collect={robot: {out: runs/demo/data/robot, seed: -1}}"], "collect: seed -1"),
        (["--collect={robot: {out: runs/demo/data/robot}}"], "data/questions/card.yaml: no dataset card found"),
        (["--collect={robot: {out: runs/demo/data/robot, task: questions}}"], "gets questions data, not robot"),
        (["--collect={robot: {out: runs/demo/data/robot}, q: {out: q, task: questions, objects: 9}}"], "objects 9"),
    ],
)
def test_what_needs_no_data_is_checked_before_any_is_collected(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    # Other tests may have imported the module itself.
    for module in ("bitsandbytes", "bitsandbytes.optim"):
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "file").write_text("")
    command = ["fit", "-c", "configs/demo.yaml", *[a.replace("{tmp}", str(tmp_path)) for a in arguments]]
    assert cli.main(command) == 2
    assert message in capsys.readouterr().err and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_what_is_collected_can_be_trained_on_at_once(recipe, tmp_path, monkeypatch):
    """The folders are the sources' under another name."""
    monkeypatch.chdir(tmp_path)
    body = yaml.safe_load(recipe(tmp_path).read_text())
    body["data"]["sources"]["robot"]["init_args"]["folder"] = str(tmp_path / "new/robot")
    body["collect"] = {"robot": {"out": "new/robot", "episodes": 4, "workers": 1}}
    (tmp_path / "collecting.yaml").write_text(yaml.safe_dump(body))
    assert cli.main(["fit", "-c", "collecting.yaml", "--trainer.max_steps=1"]) == 0
    assert (tmp_path / "new/robot/card.yaml").is_file() and (tmp_path / "run/contract.json").is_file()


def test_settings_that_are_rightly_accepted(trained, tmp_path, capsys):
    """No logging, a number of batches that is a trial, and what only training needs in a validation."""
    before = content(tmp_path / "run")
    for trial in ("--trainer.fast_dev_run=true", "--trainer.fast_dev_run=2", "--trainer.max_steps=0"):
        assert cli.main(["fit", "-c", str(trained), trial]) == 0
        assert content(tmp_path / "run") == before
    assert cli.main(["validate", "-c", str(trained), "--model.optimizer=adamw8bit", "--ckpt_path=last"]) == 0
    assert cli.main(["fit", "-c", str(trained), "--trainer.log_every_n_steps=0", "--seed_everything=true"]) == 0


def test_a_value_that_early_stopping_waits_for_in_vain_is_said_in_one_line(config, capsys):
    stop = ["--trainer.callbacks+=lightning.pytorch.callbacks.EarlyStopping", "--trainer.callbacks.monitor=nothing"]
    assert cli.main(["fit", "-c", str(config), *stop]) == 2
    assert "error: trainer: Early stopping conditioned on metric `nothing`" in capsys.readouterr().err
