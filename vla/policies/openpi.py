"""A policy behind openpi's websocket protocol: on a server of openpi, of ours, or any other that speaks it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urldefrag, urlsplit

import numpy as np
from websockets.exceptions import InvalidURI, WebSocketException
from websockets.sync.client import ClientConnection, connect

from vla.contract import Embodiment, PolicyContract
from vla.errors import UserError
from vla.observation import ActionChunk, Observation
from vla.protocols.keymaps import to_message
from vla.protocols.wire import Value, pack, unpack


class OpenpiPolicy:
    """Acts through one websocket per stream, because the protocol has no stream names.

    After openpi's websocket_client_policy.py: the server sends a map of metadata first; an observation is one msgpack map with
    the keys of the embodiment's key map; the answer has "actions" [T, A]; an error is a text frame.

    Args:
        url: e.g. "ws://127.0.0.1:8000"; "#NAME" chooses one of the embodiment's key maps, the first otherwise.
        embodiments: the robots to be driven, unless the server sends its contract.
        timeout: seconds to wait for an answer.

    Attributes:
        says_contract: whether the server has sent its contract (ours do). Otherwise the contract is assumed, and one action per
            answer is executed.

    Raises:
        UserError: no server answers there, or it does not speak this protocol.
    """

    def __init__(self, url: str, embodiments: dict[str, Embodiment], timeout: float = 60.0):
        self.url, self._map = urldefrag(url)
        self.timeout = timeout
        self._sockets: dict[str, ClientConnection] = {}
        socket, metadata = self._connect()
        socket.close()
        contract = metadata.get("contract")
        self.says_contract = isinstance(contract, dict)
        if isinstance(contract, dict):
            self.contract = PolicyContract.from_dict(contract, f"{self.url}: contract")
        else:
            self.contract = PolicyContract(embodiments, chunk=1, execute=1, plan=(), terminate=False, title=self.url)
        self._keys("")

    def reset(self, ids: Sequence[str]) -> None:
        for stream in ids:
            if stream in self._sockets:
                self._sockets.pop(stream).close()

    def act(self, observations: list[Observation]) -> list[ActionChunk]:
        # All observations are sent before the first answer is read, so the server may batch them.
        for observation in observations:
            if observation.id not in self._sockets:
                self._sockets[observation.id] = self._connect()[0]
            with _connection_errors(self.url, self.timeout):
                self._sockets[observation.id].send(pack(to_message(observation, self._keys(observation.embodiment))))
        return [self._chunk(self._receive(self._sockets[o.id])) for o in observations]

    def close(self) -> None:
        self.reset(list(self._sockets))

    def _connect(self) -> tuple[ClientConnection, dict[str, Any]]:
        local = urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")
        with _connection_errors(self.url, self.timeout):
            # A proxy set in the environment cannot reach this machine's own addresses.
            socket = connect(self.url, compression=None, max_size=None, open_timeout=self.timeout, proxy=None if local else True)
        metadata = self._receive(socket)
        if not isinstance(metadata, dict):
            raise UserError("the first message is not a map of metadata", self.url, "is it a server of openpi's protocol?")
        return socket, metadata

    def _receive(self, socket: ClientConnection) -> Value:
        with _connection_errors(self.url, self.timeout):
            content = socket.recv(timeout=self.timeout)
        if isinstance(content, str):
            # A server may send its whole traceback; the last line names the error.
            lines = content.strip().splitlines() or ["no message"]
            raise UserError(f"the server reports: {lines[-1][:300]}", self.url, "see its log for the rest")
        return unpack(content)

    def _keys(self, embodiment: str) -> dict[str, str]:
        maps = self.contract.embodiment(embodiment).keys
        if not maps or (self._map and self._map not in maps):
            known = ", ".join(maps) or "none"
            raise UserError(f"no key map {self._map!r}" if self._map else "no key map", self.url, f"the embodiment has {known}")
        return maps[self._map] if self._map else next(iter(maps.values()))

    def _chunk(self, answer: Value) -> ActionChunk:
        if not isinstance(answer, dict) or not isinstance(answer.get("actions"), np.ndarray | list):
            raise UserError("the answer has no array `actions`", self.url, "is it a server of openpi's protocol?")
        actions = np.array(answer["actions"], np.float64)
        terminate = np.asarray(answer.get("terminate", np.zeros(len(actions) if actions.ndim else 0)), bool)
        return ActionChunk(actions, terminate, {"timing": answer.get("policy_timing") or answer.get("server_timing")})


@contextlib.contextmanager
def _connection_errors(url: str, timeout: float) -> Iterator[None]:
    """Turns the errors of a connection into a UserError."""
    try:
        yield
    except TimeoutError:
        raise UserError(f"no answer within {timeout:g} s", url, "is the policy slow?") from None
    except (InvalidURI, ValueError) as error:
        raise UserError(f"not an address: {error}", url, "give e.g. ws://127.0.0.1:8000") from None
    except (WebSocketException, OSError, EOFError) as error:
        raise UserError(f"cannot be reached: {error}", url, "is the server running?") from None
