"""Encoders of contracts that tests ask for."""

import dataclasses

import numpy as np

from vla.contract import PolicyContract
from vla.datasets.robot import RobotSource
from vla.models.families.find import family_of
from vla.models.load import load_vlm
from vla.sequences.encode import Encoder
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME
from vla.tokenization.codecs import fitted
from vla.training.contract import add_tokens


def changed(examples, **fields):
    return Encoder(dataclasses.replace(examples.contract, **fields), examples.family)


def acting(vlm, data, codec, terminate=True, gripper=None, **fields):
    """Model and examples for a codec fitted on the data; FAST's tokens are appended. `gripper` are its only two values."""
    values = RobotSource(data / "robot").actions
    statistics = {"q01": EMBODIMENT.action.low, "q99": EMBODIMENT.action.high}
    spec = dataclasses.replace(EMBODIMENT.action, statistics=statistics, binary=(None,) * 6 + (gripper,))
    values = spec.settled(values)
    robot = dataclasses.replace(EMBODIMENT, action=spec)
    args = {"vocab_size": 300} if codec == "fast" else {}
    fields = {"tokens": "append" if codec == "fast" else "integers", **fields}
    chosen = PolicyContract({EMBODIMENT_NAME: robot}, chunk=3, codec=codec, codec_args=args, terminate=terminate, **fields)
    contract = fitted(chosen, lambda _: np.stack([values[i : i + 3] for i in range(len(values) - 3)]).astype(float))
    model, processor = load_vlm(vlm)
    add_tokens(contract, model, processor.tokenizer, points=False)
    return model, Encoder(contract, family_of(model, processor))


def source_looking_back(data, examples):
    source = RobotSource(data / "robot")
    source.bind(examples.contract)
    return source
