"""A parser's error in one line."""

import pytest
from jsonargparse import ArgumentError, ArgumentParser

from vla.commands.arguments import in_one_line
from vla.models.tiny.from_scratch import VLMSpec
from vla.training.rows import Sources


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps=many"], "steps: expected int, got many"),
        (["--mode=z"], "mode: expected one of 'x', 'y'; expected bool; given z"),
        (["--vlm.image_size=big"], "vlm: vla.models.tiny.from_scratch.VLMSpec: image_size: expected int, got big"),
        (
            ["--vlm.prefix=z"],
            "vlm: vla.models.tiny.from_scratch.VLMSpec: prefix: expected one of 'auto', 'bidirectional', 'causal', got z",
        ),
        (["--vlm.sise=3"], "vlm: vla.models.tiny.from_scratch.VLMSpec: Option 'sise' is not accepted"),
        (["--colour=blue"], "unrecognized arguments: --colour=blue"),
        (
            ["--sources.a.class_path=vla.datasets.robot.RobotSource", "--sources.a.init_args.holdout=x"],
            "sources: vla.datasets.robot.RobotSource: holdout: expected float, got x",
        ),
        (
            ["--sources.a.class_path=vla.datasets.none.Source"],
            "sources: vla.datasets.none.Source: module 'vla.datasets' has no attribute 'none'",
        ),
    ],
)
def test_what_is_wrong_is_one_line(arguments, said):
    from typing import Literal

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--mode", type=Literal["x", "y"] | bool | None)
    parser.add_argument("--vlm", type=str | VLMSpec)
    parser.add_argument("--sources", type=Sources)
    with pytest.raises(ArgumentError) as error:
        parser.parse_args(arguments)
    assert in_one_line(str(error.value)) == said
