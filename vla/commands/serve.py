"""`vla serve`."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from vla.contract import StatisticOption
from vla.errors import UserError
from vla.policies.base import Policy, TemporalEnsemble
from vla.serving.options import Options


def serve(
    policy: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    keys: str = "",
    public: bool = False,
    tls_cert: str = "",
    tls_key: str = "",
    batch: int = Options.batch,
    wait_ms: float = Options.wait_ms,
    queue: int = Options.queue,
    deadline_s: float = Options.deadline_s,
    connections: int = Options.connections,
    per_key: int = Options.per_key,
    rate: float = Options.rate,
    message: int = Options.message,
    side: int = Options.side,
    ensemble: bool = False,
    threads: int = 0,
    decode: StatisticOption = "",
) -> None:
    """Answers clients with a policy's actions, over HTTP and websocket, until it is stopped.

    Args:
        policy: an export's folder or a checkpoint; several as NAME=FOLDER,NAME=FOLDER, each at /policies/NAME.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        keys: file of API keys, `name key` a line; editing it adds and revokes keys.
        public: let anyone in who reaches an address that is not this machine's own.
        tls_cert: PEM file of a certificate; then only https and wss are spoken.
        tls_key: PEM file of its key.
        batch: most observations in one call of the policy; 1 is batching off.
        wait_ms: longest time (ms) that the first of a batch waits for others.
        queue: requests that may wait; one more is told to come back later.
        deadline_s: seconds until an unanswered request is given up.
        connections: open connections, of all clients together.
        per_key: connections of one key, or one address, that are in use at once.
        rate: requests per second of one key, or one address; 0 is as many as come.
        message: bytes of a request.
        side: longest side of a picture that is read, in pixels.
        ensemble: average, for each client, what its overlapping chunks say of an action (temporal ensembling): for clients that
            ask at every step. An answer is one action then.
        threads: of the policy's computations; 0 leaves it to torch.
        decode: refuse a policy whose contract has another `decode` (mode, median or local-mean); it changes no policy.
    """
    import torch

    from vla.policies.load import load_policy
    from vla.serving.logs import log_to_stderr
    from vla.serving.options import ladder
    from vla.serving.server import serve as run

    limits = {"message": message, "side": side, "connections": connections, "per_key": per_key, "rate": rate}
    options = Options(batch, wait_ms, queue, deadline_s, **limits)
    if bool(tls_cert) != bool(tls_key):
        raise UserError("a certificate needs its key, and a key its certificate", "TLS", "give --tls_cert and --tls_key")
    if threads:
        torch.set_num_threads(threads)
    named = dict(_named(one) for one in policy.split(","))

    def open_one(path: str) -> Policy:
        found = load_policy(path, ladder(batch), probabilities=True, decode=decode)
        return TemporalEnsemble(found) if ensemble else found

    load = {name: functools.partial(open_one, path) for name, path in named.items()}
    log_to_stderr()
    tls = (tls_cert, tls_key) if tls_cert else None
    run({name: one() for name, one in load.items()}, host, port, options, keys, tls, public, load)


def _named(one: str) -> tuple[str, str]:
    """NAME=FOLDER; a folder alone is called after itself."""
    name, equals, path = one.partition("=")
    name, path = (name, path) if equals else (re.sub(r"[^\w.-]+", "-", Path(one).resolve().name), one)
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"the name {name!r}", one, "letters, digits, dots and dashes, e.g. lift=runs/demo/export")
    return name, path
