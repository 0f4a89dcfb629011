"""Resuming, logging and saving: what is kept, moved and refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

from outside import written
from outside.project import project, trained
from outside.tar_files import captions, tar
from outside.trial import Trial, case


def files(folder: Path) -> dict[str, str]:
    """The files of a folder and their digests."""
    return {str(p.relative_to(folder)): hashlib.md5(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


@case("roboflow/rf-detr#1321")
def the_log_of_a_resumed_run(trial: Trial) -> None:
    """metrics.csv keeps what was logged before the resume."""
    trained(trial)
    log = trial.folder / "run/logs/metrics.csv"
    before = log.read_text().splitlines()
    trial.vla("fit", "-c", "fit.yaml", "--ckpt_path=last", "--trainer.max_steps=4")
    texts = [path.read_text() for path in (trial.folder / "run").rglob("*.csv*")]
    rows = before[1:]
    trial.true(
        f"{rows[0][:60]} is in none of {len(texts)} files", all(any(row.split(",")[0] in text for text in texts) for row in rows)
    )
    kept = any(all(cell in text for cell in rows[0].split(",") if "." in cell) for text in texts)
    trial.true("the values of the first step are lost", kept)


@case("Lightning-AI/pytorch-lightning#19446")
def the_log_of_another_run(trial: Trial) -> None:
    """A new run in the folder of another does not delete its metrics.csv, or says that it does."""
    trained(trial)
    first = (trial.folder / "run/logs/metrics.csv").read_text().splitlines()[1]
    output = trial.vla("fit", "-c", "fit.yaml", "--seed_everything=7", "--data.seed=7")
    texts = [path.read_text() for path in (trial.folder / "run").rglob("*.csv*")]
    kept = any(all(cell in text for cell in first.split(",") if "." in cell) for text in texts)
    trial.true("the other run's values are lost and nothing says so", kept or "metrics.csv" in output or "not empty" in output)


@case("Lightning-AI/pytorch-lightning#4184")
def a_run_that_is_finished(trial: Trial) -> None:
    """Resuming a finished run changes no checkpoint."""
    checkpoints = trained(trial)
    before = files(checkpoints)
    trial.vla("fit", "-c", "fit.yaml", "--ckpt_path=last")
    trial.equal("checkpoints", files(checkpoints), before)


@case("Lightning-AI/pytorch-lightning#1922")
def fewer_steps_than_are_done(trial: Trial) -> None:
    """max_steps below the checkpoint's steps trains nothing and changes no checkpoint."""
    checkpoints = trained(trial)
    before = files(checkpoints)
    trial.vla("fit", "-c", "fit.yaml", "--ckpt_path=last", "--trainer.max_steps=1", code=(0, 2))
    trial.equal("checkpoints", files(checkpoints), before)


@case()
def more_steps_than_before(trial: Trial) -> None:
    """Resuming with more max_steps, where the learning rate jumps up, is said or refused."""
    trained(trial, lambda recipe: recipe["model"].update(warmup=0))
    trial.vla(
        "fit",
        "-c",
        "fit.yaml",
        "--ckpt_path=last",
        "--trainer.max_steps=6",
        code=(0, 2),
        says="max_steps.*rate|rate.*max_steps|schedule",
    )


@case("Lightning-AI/pytorch-lightning#1134")
def a_checkpoint_that_was_deleted(trial: Trial) -> None:
    """A --ckpt_path that does not exist is named in one line, and nothing is moved or written."""
    checkpoints = trained(trial)
    before = files(trial.folder / "run")
    trial.vla("fit", "-c", "fit.yaml", "--ckpt_path=run/checkpoints/step=0000009.ckpt", code=2, says="step=0000009.ckpt")
    trial.equal("the run's files", files(trial.folder / "run"), before)
    trial.true("no checkpoint", list(checkpoints.glob("*.ckpt")))


@case("Lightning-AI/pytorch-lightning#21431")
def a_damaged_checkpoint(trial: Trial) -> None:
    """`last` passes over a checkpoint that is cut off and says so; by name it is refused."""
    project(
        trial,
        lambda recipe: (recipe["trainer"].update(max_steps=4), recipe["trainer"]["callbacks"][0]["init_args"].update(keep=5)),
    )
    trial.vla("fit", "-c", "fit.yaml")
    newest = trial.folder / "run/checkpoints/step=0000004.ckpt"
    newest.write_bytes(newest.read_bytes()[:-100])
    trial.vla("fit", "-c", "fit.yaml", f"--ckpt_path={newest}", code=2, says="damaged")
    trial.vla(
        "fit", "-c", "fit.yaml", "--ckpt_path=last", says=["step=0000004.ckpt is damaged", "resuming from .*step=0000002.ckpt"]
    )


@case("codefuse-ai/MFTCoder#20")
def a_pointer_of_git_lfs(trial: Trial) -> None:
    """A checkpoint that git cloned without LFS is named as a pointer."""
    checkpoints = trained(trial)
    path = checkpoints / "step=0000002.ckpt"
    path.unlink()
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    trial.vla("fit", "-c", "fit.yaml", f"--ckpt_path={path}", code=2, says="git lfs")


