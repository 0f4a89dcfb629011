"""Measures what the path through tokens loses between the policy's own plan and the hand.

The policy of `make demo` first writes where the named object is and how far from the gripper, then its actions. From the same
written plans and robot states two small heads learn the same demonstrations, one by regression, one by 256 bins. The table
compares, on the same held-out steps and in the same scenes, these heads with the policy's tokens: given the true plan and the
true tokens before each, given the true plan alone, and free-running, as it acts.

`token_path.py --measure` writes benchmarks/results/token_path.json (about 20 minutes). Otherwise the record is printed.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

# It says how torch's threads wait, which they read when torch is loaded.
import vla  # noqa: F401

# isort: split
import numpy as np
import torch
from einops import rearrange
from torch import nn

from vla.contract import PolicyContract
from vla.datasets.robot import RobotSource
from vla.models.decoding.choose import ordinal_choice
from vla.models.logprobs import scored
from vla.observation import ActionChunk, Observation
from vla.policies.local import LocalPolicy
from vla.promptable.actions import ActionScaler
from vla.report.intervals import wilson
from vla.report.provenance import provenance
from vla.sim.rollout import rollout
from vla.sim.suites import load_suite
from vla.sim.workers import Workers
from vla.tokenization.sequence import Role

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "benchmarks/results/token_path.json"
EXPORT, DATA = ROOT / "runs/demo/export", ROOT / "runs/demo/data/robot"
ROWS, STEPS, BATCH, BINS, SMOOTHING = 16, 3000, 256, 256, 2.0
"""Rows per call of the policy; steps, batch size, bins and smoothing of the heads' training."""


class States:
    """The numbers from which the heads act: the robot's state and the plan that the policy writes."""

    def __init__(self, policy: LocalPolicy):
        self.policy, self.space = policy, policy.contract.embodiment().state
        self.size = self.space.size + 2 + 4

    def numbers(self, state: np.ndarray, plan: dict) -> np.ndarray:
        low, high = np.array(self.space.low), np.array(self.space.high)
        offset = np.array(plan["reach"]) / 127.5 - 1
        return np.concatenate([2 * (state - low) / (high - low) - 1, 2 * np.array(plan["point"]) - 1, offset]).astype(np.float32)

    def written(self, samples: list) -> np.ndarray:
        """The numbers [N, size] of steps, by the plans that the policy writes."""
        encoder, rows = self.policy.encoder, []
        allowed = encoder.grammar.writing()["allowed"][: encoder.plan.length()]
        for i in range(0, len(samples), ROWS):
            chosen = samples[i : i + ROWS]
            out = self.policy._write([encoder.act(observed(s)) for s in chosen], allowed=allowed)
            plans = [encoder.plan.read(ids.numpy())[0] for ids in out.ids[: len(chosen)]]
            rows += [self.numbers(s.state, plan) for s, plan in zip(chosen, plans, strict=True)]
        return np.stack(rows)


def observed(sample) -> Observation:
    return Observation("", sample.images, sample.state, sample.instruction, sample.embodiment)


