"""The Lightning module: one cross-entropy over everything that the model should write, robot actions and answers alike."""

from __future__ import annotations

import dataclasses
import math
import shutil
import sys
from collections.abc import Callable
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, ProcessorMixin

from vla.checkpoint import describe_model
from vla.contract import PolicyContract
from vla.errors import UserError
from vla.evaluation.offline.replay import BATCH
from vla.models.adapters import Lora, add_lora, check_lora, with_token_rows
from vla.models.blocks import blocks, compute_again, gathered, shard
from vla.models.families.base import ModelFamily
from vla.models.families.find import family_of
from vla.models.four_bit import Quantise, check_quantised, check_same, loading, quantised, without_scales
from vla.models.load import load_vlm
from vla.models.logprobs import scored
from vla.models.tiny.from_scratch import SHORT, VLMSpec
from vla.policies.local import LocalPolicy
from vla.sequences.encode import Encoder
from vla.training.answers import ActionTokens, Answers
from vla.training.batch import TrainingBatch
from vla.training.clock import WaitClock
from vla.training.decoded import decode, decoded_errors
from vla.training.measure import Measure, Sums, means, merge
from vla.training.optimizer import (
    OptimizerName,
    check_optimizer,
    freeze,
    make_optimizer,
    name_states,
    parameter_groups,
    warm_up_then_cosine,
)
from vla.training.rollouts import Evaluate, roll_out

Nothing = dict[str, None]
"""The empty batch of `vla test`."""


