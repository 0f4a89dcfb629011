"""Settings of `vla fit` and other commands: values, YAML, several configurations."""

from __future__ import annotations

import yaml

from outside.project import OWN, project
from outside.trial import Trial, case

LIGHTNING_HINT = 100
"""Most lines that a refused setting may print: no listing of all options."""


def refused(trial: Trial, *arguments: str, says: str | tuple[str, ...] = (), command: str = "fit", limit: float = 60) -> str:
    """Runs `vla fit -c fit.yaml ARGUMENTS`, which must end in one short message, and must have left the folder as it was."""
    before = sorted(path.name for path in trial.folder.iterdir())
    output = trial.vla(command, "-c", "fit.yaml", *arguments, code=2, says=says, limit=limit)
    wanted = [line for line in output.splitlines() if line.startswith("error")]
    trial.true(f"it prints {len(output.splitlines())} lines", len(output.splitlines()) < 40)
    trial.true(f"no line begins with `error`: {output[-300:]}", wanted)
    after = sorted(path.name for path in trial.folder.iterdir() if not path.name.endswith(".yaml"))
    trial.true(f"it left {sorted(set(after) - set(before))}", set(after) <= set(before))
    return output


@case()
def holdout_of_0(trial: Trial) -> None:
    """holdout=0 ends in one line that names the setting."""
    project(trial)
    refused(trial, "--data.sources.robot.init_args.holdout=0", says="holdout")


@case()
def checks_of_a_source(trial: Trial) -> None:
    """So do tolerate, first_times, together, max_samples, warmup_samples, state_noise and questions_per_image."""
    project(trial)
    for setting in ("tolerate=2", "together=0", "max_samples=-1", "warmup_samples=-1", "first_times=0", "state_noise=-1"):
        refused(trial, f"--data.sources.robot.init_args.{setting}", says=setting.partition("=")[0])
    refused(trial, "--data.sources.questions.init_args.questions_per_image=0", says="questions_per_image")


@case()
def checks_of_data_model_and_callbacks(trial: Trial) -> None:
    """So do batch_size=0, learning_rate=0, warmup=-1, every=0 and keep=0."""
    project(trial)
    for setting in (
        "data.batch_size=0",
        "model.learning_rate=0",
        "model.warmup=-1",
        "trainer.callbacks.every=0",
        "data.workers=-1",
    ):
        refused(trial, f"--{setting}", says=setting.partition("=")[0].rpartition(".")[2])


@case()
def a_seed_below_0(trial: Trial) -> None:
    """--seed_everything=-1 ends in one line."""
    project(trial)
    refused(trial, "--seed_everything=-1", says="seed|-1")


@case("Lightning-AI/pytorch-lightning#18183")
def checks_of_lightning(trial: Trial) -> None:
    """Lightning's own checks end in one line: accumulate_grad_batches=0, devices=0, max_steps=-5, no GPU there."""
    project(trial)
    for setting in ("accumulate_grad_batches=0", "precision=8", "devices=0", "max_steps=-5", "accelerator=gpu", "max_time=soon"):
        refused(trial, f"--trainer.{setting}")


@case()
def a_strategy_for_gpus(trial: Trial) -> None:
    """strategy=fsdp on a CPU ends in one line."""
    project(trial)
    refused(trial, "--trainer.strategy=fsdp", says="fsdp|gpu|strategy")
    refused(trial, "--trainer.strategy=deepspeed", says="deepspeed")


@case("Lightning-AI/pytorch-lightning#5413")
def validation_less_often_than_epochs_end(trial: Trial) -> None:
    """val_check_interval beyond the batches of an epoch ends in one line, or runs."""
    project(trial)
    trial.vla("fit", "-c", "fit.yaml", "--trainer.val_check_interval=1000", "--trainer.check_val_every_n_epoch=1", code=(0, 2))