class Head(nn.Module):
    """Two hidden layers; regression [B, K * F] or bins [B, K * F, BINS]."""

    def __init__(self, size: int, outputs: int, bins: bool):
        super().__init__()
        self.bins = bins
        width = outputs * (BINS if bins else 1)
        self.net = nn.Sequential(nn.Linear(size, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, width))

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        out = self.net(numbers)
        return rearrange(out, "b (f bin) -> b f bin", bin=BINS) if self.bins else torch.tanh(out)

    def loss(self, numbers: torch.Tensor, actions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        out = self(numbers)
        if not self.bins:
            return ((out - actions).abs() * mask).sum() / mask.sum()
        centres = (torch.arange(BINS) + 0.5) / BINS * 2 - 1
        distance = (centres - actions[..., None]) / (2 / BINS * SMOOTHING)
        target = (-0.5 * distance**2).softmax(-1)
        return (-(target * out.log_softmax(-1)).sum(-1) * mask).sum() / mask.sum()

    @torch.inference_mode()
    def actions(self, numbers: torch.Tensor) -> torch.Tensor:
        """[B, K * F] in the limits -1 to 1; of bins the median."""
        out = self(numbers)
        return (ordinal_choice(out, "median") + 0.5) / BINS * 2 - 1 if self.bins else out


def train(head: Head, numbers: torch.Tensor, actions: torch.Tensor, mask: torch.Tensor) -> Head:
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    rng = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        rows = torch.randint(len(numbers), (BATCH,), generator=rng)
        optimizer.zero_grad()
        head.loss(numbers[rows], actions[rows], mask[rows]).backward()
        optimizer.step()
        schedule.step()
    return head.eval()


class HeadPolicy:
    """Acts by a head on the plan that the policy writes."""

    def __init__(self, states: States, head: Head, batch: int):
        own = states.policy.contract
        self.states, self.head, self.batch, self.scaler = states, head, batch, ActionScaler(own.embodiment().action)
        self.contract = PolicyContract(
            own.embodiments, codec="none", prompt="", plan=(), chunk=own.chunk, execute=own.execute, terminate=False, title="head"
        )

    def reset(self, ids):
        self.states.policy.reset(ids)

    def act(self, observations):
        chunks = self.states.policy.act(observations)
        plans = [{"point": chunk.info["point"], "reach": chunk.info["reach"]} for chunk in chunks]
        numbers = [self.states.numbers(np.asarray(o.state), plan) for o, plan in zip(observations, plans, strict=True)]
        scaled = self.head.actions(torch.tensor(np.stack(numbers))).numpy()
        actions = self.scaler.inverse(rearrange(scaled, "b (k f) -> b k f", k=self.contract.chunk))
        return [ActionChunk(rows, np.zeros(len(rows), bool)) for rows in actions]


def token_actions(policy: LocalPolicy, samples: list) -> dict[str, np.ndarray]:
    """Actions [N, K, A] of the policy's tokens: given the true plan and tokens before each, given the true plan, free-running."""
    encoder, found = policy.encoder, {"tokens, given the true plan and tokens": [], "tokens, given the true plan": []}
    plan, statistic, codec = encoder.plan.length(), policy.contract.decode, encoder.codec()
    legal = [torch.tensor(encoder.vocabulary.symbols_to_ids(symbols)) for symbols in codec.positions()]
    for i in range(0, len(samples), ROWS):
        examples = [encoder.robot(dataclasses.replace(s, mask=np.ones_like(s.mask))) for s in samples[i : i + ROWS]]
        batch = encoder.batch(examples)
        with torch.inference_mode():
            logits = encoder.family.score(policy.model, batch.inputs, scored(batch.labels))
        for one in rearrange(logits, "(b t) v -> b t v", b=len(examples))[:, plan:]:
            chosen = [
                ids[ordinal_choice(row[ids][None], statistic)[0] if ordinal else row[ids].argmax()]
                for row, ids, ordinal in zip(one, legal, codec.ordinal(), strict=True)
            ]
            found["tokens, given the true plan and tokens"].append(encoder.grammar.read(np.array(chosen), mode="act").actions)
        allowed = encoder.grammar.writing()["allowed"][plan:]
        prompts = []
        for example in examples:
            kept = example.sequence[: len(example.sequence) - len(legal)]
            told = np.where(kept.roles == Role.MODEL, np.int8(Role.OBSERVATION), kept.roles)
            prompts.append(
                dataclasses.replace(example, sequence=dataclasses.replace(kept, roles=told, loss=np.zeros_like(kept.loss)))
            )
        out = policy._write(prompts, allowed=allowed)
        chunks = [encoder.grammar.read(ids.numpy(), mode="act") for ids in out.ids[: len(examples)]]
        found["tokens, given the true plan"] += [chunk.actions for chunk in chunks]
    chunks = [c for i in range(0, len(samples), ROWS) for c in policy.act([observed(s) for s in samples[i : i + ROWS]])]
    found["tokens, free-running"] = [chunk.actions for chunk in chunks]
    return {name: np.stack(rows) for name, rows in found.items()}


def errors(actions: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Mean absolute errors over the steps of the chunks: translation (mm per axis), yaw (degrees); the wrong gripper (%)."""
    off = np.abs(actions - truth)[mask]
    closed = (actions[..., -1] > 0) != (truth[..., -1] > 0)
    return {
        "translation_mm": float(1000 * off[:, :3].mean()),
        "yaw_degrees": float(np.degrees(off[:, 5].mean())),
        "gripper_wrong_percent": float(100 * closed[mask].mean()),
    }


def success(policy, scenes: int, workers: Workers) -> dict:
    suite = dataclasses.replace(load_suite("rt2/seen", scenes), kinds=("correct",))
    results = rollout(policy, list(suite.all()), workers)
    return wilson(sum(not r.failure for r in results), len(results)).to_dict()


def measure(options: argparse.Namespace) -> dict:
    policy = LocalPolicy.from_export(options.export, batch=ROWS, device="cpu")
    chunk, free = policy.contract.chunk, len(ActionScaler(policy.contract.embodiment().action).free)
    scaler, states = ActionScaler(policy.contract.embodiment().action), States(policy)

    def steps(split: str, count: int) -> list:
        source = RobotSource(str(options.data), chunk=chunk, split=split, holdout=0.05)
        rng = np.random.default_rng(0)
        return [source.sample(int(i), rng) for i in rng.permutation(len(source))[:count]]

    learned, held_out = steps("train", options.learned), steps("val", options.steps)
    numbers = torch.tensor(states.written(learned))
    truth = np.stack([s.actions for s in learned])
    targets = torch.tensor(rearrange(scaler(truth), "n k f -> n (k f)"), dtype=torch.float32)
    mask = torch.tensor(np.repeat(np.stack([s.mask for s in learned]), free, 1), dtype=torch.float32)
    heads = {}
    for name, bins in (("head by regression", False), ("head by bins", True)):
        torch.manual_seed(0)
        heads[name] = train(Head(states.size, chunk * free, bins), numbers, targets, mask)
    true, scored_steps = np.stack([s.actions for s in held_out]), np.stack([s.mask for s in held_out])
    seen = torch.tensor(states.written(held_out))
    acts = {
        name: scaler.inverse(rearrange(head.actions(seen).numpy(), "n (k f) -> n k f", k=chunk)) for name, head in heads.items()
    }
    acts |= token_actions(policy, held_out)
    table = {name: errors(actions, true, scored_steps) for name, actions in acts.items()}
    acting = LocalPolicy.from_export(options.export, batch=2, device="cpu")
    own = States(acting)
    with Workers(2) as workers:
        for name, head in heads.items():
            table[name]["success"] = success(HeadPolicy(own, head, 2), options.scenes, workers)
        table["tokens, free-running"]["success"] = success(acting, options.scenes, workers)
    return {"table": table, "steps": len(held_out), "learned": len(learned), "scenes": options.scenes}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--export", type=Path, default=EXPORT)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--learned", type=int, default=8000, help="steps that the heads learn from")
    parser.add_argument("--steps", type=int, default=600, help="held-out steps")
    parser.add_argument("--scenes", type=int, default=60)
    options = parser.parse_args()
    if options.measure:
        if not options.export.is_dir():
            print(f"no {options.export}: run make demo", file=sys.stderr)
            return 2
        content = {"bars": {}, **measure(options), **provenance()}
        RECORD.write_text(json.dumps(content, indent=1) + "\n")
    print(RECORD.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
