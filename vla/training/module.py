"""The LightningModule: one cross-entropy over everything the model should write, robot actions and answers alike."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import WeightAveraging

from vla.checkpoint import describe_model
from vla.contract import PolicyContract
from vla.datasets.samples import RobotSample
from vla.errors import UserError
from vla.models.adapters import Lora, add_lora
from vla.models.families.base import ModelFamily
from vla.models.families.find import family_of
from vla.models.load import load_vlm
from vla.models.logprobs import scored
from vla.models.tiny.from_scratch import SHORT, VLMSpec
from vla.policies.local import LocalPolicy
from vla.sequences.encode import Encoder
from vla.training.answers import ActionTokens, Answers
from vla.training.batch import TrainingBatch
from vla.training.callbacks import Evaluate, roll_out
from vla.training.clock import WaitClock
from vla.training.measure import Measure, Sums, means, merge
from vla.training.optimizer import OptimizerName, freeze, make_optimizer, name_states, parameter_groups, warm_up_then_cosine


class VLAModule(L.LightningModule):
    """Co-fine-tunes a vision-language model.

    An answer's loss is the mean cross-entropy of its scored tokens, a sample's the mean over its answers times its source's loss
    weight; a batch's is the mean over its samples, divided by the mean weight.

    Args:
        vlm: "tiny", a folder that `vla export` or `save_pretrained` wrote, "scratch" (the structure and tokenizer of `tiny`,
            random weights), "new" (the same with a tokenizer of its own), or a small model of one's own.
        learning_rate: the highest; linear warm-up, then cosine to 2 % of it.
        warmup: optimizer steps.
        weight_decay: of matrices; vectors and embeddings have none.
        bin_smoothing: width (in bins) of the bell over neighbouring integers that integer targets are given; 0 is none.
        freeze: patterns (regular expressions, from the start) of names of parameters that do not learn, e.g. "vision".
        rates: pattern -> factor of the learning rate, e.g. {vision: 0.1}; the first that matches holds.
        optimizer: adamw, or adamw8bit (bitsandbytes; a GPU).
        gradient_checkpointing: less memory for a third more computing.
        lora: adapters in place of all weights.
        test_episodes: episodes that `vla test` rolls out.
        trust_remote_code: whether code that comes with a model's weights may run.
    """

    evaluate: Evaluate | None = None

    contract: PolicyContract
    encoder: Encoder
    family: ModelFamily
    source_names: list[str]

    def __init__(
        self,
        vlm: str | VLMSpec = "tiny",
        learning_rate: float = 1e-3,
        warmup: int = 100,
        weight_decay: float = 0.05,
        bin_smoothing: float = 0.0,
        freeze: list[str] | None = None,
        rates: dict[str, float] | None = None,
        optimizer: OptimizerName = "adamw",
        gradient_checkpointing: bool = False,
        lora: Lora | None = None,
        test_episodes: int = 40,
        trust_remote_code: bool = False,
    ):
        super().__init__()
        if learning_rate <= 0 or warmup < 0:
            raise UserError(f"learning_rate {learning_rate}, warmup {warmup}", "model", "a rate above 0, a warm-up of at least 0")
        self.vlm, self.learning_rate, self.warmup, self.weight_decay = vlm, learning_rate, warmup, weight_decay
        self.bin_smoothing, self.test_episodes, self.trust_remote_code = bin_smoothing, test_episodes, trust_remote_code
        self.freeze_names, self.rates = freeze or [], rates or {}
        self.optimizer: OptimizerName = optimizer
        self.gradient_checkpointing, self.lora = gradient_checkpointing, lora or Lora()
        self.model: Any = None
        self.processor: Any = None
        self.clock, self._logged = WaitClock(), 0

    def build(self, tokenizer: Callable[[], Any] | None = None, history: int = 1, cameras: int = 2) -> None:
        """Loads the model and its processor, or makes new ones.

        Args:
            tokenizer: makes the tokenizer of `vlm: new`.
            history: pictures per camera, the contract's.
            cameras: how many there are; so many a new model sees.
        """
        chosen = SHORT.get(self.vlm, self.vlm) if isinstance(self.vlm, str) else self.vlm
        if isinstance(chosen, VLMSpec):
            self.model, self.processor = chosen.make(tokenizer, history, cameras)
        else:
            self.model, self.processor = load_vlm(chosen, self.trust_remote_code, history)
            if getattr(self.model.config, "int8", False):
                raise UserError("integer weights do not learn", chosen, "train from an export of another dtype")
        self.family = family_of(self.model, self.processor)
        if self.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        self.model = add_lora(self.model, self.lora)
        freeze(self.model, self.freeze_names)
        self.model.train()

    def bind(self, encoder: Encoder, source_names: list[str]) -> None:
        """Takes the encoder of the contract and the names of the sources; called once, after `build`."""
        self.encoder, self.contract, self.source_names = encoder, encoder.contract, source_names
        self.tokens = ActionTokens(self.encoder, int(self.model.get_input_embeddings().weight.shape[0]))
        self.measure = Measure(self.encoder, self.tokens, source_names)

    def _score(self, batch: TrainingBatch) -> tuple[torch.Tensor, torch.Tensor, Answers]:
        """Logits [N, V] of the scored tokens, their ids [N] and which answer each belongs to."""
        inputs, labels = batch.sequences.inputs, batch.sequences.labels
        positions = scored(labels)
        logits = self.family.score(self.model, inputs, positions)
        return logits, labels[:, 1:][positions[:, :-1]], Answers(positions, inputs.branch)

    def _loss(self, logits: torch.Tensor, ids: torch.Tensor, batch: TrainingBatch, answers: Answers) -> torch.Tensor:
        """Per row, [B]."""
        return answers.mean_by_row(self.tokens.loss(logits, ids, self.bin_smoothing, batch.sequences, answers))

    def training_step(self, batch: TrainingBatch, _: int) -> torch.Tensor:
        logits, ids, answers = self._score(batch)
        per_sample = self._loss(logits, ids, batch, answers)
        # Over all ranks: the weights that their losses are divided by are the same.
        weight = self.trainer.strategy.reduce(batch.weight.mean(), reduce_op="mean")
        loss = (per_sample * batch.weight).mean() / weight
        if not torch.isfinite(loss):
            raise UserError(f"the loss is {loss.item()} at step {self.global_step}", "training", "lower the learning rate")
        self.log("loss", loss.detach(), prog_bar=True)
        # In the step after which Lightning logs.
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            found = self.measure(batch, logits.detach(), ids, answers, per_sample.detach(), mass=False)
            self._log_means("train", [found])
            self.log_dict(self.trainer.datamodule.drawn(), batch_size=len(per_sample))  # type: ignore[attr-defined]
        return loss

    def gradients_by_source(self, batch: TrainingBatch) -> dict[str, torch.Tensor | None]:
        """Per source the gradient [P] of its samples' mean loss; None where the batch has none of it. Leaves no trace."""
        logits, ids, answers = self._score(batch)
        per_sample = self._loss(logits, ids, batch, answers)
        learning = [p for p in self.model.parameters() if p.requires_grad]
        found: dict[str, torch.Tensor | None] = {}
        for number, name in enumerate(self.source_names):
            mine = batch.source == number
            found[name] = None
            if mine.any():
                parts = torch.autograd.grad(per_sample[mine].mean(), learning, retain_graph=True, allow_unused=True)
                flat = [torch.zeros_like(p) if g is None else g for p, g in zip(learning, parts, strict=True)]
                found[name] = torch.cat([g.flatten() for g in flat])
        return found

    def _log_means(self, prefix: str, found: list[Sums]) -> None:
        """Logs means over the samples of all ranks."""
        if self.trainer.world_size > 1:
            every: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(every, merge(found))
            found = every
        self.log_dict({f"{prefix}/{name}": v for name, v in means(merge(found)).items()}, batch_size=1)

    def on_validation_epoch_start(self) -> None:
        self._found: list[Sums] = []

    def validation_step(self, batch: TrainingBatch, _: int) -> None:
        logits, ids, answers = self._score(batch)
        losses = self._loss(logits, ids, batch, answers)
        self._found.append(self.measure(batch, logits, ids, answers, losses, mass=True))

    def on_validation_epoch_end(self) -> None:
        """Logs means over all held-out samples, of all ranks."""
        self._log_means("val", self._found)

    def test_step(self, batch: TrainingBatch, _: int) -> None:
        """Rolls out in the simulator."""
        rates = roll_out(self.evaluate, self, self.test_episodes, batch=2)
        self.log_dict({f"test/{name}": value for name, value in rates.items()}, batch_size=self.test_episodes)

    def on_predict_start(self) -> None:
        rows = self.trainer.datamodule.batch_size  # type: ignore[attr-defined]
        self._policy = LocalPolicy(self.model, self.processor, self.contract, rows, encoder=self.encoder)

    def predict_step(self, batch: TrainingBatch, _: int) -> list[dict[str, Any]]:
        """Writes actions for the batch's robot samples: decoded chunk and truth, physical units, plan; `status` says why not."""
        # What weighs nothing stands in for one that cannot be read. The others are acted on as a policy does it, whatever the
        # source's modes.
        rows = zip(batch.samples, batch.weight.tolist(), strict=True)
        samples = [dataclasses.replace(s, mode="") for s, weight in rows if weight and isinstance(s, RobotSample)]
        prompts = [_prompt(self.encoder.robot(sample)) for sample in samples]
        chunks = self._policy.answer(prompts, [(sample.embodiment, "") for sample in samples])
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
            for sample, chunk in zip(samples, chunks, strict=True)
        ]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Moves the tensors; Lightning's own would also copy every sample, field by field."""
        return batch.to(device) if isinstance(batch, TrainingBatch) else batch

    def on_train_start(self) -> None:
        # Only now: a checkpoint of another contract was refused before.
        if self.trainer.is_global_zero:
            self.contract.save(self.trainer.default_root_dir)

    def on_train_batch_start(self, batch: TrainingBatch, batch_idx: int) -> None:
        # Whatever draws (dropout …) does so by the batch and the rank, not by what was drawn before: a resumed run goes on alike.
        entropy = (self.trainer.datamodule.seed, batch.first, self.global_rank)  # type: ignore[attr-defined]
        torch.manual_seed(np.random.SeedSequence(entropy).generate_state(1)[0].item())
        self.clock.arrived()

    def on_train_batch_end(self, *_: Any) -> None:
        self.clock.done()
        # Once per logged step, not for each of the batches that are accumulated until the next.
        if self.global_step != self._logged and self.global_step % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._logged = self.global_step
            self.log("train/data_wait", self.clock.take())

    def on_validation_start(self) -> None:
        self.clock.restart()

    def on_validation_end(self) -> None:
        self.clock.restart()

    def configure_model(self) -> None:
        """Shards the model where the strategy is ModelParallelStrategy (FSDP2): layer by layer, then the rest."""
        if self.device_mesh is None:
            return
        from torch.distributed.fsdp import FSDPModule, fully_shard

        if isinstance(self.model, FSDPModule):
            return
        mesh = self.device_mesh["data_parallel"]
        for layers in [m for m in self.model.modules() if isinstance(m, torch.nn.ModuleList)]:
            for layer in layers:
                fully_shard(layer, mesh=mesh)
        fully_shard(self.model, mesh=mesh)

    def configure_optimizers(self) -> Any:
        groups = parameter_groups(self.model, self.learning_rate, self.weight_decay, self.rates)
        optimizer = make_optimizer(self.optimizer, groups, fused=self.device_mesh is None)
        total = self.trainer.estimated_stepping_batches
        if not math.isfinite(total):
            raise UserError("a run without an end", "trainer", "set max_steps: the learning rate falls until then")
        factor = warm_up_then_cosine(self.warmup, int(total))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        """Clips by norm; Lightning's own refuses fused optimizers under mixed precision, although bf16 scales nothing."""
        if gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), gradient_clip_val)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["contract"] = self.contract.to_dict()
        checkpoint["vlm"] = describe_model(self.model, self.processor)
        checkpoint["lora"] = dataclasses.asdict(self.lora)
        checkpoint["learning"] = self._learning()
        if "optimizer_states" in checkpoint:  # not where weights alone are saved
            states = zip(checkpoint["optimizer_states"], self.trainer.optimizers, strict=True)
            checkpoint["optimizer_states"] = [name_states(state, optimizer, self) for state, optimizer in states]

    def _learning(self) -> dict[str, Any]:
        """What the optimizer's state and the schedule hold: a checkpoint would quietly have the last word."""
        rates = {"learning_rate": self.learning_rate, "warmup": self.warmup, "weight_decay": self.weight_decay}
        return {"freeze": self.freeze_names, "rates": self.rates, "optimizer": self.optimizer, **rates}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "contract" not in checkpoint:
            raise UserError("the checkpoint holds no contract", "checkpoint", "only checkpoints of `vla fit` can be used")
        saved = PolicyContract.from_dict(checkpoint["contract"], "checkpoint")
        saved.require(self.contract, "the checkpoint", "this configuration")
        if checkpoint.get("lora", dataclasses.asdict(Lora())) != dataclasses.asdict(self.lora):
            raise UserError(f"the checkpoint has adapters {checkpoint.get('lora')}, now they are {self.lora}", "model.lora")
        if self._trainer is None or not self.trainer.training:
            return
        theirs, ours = checkpoint.get("learning", {}), self._learning()
        differ = [f"{name}: {value}, now {ours.get(name)}" for name, value in theirs.items() if value != ours.get(name)]
        if differ:
            raise UserError(
                f"the checkpoint learned with {'; '.join(differ)}", "model", "keep it as it was, or start from the weights alone"
            )
        averages = any(isinstance(c, WeightAveraging) for c in self.trainer.callbacks)  # type: ignore[attr-defined]
        if "current_model_state" in checkpoint and not averages:
            raise UserError("the checkpoint has averaged weights", "trainer.callbacks", "go on with vla.training.callbacks.EMA")


def _prompt(example):
    """The part of a training example before the answer."""
    return dataclasses.replace(example, sequence=example.sequence[: example.sequence.prefix], block=0)
