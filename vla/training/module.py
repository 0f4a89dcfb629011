"""The LightningModule: one cross-entropy over everything the model should write, robot actions and answers alike."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import lightning as L
import torch

from vla.contract import PolicyContract
from vla.errors import UserError
from vla.examples import Examples
from vla.models.load import load_vlm, new_tiny
from vla.models.logprobs import allowed_mass, scored, token_logprobs
from vla.training.callbacks import Evaluate, roll_out
from vla.training.checkpoint import describe_model


class Answers:
    """Which answer each scored token of a batch belongs to; a row may have several, each in its branch.

    Attributes:
        of: [N] the answer of each token.
        row: [A] the row of each answer.
    """

    def __init__(self, places: torch.Tensor, branches: torch.Tensor):
        rows, columns = places.nonzero(as_tuple=True)
        most = int(branches.max()) + 1
        found, self.of = torch.unique(rows * most + branches[rows, columns], return_inverse=True)
        self.row, self.rows = found // most, len(places)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of values [N] by answer, [A]."""
        return _mean_by(values, self.of, len(self.row))

    def mean_by_row(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over a row's answers of their means, [B]; 0 where nothing is scored."""
        return _mean_by(self.mean(values), self.row, self.rows)


def _mean_by(values: torch.Tensor, group: torch.Tensor, groups: int) -> torch.Tensor:
    sums = torch.zeros(groups, dtype=values.dtype, device=values.device).index_add_(0, group, values)
    return sums / torch.bincount(group, minlength=groups).clamp_min(1)


class VLAModule(L.LightningModule):
    """Co-fine-tunes a vision-language model.

    An answer's loss is the mean cross-entropy of its scored tokens, a sample's the mean over its answers times its source's loss
    weight; a batch's is the mean over its samples, divided by the mean weight.

    Args:
        vlm: "tiny", "scratch" (its structure and tokenizer, random weights), "new" (the same with a tokenizer of its own), a
            folder, or a public model's name.
        learning_rate: the highest; linear warm-up, then cosine to 2 % of it.
        warmup: optimizer steps.
        weight_decay: of matrices; vectors and embeddings have none.
        bin_smoothing: width (in bins) of the bell over neighbouring integers that integer targets are given; 0 is none.
        test_episodes: episodes that `vla test` rolls out.
        trust_remote_code: whether code that comes with a model's weights may run.
    """

    evaluate: Evaluate | None = None

    contract: PolicyContract
    examples: Examples
    source_names: list[str]
    _integers: torch.Tensor
    _bins: torch.Tensor

    def __init__(
        self,
        vlm: str = "tiny",
        learning_rate: float = 1e-3,
        warmup: int = 100,
        weight_decay: float = 0.05,
        bin_smoothing: float = 0.0,
        test_episodes: int = 40,
        trust_remote_code: bool = False,
    ):
        super().__init__()
        self.vlm, self.learning_rate, self.warmup, self.weight_decay = vlm, learning_rate, warmup, weight_decay
        self.bin_smoothing, self.test_episodes, self.trust_remote_code = bin_smoothing, test_episodes, trust_remote_code
        self.model: Any = None
        self.processor: Any = None
        self._waiting, self._working, self._left = 0.0, 0.0, 0.0

    def build(self, tokenizer: Callable[[], Any] | None = None) -> None:
        """Loads the model and its processor, or makes new ones.

        Args:
            tokenizer: makes the tokenizer of `vlm: new`.
        """
        if self.vlm == "new":
            if tokenizer is None:
                raise UserError("there is no corpus for a new tokenizer", "model.vlm", "name a model")
            self.model, self.processor = new_tiny(tokenizer())
        elif self.vlm == "scratch":
            processor = load_vlm("tiny")[1]
            self.model, self.processor = new_tiny(processor.tokenizer)
        else:
            self.model, self.processor = load_vlm(self.vlm, self.trust_remote_code)
        self.model.train()

    def bind(self, contract: PolicyContract, source_names: list[str]) -> None:
        """Takes the resolved contract and the names of the sources; called once, after `build`."""
        self.contract, self.source_names = contract, source_names
        self.examples = Examples(contract, self.processor)
        ids = torch.tensor(self.examples.vocabulary.integer_ids)
        self.register_buffer("_integers", ids, persistent=False)
        lookup = torch.full((int(self.model.get_input_embeddings().weight.shape[0]),), -1)
        lookup[ids] = torch.arange(len(ids))
        self.register_buffer("_bins", lookup, persistent=False)

    def _score(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, Answers]:
        """Logits [N, V] of the scored tokens, their ids [N] and which answer each belongs to."""
        labels, branches = batch["labels"], batch["branch_ids"]
        inputs = {k: batch[k] for k in ("input_ids", "attention_mask", "prefix_mask", "pixel_values")}
        if branches.max() > 1:  # most models of the world know no branches, and need none without
            inputs["branch_ids"] = branches
        places = scored(labels)
        logits = self.model(**inputs, logits_positions=places).logits
        return logits, labels[:, 1:][places[:, :-1]], Answers(places, branches)

    def _loss(self, logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        losses = -token_logprobs(logits, ids)
        if self.bin_smoothing <= 0:
            return losses
        # Integers are ordinal: a near bin is nearly right.
        bins = self._bins[ids]
        rows = (bins >= 0).nonzero()[:, 0]
        table = torch.arange(len(self._integers), device=ids.device)
        bell = torch.softmax(-0.5 * ((table - bins[rows, None]) / self.bin_smoothing) ** 2, -1)
        logs = logits[rows].float().log_softmax(-1)[:, self._integers]
        # Terminate is a flag, not a quantity: its two bins stay as they are.
        flag = (bins[rows] <= 1)[:, None]
        exact = torch.nn.functional.one_hot(bins[rows], len(self._integers)).to(bell)
        return losses.index_put((rows,), -(torch.where(flag, exact, bell) * logs).sum(-1))

    def training_step(self, batch: dict[str, Any], _: int) -> torch.Tensor:
        logits, ids, answers = self._score(batch)
        losses = self._loss(logits, ids)
        per_sample = answers.mean_by_row(losses)
        loss = (per_sample * batch["weight"]).sum() / batch["weight"].sum()
        if not torch.isfinite(loss):
            raise UserError(f"the loss is {loss.item()} at step {self.global_step}", "training", "lower the learning rate")
        # Counted here, before any callback saves: what is saved is what was consumed.
        self.trainer.datamodule.consumed += self.trainer.datamodule.batch_size  # type: ignore[attr-defined]
        self.log("loss", loss.detach(), prog_bar=True)
        if self.global_step % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._describe("train", batch, logits.detach(), ids, answers, per_sample.detach())
        return loss

    def _describe(self, stage: str, batch, logits, ids, answers: Answers, per_sample) -> None:
        """Logs per-source losses, counts and accuracies, and what the action tokens are off by."""
        values: dict[str, Any] = {}
        right = logits.argmax(-1) == ids
        rows = answers.row[answers.of]
        whole = answers.mean(right.float()) == 1
        for number, name in enumerate(self.source_names):
            mine = batch["source"] == number
            if mine.any():
                values[f"{name}_loss"] = per_sample[mine].mean()
                values[f"{name}_count"] = mine.sum().float()
                if any(hasattr(batch["items"][i], "questions") for i in mine.nonzero()[:1, 0]):
                    values[f"{name}_question_accuracy"] = whole[mine[answers.row]].float().mean()
        robot = torch.tensor([hasattr(item, "instruction") for item in batch["items"]], device=ids.device)
        bins = self._bins[ids]
        # The actions are the last tokens of a robot's answer, the plan stands before them.
        left = torch.bincount(answers.of).cumsum(0)[answers.of] - torch.arange(len(ids), device=ids.device)
        width = self.contract.embodiment().action.size + self.contract.terminate
        acting = [int(item.mask.sum()) * width if hasattr(item, "mask") else 0 for item in batch["items"]]
        action = left <= torch.tensor(acting, device=ids.device)[rows]
        if action.any():
            said = self._integers[logits[action][:, self._integers].argmax(-1)]
            values["action_token_accuracy"] = right[action].float().mean()
            values["action_bin_error"] = (self._bins[said] - bins[action]).abs().float().mean()
            # In units of half an action's range, so that dimensions can be averaged.
            values["action_l1"] = values["action_bin_error"] * 2 / len(self._integers)
            if stage == "val":
                values["valid_mass"] = allowed_mass(logits[action], self._integers).mean()
        plan = robot[rows] & ~action
        if plan.any():
            values["plan_token_accuracy"] = right[plan].float().mean()
        train = stage == "train"
        self.log_dict(
            {f"{stage}/{k}": v for k, v in values.items()}, on_step=train, on_epoch=not train, batch_size=len(per_sample)
        )

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        logits, ids, answers = self._score(batch)
        self._describe("val", batch, logits, ids, answers, answers.mean_by_row(self._loss(logits, ids)))

    def test_step(self, batch: dict[str, Any], _: int) -> None:
        """Rolls out in the simulator."""
        rates = roll_out(self.evaluate, self, self.test_episodes, batch=2)
        self.log_dict({f"test/{name}": value for name, value in rates.items()}, batch_size=self.test_episodes)

    def predict_step(self, batch: dict[str, Any], _: int) -> list[dict[str, Any]]:
        """Writes actions for the batch's robot samples: decoded chunk and truth, physical units."""
        from vla.models.decode import generate

        rows = []
        prompt = self.examples.batch([_prompt(self.examples.robot(item)) for item in batch["items"]])
        out = generate(
            self.model,
            prompt["input_ids"],
            prompt["prefix_mask"],
            prompt["attention_mask"],
            prompt["pixel_values"],
            allowed=self.examples.allowed(),
        )
        for item, ids in zip(batch["items"], out.ids, strict=True):
            chunk = self.examples.chunk(ids.numpy())
            rows.append(
                {
                    "episode": item.episode,
                    "step": item.step,
                    "instruction": item.instruction,
                    "actions": chunk.actions.round(5).tolist(),
                    "truth": item.actions[item.mask].round(5).tolist(),
                }
            )
        return rows

    def on_train_batch_start(self, *_: Any) -> None:
        now = time.perf_counter()
        self._waiting += now - self._left if self._left else 0.0
        self._left = now

    def on_train_batch_end(self, *_: Any) -> None:
        now = time.perf_counter()
        self._working += now - self._left
        self._left = now
        if self.global_step % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.log("train/data_wait", self._waiting / max(self._waiting + self._working, 1e-9))
            self._waiting = self._working = 0.0

    def on_validation_start(self) -> None:
        self._left = 0.0

    def on_validation_end(self) -> None:
        self._left = 0.0

    def configure_optimizers(self) -> Any:
        table = self.model.get_input_embeddings().weight
        trained = [p for p in self.model.parameters() if p.requires_grad]
        plain = [p for p in trained if p.ndim < 2 or p is table]
        decayed = [p for p in trained if not any(p is q for q in plain)]
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, betas=(0.9, 0.95), fused=True)
        total = int(self.trainer.estimated_stepping_batches)

        def rate(step: int) -> float:
            if step < self.warmup:
                return (step + 1) / self.warmup
            done = min((step - self.warmup) / max(total - self.warmup, 1), 1.0)
            return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        """Clips by norm; Lightning's own refuses fused optimizers under mixed precision, although bf16 scales nothing."""
        if gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), gradient_clip_val)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["contract"] = self.contract.to_dict()
        checkpoint["vlm"] = describe_model(self.model, self.processor)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "contract" not in checkpoint:
            raise UserError("the checkpoint holds no contract", "checkpoint", "only checkpoints of `vla fit` can be used")
        saved = PolicyContract.from_dict(checkpoint["contract"], "checkpoint")
        saved.require(self.contract, "the checkpoint", "this configuration")


def _prompt(example):
    """The part of a training example before the answer."""
    return dataclasses.replace(example, sequence=example.sequence[: example.sequence.prefix])