@case()
def a_folder_of_data_that_is_not_there(trial: Trial) -> None:
    """A source's folder that does not exist is named."""
    project(trial)
    refused(trial, "--data.sources.robot.init_args.folder=data/nowhere", says="data/nowhere")


@case()
def an_unknown_key(trial: Trial) -> None:
    """A misspelt key in YAML is named."""
    project(trial, lambda recipe: recipe["model"].update(learning_rates=1e-3))
    refused(trial, says="learning_rates")


@case()
def an_unknown_class(trial: Trial) -> None:
    """A misspelt class_path is named."""
    project(trial, lambda recipe: recipe["data"]["sources"]["robot"].update(class_path="vla.datasets.robot.RobotSourc"))
    refused(trial, says="RobotSourc")


@case()
def tabs_in_yaml(trial: Trial) -> None:
    """A configuration with tabs is refused with file and line."""
    project(trial)
    (trial.folder / "fit.yaml").write_text("data:\n\tbatch_size: 4\n")
    refused(trial, says=(r"fit\.yaml", "line 2"))


@case()
def an_empty_configuration(trial: Trial) -> None:
    """An empty file, and one that is a list, end in one line."""
    project(trial)
    for text in ("", "- a\n- b\n", "just text\n"):
        (trial.folder / "fit.yaml").write_text(text)
        refused(trial)


@case("beetbox/confuse#91")
def a_rate_of_1e_4(trial: Trial) -> None:
    """`learning_rate: 1e-4` is a number, with and without old names of settings in the file."""
    path = project(trial)
    recipe = yaml.safe_load(path.read_text())
    for old in (False, True):
        if old:
            recipe["data"]["sources"]["questions"]["init_args"]["asked"] = 1
            recipe["data"]["sources"]["questions"]["init_args"].pop("questions_per_image", None)
        text = yaml.safe_dump(recipe).replace("model:\n", "model:\n  learning_rate: 1e-4\n")
        path.write_text(text)
        output = trial.vla("fit", "-c", "fit.yaml", "--print_config")
        trial.true(f"it becomes {output}", "learning_rate: 0.0001\n" in output)


@case("Lightning-AI/pytorch-lightning#17533")
def the_command_line_comes_last(trial: Trial) -> None:
    """An option after -c changes what the file says."""
    project(trial)
    output = trial.vla("fit", "-c", "fit.yaml", "--trainer.max_steps=7", "--print_config")
    trial.true("max_steps is not 7", "max_steps: 7\n" in output)


@case("Lightning-AI/pytorch-lightning#15256")
def a_second_list_of_callbacks(trial: Trial) -> None:
    """A second -c with `callbacks` says that Checkpoints is gone."""
    project(trial)
    more = {"trainer": {"callbacks": [{"class_path": "vla.training.callbacks.Throughput"}]}}
    (trial.folder / "more.yaml").write_text(yaml.safe_dump(more))
    trial.vla("fit", "-c", "fit.yaml", "-c", "more.yaml", says="Checkpoints|callbacks.*replac")


@case("Lightning-AI/pytorch-lightning#13129")
def callbacks_with_a_plus(trial: Trial) -> None:
    """`callbacks+` adds to the list."""
    project(trial)
    more = {"trainer": {"callbacks+": [{"class_path": "vla.training.callbacks.Throughput"}]}}
    (trial.folder / "more.yaml").write_text(yaml.safe_dump(more))
    output = trial.vla("fit", "-c", "fit.yaml", "-c", "more.yaml", "--print_config")
    trial.true("Checkpoints or Throughput is missing", "Checkpoints" in output and "Throughput" in output)


