"""`vla fit | validate | test | predict`: Lightning's command line with one contract and one mixture behind it."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace, namespace_to_dict
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from transformers import PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar, enable_progress_bar

from vla import hub
from vla.checkpoint import read_checkpoint
from vla.datasets.card import DatasetCard
from vla.datasets.questions import QuestionSource
from vla.datasets.sources import Source
from vla.errors import UserError
from vla.models.tiny.from_scratch import HALVES
from vla.sequences.encode import Encoder
from vla.training.callbacks import RolloutCallback, StepProgress
from vla.training.checks import check_folders, check_prompts, check_seed, check_smoothing, check_trainer
from vla.training.contract import ContractOptions, add_tokens, configured, resolve, with_default_chat, with_tokens
from vla.training.data import VLAData
from vla.training.duration import Duration, validation_interval
from vla.training.model_card import made_of
from vla.training.module import VLAModule
from vla.training.quiet import leave_out_noise
from vla.training.records import RunFiles, keep_rows
from vla.training.rollouts import Evaluate
from vla.training.saving import Checkpoints, WholeFiles, claimed, damage, newest


def fast_bf16() -> bool:
    """Whether this machine computes bf16 faster than fp32 (CPU: avx512_bf16 or AMX, measured 1.3 to 1.5 times in training)."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What training needs of parts that it does not know.

    Attributes:
        evaluator: makes from the data's cards the function that rolls a policy out.
        tokenizer: makes the tokenizer of a new small model (`model.vlm: new`).
        collect: collects data that a configuration's `collect` section describes and that is missing.
        options: the dataclass of one entry of that section.
        card: checks an entry, and makes the card that the collected data will have, without statistics.
    """

    evaluator: Callable[[list[DatasetCard]], Evaluate]
    tokenizer: Callable[[], PreTrainedTokenizerBase]
    collect: Callable[[Any], dict[str, int]]
    options: type
    card: Callable[[Any], DatasetCard]


class Maker:
    """Makes objects for the parser, and keeps the last error: the parser makes text of it where a setting may have several types.

    Attributes:
        error: the error; None if there was none.
        where: the name of the class that raised it.
    """

    error: Exception | None = None
    where = ""

    def __call__(self, kind: type, *arguments: Any, **settings: Any) -> Any:
        try:
            return kind(*arguments, **settings)
        except Exception as error:
            self.error, self.where = error, kind.__name__
            raise


class VLACLI(LightningCLI):
    """Lightning's command line. It resolves the contract against the data's cards before model and data are used, and hands the
    same contract to both."""

    def __init__(self, argv: list[str], hooks: Hooks, held: contextlib.ExitStack):
        self._command, self._hooks, self._held = argv[0], hooks, held
        super().__init__(
            VLAModule,
            VLAData,
            args=argv,
            seed_everything_default=0,
            save_config_callback=RunFiles,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={
                "prog": "vla",
                "description": "Trains and checks policies.",
                # It would print all options above its one line.
                **dict.fromkeys(self.subcommands(), {"exit_on_error": False}),
                "exit_on_error": False,
            },
        )

    def subcommands(self) -> dict[str, set[str]]:
        """The one that runs: preparing the options of the others would take most of the time of parsing."""
        return {self._command: LightningCLI.subcommands()[self._command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(ContractOptions, "contract")
        parser.add_argument(
            "--collect",
            type=dict[str, self._hooks.options] | None,
            default=None,
            help="Data to collect if its folder is not there yet.",
        )
        parser.add_argument("--export", type=str, default="", help="Folder that gets the export after fitting.")
        help_text = "Held-out episodes on which the export is evaluated after fitting; 0 leaves it out."
        parser.add_argument("--evaluate", type=int, default=8, help=help_text)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        super().parse_arguments(parser, args)
        check_seed(self.config[self.config.subcommand].seed_everything)

    def _parse_ckpt_path(self) -> None:
        """Lightning would read hyperparameters from the checkpoint. Ours are in its contract, which is checked on loading."""

    def _dump_config(self) -> None:
        """Lightning would write the whole configuration and read it again, for hyperparameters, which we do not save."""
        self.config_dump: dict[str, Any] = {}

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand] if self.subcommand else self.config
        _pin(config)
        if config.trainer.precision is None and fast_bf16():
            config.trainer.precision = "bf16-mixed"
        if self.subcommand == "fit":
            bar = config.trainer.enable_progress_bar is not False
            self.trainer_defaults["callbacks"] = [Duration(), *([StepProgress()] if bar else [])]
        # `Duration` says how large the model is, in a line.
        config.trainer.enable_model_summary = bool(config.trainer.enable_model_summary)
        if config.trainer.check_val_every_n_epoch is None:
            config.trainer.val_check_interval = validation_interval(
                config.trainer.val_check_interval, config.trainer.max_steps, config.trainer.accumulate_grad_batches
            )
        # The data module shares rows between ranks itself.
        config.trainer.use_distributed_sampler = False
        torch.set_float32_matmul_precision("high")

    def instantiate_classes(self) -> None:
        """Makes everything, in an order that refuses what can be refused before data are collected, which takes minutes."""
        self._construct()
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Checkpoints) and callback.dirpath is None:
                callback.dirpath = str(Path(self.trainer.default_root_dir).resolve() / "checkpoints")
        fits = self.subcommand == "fit"
        check_trainer(self.trainer)
        check_folders(self.trainer, fits)
        config = self.config[self.subcommand] if self.subcommand else self.config
        if fits and config.export:
            from vla.training.export import check_export_folder

            check_export_folder(config.export, "--export")
            if config.evaluate < 0:
                raise UserError(f"{config.evaluate} episodes", "--evaluate", "give at least 0; 0 leaves the evaluation out")
        saved = self._find_checkpoint()
        options = ContractOptions(**vars(self._get(self.config_init, "contract")))
        if saved and not options.decode:
            # A resumed run keeps its statistic. Decoding does not affect training, and the default may have changed since.
            options = dataclasses.replace(options, decode=saved.get("decode", "mode"))
        if saved:
            # A run of an earlier version goes on as it began: its contract knows no binary dimensions.
            binary = any(any(robot["action"].get("binary", ())) for robot in saved["embodiments"].values())
            options = dataclasses.replace(options, binary=options.binary and binary)
        missing, sources = missing_data(config.collect, self._hooks), self.datamodule.sources
        cards = cards_of(sources, {folder: card for folder, (_, card) in missing.items()})
        contract = configured(options, cards)
        self._prepare_rollouts(cards)
        check_smoothing(contract, self.model.bin_smoothing)
        if fits:
            self.datamodule.check(contract, self.trainer.world_size)
        self.model.build(self._hooks.tokenizer, contract.history, len(contract.embodiment().cameras))
        # One bar is enough: what is loaded and written at the end of a run is the same again.
        disable_progress_bar()
        self._held.callback(enable_progress_bar)
        if fits:
            self.model.check_learning()
        options = with_default_chat(options, self.model.processor)
        contract = configured(options, cards)
        check_prompts(contract, self.model.family, sources)
        for collect, _ in missing.values():
            self._hooks.collect(collect)
        contract = resolve(options, self.datamodule.cards(), sources)
        if not options.source:
            contract = with_tokens(contract, self.model.model, self.model.processor.tokenizer)
            check_smoothing(contract, self.model.bin_smoothing)
        asks = any(isinstance(source, QuestionSource) for source in sources.values())
        add_tokens(contract, self.model.model, self.model.processor.tokenizer, asks)
        encoder = Encoder(contract, self.model.family)
        self.model.adapt(encoder)
        self.datamodule.bind(encoder)
        self.model.bind(encoder, list(sources))
        self.trainer.strategy.checkpoint_io = WholeFiles()
        keep_rows(self.trainer)

    def _construct(self) -> None:
        """Makes the objects that the configuration names.

        Raises:
            UserError: one of them, or the trainer, refuses a setting.
        """
        maker = Maker()
        self.parser.add_instantiator(maker, object)
        try:
            super().instantiate_classes()
        except (TypeError, ValueError) as error:
            refusal = maker.error
            if refusal is None or str(refusal).partition("\n")[0] not in str(error):
                raise UserError(in_one_line(error), "trainer") from error
            if not isinstance(refusal, UserError | MisconfigurationException | TypeError | ValueError):
                raise refusal from None
            raise refusal if isinstance(refusal, UserError) else UserError(in_one_line(refusal), maker.where) from error

    def _prepare_rollouts(self, cards: dict[str, DatasetCard]) -> None:
        """Finds the data's simulator if something will be rolled out: a missing one is reported now, not hours later."""
        callbacks = [c for c in self.trainer.callbacks if isinstance(c, RolloutCallback)]  # type: ignore[attr-defined]
        if self.subcommand == "test" and self.model.test_episodes < 1:
            raise UserError(f"test_episodes {self.model.test_episodes}", "model", "give at least 1")
        if callbacks or self.subcommand == "test":
            evaluate = self._hooks.evaluator(list(cards.values()))
            for part in (self.model, *callbacks):
                part.evaluate = evaluate

    def _find_checkpoint(self) -> dict[str, Any] | None:
        """Replaces "last" by the newest undamaged checkpoint, and refuses a damaged one.

        Returns:
            The contract in the checkpoint, as a dict; None if the run starts from the beginning.
        """
        config: Namespace = self.config_init[self.subcommand] if self.subcommand else self.config_init  # type: ignore[assignment]
        if not getattr(config, "ckpt_path", None):
            return None
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        folders = [Path(c.dirpath) for c in callbacks if isinstance(c, Checkpoints) and c.monitor == "step" and c.dirpath]
        folder = folders[0] if folders else Path(self.trainer.default_root_dir) / "checkpoints"
        if config.ckpt_path == "last":
            path = newest(folder)
            if path is None and self.subcommand != "fit":
                raise UserError("no checkpoint", str(folder), "name one with --ckpt_path")
            print(f"resuming from {path}" if path else f"no checkpoint in {folder} yet: starting anew", flush=True)
            config.ckpt_path = str(path) if path else None
            if not path:
                return None
        elif Path(config.ckpt_path).is_file() and (wrong := damage(Path(config.ckpt_path))):
            raise UserError(
                f"the checkpoint is damaged: {wrong}", config.ckpt_path, "--ckpt_path last takes the newest whole one"
            )
        # The weights are not read yet.
        return read_checkpoint(str(config.ckpt_path), mmap=True)["contract"]

    def before_fit(self) -> None:
        """Claims the folders that this run writes checkpoints into, until it ends, and tells the model how it is made."""
        config = self.config[str(self.subcommand)]
        self.model.made = made_of(namespace_to_dict(config.data), config.model.vlm)
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        folders = {str(c.dirpath) for c in callbacks if isinstance(c, Checkpoints) and "://" not in str(c.dirpath)}
        for folder in sorted(folders) if self.trainer.is_global_zero else ():
            self._held.enter_context(claimed(Path(folder)))

    def after_fit(self) -> None:
        config = self.config[str(self.subcommand)]
        if not config.export or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        # On all ranks: each may have a part of the weights.
        checkpoint = {"state_dict": self.trainer.strategy.lightning_module_state_dict()}
        if self.trainer.is_global_zero:
            from vla.training.finish import finish

            self.model.on_save_checkpoint(checkpoint)
            data = namespace_to_dict(config.data)
            bar = config.trainer.enable_progress_bar is not False
            finish(config.export, checkpoint, data, self.datamodule.sources, config.evaluate, config.model.vlm, bar)


