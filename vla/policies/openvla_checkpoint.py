"""A published OpenVLA checkpoint as a policy: its contract, and the driving of robots under their own names."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import numpy as np

from vla import hub
from vla.contract import Camera, Embodiment, PolicyContract
from vla.datasets.formats.statistics.norm_stats import embodiments
from vla.errors import UserError
from vla.models.openvla.published import is_published, settings_of
from vla.observation import ActionChunk, Observation
from vla.policies.base import DTypeOption, Policy
from vla.tokenization.prompts import OPENVLA, OPENVLA_V01
from vla.transforms import OPENVLA_AREA

if TYPE_CHECKING:
    from vla.policies.local import LocalPolicy

OPTIONS = ("unnorm_key", "center_crop", "camera")
OUR_GRIPPER = "-1 open, +1 closed"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint, and how it is to be used.

    Attributes:
        name: its folder, or its name on the hub.
        folder: the folder with its description; of one on the hub, without its weights.
        unnorm_key: the data set whose statistics scale the actions; "" if there is only one.
        center_crop: whether the model sees the middle 0.9 of the image's area, as OpenVLA evaluates models that were fine-tuned
            with image augmentation.
        camera: the robot's camera that it sees; "" is the first.
    """

    name: str
    folder: Path
    unnorm_key: str = ""
    center_crop: bool = False
    camera: str = ""

    @classmethod
    def find(cls, name: str) -> Checkpoint | None:
        """Reads FOLDER?unnorm_key=NAME&center_crop=1&camera=NAME; None if there is no published checkpoint. FOLDER may be a name
        on the hub.

        Raises:
            UserError: an option is unknown.
        """
        base, _, query = name.partition("?")
        folder = hub.local(base, hub.DESCRIPTIONS)
        if not base or not is_published(folder):
            return None
        options = {key: values[-1] for key, values in parse_qs(query, keep_blank_values=True).items()}
        if unknown := options.keys() - set(OPTIONS):
            raise UserError(f"unknown option {min(unknown)!r}", name, f"known are {', '.join(OPTIONS)}")
        if options.get("center_crop", "0") not in ("0", "1"):
            raise UserError(f"center_crop={options['center_crop']}", name, "0 or 1")
        crop = options.get("center_crop") == "1"
        return cls(base, folder, options.get("unnorm_key", ""), crop, options.get("camera", ""))

    def contract(self) -> PolicyContract:
        """The contract that the checkpoint was trained with: its prompt, its bins and token ids, its statistics.

        Every data set of its statistics is an embodiment; the first is that of `unnorm_key`.

        Raises:
            UserError: it is of OpenVLA-OFT, or there is no such data set, or more than one and none is named.
        """
        config, statistics = settings_of(self.folder, self.name)
        if (not self.unnorm_key and len(statistics) > 1) or (self.unnorm_key and self.unnorm_key not in statistics):
            what = f"it has statistics of {len(statistics)} data sets"
            what = f"no statistics of {self.unnorm_key!r}" if self.unnorm_key else what
            fix = f"give {self.name}?unnorm_key=NAME with one of {', '.join(sorted(statistics))}"
            raise UserError(what, f"{self.name}, unnorm_key", fix)
        chosen = self.unnorm_key or next(iter(statistics))
        side = (config.get("image_sizes") or [224])[0]
        robots = embodiments(
            {chosen: statistics[chosen], **{name: s for name, s in statistics.items() if name != chosen}},
            (Camera("image", side, side),),
        )
        text = config.get("text_config") or {}
        last = text.get("vocab_size", 32064) - config.get("pad_to_multiple_of", 64) - 1
        return PolicyContract(
            embodiments={name: _unsettled(robot) for name, robot in robots.items()},
            codec="openvla",
            codec_args={"raw": "mask"},
            tokens=f"overwrite:{last}",
            prompt=OPENVLA_V01 if str(config.get("llm_backbone_id", "")).startswith("vicuna") else OPENVLA,
            normalise="lower",
            plan=(),
            chunk=1,
            execute=1,
            crop=math.sqrt(OPENVLA_AREA) if self.center_crop else 1.0,
            terminate=False,
            title=Path(self.name.partition("@")[0]).name,
        )


def _unsettled(robot: Embodiment) -> Embodiment:
    """The robot without constant dimensions: OpenVLA writes a token for these too, and decodes it."""
    action = dataclasses.replace(robot.action, constant=(None,) * robot.action.size)
    return dataclasses.replace(robot, action=action)


class OpenVLACheckpoint:
    """Drives robots that the checkpoint does not know by name, as `OpenVLAPolicy` does through a server.

    It sees one camera. Its gripper, 1 open and 0 closed, is converted to the robot's: cut at 0.5, as in OpenVLA's evaluations.

    Args:
        local: the checkpoint, whose contract's first embodiment acts.
        embodiments: the robots to be driven.
        camera: the camera that it sees; "" is the first.
        name: the policy's name, for errors.

    Raises:
        UserError: a robot has no such camera, or another number of action dimensions.
    """

    says_contract = False

    def __init__(self, local: LocalPolicy, embodiments: dict[str, Embodiment], camera: str, name: str):
        self.local, self.batch, self.dtype = local, local.batch, local.dtype
        self.contract = PolicyContract(embodiments, chunk=1, execute=1, plan=(), terminate=False, title=name)
        self._own = local.contract.embodiment()
        for robot, embodiment in embodiments.items():
            cameras = [one.name for one in embodiment.cameras]
            if camera and camera not in cameras:
                raise UserError(f"no camera {camera!r}", name, f"{robot} has {', '.join(cameras)}")
            if embodiment.action.size != self._own.action.size:
                what = f"it writes {self._own.action.size} action dimensions, {robot} has {embodiment.action.size}"
                raise UserError(what, name, "fine-tune it with `vla fit --model.vlm` on data of that robot")
        self.camera = camera or next(iter(embodiments.values())).cameras[0].name
        low, high = np.array(self._own.state.low), np.array(self._own.state.high)
        self._state = (low + high) / 2

    def reset(self, ids: Sequence[str]) -> None:
        self.local.reset(ids)

    def act(self, observations: list[Observation]) -> list[ActionChunk]:
        """One action per observation. The state is not in the prompt, so it is not passed on."""
        shown = self._own.cameras[0].name
        asked = [Observation(o.id, {shown: o.images[self.camera]}, self._state, o.instruction) for o in observations]
        chunks = self.local.act(asked)
        for observation, chunk in zip(observations, chunks, strict=True):
            if self.contract.embodiment(observation.embodiment).gripper == OUR_GRIPPER and len(chunk.actions):
                chunk.actions[..., -1] = np.where(chunk.actions[..., -1] > 0.5, -1.0, 1.0)
        return chunks


def load_openvla(
    checkpoint: Checkpoint,
    batch: int | Sequence[int],
    robots: dict[str, Embodiment] | None,
    probabilities: bool,
    name: str,
    dtype: DTypeOption = "",
) -> Policy:
    """The checkpoint as a policy.

    Args:
        robots: the robots to be driven; None: those of the statistics, by their names.
    """
    from vla.policies.local import LocalPolicy

    contract = checkpoint.contract()
    local = LocalPolicy.from_export(checkpoint.name, batch, probabilities, contract=contract, dtype=dtype)
    # The processor scales images of any size and shape, as it does for OpenVLA's own server.
    local.any_size = True
    if not robots or set(robots) <= set(contract.embodiments):
        return local
    return OpenVLACheckpoint(local, robots, checkpoint.camera, name)