@case()
def untied_embeddings(trial: Trial) -> None:
    """`tie_word_embeddings: false` has an effect, or is refused."""
    project(
        trial,
        lambda recipe: recipe["model"].update(vlm={**OWN, "text_config": {**OWN["text_config"], "tie_word_embeddings": False}}),
    )
    output = trial.vla("fit", "-c", "fit.yaml", "--trainer.max_steps=1", "--export=out", code=(0, 2))
    if (trial.folder / "out/config.json").exists():
        import json

        from safetensors import safe_open

        config = json.loads((trial.folder / "out/config.json").read_text())
        with safe_open(trial.folder / "out/model.safetensors", "np") as file:
            names = [name for name in file.keys() if "embed" in name or "lm_head" in name or "head" in name]  # noqa: SIM118
        tied = config.get("tie_word_embeddings", config["text_config"].get("tie_word_embeddings"))
        trial.true(f"it has no effect and nothing says so: {names}, {tied}", len(names) > 1 or "tie_word_embeddings" in output)
    else:
        trial.true(f"it does not name the setting: {output}", "tie_word_embeddings" in output)


@case()
def a_model_that_is_wrong_in_a_recipe_that_collects(trial: Trial) -> None:
    """`-c configs/demo.yaml --model.vlm=BAD` is refused before any data are collected."""
    trial.vla("fit", "-c", "configs/demo.yaml", "--model.vlm=no/such/model", code=2, says="no/such/model", limit=40)
    trial.true("data were collected", not list(trial.folder.rglob("shard-*")))


@case()
def a_setting_that_is_wrong_in_a_recipe_that_collects(trial: Trial) -> None:
    """So are a wrong codec and a checkpoint that is not there."""
    for setting in ("--contract.codec=nonsense", "--ckpt_path=nowhere.ckpt", "--contract.source=nowhere"):
        trial.vla("fit", "-c", "configs/demo.yaml", setting, code=2, limit=40)
        trial.true(f"data were collected with {setting}", not list(trial.folder.rglob("shard-*")))


@case()
def options_of_data_commands(trial: Trial) -> None:
    """Misspelt options and values of `vla data` end in one line that names them."""
    for arguments, says in (
        (("convert", "a", "b", "--szie=3"), "szie"),
        (("convert", "a", "b", "--size=0x0"), "size|exist"),
        (("convert", "a", "b", "--on-error=ignore"), "on.error"),
        (("convert", "a"), "out"),
        (("convert", "nowhere", "b"), "nowhere"),
        (("convert", "shard-{000000..000003}.tar", "b"), "exist"),
        (("verify", "nowhere"), "nowhere"),
        (("inspekt", "a"), "inspekt"),
    ):
        trial.vla("data", *arguments, code=2, says=says)


@case("Lightning-AI/pytorch-lightning#19762")
def a_session_of_slurm(trial: Trial) -> None:
    """`vla fit` within an allocation of several tasks, without srun, trains or says in one line what to do."""
    project(trial)
    environment = {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    environment |= {"SLURM_NODEID": "0", "SLURM_JOB_NODELIST": "localhost", "SLURM_NTASKS_PER_NODE": "4"}
    trial.vla("fit", "-c", "fit.yaml", code=(0, 2), environment=environment)


@case("Lightning-AI/pytorch-lightning#5538")
def one_batch_to_try_it(trial: Trial) -> None:
    """fast_dev_run, sanity checks and other settings to try a recipe run, or end in one line."""
    for setting in ("fast_dev_run=true", "num_sanity_val_steps=1", "limit_val_batches=1", "overfit_batches=1"):
        folder = trial.folder / setting.partition("=")[0]
        folder.mkdir()
        one = Trial(folder)
        project(one)
        one.vla("fit", "-c", "fit.yaml", f"--trainer.{setting}", code=(0, 2))


@case("Lightning-AI/pytorch-lightning#19582")
def epochs_in_place_of_steps(trial: Trial) -> None:
    """max_epochs without max_steps trains so many epochs and saves the last step; both without a limit are refused, or run."""
    project(trial)
    trial.vla("fit", "-c", "fit.yaml", "--trainer.max_steps=-1", "--trainer.max_epochs=1")
    trial.true("the last step is not saved", (trial.folder / "run/checkpoints/step=0000004.ckpt").exists())