def missing_data(collect: dict[str, Any] | None, hooks: Hooks) -> dict[Path, tuple[Any, DatasetCard]]:
    """What is to be collected: folder -> its options, and the card that it will have, without statistics.

    Raises:
        UserError: it cannot be collected.
    """
    missing = {}
    for chosen in (collect or {}).values():
        # As parsed, or already made by the parser.
        kind = hooks.options
        options = chosen if isinstance(chosen, kind) else kind(**vars(chosen))
        if not (Path(options.out) / "card.yaml").is_file():
            # A folder without a card is what an interrupted run left; a policy's round goes on.
            options = dataclasses.replace(options, overwrite=not options.policy)
            missing[Path(options.out).resolve()] = options, hooks.card(options)
    return missing


def cards_of(sources: Mapping[str, Source[Any]], missing: Mapping[Path, DatasetCard]) -> dict[str, DatasetCard]:
    """The card of each source that has one, or will have one.

    Args:
        missing: folder -> the card that it will have.

    Raises:
        UserError: there is none, or it is of another kind of data.
    """
    cards = {}
    for name, source in sources.items():
        card = missing.get(Path(source.folder).resolve())
        if card and card.kind != source.kind:
            raise UserError(f"{source.folder} gets {card.kind} data, not {source.kind}", f"data.sources.{name}")
        cards[name] = source.described(card) if card else source.card
    return {name: card for name, card in cards.items() if card}


