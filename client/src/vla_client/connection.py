"""A connection to a policy server that reconnects by itself."""

import inspect
import random
import time
from typing import Any, Callable, Dict, Optional, TypeVar
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

from .wire import pack, unpack

WAITS = (0.05, 2.0)
"""Seconds before the first and before the last attempts to reconnect; in between they double."""

Result = TypeVar("Result")
TRY_AGAIN = 1013
"""Close code of a server that is busy or did not answer in time."""


class ServerError(RuntimeError):
    """The server refused the observation; sending it again would not help."""


class Unreachable(ConnectionError):
    """No answer in time."""


class Connection:
    """Sends observations and receives action chunks. The policy keeps its state of an episode per connection.

    Args:
        url: e.g. "ws://127.0.0.1:8000".
        key: the API key, if the server needs one.
        timeout: seconds for an answer, including attempts to reconnect.
        contract: hash of the contract this client was made for; a server with another one is refused. None accepts the first
            contract it meets and refuses others after that, so a server restarted with another policy does not drive the robot.
        on_retry: called with the error before each new attempt.

    Attributes:
        metadata: the map the server sent on connecting.

    Raises:
        ServerError: the server refuses the connection, or has another contract.
        Unreachable: no server answers within `timeout`.
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
        self._socket = None  # type: Optional[ClientConnection]
        self.metadata = {}  # type: Dict[str, Any]
        self._with_retry(lambda socket, left: None)

    def infer(self, observation: Dict[str, Any], timeout: Optional[float] = None) -> Dict[str, Any]:
        """Returns the server's answer; its `actions` are [steps, dimensions] in physical units.

        Args:
            observation: the keys that the server expects, e.g. {"images": {...}, "state": [...], "instruction": "..."}; openpi's
                "prompt" means the same as "instruction".
            timeout: seconds; the connection's by default. If the connection is lost, the observation is sent again.
        """
        message = pack(observation)

        def send(socket: ClientConnection, left: float) -> Dict[str, Any]:
            socket.send(message)
            answer = _receive(socket, left)
            if not isinstance(answer, dict) or "actions" not in answer:
                raise ServerError("the answer has no `actions`")
            return answer

        return self._with_retry(send, timeout)

    def reset(self) -> None:
        """Closes the connection; the next observation starts a new episode on a new one."""
        self.close()

    def close(self) -> None:
        if self._socket is not None:
            socket, self._socket = self._socket, None
            socket.close()

    def _with_retry(self, work: Callable[[ClientConnection, float], Result], timeout: Optional[float] = None) -> Result:
        end, wait = time.monotonic() + (self.timeout if timeout is None else timeout), WAITS[0]
        while True:
            try:
                if self._socket is None:
                    self._socket = self._connect(end - time.monotonic())
                return work(self._socket, end - time.monotonic())
            except (OSError, EOFError, ConnectionClosed, InvalidHandshake, Busy) as error:
                self._drop()
                # A random pause, so that many robots do not reconnect at the same moment.
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

    def _connect(self, left: float) -> ClientConnection:
        try:
            self._socket = connect(
                self.url,
                compression=None,
                max_size=None,
                open_timeout=max(left, 0.01),
                additional_headers=self._headers,
                **self._proxy(),
            )
        except InvalidHandshake as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status in (401, 403, 404):
                raise ServerError("{}: refused with status {}".format(self.url, status)) from None
            raise
        metadata = _receive(self._socket, left)
        if not isinstance(metadata, dict):
            raise ServerError("{}: not a server of openpi's protocol".format(self.url))
        contract = metadata.get("contract_hash")
        if self.contract is not None and contract != self.contract:
            raise ServerError("{}: contract {}, expected {}".format(self.url, contract, self.contract))
        self.metadata, self.contract = metadata, contract
        return self._socket

    def _proxy(self) -> Dict[str, Any]:
        """Avoids a proxy for this machine's own addresses, which it cannot reach; older websockets use no proxies."""
        local = urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")
        return {"proxy": None} if local and "proxy" in inspect.signature(connect).parameters else {}

    def _drop(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            # Without a closing handshake, because the server may have stopped answering.
            try:
                socket.socket.close()
            except OSError:
                pass


class Busy(ConnectionError):
    """The server is busy or did not answer in time."""


def _receive(socket: ClientConnection, left: float) -> Any:
    content = socket.recv(timeout=max(left, 0.01))
    if not isinstance(content, str):
        return unpack(content)
    raise (Busy if _is_busy(socket, left) else ServerError)(content)


def _is_busy(socket: ClientConnection, left: float) -> bool:
    """Whether the server closes with 1013, try again later."""
    try:
        socket.recv(timeout=max(min(left, 1.0), 0.01))
    except ConnectionClosed as closed:
        return closed.rcvd is not None and closed.rcvd.code == TRY_AGAIN
    except TimeoutError:
        pass
    return False