@case()
def another_batch_size(trial: Trial) -> None:
    """Another batch size, seed, rate or mixture on resume is refused with its name, and nothing is moved."""
    trained(trial)
    before = files(trial.folder / "run")
    for setting in ("data.batch_size=2", "data.seed=5", "model.learning_rate=0.5", "data.sources.robot.init_args.weight=3"):
        trial.vla(
            "fit",
            "-c",
            "fit.yaml",
            "--ckpt_path=last",
            "--trainer.max_steps=4",
            f"--{setting}",
            code=2,
            says=setting.rpartition(".")[2].partition("=")[0],
        )
    trial.equal(
        "the run's files",
        {k: v for k, v in files(trial.folder / "run").items() if "ckpt" in k},
        {k: v for k, v in before.items() if "ckpt" in k},
    )


@case()
def a_new_run_in_the_folder_of_another(trial: Trial) -> None:
    """A new run moves the other's checkpoints aside; `last` is then its own."""
    trained(trial)
    trial.vla("fit", "-c", "fit.yaml", says="before-1")
    trial.true("the other's checkpoint is lost", (trial.folder / "run/checkpoints/before-1/step=0000002.ckpt").exists())


@case()
def a_run_that_never_began(trial: Trial) -> None:
    """Settings that are refused move nothing aside: neither Lightning's checks nor ours."""
    trained(trial)
    before = files(trial.folder / "run")
    for setting in (
        "trainer.accumulate_grad_batches=0",
        "trainer.strategy=fsdp",
        "model.vlm=nowhere",
        "seed_everything=-1",
        "data.batch_size=0",
    ):
        trial.vla("fit", "-c", "fit.yaml", f"--{setting}", code=2)
        trial.equal(f"the run's files after --{setting}", files(trial.folder / "run"), before)


@case("ultralytics/ultralytics#5793")
def a_full_disk(trial: Trial) -> None:
    """A disk that is full while a checkpoint is written ends in one line with the path; the checkpoint before stays."""
    checkpoints = trained(trial)
    before = files(checkpoints)
    trial.vla(
        "fit",
        "-c",
        "fit.yaml",
        "--ckpt_path=last",
        "--trainer.max_steps=4",
        code=(1, 2),
        says="checkpoint|step=0000004",
        file_limit=100_000,
    )
    kept = {name: digest for name, digest in files(checkpoints).items() if name in before}
    trial.equal("checkpoints from before", kept, before)
    trial.true("a damaged checkpoint has its final name", not (checkpoints / "step=0000004.ckpt").exists())


@case("sml2h3/dddd_trainer#36")
def a_full_disk_and_then_space(trial: Trial) -> None:
    """After that the same command resumes."""
    trained(trial)
    trial.vla("fit", "-c", "fit.yaml", "--ckpt_path=last", "--trainer.max_steps=4", code=(1, 2), never=(), file_limit=100_000)
    trial.vla("fit", "-c", "fit.yaml", "--ckpt_path=last", "--trainer.max_steps=4", says="resuming from .*step=0000002.ckpt")


@case()
def a_folder_that_may_not_be_written(trial: Trial) -> None:
    """A run's folder that is a file is named in one line."""
    project(trial)
    (trial.folder / "run").write_text("a file")
    trial.vla("fit", "-c", "fit.yaml", code=2, says="run")


@case()
def validating_without_a_checkpoint(trial: Trial) -> None:
    """`vla validate --ckpt_path last` before any training says that there is none."""
    project(trial)
    trial.vla("validate", "-c", "fit.yaml", "--ckpt_path=last", code=2, says="no checkpoint")


@case()
def two_runs_at_once(trial: Trial) -> None:
    """Two runs in one folder at the same time: the second is refused, or each keeps what it saves; none ends in a traceback."""
    from outside import command

    project(trial)
    outputs = [trial.folder.with_name(f"{trial.folder.name}.{k}.log") for k in range(2)]
    runs = [command.start(["fit", "-c", "fit.yaml", "--trainer.max_steps=8"], trial.folder, output) for output in outputs]
    for run in runs:
        run.join(120)
    texts = [output.read_text() for output in outputs]
    for output in outputs:
        output.unlink()
    codes = sorted(run.exitcode if run.exitcode is not None else -1 for run in runs)
    trial.true(f"exit codes {codes}: {texts[0][-200:]} {texts[1][-200:]}", codes in ([0, 0], [0, 2]))
    trial.true("one ends in a traceback", not any("Traceback" in text for text in texts))
    trial.vla("validate", "-c", "fit.yaml", "--ckpt_path=last")


@case("ultralytics/ultralytics#5793")
def a_full_disk_for_an_export(trial: Trial) -> None:
    """An export for which there is no space ends in one line and leaves nothing half written."""
    trained(trial)
    checkpoint = "--ckpt=run/checkpoints/step=0000002.ckpt"
    trial.vla("export", checkpoint, "--out=half", code=(1, 2), says="too large|os error", file_limit=20_000)
    left = [path.name for path in trial.folder.iterdir() if "half" in path.name]
    trial.equal("what is left of it", left, [])


@case("sml2h3/dddd_trainer#36")
def a_full_disk_for_a_conversion(trial: Trial) -> None:
    """A conversion for which there is no space ends in one line; the same command then goes on."""
    tar(trial.folder / "in.tar", captions(30))
    trial.vla("data", "convert", "in.tar", "out", "--workers=1", code=(1, 2), says="too large", file_limit=20_000)
    trial.vla("data", "convert", "in.tar", "out", "--workers=1")
    trial.equal("images", len(written.samples(trial.folder / "out")), 30)
