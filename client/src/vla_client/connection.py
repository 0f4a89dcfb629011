"""A connection to a policy server that comes back by itself."""

import inspect
import random
import time
from typing import Any, Callable, Dict, Optional
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect

from .wire import pack, unpack

WAITS = (0.05, 2.0)
"""Seconds before the first and before the last attempts to connect again; in between they double."""

TRY_AGAIN = 1013
"""What a websocket is closed with by a server that has no room or no time now."""


class ServerError(RuntimeError):
    """The server refused the observation; sending it again would not help."""


class Unreachable(ConnectionError):
    """No answer in time."""


class Connection:
    """Asks for action chunks. A connection is a stream: what the policy keeps of an episode, it keeps per connection.

    Args:
        url: e.g. "ws://127.0.0.1:8000".
        key: the API key, where the server asks for one.
        timeout: seconds for an answer, attempts to connect again included.
        contract: the hash of the contract that this client was made for; a server with another one is refused. None takes the
            first that it meets, and no other after that: a server that comes back with another policy drives no robot.
        on_retry: told why, before each new attempt.

    Attributes:
        metadata: what the server said of itself on connecting.

    Raises:
        ServerError: the server does not let us in, or holds another contract.
        Unreachable: nobody answers within `timeout`.
    """

    def __init__(
        self,
        url: str,
        key: Optional[str] = None,
        timeout: float = 10.0,
        contract: Optional[str] = None,
        on_retry: Optional[Callable[[Exception], None]] = None,
    ):
        self.url, self.timeout, self.contract, self.on_retry = url, timeout, contract, on_retry
        self._headers = {"Authorization": "Api-Key " + key} if key else {}
        self._socket = None  # type: Any
        self.metadata = {}  # type: Dict[str, Any]
        self._with_retry(lambda left: None)

    def infer(self, observation: Dict[str, Any], timeout: Optional[float] = None) -> Dict[str, Any]:
        """The server's answer; `actions` is [steps, dimensions] in physical units.

        Args:
            observation: under the keys that the server expects, e.g. {"images": {...}, "state": [...], "prompt": "..."}.
            timeout: seconds; the connection's by default. After a lost connection the observation is sent again.
        """
        message = pack(observation)

        def ask(left: float) -> Dict[str, Any]:
            self._socket.send(message)
            answer = self._receive(left)
            if not isinstance(answer, dict) or "actions" not in answer:
                raise ServerError("the answer has no `actions`")
            return answer

        return self._with_retry(ask, timeout)

    def reset(self) -> None:
        """A new episode: a new connection."""
        self.close()

    def close(self) -> None:
        if self._socket is not None:
            socket, self._socket = self._socket, None
            socket.close()

    def _with_retry(self, work: Callable[[float], Any], timeout: Optional[float] = None) -> Any:
        end, wait = time.monotonic() + (self.timeout if timeout is None else timeout), WAITS[0]
        while True:
            try:
                if self._socket is None:
                    self._connect(end - time.monotonic())
                return work(end - time.monotonic())
            except (OSError, EOFError, ConnectionClosed, InvalidHandshake, Busy) as error:
                self._drop()
                # All robots of a hall must not come back in the same instant.
                pause = wait * random.uniform(0.5, 1.0)
                if time.monotonic() + pause > end:
                    raise Unreachable("{}: {}".format(self.url, error or type(error).__name__)) from error
                if self.on_retry:
                    self.on_retry(error)
                time.sleep(pause)
                wait = min(2 * wait, WAITS[1])
            except BaseException:
                self._drop()
                raise

    def _connect(self, left: float) -> None:
        try:
            self._socket = connect(
                self.url,
                compression=None,
                max_size=None,
                open_timeout=max(left, 0.01),
                additional_headers=self._headers,
                **self._direct(),
            )
        except InvalidHandshake as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status in (401, 403, 404):
                raise ServerError("{}: refused with status {}".format(self.url, status)) from None
            raise
        metadata = self._receive(left)
        if not isinstance(metadata, dict):
            raise ServerError("{}: not a server of openpi's protocol".format(self.url))
        found = metadata.get("contract_hash")
        if self.contract is not None and found != self.contract:
            raise ServerError("{}: contract {}, expected {}".format(self.url, found, self.contract))
        self.metadata, self.contract = metadata, found

    def _direct(self) -> Dict[str, Any]:
        """A proxy of the environment does not know this machine's own addresses; older websockets know no proxies."""
        local = urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")
        return {"proxy": None} if local and "proxy" in inspect.signature(connect).parameters else {}

    def _receive(self, left: float) -> Any:
        content = self._socket.recv(timeout=max(left, 0.01))
        if not isinstance(content, str):
            return unpack(content)
        raise (Busy if self._closed_for_now(left) else ServerError)(content)

    def _closed_for_now(self, left: float) -> bool:
        """Whether the server closes with 1013, try again later."""
        try:
            self._socket.recv(timeout=max(min(left, 1.0), 0.01))
        except ConnectionClosed as closed:
            return closed.rcvd is not None and closed.rcvd.code == TRY_AGAIN
        except TimeoutError:
            pass
        return False

    def _drop(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            # Not a closing handshake: whoever is there may have stopped answering.
            try:
                socket.socket.close()
            except OSError:
                pass


class Busy(ConnectionError):
    """The server has no room, or no time, now."""