class VLAModule(L.LightningModule):
    """Co-fine-tunes a vision-language model.

    The loss of an answer is the mean cross-entropy of its scored tokens. The loss of a sample is the mean over its answers times
    the loss weight of its source. The loss of a batch is the mean over its samples, divided by the mean weight.

    Args:
        vlm: "tiny", OWNER/NAME of a model on the hub, a folder that `vla export` or `save_pretrained` wrote, "scratch" (the
            structure and tokenizer of `tiny` with random weights), "new" (the same with a new tokenizer), or the specification of
            a small model.
        learning_rate: the peak. The rate rises linearly to it, then falls along a cosine to 2 % of it.
        warmup: optimizer steps until the peak; a number below 1 is a share of all steps, e.g. 0.03 of max_steps.
        weight_decay: of matrices; vectors and embeddings have none.
        bin_smoothing: standard deviation, in bins, of the Gaussian that integer targets are smoothed with; 0 is none.
        freeze: names of parameters that do not learn, as regular expressions that match from the start, e.g. "vision"; with [:N]
            at the end, only the first N rows of a matrix, e.g. "language.embed_tokens[:49152]".
        rates: regular expression -> factor of the learning rate, e.g. {vision: 0.1}; the first that matches holds.
        optimizer: adamw, or adamw8bit (bitsandbytes; needs a GPU).
        gradient_checkpointing: saves memory for a third more computation.
        lora: adapters that learn in place of the weights.
        test_episodes: number of episodes that `vla test` rolls out.
        trust_remote_code: whether code that comes with the weights may run.
        quantise: 4bit holds the model's own weights in 4 bits (QLoRA; bitsandbytes), below adapters that learn.
        compile: compiles each block of the model for the training step (torch.compile; needs a C++ compiler on a CPU). The first
            steps take minutes.
    """

    evaluate: Evaluate | None = None

    contract: PolicyContract
    encoder: Encoder
    family: ModelFamily
    model: PreTrainedModel
    processor: ProcessorMixin
    source_names: list[str]

    def __init__(
        self,
        vlm: str | VLMSpec = "tiny",
        learning_rate: float = 1e-3,
        warmup: int | float = 100,
        weight_decay: float = 0.05,
        bin_smoothing: float = 0.0,
        freeze: list[str] | None = None,
        rates: dict[str, float] | None = None,
        optimizer: OptimizerName = "adamw",
        gradient_checkpointing: bool = False,
        lora: Lora | None = None,
        test_episodes: int = 40,
        trust_remote_code: bool = False,
        quantise: Quantise = "",
        compile: bool = False,
    ):
        super().__init__()
        if learning_rate <= 0 or warmup < 0:
            raise UserError(f"learning_rate {learning_rate}, warmup {warmup}", "model", "a rate above 0, a warm-up of at least 0")
        if min(weight_decay, bin_smoothing, *(rates or {}).values()) < 0:
            what = f"weight_decay {weight_decay}, bin_smoothing {bin_smoothing}, rates {rates or {}}"
            raise UserError(what, "model", "give no number below 0")
        self.vlm, self.learning_rate, self.warmup, self.weight_decay = vlm, learning_rate, warmup, weight_decay
        self.bin_smoothing, self.test_episodes, self.trust_remote_code = bin_smoothing, test_episodes, trust_remote_code
        self.freeze_names, self.rates = freeze or [], rates or {}
        self.optimizer: OptimizerName = optimizer
        self.gradient_checkpointing, self.lora = gradient_checkpointing, lora or Lora()
        self.clock, self._logged, self._steps = WaitClock(), 0, 0
        if quantise and not self.lora.rank:
            raise UserError("weights in 4 bits do not learn in full", "model.quantise", "set model.lora.rank, e.g. 16")
        self.quantise, self.compile_blocks, self._compiled = quantise, compile, False
        self.made: dict[str, Any] = {}  # how, for the model card: `model_card.made_of`

    def build(self, tokenizer: Callable[[], Any] | None = None, history: int = 1, cameras: int = 2) -> None:
        """Loads the model and its processor, or makes new ones.

        Args:
            tokenizer: makes the tokenizer of `vlm: new`.
            history: images per camera, as the contract has it.
            cameras: number of cameras that a new model sees.
        """
        chosen = SHORT.get(self.vlm, self.vlm) if isinstance(self.vlm, str) else self.vlm
        if isinstance(chosen, VLMSpec):
            if self.quantise:
                raise UserError("new weights in 4 bits do not learn", "model.quantise", "name a trained model as model.vlm")
            self.model, self.processor = chosen.make(tokenizer, history, cameras)
        else:
            # Published in bf16, they would learn in bf16: steps of a small learning rate would be lost in rounding.
            options: dict[str, Any] = loading() if self.quantise else {"dtype": torch.float32}
            self.model, self.processor = load_vlm(chosen, self.trust_remote_code, history, **options)
            check_quantised(self.model, self.lora.rank, str(chosen))
            if getattr(self.model.config, "int8", False):
                raise UserError("integer weights do not learn", chosen, "train from an export of another dtype")
        self.family = family_of(self.model, self.processor)
        if self.gradient_checkpointing:
            compute_again(self.model)
        freeze(self.model, self.freeze_names)

    def check_learning(self) -> None:
        """Raises UserError if the parameters cannot learn as they are to: no parameter or layer matches, or a package lacks."""
        self._groups()
        check_optimizer(self.optimizer)
        if self.compile_blocks and not torch.cuda.is_available() and not any(map(shutil.which, ("c++", "g++", "clang++"))):
            raise UserError("there is no C++ compiler", "model.compile", "install g++, or leave compile out")
        check_lora(self.model, self.lora)

    def adapt(self, encoder: Encoder) -> None:
        """Adds the adapters and freezes what does not learn. Called once, after tokens have been added."""
        own_words = getattr(self.model.config, "own_words", 0)
        self.lora = with_token_rows(self.lora, encoder.contract, encoder.vocabulary, own_words)
        self.model = add_lora(self.model, self.lora)
        freeze(self.model, self.freeze_names)
        self.model.train()

    def _groups(self) -> list[dict[str, Any]]:
        return parameter_groups(self.model, self.learning_rate, self.weight_decay, self.rates)

    def bind(self, encoder: Encoder, source_names: list[str]) -> None:
        """Takes the contract's encoder and the names of the sources. Called once, after `build`."""
        self.encoder, self.contract, self.source_names = encoder, encoder.contract, source_names
        words: torch.Tensor = self.model.get_input_embeddings().weight  # type: ignore[assignment]
        self.tokens = ActionTokens(self.encoder, len(words))
        self.measure = Measure(self.encoder, self.tokens, source_names)

    def _score(self, batch: TrainingBatch, model: PreTrainedModel | None = None) -> tuple[torch.Tensor, torch.Tensor, Answers]:
        """Logits [N, V] of the scored tokens, their ids [N], and the answer that each belongs to."""
        inputs, labels = batch.sequences.inputs, batch.sequences.labels
        positions = scored(labels)
        sharded = None if model else getattr(self.model, "sharded_score", None)
        logits = sharded(inputs, positions) if sharded else self.family.score(model or self.model, inputs, positions)
        return logits, labels[:, 1:][positions[:, :-1]], Answers(positions, inputs.branch)

    def _loss(self, logits: torch.Tensor, ids: torch.Tensor, batch: TrainingBatch, answers: Answers) -> torch.Tensor:
        """The loss of each row, [B]."""
        return answers.mean_by_row(self.tokens.loss(logits, ids, self.bin_smoothing, batch.sequences, answers))

    def loss_of(self, model: PreTrainedModel, batch: TrainingBatch) -> torch.Tensor:
        """The loss of a batch with another model of the same structure; nothing is logged."""
        logits, ids, answers = self._score(batch, model)
        return (self._loss(logits, ids, batch, answers) * batch.weight).mean()

    def training_step(self, batch: TrainingBatch, _: int) -> torch.Tensor:
        logits, ids, answers = self._score(batch)
        per_sample = self._loss(logits, ids, batch, answers)
        # Over all ranks: every rank divides by the same weight.
        weight = self.trainer.strategy.reduce(batch.weight.mean(), reduce_op="mean")
        loss = (per_sample * batch.weight).mean() / weight
        if not torch.isfinite(loss):
            raise UserError(f"the loss is {loss.item()} at step {self.global_step}", "training", "lower the learning rate")
        self.log("loss", loss.detach(), prog_bar=True)
        # This is the step after which Lightning logs.
        if self._logs(self.global_step + 1):
            sums = self.measure(batch, logits.detach(), ids, answers, per_sample.detach(), mass=False)
            self._log_means("train", [sums])
            self.log_dict(self.trainer.datamodule.drawn(), batch_size=len(per_sample))  # type: ignore[attr-defined]
        return loss

    def _logs(self, step: int) -> bool:
        """Whether something is logged after this step; `log_every_n_steps: 0` logs nothing."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return bool(every) and step % every == 0

    def gradients_by_source(self, batch: TrainingBatch) -> dict[str, torch.Tensor | None]:
        """The gradient [P] of each source's mean loss; None where the batch has no sample of it. Changes no `.grad`."""
        logits, ids, answers = self._score(batch)
        per_sample = self._loss(logits, ids, batch, answers)
        learning = [p for p in self.model.parameters() if p.requires_grad]
        gradients: dict[str, torch.Tensor | None] = {}
        for number, name in enumerate(self.source_names):
            mine = batch.source == number
            gradients[name] = None
            if mine.any():
                parts = torch.autograd.grad(per_sample[mine].mean(), learning, retain_graph=True, allow_unused=True)
                flat = [torch.zeros_like(p) if g is None else g for p, g in zip(learning, parts, strict=True)]
                gradients[name] = torch.cat([g.flatten() for g in flat])
        return gradients

    def _log_means(self, prefix: str, sums: list[Sums]) -> None:
        """Logs means over the samples of all ranks."""
        if self.trainer.world_size > 1:
            gathered: list[Sums] = [{}] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, merge(sums))
            sums = gathered
        self.log_dict({f"{prefix}/{name}": v for name, v in means(merge(sums)).items()}, batch_size=1)

    def on_validation_epoch_start(self) -> None:
        """Decodes the fixed held-out steps, as a policy would: after no true token, and without autocast."""
        # In this hook already: averaged weights are in their place until the epoch's end.
        rows = self.trainer.datamodule.decoded(self.device_mesh is not None)  # type: ignore[attr-defined]
        policy = LocalPolicy(self.model, self.processor, self.contract, BATCH, encoder=self.encoder)
        with gathered(self.model):
            self._sums = [decoded_errors(policy, rows) if rows else {}]

    def validation_step(self, batch: TrainingBatch, _: int) -> None:
        logits, ids, answers = self._score(batch)
        losses = self._loss(logits, ids, batch, answers)
        self._sums.append(self.measure(batch, logits, ids, answers, losses, mass=True))

    def on_validation_epoch_end(self) -> None:
        """Logs means over the held-out samples of all ranks."""
        self._log_means("val", self._sums)

    def test_step(self, batch: TrainingBatch, _: int) -> None:
        """Rolls the policy out in the simulator."""
        rates = roll_out(self.evaluate, self, self.test_episodes, batch=2)
        self.log_dict({f"test/{name}": value for name, value in rates.items()}, batch_size=self.test_episodes)

    def on_predict_start(self) -> None:
        rows = self.trainer.datamodule.batch_size  # type: ignore[attr-defined]
        self._policy = LocalPolicy(self.model, self.processor, self.contract, rows, encoder=self.encoder)

    def predict_step(self, batch: TrainingBatch, _: int) -> list[dict[str, Any]]:
        """Decodes actions for the batch's robot samples: written and true chunk in physical units, the plan, and a `status`
        where the answer was malformed."""
        return [
            {
                "episode": sample.episode,
                "step": sample.step,
                "instruction": sample.instruction,
                "actions": chunk.actions.round(5).tolist(),
                "truth": sample.actions[sample.mask].round(5).tolist(),
                "status": chunk.status,
                **({"plan": chunk.plan} if chunk.plan else {}),
            }
            for sample, chunk in decode(self._policy, zip(batch.samples, batch.weight.tolist(), strict=True))
        ]

    def transfer_batch_to_device(
        self, batch: TrainingBatch | Nothing, device: torch.device, dataloader_idx: int
    ) -> TrainingBatch | Nothing:
        """Moves the tensors; Lightning's own would also copy every sample, field by field."""
        return batch.to(device) if isinstance(batch, TrainingBatch) else batch

    def on_train_start(self) -> None:
        """Says so if a resumed run has another number of steps than before: the learning rate may jump."""
        scheduler: LambdaLR = self.trainer.lr_scheduler_configs[0].scheduler  # type: ignore[assignment]
        step, peak = scheduler.last_epoch, max(scheduler.base_lrs)
        before, now = max(scheduler.get_last_lr()), peak * scheduler.lr_lambdas[0](step)
        total = int(self.trainer.estimated_stepping_batches)
        changed = self._steps not in (0, total) or not math.isclose(before, now, rel_tol=1e-6)
        if changed and self.trainer.is_global_zero:
            change = f"at step {step} it goes from {before:.3g} to {now:.3g}"
            print(f"note: max_steps has changed: the learning rate now falls until step {total}; {change}", file=sys.stderr)

    def on_train_batch_start(self, batch: TrainingBatch, batch_idx: int) -> None:
        # Random draws (dropout …) depend on the batch and the rank, not on earlier draws: a resumed run draws the same.
        entropy = (self.trainer.datamodule.seed, batch.first, self.global_rank)  # type: ignore[attr-defined]
        torch.manual_seed(np.random.SeedSequence(entropy).generate_state(1)[0].item())
        self.clock.arrived()
        if self._compiled:
            torch.compiler.set_stance("default")

    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: TrainingBatch, batch_idx: int) -> None:
        self.clock.done()
        if self._compiled:
            # Decoding has other shapes at every step: it would be compiled again and again.
            torch.compiler.set_stance("force_eager")
        # Once per logged step, not for each of the batches that are accumulated for the next one.
        if self.global_step != self._logged and self._logs(self.global_step):
            self._logged = self.global_step
            self.log("train/data_wait", self.clock.take())

    def on_validation_start(self) -> None:
        self.clock.restart()

    def on_validation_end(self) -> None:
        self.clock.restart()

    def configure_model(self) -> None:
        """Shards the model if the strategy is ModelParallelStrategy (FSDP2): each block by itself, then the rest. Compiles the
        blocks if they are to be."""
        if self.device_mesh is not None:
            if self.quantise:
                fix = "train with ddp, or leave quantise out"
                raise UserError("4-bit weights cannot be sharded", "model.quantise", fix)
            shard(self.model, self.device_mesh["data_parallel"], self.family)
        if self.compile_blocks and not self._compiled:
            self._compiled = True
            for block in blocks(self.model):
                block.compile()

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.optimizer, self._groups(), fused=self.device_mesh is None)
        total = self.trainer.estimated_stepping_batches
        if not math.isfinite(total):
            raise UserError("the run has no end", "trainer", "set max_steps: the learning rate falls until then")
        factor = warm_up_then_cosine(self.warmup, int(total))
        scheduler = LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        """Clips by norm. Lightning's own refuses fused optimizers under mixed precision, although bf16 scales no gradients."""
        if gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), gradient_clip_val)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["contract"] = self.contract.to_dict()
        checkpoint["vlm"] = describe_model(self.model, self.processor)
        checkpoint["lora"] = dataclasses.asdict(self.lora)
        checkpoint["learning"] = self._learning()
        checkpoint["made"] = self.made
        if self._trainer is not None:
            checkpoint["steps"] = int(self.trainer.estimated_stepping_batches)
        if "optimizer_states" in checkpoint:  # not where weights alone are saved
            states = zip(checkpoint["optimizer_states"], self.trainer.optimizers, strict=True)
            checkpoint["optimizer_states"] = [name_states(state, optimizer, self) for state, optimizer in states]

    def _learning(self) -> dict[str, Any]:
        """The settings that a checkpoint's optimizer state and schedule would silently override."""
        rates = {"learning_rate": self.learning_rate, "warmup": self.warmup, "weight_decay": self.weight_decay}
        return {"freeze": self.freeze_names, "rates": self.rates, "optimizer": self.optimizer, **rates}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "contract" not in checkpoint:
            raise UserError("the checkpoint holds no contract", "checkpoint", "only checkpoints of `vla fit` can be used")
        saved = PolicyContract.from_dict(checkpoint["contract"], "checkpoint")
        saved.require(self.contract, "the checkpoint", "this configuration")
        before = Lora(**checkpoint.get("lora", {}))
        # Of a run of an earlier version no rows are known: none learned.
        if dataclasses.replace(before, rows=before.rows or []) != dataclasses.replace(self.lora, rows=self.lora.rows or []):
            raise UserError(f"the checkpoint has adapters {checkpoint.get('lora')}, now they are {self.lora}", "model.lora")
        if any(quantised(m) for m in self.model.modules()):
            check_same(checkpoint["state_dict"], self.state_dict(), "model.vlm")
            checkpoint["state_dict"] = without_scales(checkpoint["state_dict"])
        if self._trainer is None or not self.trainer.training:
            return
        theirs, ours = checkpoint.get("learning", {}), self._learning()
        differ = [f"{name}: {value}, now {ours.get(name)}" for name, value in theirs.items() if value != ours.get(name)]
        if differ:
            raise UserError(
                f"the checkpoint was trained with {'; '.join(differ)}",
                "model",
                "keep the setting, or start from the weights alone",
            )
        self._steps = checkpoint.get("steps", 0)
        averages = any(isinstance(c, WeightAveraging) for c in self.trainer.callbacks)  # type: ignore[attr-defined]
        if "current_model_state" in checkpoint and not averages:
            raise UserError("the checkpoint has averaged weights", "trainer.callbacks", "resume with vla.training.callbacks.EMA")


def ours(module: L.LightningModule) -> VLAModule:
    """The module of this project, as callbacks are given it."""
    assert isinstance(module, VLAModule)
    return module
