"""One cell of a study: trains an arm with one seed, asks it questions, evaluates it on the suites, and writes its record."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from vla.contract import PolicyContract
from vla.demo.folder import locked
from vla.demo.processes import train
from vla.demo.stages import STAGES, Stages
from vla.errors import UserError
from vla.evaluation.facts import weights_file_hash
from vla.evaluation.run import Evaluation, evaluate
from vla.report import records
from vla.report.provenance import Memory, provenance
from vla.report.study import CellRecord, SuiteScenes, cell_name
from vla.report.study_plan import TrainingPlan
from vla.sim.suites import Suite
from vla.study.arms import PlannedArm
from vla.study.questions import ask, beginning
from vla.study.training import CHECKPOINTS, EVALUATIONS, EXPORT, TRAIN, curves, write_config

if TYPE_CHECKING:
    from vla.datasets.questions import QuestionSource
    from vla.sim.episodes import Result

COMMAND = "vla study"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One arm with one seed.

    Attributes:
        training: what it trains on.
        folder: of its training, export and evaluations.
        suites, questions: what it is evaluated on, by name.
        batch: rows per call of the policy.
        workers: number of simulation processes; 0 is one per core.
        recipe: name of the study's recipe.
    """

    arm: PlannedArm
    training: TrainingPlan
    seed: int
    folder: Path
    suites: Mapping[str, Suite]
    questions: Mapping[str, QuestionSource]
    batch: int
    workers: int
    recipe: str

    @property
    def name(self) -> str:
        return cell_name(self.arm.name, self.seed)

    @property
    def export(self) -> Path:
        return self.folder / EXPORT

    def identity(self) -> dict[str, Any]:
        """What its training depends on."""
        return {"config": self.arm.config, "seed": self.seed, "data": {n: s.content for n, s in self.training.sources.items()}}

    def is_here(self) -> bool:
        """Whether its training and its policy are on this machine."""
        return (self.folder / STAGES).is_file() and (self.export / "contract.json").is_file()

    def holds_other(self) -> bool:
        """Whether the folder holds a training with other settings or data."""
        return Stages(self.folder, self.identity(), Memory()).changed

    def evaluation(self, suite: str) -> Path:
        """The folder of the evaluation on a suite. Another version of the suite, or another batch, has another folder."""
        name = suite.replace("/", "-")
        return self.folder / EVALUATIONS / f"{name}-{self.suites[suite].hash[:8]}-{self.batch}"

    def options(self, suite: str) -> Evaluation:
        """The evaluation on a suite."""
        folder = str(self.evaluation(suite))
        return Evaluation(str(self.export), self.suites[suite], folder, batch=self.batch, workers=self.workers)

    def run(self, memory: Memory) -> CellRecord:
        """Runs what is not done yet, and returns the record.

        Raises:
            Busy: another process runs this cell.
            UserError: the folder holds a training with other settings or data, or a part of the work fails.
        """
        with locked(self.folder, command=COMMAND) as lock:
            stages = Stages(self.folder, self.identity(), memory)
            if stages.changed:
                what = "its folder holds a training with other settings or data"
                fix = "add --again to put it aside and train anew, or choose another out"
                raise UserError(what, f"cell {self.name}, {self.folder}", fix)
            text = f"{self.training.steps} steps, {self.training.robot_samples} robot samples"
            trained = stages.run("train", text, functools.partial(self._train, lock))
            exported = stages.run("export", "a self-contained folder", self._export)
            start = functools.cache(self._start)
            answers = {
                name: stages.run(f"questions {name}", "before and after training", functools.partial(self._ask, source, start))
                for name, source in self.questions.items()
            }
            suites = {name: self._evaluate(name) for name in self.suites}
        origin = provenance()
        return CellRecord(
            arm=self.arm.name,
            seed=self.seed,
            about=self.arm.arm.about,
            differs=list(self.arm.arm.differs),
            config=self.arm.config,
            settings=self.arm.settings,
            recipe=self.recipe,
            changes=self.arm.changes,
            plan=self.training,
            training={
                **{key: trained[key] for key in ("seconds", "interrupted", "peak_pss_mib", "commit")},
                **{key: exported[key] for key in ("hardware", "versions", "weights", "contract")},
                "evaluated": {key: origin[key] for key in ("commit", "hardware")},
            },
            curves=trained["curves"],
            questions={name: one["answers"] for name, one in answers.items()},
            suites=suites,
        )

    def _train(self, lock: int) -> dict[str, Any]:
        config = write_config(self.arm.plan.settings, self.seed, self.folder)
        train(config, self.folder / TRAIN / CHECKPOINTS, lock, f"cell {self.name}", "run the same command again to go on")
        logged = curves(self.folder)
        losses = [
            f"{name} {values[-1]:.3g}" for name, (_, values) in logged.items() if name.startswith("val/") and "_loss" in name
        ]
        return {"said": ", ".join(losses), "curves": logged}

    def _export(self) -> dict[str, Any]:
        import torch

        from vla.training.export import export

        if torch.cuda.is_available():
            # The training used it; a process names the GPU that it uses.
            torch.cuda.init()
        said = export(str(self.folder / TRAIN / CHECKPOINTS / "last.ckpt"), str(self.export))
        origin = provenance()
        hashes = {"weights": weights_file_hash(str(self.export)), "contract": PolicyContract.load(self.export).hash}
        return {"said": said, **hashes, "hardware": origin["hardware"], "versions": origin["versions"]}

    def _start(self) -> Any:
        return beginning(self.arm.plan.settings["model"], PolicyContract.load(self.export))

    def _ask(self, source: QuestionSource, start: Any) -> dict[str, Any]:
        answers = ask(self.export, start(), source)
        correct = {when: "".join(one[when] for one in answers.values()) for when in ("before", "after")}
        shares = [f"{100 * digits.count('1') / len(digits):.0f} % {when}" for when, digits in correct.items() if digits]
        return {"said": f"correct answers: {', '.join(shares)}", "answers": answers}

    def _evaluate(self, name: str) -> SuiteScenes:
        folder, suite = self.evaluation(name), self.suites[name]
        done = records.load(folder) if (folder / records.FILE).is_file() else None
        if done is None or {e.key for e in suite.all()} - {e.key for e in done.episodes}:
            print(f"[{name}] {len(suite.all())} episodes", flush=True)
            with tqdm(total=len(suite.all()), desc=f"{self.name} {name}", unit="episode") as bar:

                def progress(_: Result | None, finished: int) -> None:
                    bar.update(finished - bar.n)

                try:
                    done = evaluate(self.options(name), progress)
                except UserError as error:
                    if error.where != str(folder):
                        raise
                    raise UserError(error.what, error.where, "remove the folder: its episodes are then run again") from error
        return SuiteScenes.of(done, self.batch)
