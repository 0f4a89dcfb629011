"""Learning from recorded demonstrations: `vla rl fit` with behaviour cloning or IQL.

A frozen model's states are computed once and cached. Every step's batch is a function of seed and step.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch.utils.tensorboard.writer import SummaryWriter

from vla.contract import PolicyContract
from vla.errors import UserError
from vla.policies.prompted import HeadDescription, write_prompted
from vla.promptable.cache import CachedRepresentation
from vla.promptable.head import Head
from vla.promptable.inputs import Inputs
from vla.promptable.instruction_vocabulary import InstructionVocabulary
from vla.report.provenance import provenance
from vla.rl.learners.behaviour_cloning import CloningOptions, difference
from vla.rl.learners.demonstrations import Demonstrations
from vla.rl.learners.registry import OfflineLearner, offline_learner
from vla.rl.policies.features import mixed_layers
from vla.rl.runs.checkpoint import Saved
from vla.rl.runs.options import RunOptions
from vla.rl.runs.outcome import Outcome, Stopwatch

LOG_EVERY = 20
HELD_OUT = 256
"""Number of held-out steps on which the error is measured."""


class Offline:
    """A learner and its data set; implements `runner.Training`.

    Raises:
        UserError: an observation is not in data sets, or an argument of the learner is wrong.
    """

    def __init__(self, options: RunOptions, representation: CachedRepresentation | None, watch: Stopwatch):
        self.options, self.representation, self.watch = options, representation, watch
        unrecorded = sorted(set(options.observation.observe) - {"states", "pixels"})
        if unrecorded:
            raise UserError(f"{', '.join(unrecorded)} is not recorded in data sets", "observe", "choose states or pixels")
        self.out, self.steps = Path(options.out), 0
        chunk, data = options.policy.chunk, options.learner.data
        self.training, self.held_out = (Demonstrations(data, chunk, split) for split in ("train", "val"))
        card = self.training.source.card
        self.exported = options.observation.exported(representation)
        self.contract = PolicyContract(
            {card.embodiment: card.spec},
            codec="none",
            prompt=self.exported.get("prompt", ""),
            plan=(),
            chunk=chunk,
            execute=chunk,
            terminate=False,
            title=options.condition,
        )
        self.vocabulary = InstructionVocabulary.of(*(self.training.source.texts(name) for name in ("instruction", "target")))
        self.inputs = Inputs(card.spec, self.vocabulary, representation, "pixels" in options.observation.observe)
        self.head = {**self.inputs.sizes, **options.policy.head(mixed_layers(representation))}
        self.size = chunk * len(self.training.scaler.free)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.error = float("nan")

    def begin(self, saved: Saved | None) -> None:
        kind = offline_learner(self.options.learner.name)
        self.arguments = _arguments(self.options, kind.Options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.options.seed)
            self.learner: OfflineLearner = kind(self._make_head, self.size, self.arguments)
        if saved is not None:
            if saved["stamp"] != self.training.source.index.stamp:
                raise UserError("the data has changed since the run began", self.options.learner.data, "give another --out")
            self.learner.networks.load_state_dict(saved["networks"])
            self.learner.optimizer.load_state_dict(saved["optimizer"])
            self.steps, self.error = saved["steps"], saved["held_out"]
            self.watch.before["seconds"] = saved["seconds"]
        self.out.mkdir(parents=True, exist_ok=True)
        self.log = SummaryWriter(str(self.out / "logs"), purge_step=self.steps)

    def _make_head(self, out: int, more: int) -> Head:
        numbers = self.inputs.sizes["numbers"] + more
        return Head(**{**self.head, "numbers": numbers, "out": out}).to(self.device)

    def advance(self) -> None:
        every, last = self.options.budget.checkpoint, self.options.budget.steps
        for step in range(self.steps, min((self.steps // every + 1) * every, last)):
            seed = (self.options.seed, step)
            batch = self.training.draw(self.inputs, self.contract, self.arguments.batch, seed, self.learner.ahead)
            values = self.learner.update(batch.to(self.device))
            self.steps = step + 1
            if self.steps % LOG_EVERY == 0:
                for name, value in values.items():
                    self.log.add_scalar(f"train/{name}", value, self.steps)
                if self.representation is not None:
                    self.log.add_scalar("cache/rate", self.representation.hits.rate, self.steps)
        self.error = self._held_out()
        self.log.add_scalar("val/action_l1", self.error, self.steps)

    @torch.no_grad()
    def _held_out(self) -> float:
        """Returns the mean absolute error of the actions, as a share of their limits, on fixed held-out steps."""
        batch = self.held_out.draw(self.inputs, self.contract, min(HELD_OUT, len(self.held_out)), (0,), False)
        return float(difference(self.learner.networks["actor"], batch.to(self.device)).mean())

    def state(self) -> Saved:
        return {
            "stamp": self.training.source.index.stamp,
            "networks": self.learner.networks.state_dict(),
            "optimizer": self.learner.optimizer.state_dict(),
            "steps": self.steps,
            "seconds": self.watch.taken()["seconds"],
            "held_out": self.error,
        }

    def close(self) -> None:
        if hasattr(self, "log"):
            self.log.close()

    def finish(self) -> Outcome:
        options, seconds, hits = self.options, self.watch.taken()["seconds"], self.representation and self.representation.hits
        more = {
            "options": options.to_dict(),
            "steps": options.budget.steps,
            "seconds": seconds,
            "cache": hits.to_dict() if hits else {},
            "held_out_action_l1": self.error,
            **provenance(),
        }
        saved = HeadDescription(self.vocabulary, {**self.head, "out": self.size}, self.inputs.pixels, more=more, **self.exported)
        actor = self.learner.networks["actor"].cpu()
        assert isinstance(actor, Head)
        folder = write_prompted(self.out / "export", actor, self.contract, saved)
        cached = f", {100 * hits.rate:.0f} % of the states from the cache" if hits else ""
        summary = (
            f"{folder}: {options.condition or options.learner.name}, {options.budget.steps:,} training steps on "
            f"{len(self.training):,} recorded steps, {seconds:.0f} s, held-out error {self.error:.3f} of the limits{cached}"
        )
        return Outcome(summary)


def _arguments(options: RunOptions, kind: type[CloningOptions]) -> CloningOptions:
    try:
        return kind(**options.learner.arguments)
    except (TypeError, ValueError) as error:
        known = ", ".join(f.name for f in dataclasses.fields(kind))
        raise UserError(str(error), options.learner.name, f"its arguments are {known}") from error