def _pin(config: Namespace) -> None:
    """Writes the commit behind every address on the hub: the run's configuration then says what was read."""
    if isinstance(vlm := config.model.get("vlm"), str):
        config.model.vlm = hub.pinned_policy(vlm)
    elif vlm is not None:
        parts = vlm.get("init_args", vlm)
        for name in ("tokenizer", *HALVES):
            if parts.get(name):
                parts[name] = hub.pinned_policy(parts[name])
    if source := config.contract.get("source"):
        config.contract.source = hub.pinned_policy(source)
    for source in (config.data.get("sources") or {}).values():
        settings = source.get("init_args") or {}
        for name in ("folder", "urls"):
            if isinstance(settings.get(name), str):
                settings[name] = hub.pinned(settings[name])


def _raised_by(error: Exception, package: str) -> bool:
    """Whether a module of the package raised the error."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).partition(".")[0] == package


def in_one_line(error: Exception) -> str:
    """What another package's error says, without line breaks and the addresses of objects."""
    return re.sub(r" object at 0x[0-9a-f]+", "", " ".join(str(error).split()))


def main(argv: list[str], hooks: Hooks) -> None:
    """Runs one of Lightning's subcommands.

    Raises:
        UserError: a user's mistake, reported by us or by Lightning.
    """
    leave_out_noise()
    try:
        with contextlib.ExitStack() as held:
            VLACLI(argv, hooks, held)
    except MisconfigurationException as error:
        raise UserError(in_one_line(error), "trainer") from error
    except ModuleNotFoundError as error:
        # A logger or the like that a configuration names; our own dependencies are installed.
        raise UserError(
            f"not installed: {str(error).splitlines()[0]}", "the configuration", "install it, or name another"
        ) from error
    except (ValueError, RuntimeError) as error:
        if not _raised_by(error, "lightning"):
            raise
        # Its checks of data and logged values, made when it has them.
        raise UserError(in_one_line(error), "trainer") from error
    except Exception as error:
        if type(error).__name__ != "UsageError":
            raise
        # Of Weights & Biases, e.g. without a key.
        raise UserError(in_one_line(error), "trainer.logger") from error
