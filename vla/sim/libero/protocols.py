"""How LIBERO is evaluated: by the published protocols of others, and by our own.

A protocol says which initial states are run, how the fixtures are drawn, how long the scene settles, when an episode ends, and
what images the policy sees. Common to all are initial states in order, ten settling steps with an open gripper which do not
count, 20 Hz, and relative actions.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Literal

from vla.errors import UserError
from vla.sim.libero.tasks import HORIZONS, base_of

Filter = Literal["none", "bilinear", "lanczos"]
SETTLING = (0.0,) * 6 + (-1.0,)
"""The action while a scene settles."""


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A protocol of evaluation.

    Attributes:
        source: where it is published.
        seed: of numpy's generator, from which the fixtures' places are drawn.
        seeded: "task": once, before the first episode of a task, so that an episode's draw is that many resets later;
        "episode":
            at every reset, with the sum of `seed` and the episode's number.
        loads: how often an environment has been built or reset when its first episode begins, that reset included. Each of them
            adds a draw for every drawer that begins open and every knob that begins turned.
        horizons: steps by suite; a suite that is not named is unknown to the protocol.
        all_suites: whether LIBERO-PRO's suites have the horizons of the suite that they change.
        hold: steps for which the goal must hold.
        ends_wrong: whether an episode ends when the scene's other goal is reached.
        episodes: of each task.
        settling: steps before the first observation.
        rendered: edge in pixels of the rendered images.
        jpeg: whether images are compressed and decompressed once, at quality 95.
        edge: edge in pixels of the images that the policy sees, unless its contract says another.
        filter: how they are scaled; "none" renders them in the size in which they are seen.
    """

    source: str
    seed: int
    seeded: Literal["task", "episode"]
    loads: int
    horizons: Mapping[str, int]
    all_suites: bool = False
    hold: int = 1
    ends_wrong: bool = False
    episodes: int = 50
    settling: int = 10
    rendered: int = 256
    jpeg: bool = False
    edge: int = 256
    filter: Filter = "none"

    @property
    def hash(self) -> str:
        """SHA-256 of all that it says."""
        content = {**dataclasses.asdict(self), "horizons": dict(self.horizons)}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def horizon(self, suite: str) -> int | None:
        """Steps until an episode of a suite is given up; None: the protocol does not know the suite."""
        return self.horizons.get(base_of(suite) if self.all_suites else suite)


PROTOCOLS = {
    "ours": Protocol(
        "this package", seed=9_000_000, seeded="episode", loads=1, horizons=HORIZONS, all_suites=True, hold=10, ends_wrong=True
    ),
    "openvla": Protocol(
        "openvla/openvla, experiments/robot/libero/run_libero_eval.py, c8f03f4",
        seed=0, seeded="task", loads=2, horizons=HORIZONS, jpeg=True, edge=224, filter="lanczos",
    ),
    "openpi": Protocol(
        "Physical-Intelligence/openpi, examples/libero/main.py, 15a9616",
        seed=7, seeded="task", loads=2, horizons=HORIZONS, edge=224, filter="bilinear",
    ),
    "lerobot": Protocol(
        "huggingface/lerobot, src/lerobot/envs/libero.py, 7427f31",
        seed=1000, seeded="episode", loads=3, horizons={**HORIZONS, "spatial": 280}, episodes=10, rendered=360, edge=360,
    ),
}  # fmt: skip
DEFAULT = "ours"


def find_protocol(name: str, where: str) -> Protocol:
    """The protocol of that name. Raises UserError for an unknown one."""
    if name not in PROTOCOLS:
        raise UserError(f"unknown protocol {name!r}", where, f"one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
