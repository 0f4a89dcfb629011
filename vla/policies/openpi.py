"""A policy behind openpi's websocket protocol: openpi's own servers, ours, and whoever else speaks it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urldefrag, urlsplit

import numpy as np
from websockets.exceptions import InvalidURI, WebSocketException
from websockets.sync.client import ClientConnection, connect

from vla.contract import Embodiment, PolicyContract
from vla.errors import UserError
from vla.observation import ActionChunk, Observation
from vla.protocols.keymaps import to_message
from vla.protocols.wire import pack, unpack


class OpenpiPolicy:
    """Acts through a websocket per stream: the protocol has no stream names, a connection is a stream.

    After openpi's websocket_client_policy.py: the server speaks first (a map of metadata); an observation is one msgpack map,
    under the keys of the embodiment's key map; the answer has "actions" [T, A]; an error is a text frame.

    Args:
        url: e.g. "ws://127.0.0.1:8000"; "#NAME" chooses one of the embodiment's key maps, the first otherwise.
        embodiments: the robots that ask; what a server of ours says of itself comes before them.
        timeout: seconds to wait for an answer.

    Attributes:
        says_contract: whether the server has told its contract (ours do); else it is only assumed, with one action per answer
            carried out.

    Raises:
        UserError: nobody answers there, or something else than this protocol.
    """

    def __init__(self, url: str, embodiments: dict[str, Embodiment], timeout: float = 60.0):
        self.url, self._map = urldefrag(url)
        self.timeout = timeout
        self._sockets: dict[str, ClientConnection] = {}
        socket, metadata = self._connect()
        socket.close()
        told = metadata.get("contract")
        self.says_contract = isinstance(told, dict)
        if isinstance(told, dict):
            self.contract = PolicyContract.from_dict(told, f"{self.url}: contract")
        else:
            self.contract = PolicyContract(embodiments, chunk=1, execute=1, plan=(), terminate=False, title=self.url)
        self._keys("")

    def reset(self, ids: Sequence[str]) -> None:
        for stream in ids:
            if stream in self._sockets:
                self._sockets.pop(stream).close()

    def act(self, observations: list[Observation]) -> list[ActionChunk]:
        # All are asked before the first answer is awaited: the server may work on several.
        for observation in observations:
            if observation.id not in self._sockets:
                self._sockets[observation.id] = self._connect()[0]
            with _Trouble(self.url, self.timeout):
                self._sockets[observation.id].send(pack(to_message(observation, self._keys(observation.embodiment))))
        return [self._chunk(self._receive(self._sockets[o.id])) for o in observations]

    def close(self) -> None:
        self.reset(list(self._sockets))

    def _connect(self) -> tuple[ClientConnection, dict[str, Any]]:
        local = urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")
        with _Trouble(self.url, self.timeout):
            # A proxy of the environment does not know this machine's own addresses.
            socket = connect(self.url, compression=None, max_size=None, open_timeout=self.timeout, proxy=None if local else True)
        metadata = self._receive(socket)
        if not isinstance(metadata, dict):
            raise UserError("the first message is not a map of metadata", self.url, "is it a server of openpi's protocol?")
        return socket, metadata

    def _receive(self, socket: ClientConnection) -> Any:
        with _Trouble(self.url, self.timeout):
            content = socket.recv(timeout=self.timeout)
        if isinstance(content, str):
            # A server may send its whole traceback; the last line says what it was.
            lines = content.strip().splitlines() or ["no message"]
            raise UserError(f"the server reports: {lines[-1][:300]}", self.url, "its log has the rest")
        return unpack(content)

    def _keys(self, embodiment: str) -> dict[str, str]:
        maps = self.contract.embodiment(embodiment).keys
        if not maps or (self._map and self._map not in maps):
            known = ", ".join(maps) or "none"
            raise UserError(f"no key map {self._map!r}" if self._map else "no key map", self.url, f"the embodiment has: {known}")
        return maps[self._map] if self._map else next(iter(maps.values()))

    def _chunk(self, answer: Any) -> ActionChunk:
        if not isinstance(answer, dict) or not isinstance(answer.get("actions"), np.ndarray | list):
            raise UserError("the answer has no array `actions`", self.url, "is it a server of openpi's protocol?")
        actions = np.array(answer["actions"], np.float64)
        terminate = np.asarray(answer.get("terminate", np.zeros(len(actions) if actions.ndim else 0)), bool)
        return ActionChunk(actions, terminate, {"timing": answer.get("policy_timing") or answer.get("server_timing")})


class _Trouble:
    """Turns what can go wrong on the wire into a UserError."""

    def __init__(self, url: str, timeout: float):
        self.url, self.timeout = url, timeout

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, TimeoutError):
            raise UserError(f"no answer within {self.timeout:g} s", self.url, "is the policy slow?") from None
        if isinstance(error, InvalidURI | ValueError):
            raise UserError(f"not an address: {error}", self.url, "e.g. ws://127.0.0.1:8000") from None
        if isinstance(error, WebSocketException | OSError | EOFError):
            raise UserError(f"cannot be reached: {error}", self.url, "is the server running?") from None
