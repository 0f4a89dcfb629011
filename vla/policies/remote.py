"""A policy on a server of `vla serve`."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import numpy as np

from vla.contract import PolicyContract
from vla.errors import ContractMismatch, UserError
from vla.observation import ActionChunk, Observation
from vla.policies.base import QuestionAnswer
from vla.protocols.wire import encode_array


class RemotePolicy:
    """Acts through the HTTP and JSON interface. Images are sent without loss, so answers equal the local policy's.

    Args:
        url: the server's address, e.g. "http://127.0.0.1:8000".
        contract_hash: hash of the contract that the server must have; None accepts any.
        timeout: seconds to wait for an answer.

    Attributes:
        trained_on_questions: whether the server's policy was; None if that is not known.

    Raises:
        UserError: no server answers there, or it is not a policy server.
        ContractMismatch: the server has another contract, now or later.
    """

    def __init__(self, url: str, contract_hash: str | None = None, timeout: float = 60.0):
        self.url = url.rstrip("/")
        # Distinguishes the streams of this client from those of others with the same names.
        self._name = uuid.uuid4().hex[:12]
        # A proxy set in the environment cannot reach this machine's own addresses.
        direct = {f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")}
        self._client = httpx.Client(timeout=timeout, mounts=direct)
        answer = self._request("GET", "/contract")
        if not isinstance(answer.get("contract"), dict):
            raise UserError("no contract in the answer of /contract", self.url, "is it `vla serve`?")
        self.contract = PolicyContract.from_dict(answer["contract"], f"{self.url}/contract")
        if contract_hash is not None and contract_hash != self.contract.hash:
            raise ContractMismatch(
                f"the server has contract {self.contract.hash}, expected {contract_hash}",
                self.url,
                "serve the export with the expected contract",
            )
        self.trained_on_questions = answer.get("questions")
        self._client.headers["X-Contract"] = self.contract.hash

    def reset(self, ids: Sequence[str]) -> None:
        self._request("POST", "/reset", {"ids": [self._stream(stream) for stream in ids]})

    def act(self, observations: list[Observation]) -> list[ActionChunk]:
        """Sends one request per observation, in order."""
        return [self._act(observation) for observation in observations]

    def ask(self, images: list[dict[str, np.ndarray]], questions: list[str]) -> list[QuestionAnswer]:
        """Sends one question on images (camera name -> uint8 [H, W, 3]) per request, in order."""
        return [self._ask(*pair) for pair in zip(images, questions, strict=True)]

    def close(self) -> None:
        self._client.close()

    def _act(self, observation: Observation) -> ActionChunk:
        answer = self._request(
            "POST",
            "/act",
            {
                "id": self._stream(observation.id),
                "images": {name: encode_array(image) for name, image in observation.images.items()},
                "state": encode_array(np.asarray(observation.state, np.float64)),
                "instruction": observation.instruction,
                "embodiment": observation.embodiment,
            },
        )
        status, actions = answer.get("status", ""), np.array(answer["actions"])
        if status:
            actions = np.empty((0, self.contract.embodiment(observation.embodiment).action.size))
        return ActionChunk(actions, np.array(answer["terminate"], bool), answer["info"], status)

    def _ask(self, images: dict[str, np.ndarray], question: str) -> QuestionAnswer:
        sent = {name: encode_array(image) for name, image in images.items()}
        answer = self._request("POST", "/ask", {"images": sent, "question": question})
        return QuestionAnswer(str(answer.get("text", "")), answer.get("point"))

    def _stream(self, stream: str) -> str:
        return f"{self._name}/{stream}"

    def _request(self, method: str, path: str, content: Mapping[str, object] | None = None) -> dict[str, Any]:
        try:
            response = self._client.request(method, self.url + path, json=content)
        except httpx.TimeoutException:
            raise UserError(
                f"no answer within {self._client.timeout.read:g} s", self.url, "is the policy slow? raise the timeout"
            ) from None
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise UserError(
                f"cannot be reached: {error}", self.url, "start it with `vla serve EXPORT`, or correct the address"
            ) from None
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise UserError(f"{path} answered {response.status_code} without a JSON object", self.url, "is it `vla serve`?")
        if response.status_code == 200:
            return answer
        error = answer.get("error")
        error = error if isinstance(error, dict) else {}
        kind = ContractMismatch if response.status_code in (409, 422) else UserError
        where = f"{self.url}{path}" + (f", {error['where']}" if error.get("where") else "")
        raise kind(f"{response.status_code}: {error.get('what', 'refused')}", where, error.get("fix", ""))
