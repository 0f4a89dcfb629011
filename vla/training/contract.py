"""The `contract:` section of a configuration, resolved against the cards of the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vla import hub
from vla.contract import ContractSettings, Embodiment, PolicyContract, StatisticOption
from vla.datasets.card import DatasetCard
from vla.datasets.robot import RobotSource
from vla.datasets.sources import Split
from vla.datasets.steps import load_steps
from vla.errors import UserError
from vla.models.embeddings import append_tokens
from vla.policies.openvla_checkpoint import Checkpoint
from vla.tokenization.action_tokens import HFTokenizer, appended_tokens, chosen_tokens
from vla.tokenization.base import ActionCodec
from vla.tokenization.codecs import action_codec, fitted, settings, with_statistic
from vla.tokenization.vocabulary import INTEGER_WORDS, LOCATION_WORDS

NO_STATE = "Q: what action should the robot take to {instruction}? A:"
"""The prompt by default for robots without proprioception."""
WINDOWS = 20_000
"""The number of chunks per embodiment that a codec is fitted on at most."""


@dataclasses.dataclass(frozen=True)
class ContractOptions(ContractSettings):
    """The `contract:` section; cameras, spaces and statistics come from the data's cards.

    Attributes:
        source: an export (a folder, or OWNER/NAME on the hub) or a published OpenVLA checkpoint, to take the whole contract from:
            fine-tuning keeps its statistics and codec. The rest is then ignored.
        decode: which statistic of the distribution over its values an ordinal token takes: mode, median or local-mean; by
            default the median where anything is ordinal.
        binary: whether an action dimension that has two values in all of the data decodes to one of them.
        tokens: as in `ContractSettings`, or spare; "" is the integers if the tokenizer has one token for each, else spare
            (`vla.tokenization.action_tokens.chosen_tokens`).
        chat: as in `ContractSettings`; by default, if the model has a chat template.
    """

    tokens: str = ""
    chat: bool | None = None  # type: ignore[assignment]
    source: str = ""
    decode: StatisticOption = ""
    binary: bool = True


def configured(options: ContractOptions, cards: dict[str, DatasetCard]) -> PolicyContract:
    """The contract of a run over data with these cards, before anything is fitted on the data.

    Raises:
        UserError: a setting is out of its range, or two sources describe one embodiment differently.
    """
    if options.source:
        published = Checkpoint.find(options.source)
        return published.contract() if published else PolicyContract.load(hub.local(options.source, hub.DESCRIPTIONS))
    if not 0 < options.crop <= 1:
        raise UserError(f"crop {options.crop}", "contract", "give more than 0, and at most 1: no crop")
    if options.bins < 2:
        raise UserError(f"bins {options.bins}", "contract", "give at least 2")
    if not 1 <= options.execute <= options.chunk:
        raise UserError(
            f"execute {options.execute} of chunk {options.chunk}", "contract", "execute at least 1, at most the chunk"
        )
    embodiments = {}
    # Robot cards first: they have the statistics.
    for name, card in sorted(cards.items(), key=lambda item: item[1].kind != "robot"):
        if card.kind == "questions" and embodiments and card.embodiment not in embodiments:
            continue  # images of no robot: they stand in for those of the camera whose name they have
        spec = embodiments.setdefault(card.embodiment, card.spec)
        if spec.cameras != card.spec.cameras:
            raise UserError(
                f"{card.embodiment} has cameras {_names(card)} here and {[c.name for c in spec.cameras]} elsewhere",
                f"source {name}",
                "write the data with the same cameras and sizes",
            )
        if card.kind == "robot" and (spec.action.low, spec.action.high) != (card.spec.action.low, card.spec.action.high):
            raise UserError(f"{card.embodiment} has other action limits than another source", f"source {name}")
    if options.binary:
        robots = [card for card in cards.values() if card.kind == "robot"]
        embodiments = {name: _with_binary(name, spec, robots) for name, spec in embodiments.items()}
    fields = {k: v for k, v in dataclasses.asdict(options).items() if k not in ("source", "decode", "binary")}
    if options.prompt == ContractOptions.prompt and not any(spec.state.names for spec in embodiments.values()):
        fields["prompt"] = NO_STATE
    contract = PolicyContract(embodiments=embodiments, **{**fields, "chat": bool(options.chat)})
    settings(contract)
    return contract


def with_default_chat(options: ContractOptions, processor: Any) -> ContractOptions:
    """The options, where prompts are in the model's chat template if it has one, unless `chat` is given."""
    template = any(getattr(one, "chat_template", None) for one in (processor, processor.tokenizer))
    return dataclasses.replace(options, chat=template if options.chat is None else options.chat)


