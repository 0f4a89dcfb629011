"""Opens robot data by their folder, whichever of the two forms they have that are read directly."""

from __future__ import annotations

from pathlib import Path

from vla.datasets.robot import RobotSource, is_lerobot
from vla.errors import UserError


def open_dataset(folder: str | Path, card: str | Path = "", size: int | tuple[int, int] = 0, holdout: float = 0.1) -> RobotSource:
    """Opens robot data: our shards, or a LeRobot data set (v2.0, v2.1 or v3.0) as it is.

    `demonstrations()` of what it returns are the episodes, `restricted("val")` is its held-out part, `card` says what the data
    contain.

    Args:
        folder: the data set's folder, its address on the hub (hf://datasets/OWNER/NAME), or of shards any address.
        card: of a LeRobot data set: its conventions, as in `vla data convert`; "" uses info.json alone.
        size: of a LeRobot data set: side, or height and width, to which images are scaled; 0 keeps theirs.
        holdout: share of the episodes that is held out: the last ones, at least one.

    Raises:
        UserError: there are no such data, they are damaged, or a card or a size is given for shards, which have both.
    """
    if is_lerobot(folder):
        from vla.datasets.formats.lerobot_source import LeRobotSource

        height, width = (size, size) if isinstance(size, int) else size
        source: RobotSource = LeRobotSource(folder, str(card), height, width, holdout=holdout)
    elif card or size:
        raise UserError("card and size are for LeRobot data sets", str(folder), "leave them out: our shards have both")
    else:
        source = RobotSource(folder, holdout=holdout)
    _ = source.card  # a wrong folder is an error here, not at the first use
    return source
