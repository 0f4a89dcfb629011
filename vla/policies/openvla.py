"""A policy behind OpenVLA's REST interface: POST /act with json_numpy arrays (vla-scripts/deploy.py)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np

from vla.contract import Embodiment, PolicyContract
from vla.errors import UserError
from vla.observation import ActionChunk, Observation
from vla.protocols.wire import decode_array, encode_array

OPTIONS = {"unnorm_key": None, "encoded": ("0", "1"), "gripper": ("oxe", "raw"), "camera": None}


class OpenVLAPolicy:
    """Acts through `/act`; the server sees one camera and the instruction, and answers one action or (OFT) a list of them.

    Its gripper is 1 open, 0 closed, as in Open X-Embodiment; it is turned into the embodiment's -1 open, +1 closed.

    Args:
        url: e.g. "http://127.0.0.1:8000"; options follow "?": unnorm_key=NAME, encoded=1 (the payload as JSON in JSON),
            gripper=raw (leave it as it is), camera=NAME (the first camera otherwise).
        embodiments: the robots that ask: the server says nothing of itself.
        timeout: seconds to wait for an answer.

    Raises:
        UserError: an unknown option; later, nobody answers, or the server reports an error.
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
        # A proxy of the environment does not know this machine's own addresses.
        direct = {f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")}
        self._client = httpx.Client(timeout=timeout, mounts=direct)

    def reset(self, ids: Sequence[str]) -> None:
        """The interface keeps nothing between calls."""

    def act(self, observations: list[Observation]) -> list[ActionChunk]:
        return [self._act(observation) for observation in observations]

    def close(self) -> None:
        self._client.close()

    def _act(self, observation: Observation) -> ActionChunk:
        content: dict[str, Any] = {
            "image": encode_array(observation.images[self.camera]),
            "instruction": observation.instruction,
        }
        if "unnorm_key" in self.options:
            content["unnorm_key"] = self.options["unnorm_key"]
        if self.options.get("encoded") == "1":
            content = {"encoded": json.dumps(content)}
        actions = self._actions(self._ask(content))
        if self.options.get("gripper", "oxe") == "oxe" and actions.size:
            # As OpenVLA's own evaluations do: to [-1, 1], to its sign, and turned round.
            actions[..., -1] = np.where(actions[..., -1] > 0.5, -1.0, 1.0)
        return ActionChunk(actions, np.zeros(len(actions), bool))

    def _ask(self, content: dict[str, Any]) -> Any:
        try:
            response = self._client.post(self.url, json=content)
        except httpx.TimeoutException:
            raise UserError(f"no answer within {self._client.timeout.read:g} s", self.url, "is the policy slow?") from None
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise UserError(f"cannot be reached: {error}", self.url, "is the server running?") from None
        if response.status_code != 200:
            raise UserError(f"answered {response.status_code}: {response.text[:200]}", self.url, "the server's log has the rest")
        try:
            answer = response.json()
            # Asked in the double-encoded form, it answers so; "error" is how it reports any failure, with status 200.
            if isinstance(answer, str) and answer != "error":
                answer = json.loads(answer)
        except ValueError:
            raise UserError(f"not JSON: {response.text[:80]!r}", self.url, "is it OpenVLA's deploy.py?") from None
        if answer == "error":
            raise UserError("the server reports an error and does not say which", self.url, "its log has the traceback")
        return answer

    def _actions(self, answer: Any) -> np.ndarray:
        """[T, A] from one action or a list of them, each an array or a list of numbers."""
        try:
            if isinstance(answer, list) and answer and isinstance(answer[0], dict):
                answer = [decode_array(one, self.url) for one in answer]
            values = np.array(decode_array(answer, self.url) if isinstance(answer, dict) else answer, np.float64)
        except (ValueError, TypeError) as error:
            raise UserError(f"the answer is no array of numbers: {error}", self.url, "is it OpenVLA's deploy.py?") from None
        if values.ndim not in (1, 2):
            raise UserError(f"the answer has shape {values.shape}", self.url, "expected one action, or a list of them")
        # NaN stays for the rollout to name.
        return np.atleast_2d(values)