def with_tokens(contract: PolicyContract, model: PreTrainedModel, tokenizer: HFTokenizer) -> PolicyContract:
    """The contract with the action tokens that its setting means for this model; see `chosen_tokens`."""
    rows = len(cast(torch.nn.Embedding, model.get_input_embeddings()).weight)
    tokens = chosen_tokens(tokenizer, contract.tokens, _largest(contract).spelling, rows)
    return dataclasses.replace(contract, tokens=tokens, text_encoder=getattr(model.config, "text_encoder", ""))


def _largest(contract: PolicyContract) -> ActionCodec:
    """The codec of the embodiment with the most symbols, which has those of the others."""
    return max((action_codec(contract, name) for name in contract.embodiments), key=lambda codec: codec.size)


def resolve(options: ContractOptions, cards: dict[str, DatasetCard], sources: Mapping[str, Any] | None = None) -> PolicyContract:
    """The contract of a run over these data. Codecs that need statistics are fitted on the training split.

    Raises:
        UserError: see `configured`; or there are no data to fit a codec on.
    """
    contract = configured(options, cards)
    if options.source:
        return with_statistic(contract, options.decode) if options.decode else contract
    robots = [source for source in (sources or {}).values() if isinstance(source, RobotSource)]

    def data(name: str) -> np.ndarray:
        parts = [chunks(source, contract.chunk) for source in robots if source.card.embodiment == name]
        if not parts:
            raise UserError("there is no robot data to fit the codec on", f"embodiment {name}", "choose codec uniform")
        every = np.concatenate(parts)
        return every[np.linspace(0, len(every) - 1, min(WINDOWS, len(every))).astype(int)]

    return with_statistic(fitted(contract, data), options.decode)


def chunks(source: RobotSource, length: int, split: Split = "train") -> np.ndarray:
    """The chunks [N, T, A] that begin at each step of the split, in physical units; past the end the last action is repeated."""
    steps, rows = load_steps(source.index, source.card.spec), np.unique(source.restricted(split)._rows)
    ahead = np.minimum(rows[:, None] + np.arange(length), steps.end[rows][:, None] - 1)
    return steps.action[ahead].astype(np.float64)


def add_tokens(contract: PolicyContract, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, points: bool) -> None:
    """Adds the tokens that the tokenizer lacks: those of the contract's symbols, if it appends them, and locations.

    Args:
        points: whether points are among the answers.
    """
    if contract.tokens == "append":
        codec = _largest(contract)
        append_tokens(model, tokenizer, appended_tokens(codec.size), codec.spelling if codec.numeric else ())
    if points or "where" in contract.plan:
        append_tokens(model, tokenizer, LOCATION_WORDS, INTEGER_WORDS[: len(LOCATION_WORDS)])


def _with_binary(name: str, spec: Embodiment, robots: list[DatasetCard]) -> Embodiment:
    """The robot with the binary dimensions on which all of its data sets agree."""
    found = [card.spec.action.with_binary().binary for card in robots if card.embodiment == name]
    agreed = tuple(pairs[0] if len(set(pairs)) == 1 else None for pairs in zip(*found, strict=True))
    return dataclasses.replace(spec, action=dataclasses.replace(spec.action, binary=agreed))


def _names(card: DatasetCard) -> list[str]:
    return [camera.name for camera in card.spec.cameras]
