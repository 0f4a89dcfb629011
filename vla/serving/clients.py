"""Clients and their limits. A client is known by its API key, or by its address on a server without keys."""

from __future__ import annotations

import dataclasses
import re
import time
import uuid
from collections.abc import Mapping

from vla.serving.keys import Keys
from vla.serving.options import ServerOptions
from vla.serving.refusal import Refusal, busy

REQUEST_ID = re.compile(r"[\w.:-]{1,64}")


@dataclasses.dataclass
class Client:
    """A client during one request, or during one websocket connection.

    Attributes:
        name: the name of its key, or its address. The queue takes turns between these names.
        request: the request's id in logs and answers: the X-Request-Id that the client sent, or a generated one.
    """

    name: str
    request: str
    clients: Clients

    def admit(self) -> None:
        """Counts one more request of this client.

        Raises:
            Refusal: 401 if the key has been revoked since, 429 if the client sends too many requests.
        """
        self.clients.admit(self.name)


class Clients:
    """All clients of a server.

    Args:
        options: the limits of each client.
        keys: the API keys; None admits everybody.
    """

    def __init__(self, options: ServerOptions, keys: Keys | None = None):
        self.options, self.keys = options, keys
        self.open: dict[str, int] = {}
        self._credit: dict[str, tuple[float, float]] = {}

    def identify(self, headers: Mapping[str, str], address: str) -> Client:
        """Returns the client that sent a request. Raises Refusal 401 if it needs a valid key and has none."""
        name = f"ip:{address}"
        if self.keys is not None:
            kind, _, key = headers.get("authorization", "").partition(" ")
            sent_key = key.strip() if kind.lower() in ("api-key", "bearer") else headers.get("x-api-key", "")
            key_name = self.keys.name(sent_key) if sent_key else None
            if key_name is None:
                what = "an unknown key" if sent_key else "no key"
                raise Refusal(
                    401, what, "Authorization", 'send "Authorization: Api-Key KEY" with a key from the server\'s key file'
                )
            name = f"key:{key_name}"
        request_id = headers.get("x-request-id", "")
        return Client(name, request_id if REQUEST_ID.fullmatch(request_id) else uuid.uuid4().hex[:16], self)

    def enter(self, client: Client) -> None:
        """Counts an open connection. Raises Refusal 503 above the limit per key or address."""
        if self.open.get(client.name, 0) >= self.options.per_key:
            raise busy(f"{self.options.per_key} connections of this client are in use", 1.0)
        self.open[client.name] = self.open.get(client.name, 0) + 1

    def leave(self, client: Client) -> None:
        self.open[client.name] -= 1
        if not self.open[client.name]:
            del self.open[client.name]

    def admit(self, name: str) -> None:
        if self.keys is not None and not self.keys.holds(name.removeprefix("key:")):
            raise Refusal(401, "the key has been revoked", "Authorization", "ask for another key")
        rate = self.options.rate
        if not rate:
            return
        # A token bucket that holds the requests of one second.
        now, most = time.monotonic(), max(rate, 1.0)
        credit, updated = self._credit.pop(name, (most, now))
        credit = min(credit + rate * (now - updated), most)
        self._credit[name] = (max(credit - 1, 0.0) if credit >= 1 else credit, now)
        while len(self._credit) > 10_000:
            self._credit.pop(next(iter(self._credit)))
        if credit < 1:
            wait = round((1 - credit) / rate, 3)
            raise Refusal(429, f"more than {rate:g} requests per second", "client", f"retry after {wait:g} s", wait)
