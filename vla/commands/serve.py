"""`vla serve`."""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path

from vla.contract import StatisticOption
from vla.errors import UserError
from vla.policies.base import Policy, TemporalEnsemble
from vla.serving.options import Options


@dataclasses.dataclass(frozen=True)
class Serve(Options):
    """What to serve, to whom, and within which limits.

    Attributes:
        policy: an export's folder or a checkpoint; several as NAME=FOLDER,NAME=FOLDER, each at /policies/NAME.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        keys: file of API keys, `name key` a line; editing it adds and revokes keys.
        public: let anyone in who reaches an address that is not this machine's own.
        tls_cert: PEM file of a certificate; then only https and wss are spoken.
        tls_key: PEM file of its key.
        ensemble: average, for each client, what its overlapping chunks say of an action (temporal ensembling): for clients that
            ask at every step. An answer is one action then.
        threads: of the policy's computations; 0 leaves it to torch.
        decode: refuse a policy whose contract has another `decode` (mode, median or local-mean); it changes no policy.
    """

    policy: str
    host: str = "127.0.0.1"
    port: int = 8000
    keys: str = ""
    public: bool = False
    tls_cert: str = ""
    tls_key: str = ""
    ensemble: bool = False
    threads: int = 0
    decode: StatisticOption = ""


def serve(options: Serve) -> None:
    """Answers clients with a policy's actions, over HTTP and websocket, until it is stopped."""
    import torch

    from vla.policies.load import load_policy
    from vla.serving.logs import log_to_stderr
    from vla.serving.options import ladder
    from vla.serving.server import serve as run

    if bool(options.tls_cert) != bool(options.tls_key):
        raise UserError("a certificate needs its key, and a key its certificate", "TLS", "give --tls_cert and --tls_key")
    if options.threads:
        torch.set_num_threads(options.threads)
    named = dict(_named(one) for one in options.policy.split(","))

    def open_one(path: str) -> Policy:
        policy = load_policy(path, ladder(options.batch), probabilities=True, decode=options.decode)
        return TemporalEnsemble(policy) if options.ensemble else policy

    load = {name: functools.partial(open_one, path) for name, path in named.items()}
    log_to_stderr()
    tls = (options.tls_cert, options.tls_key) if options.tls_cert else None
    policies = {name: one() for name, one in load.items()}
    run(policies, options.host, options.port, options, options.keys, tls, options.public, load)


def _named(one: str) -> tuple[str, str]:
    """NAME=FOLDER; a folder alone is called after itself."""
    name, equals, path = one.partition("=")
    name, path = (name, path) if equals else (re.sub(r"[^\w.-]+", "-", Path(one).resolve().name), one)
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"the name {name!r}", one, "letters, digits, dots and dashes, e.g. lift=runs/demo/export")
    return name, path
