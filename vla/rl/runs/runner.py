"""`vla rl fit`: trains one run, from its checkpoint if it has one, and writes its export and its record."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from vla.folders import check_writable
from vla.rl.runs.checkpoint import Saved, check_model, read_checkpoint, write_checkpoint
from vla.rl.runs.offline import Offline
from vla.rl.runs.online import Online, finished
from vla.rl.runs.options import RunOptions
from vla.rl.runs.outcome import Outcome, Stopwatch


class Training(Protocol):
    """Online or offline learning, as the loop in `fit` needs it.

    Attributes:
        steps: number of steps so far.
    """

    @property
    def steps(self) -> int: ...

    def begin(self, saved: Saved | None) -> None:
        """Makes the learner, in the state of the checkpoint if there is one, and opens the logs."""

    def advance(self) -> None:
        """Learns until the next checkpoint is due."""

    def state(self) -> Saved:
        """Returns what a checkpoint holds beside the run's identity: `steps` and everything needed to resume."""
        ...

    def close(self) -> None:
        """Ends processes and closes logs."""

    def finish(self) -> Outcome:
        """Writes the export, then the record."""
        ...


def fit(options: RunOptions) -> Outcome:
    """Trains to the given number of steps, from the folder's checkpoint if it has one. A finished run is only read.

    The folder gets checkpoint.pt (plain types), logs/ (TensorBoard) and export/ (safetensors and JSON), which `vla rollout` and
    `vla serve` take if the head drives the tabletop. A run in an environment also writes results.json (the learning curve, for
    `vla compare`). A resumed run equals an uninterrupted one.

    Raises:
        UserError: the folder holds another run, or the options contradict one another.
    """
    out, watch = Path(options.out), Stopwatch()
    check_writable(options.out)
    saved = read_checkpoint(out, options)
    if saved is not None:
        # A smaller budget than before leaves the run as it is.
        options = options.with_steps(max(options.budget.steps, min(saved.get("wanted", saved["steps"]), saved["steps"])))
        if saved["steps"] >= options.budget.steps and not options.learner.data and (outcome := finished(options)):
            return outcome
    representation = options.observation.open()
    if saved is not None:
        check_model(out, saved, representation)
    training: Training = (Offline if options.learner.data else Online)(options, representation, watch)
    identity = {"identity": options.identity(), "asked": representation.identity if representation else {}}
    try:
        training.begin(saved)
        while training.steps < options.budget.steps:
            training.advance()
            write_checkpoint(out, {**identity, **training.state()})
    finally:
        training.close()
    return training.finish()
