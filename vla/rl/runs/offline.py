"""`vla rl fit` on recorded demonstrations: the frozen model's states are computed once and kept, and a head learns on them."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard.writer import SummaryWriter

from vla.contract import PolicyContract
from vla.errors import UserError
from vla.policies.prompted import Made, write_prompted
from vla.promptable.head import Head
from vla.promptable.inputs import Inputs
from vla.promptable.instruction_vocabulary import InstructionVocabulary
from vla.report.provenance import provenance
from vla.rl.runs.build import make_representation, mixed_layers
from vla.rl.runs.checkpoint import check_model, read_checkpoint, write_checkpoint
from vla.rl.learners.behaviour_cloning import Cloning, CloningLearner, difference
from vla.rl.learners.demonstrations import Demonstrations
from vla.rl.learners.iql import IQL, IQLLearner
from vla.rl.runs.options import RLOptions

LEARNERS: dict[str, tuple[Any, Any]] = {"bc": (CloningLearner, Cloning), "iql": (IQLLearner, IQL)}
LOG_EVERY = 20
HELD_OUT = 256
"""Held-out steps whose actions are compared."""


def fit_offline(options: RLOptions) -> str:
    """Trains to the wanted number of steps, from the folder's checkpoint if it has one; what came out, in a line.

    The folder gets checkpoint.pt (plain types), logs/ (TensorBoard) and export/, which `vla rollout` and `vla serve` take. Every
    step's batch is a function of seed and step: a resumed run equals an uninterrupted one.

    Raises:
        UserError: the folder's run is another one, or the options contradict one another.
    """
    unseen = sorted(set(options.observe) - {"states", "pixels"})
    if unseen:
        raise UserError(f"{', '.join(unseen)} is not recorded", "observe", "states and pixels can be learned from data")
    out, began = Path(options.out), time.perf_counter()
    saved = read_checkpoint(out, options)
    if saved is not None:
        # A run that is asked for fewer steps than it took stays as it is.
        options = dataclasses.replace(options, steps=max(options.steps, saved["steps"]))
    training, held_out = (Demonstrations(options.data, options.chunk, split) for split in ("train", "val"))
    card, stamp = training.source.card, training.source.index.stamp
    if saved is not None and saved["stamp"] != stamp:
        raise UserError("the data has changed since the run began", options.data, "give another --out")
    contract = PolicyContract(
        {card.embodiment: card.spec},
        codec="none",
        prompt=options.prompt,
        plan=(),
        chunk=options.chunk,
        execute=options.chunk,
        terminate=False,
        title=options.condition,
    )
    representation = make_representation(options)
    if saved is not None:
        check_model(out, saved, representation)
    told = InstructionVocabulary.of(*(training.source.said(name) for name in ("instruction", "target")))
    inputs = Inputs(card.spec, told, representation, "pixels" in options.observe)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, settings = LEARNERS[options.algorithm][0], _settings(options)
    shape = _shape(options, inputs, mixed_layers(options, representation))
    size = options.chunk * len(training.shares.free)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        learner = kind(lambda o, more: Head(**{**shape, "numbers": shape["numbers"] + more, "out": o}).to(device), size, settings)
    done, spent = 0, 0.0
    if saved is not None:
        learner.networks.load_state_dict(saved["networks"])
        learner.optimizer.load_state_dict(saved["optimizer"])
        done, spent = saved["steps"], saved["seconds"]
    out.mkdir(parents=True, exist_ok=True)
    error = saved["held_out"] if saved is not None else float("nan")
    with SummaryWriter(str(out / "logs"), purge_step=done) as log:
        for step in range(done, options.steps):
            batch = training.draw(inputs, contract, settings.batch, (options.seed, step), learner.ahead)
            found = learner.update(batch.to(device))
            if (step + 1) % LOG_EVERY == 0:
                more = {"cache/rate": representation.hits.rate} if representation else {}
                for name, value in {**{f"train/{name}": value for name, value in found.items()}, **more}.items():
                    log.add_scalar(name, value, step + 1)
            if (step + 1) % options.checkpoint == 0 or step + 1 == options.steps:
                error = _held_out(learner, held_out, inputs, contract, device)
                log.add_scalar("val/action_l1", error, step + 1)
                state = {
                    "identity": options.identity(),
                    "asked": representation.identity if representation else {},
                    "stamp": stamp,
                    "networks": learner.networks.state_dict(),
                    "optimizer": learner.optimizer.state_dict(),
                    "steps": step + 1,
                    "seconds": spent + time.perf_counter() - began,
                    "held_out": error,
                }
                write_checkpoint(out, state)
    seconds = spent + time.perf_counter() - began
    more = {
        "options": options.to_dict(),
        "steps": options.steps,
        "seconds": seconds,
        "cache": representation.hits.to_dict() if representation else {},
        "held_out_action_l1": error,
        **provenance(),
    }
    made = Made(
        told=told,
        head={**shape, "out": size},
        pixels=inputs.pixels,
        vlm=options.vlm if representation else "",
        random=options.random,
        model=representation.identity["model"] if representation else "",
        reads=representation.identity["reads"] if representation else "",
        prompt=options.prompt,
        representation=options.representation,
        more=more,
    )
    folder = write_prompted(out / "export", learner.networks["actor"].cpu(), contract, made)
    hits = f", {100 * representation.hits.rate:.0f} % of the states from the cache" if representation else ""
    return (
        f"{folder}: {options.condition or options.algorithm}, {options.steps:,} steps on {len(training):,} recorded ones, "
        f"{seconds:.0f} s, held-out difference {error:.3f} of the limits{hits}"
    )


def _settings(options: RLOptions) -> Any:
    try:
        return LEARNERS[options.algorithm][1](**options.arguments)
    except (TypeError, ValueError) as error:
        known = ", ".join(f.name for f in dataclasses.fields(LEARNERS[options.algorithm][1]))
        raise UserError(str(error), options.algorithm, f"its arguments are {known}") from error


def _shape(options: RLOptions, inputs: Inputs, mix: int) -> dict[str, Any]:
    p = options.pooler
    pooler = {"pooler": p.kind, "width": p.width, "heads": p.heads, "hidden": p.hidden, "pooled": p.out, "mix": mix}
    return {**inputs.sizes, **pooler, "net": options.net}


@torch.no_grad()
def _held_out(learner: Any, data: Demonstrations, inputs: Inputs, contract: PolicyContract, device: str) -> float:
    """Mean absolute difference of actions, as shares of the limits, on the same held-out steps each time."""
    batch = data.draw(inputs, contract, min(HELD_OUT, len(data)), (0,), False)
    return float(difference(learner.networks["actor"], batch.to(device)).mean())
