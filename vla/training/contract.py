"""The `contract:` section of a configuration, resolved against the cards of the data."""

from __future__ import annotations

import dataclasses
from typing import Literal

from vla.contract import Mode, PolicyContract
from vla.datasets.card import DatasetCard
from vla.errors import UserError


@dataclasses.dataclass
class ContractOptions:
    """What a run chooses; cameras, spaces and statistics come from the data's cards.

    Attributes:
        source: an export to take the whole contract from (fine-tuning keeps its statistics and codec); the rest is then ignored.
        prompt: template of an action prompt, with {instruction} and {state}.
        question: template of a question prompt, with {question}.
        plan: what is written before the actions.
        modes: act (without the plan), think (writing it), follow (a given one); a policy acts in the first.
        history: pictures per camera, `execute` steps apart.
        chunk: actions written per call.
        execute: of these, how many are carried out before the model is asked again.
        crop: side factor of the centre crop.
        bins: per action dimension.
        codec: of actions.
        title: for people.
    """

    source: str = ""
    prompt: str = PolicyContract.prompt
    question: str = PolicyContract.question
    plan: tuple[Literal["where", "reach"], ...] = ("where",)
    modes: tuple[Mode, ...] = ()
    history: int = 1
    chunk: int = 4
    execute: int = 2
    crop: float = 1.0
    bins: int = 256
    codec: str = "uniform"
    title: str = ""


def resolve(options: ContractOptions, cards: dict[str, DatasetCard]) -> PolicyContract:
    """The contract of a run over these data.

    Raises:
        UserError: a chunk or number of executed actions that makes no sense, or two sources describe one embodiment differently.
    """
    if options.source:
        return PolicyContract.load(options.source)
    if not 1 <= options.execute <= options.chunk:
        raise UserError(
            f"execute {options.execute} of chunk {options.chunk}", "contract", "execute at least 1, at most the chunk"
        )
    embodiments = {}
    # Robot cards first: they carry the statistics.
    for name, card in sorted(cards.items(), key=lambda item: item[1].kind != "robot"):
        spec = embodiments.setdefault(card.embodiment, card.spec)
        if spec.cameras != card.spec.cameras:
            raise UserError(
                f"{card.embodiment} has cameras {_names(card)} here and {[c.name for c in spec.cameras]} elsewhere",
                f"source {name}",
                "write the data with the same cameras and sizes",
            )
        if card.kind == "robot" and (spec.action.low, spec.action.high) != (card.spec.action.low, card.spec.action.high):
            raise UserError(f"{card.embodiment} has other action limits than another source", f"source {name}")
    fields = {k: v for k, v in dataclasses.asdict(options).items() if k != "source"}
    return PolicyContract(embodiments=embodiments, **fields)


def _names(card: DatasetCard) -> list[str]:
    return [camera.name for camera in card.spec.cameras]
