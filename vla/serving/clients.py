"""Who asks: told apart by key, or by address where there are no keys; and how much each may ask."""

from __future__ import annotations

import dataclasses
import re
import time
import uuid
from collections.abc import Mapping

from vla.serving.keys import Keys
from vla.serving.options import Options
from vla.serving.refusal import Refusal, busy

REQUEST_ID = re.compile(r"[\w.:-]{1,64}")


@dataclasses.dataclass
class Client:
    """A client during one request, or during one websocket connection.

    Attributes:
        name: its key's name, or its address; whose turn it is in the waiting line.
        request: the request's id in logs and answers; the client's own X-Request-Id where it sends one.
    """

    name: str
    request: str
    clients: Clients

    def admit(self) -> None:
        """Called for each request.

        Raises:
            Refusal: 401 if the key has been revoked meanwhile, 429 if there were too many requests.
        """
        self.clients.admit(self.name)


class Clients:
    """All clients of a server.

    Args:
        options: their limits.
        keys: None lets everybody in.
    """

    def __init__(self, options: Options, keys: Keys | None = None):
        self.options, self.keys = options, keys
        self.open: dict[str, int] = {}
        self._credit: dict[str, tuple[float, float]] = {}

    def identify(self, headers: Mapping[str, str], address: str) -> Client:
        """The client behind a request. 401 without a key, where one is needed."""
        name = f"ip:{address}"
        if self.keys is not None:
            kind, _, key = headers.get("authorization", "").partition(" ")
            given = key.strip() if kind.lower() in ("api-key", "bearer") else headers.get("x-api-key", "")
            found = self.keys.name(given) if given else None
            if found is None:
                what = "an unknown key" if given else "no key"
                raise Refusal(
                    401, what, "Authorization", 'send "Authorization: Api-Key KEY" with a key of the server\'s key file'
                )
            name = f"key:{found}"
        asked = headers.get("x-request-id", "")
        return Client(name, asked if REQUEST_ID.fullmatch(asked) else uuid.uuid4().hex[:16], self)

    def enter(self, client: Client) -> None:
        """Counts a connection that is in use; 503 above the limit of one key or address."""
        if self.open.get(client.name, 0) >= self.options.per_key:
            raise busy(f"{self.options.per_key} connections of this client are in use", 1.0)
        self.open[client.name] = self.open.get(client.name, 0) + 1

    def leave(self, client: Client) -> None:
        self.open[client.name] -= 1
        if not self.open[client.name]:
            del self.open[client.name]

    def admit(self, name: str) -> None:
        if self.keys is not None and not self.keys.holds(name.removeprefix("key:")):
            raise Refusal(401, "the key has been revoked", "Authorization", "ask for another")
        rate = self.options.rate
        if not rate:
            return
        # A second's worth may come at once; credit grows with time.
        now, most = time.monotonic(), max(rate, 1.0)
        credit, at = self._credit.pop(name, (most, now))
        credit = min(credit + rate * (now - at), most)
        self._credit[name] = (max(credit - 1, 0.0) if credit >= 1 else credit, now)
        while len(self._credit) > 10_000:
            self._credit.pop(next(iter(self._credit)))
        if credit < 1:
            wait = round((1 - credit) / rate, 3)
            raise Refusal(429, f"more than {rate:g} requests per second", "client", f"retry after {wait:g} s", wait)
