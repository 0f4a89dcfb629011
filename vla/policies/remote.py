"""A policy that lives behind `vla serve`."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np

from vla.contract import PolicyContract
from vla.errors import ContractMismatch, UserError
from vla.observation import ActionChunk, Observation
from vla.protocols.wire import encode_array


class RemotePolicy:
    """Acts through a server's HTTP and JSON; pictures travel unharmed, so the answer is the local policy's own.

    Args:
        url: the server's address, e.g. "http://127.0.0.1:8000".
        contract_hash: the contract that the caller was made for; None takes the server's.
        timeout: seconds to wait for an answer.

    Raises:
        UserError: nobody answers there, or something that is no policy server.
        ContractMismatch: the server holds another contract, now or later.
    """

    def __init__(self, url: str, contract_hash: str | None = None, timeout: float = 60.0):
        self.url = url.rstrip("/")
        # Two clients of one server may both call their stream "0".
        self._name = uuid.uuid4().hex[:12]
        # A proxy of the environment does not know this machine's own addresses.
        direct = {f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")}
        self._client = httpx.Client(timeout=timeout, mounts=direct)
        answer = self._ask("GET", "/contract")
        if not isinstance(answer.get("contract"), dict):
            raise UserError("no contract in the answer of /contract", self.url, "is it `vla serve`?")
        self.contract = PolicyContract.from_dict(answer["contract"], f"{self.url}/contract")
        if contract_hash is not None and contract_hash != self.contract.hash:
            raise ContractMismatch(
                f"the server holds contract {self.contract.hash}, expected {contract_hash}",
                self.url,
                "serve the export that was meant",
            )
        self._client.headers["X-Contract"] = self.contract.hash

    def reset(self, ids: Sequence[str]) -> None:
        self._ask("POST", "/reset", {"ids": [self._stream(stream) for stream in ids]})

    def act(self, observations: list[Observation]) -> list[ActionChunk]:
        """One request per observation, in order."""
        return [self._act(observation) for observation in observations]

    def close(self) -> None:
        self._client.close()

    def _act(self, observation: Observation) -> ActionChunk:
        answer = self._ask(
            "POST",
            "/act",
            {
                "id": self._stream(observation.id),
                "images": {name: encode_array(picture) for name, picture in observation.images.items()},
                "state": encode_array(np.asarray(observation.state, np.float64)),
                "instruction": observation.instruction,
                "embodiment": observation.embodiment,
            },
        )
        status, actions = answer.get("status", ""), np.array(answer["actions"])
        if status:
            actions = np.empty((0, self.contract.embodiment(observation.embodiment).action.size))
        return ActionChunk(actions, np.array(answer["terminate"], bool), answer["info"], status)

    def _stream(self, stream: str) -> str:
        return f"{self._name}/{stream}"

    def _ask(self, method: str, path: str, content: Any = None) -> dict[str, Any]:
        try:
            response = self._client.request(method, self.url + path, json=content)
        except httpx.TimeoutException:
            raise UserError(
                f"no answer within {self._client.timeout.read:g} s", self.url, "is the policy slow? raise timeout"
            ) from None
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise UserError(
                f"cannot be reached: {error}", self.url, "start it with `vla serve EXPORT`, or mend the address"
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
