"""A policy behind OpenVLA's REST interface: POST /act with json_numpy arrays, after vla-scripts/deploy.py."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
from PIL import Image

from vla.contract import Embodiment, PolicyContract
from vla.errors import UserError
from vla.observation import ActionChunk, Observation
from vla.protocols.wire import Value, decode_array, encode_array
from vla.transforms import OPENVLA_AREA

OPTIONS = {"unnorm_key": None, "encoded": ("0", "1"), "gripper": ("oxe", "raw"), "camera": None, "center_crop": ("0", "1")}


class OpenVLAPolicy:
    """Acts through `/act`. The server gets one image and the instruction; it answers with one action or (OFT) a list.

    Its gripper is 1 open, 0 closed, as in Open X-Embodiment, and is converted to the embodiment's -1 open, +1 closed.

    Args:
        url: e.g. "http://127.0.0.1:8000"; options follow "?": unnorm_key=NAME, encoded=1 (send the payload as JSON in
            JSON), gripper=raw (do not convert the gripper), camera=NAME (default: the first camera), center_crop=1 (send the
            middle 0.9 of the image's area, in the image's size: OpenVLA's server crops nothing, its evaluations do).
        embodiments: the robots to be driven; the server does not declare its own.
        timeout: seconds to wait for an answer.

    Raises:
        UserError: an option is unknown; later, no server answers, or it reports an error.
    """

    says_contract = False

    def __init__(self, url: str, embodiments: dict[str, Embodiment], timeout: float = 60.0):
        parts = urlsplit(url)
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/act')}/act"
        self.options = {key: values[-1] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        for key, value in self.options.items():
            if key not in OPTIONS:
                raise UserError(f"unknown option {key!r}", url, f"known are {', '.join(OPTIONS)}")
            if (known := OPTIONS[key]) and value not in known:
                raise UserError(f"{key}={value}", url, f"one of {', '.join(known)}")
        self.contract = PolicyContract(embodiments, chunk=1, execute=1, plan=(), terminate=False, title=self.url)
        cameras = [camera.name for camera in self.contract.embodiment().cameras]
        self.camera = self.options.get("camera", cameras[0])
        if self.camera not in cameras:
            raise UserError(f"no camera {self.camera!r}", url, f"the embodiment has {', '.join(cameras)}")
        # A proxy set in the environment cannot reach this machine's own addresses.
        direct = {f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")}
        self._client = httpx.Client(timeout=timeout, mounts=direct)

    def reset(self, ids: Sequence[str]) -> None:
        """Does nothing: the interface keeps no state between calls."""

    def act(self, observations: list[Observation]) -> list[ActionChunk]:
        return [self._act(observation) for observation in observations]

    def close(self) -> None:
        self._client.close()

    def _act(self, observation: Observation) -> ActionChunk:
        image = observation.images[self.camera]
        content: dict[str, Any] = {
            "image": encode_array(_middle(image) if self.options.get("center_crop") == "1" else image),
            "instruction": observation.instruction,
        }
        if "unnorm_key" in self.options:
            content["unnorm_key"] = self.options["unnorm_key"]
        if self.options.get("encoded") == "1":
            content = {"encoded": json.dumps(content)}
        actions = self._actions(self._post(content))
        if self.options.get("gripper", "oxe") == "oxe" and actions.size:
            # As in OpenVLA's own evaluations: scaled to [-1, 1], binarised, and inverted.
            actions[..., -1] = np.where(actions[..., -1] > 0.5, -1.0, 1.0)
        return ActionChunk(actions, np.zeros(len(actions), bool))

    def _post(self, content: dict[str, Any]) -> Value:
        try:
            response = self._client.post(self.url, json=content)
        except httpx.TimeoutException:
            raise UserError(f"no answer within {self._client.timeout.read:g} s", self.url, "is the policy slow?") from None
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise UserError(f"cannot be reached: {error}", self.url, "is the server running?") from None
        if response.status_code != 200:
            raise UserError(
                f"answered {response.status_code}: {response.text[:200]}", self.url, "see the server's log for the rest"
            )
        try:
            answer = response.json()
            # The answer to a double-encoded payload is double-encoded. Any failure is "error" with status 200.
            if isinstance(answer, str) and answer != "error":
                answer = json.loads(answer)
        except ValueError:
            raise UserError(f"not JSON: {response.text[:80]!r}", self.url, "is it OpenVLA's deploy.py?") from None
        if answer == "error":
            raise UserError("the server reports an error without details", self.url, "see the traceback in its log")
        return answer

    def _actions(self, answer: Value) -> np.ndarray:
        """Returns actions [T, A] from one action or a list of them, each an array or a list of numbers."""
        try:
            if isinstance(answer, list) and answer and isinstance(answer[0], dict):
                actions = np.array([decode_array(action, self.url) for action in cast(list[dict[str, Any]], answer)], np.float64)
            else:
                actions = np.array(decode_array(answer, self.url) if isinstance(answer, dict) else answer, np.float64)
        except (ValueError, TypeError) as error:
            raise UserError(f"the answer is not an array of numbers: {error}", self.url, "is it OpenVLA's deploy.py?") from None
        if actions.ndim not in (1, 2):
            raise UserError(f"the answer has shape {actions.shape}", self.url, "expected one action, or a list of them")
        # The rollout checks for NaN.
        return np.atleast_2d(actions)


def _middle(image: np.ndarray) -> np.ndarray:
    """The middle of an image, scaled to the image's size."""
    height, width, _ = image.shape
    x, y = (side * (1 - math.sqrt(OPENVLA_AREA)) / 2 for side in (width, height))
    box = (x, y, width - x, height - y)
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box))
