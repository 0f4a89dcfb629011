"""`vla serve`."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from pathlib import Path

from vla import hub
from vla.contract import StatisticOption
from vla.errors import UserError
from vla.policies.base import DTypeOption, Policy, TemporalEnsemble
from vla.serving.options import ServerOptions


@dataclasses.dataclass(frozen=True)
class Serve(ServerOptions):
    """The policies to serve, the address, access, and limits.

    Attributes:
        policy: folder of an export, OWNER/NAME on the hub, or a checkpoint; a published one of OpenVLA is
            FOLDER?unnorm_key=NAME. Several: NAME=FOLDER,NAME=FOLDER, each at /policies/NAME.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        keys: file of API keys, with a name and a key per line. Editing it adds and revokes keys.
        public: allow an address that other machines can reach without API keys.
        tls_cert: PEM file of a certificate; the server then uses https and wss only.
        tls_key: PEM file of the certificate's key.
        ensemble: average the actions of overlapping chunks per stream (temporal ensembling), for clients that ask at every step.
            An answer is then one action.
        threads: number of threads for the policy's computations; 0 is torch's default.
        decode: refuse a policy whose contract has another `decode` (mode, median or local-mean). It does not change the policy.
        dtype: in which local models compute: float32 if it is not given. bfloat16 takes half the memory, and is faster on a GPU.
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
    dtype: DTypeOption = ""


def serve(options: Serve) -> None:
    """Serves policies over HTTP and websocket until it is stopped."""
    from vla.policies.load import load_policy
    from vla.serving.logs import log_to_stderr
    from vla.serving.options import ladder
    from vla.serving.server import serve as run

    if bool(options.tls_cert) != bool(options.tls_key):
        raise UserError("a certificate needs its key, and a key its certificate", "TLS", "give --tls_cert and --tls_key")
    if options.threads < 0:
        raise UserError(f"threads {options.threads}", "--threads", "give at least 0; 0 is torch's default")
    paths = names_and_paths(options.policy)

    def load(path: str) -> Policy:
        policy = load_policy(path, ladder(options.batch), probabilities=True, decode=options.decode, dtype=options.dtype)
        return TemporalEnsemble(policy) if options.ensemble else policy

    def load_all() -> dict[str, Policy]:
        if options.threads:
            import torch

            torch.set_num_threads(options.threads)
        return {name: loader() for name, loader in loaders.items()}

    loaders = {name: functools.partial(load, path) for name, path in paths.items()}
    log_to_stderr()
    tls = (options.tls_cert, options.tls_key) if options.tls_cert else None
    run(load_all, options.host, options.port, options, options.keys, tls, options.public, loaders)


def names_and_paths(policies: str) -> dict[str, str]:
    """Reads NAME=FOLDER,NAME=FOLDER or one FOLDER: name -> path.

    Raises:
        UserError: a name is not valid, or two policies have the same.
    """
    paths: dict[str, str] = {}
    for policy in [policies] if os.path.exists(policies) else policies.split(","):
        name, path = _name_and_path(policy)
        if name in paths:
            raise UserError(f"two policies are called {name}", policies, "give each its own NAME=")
        paths[name] = path
    return paths


def _name_and_path(policy: str) -> tuple[str, str]:
    """Splits NAME=FOLDER. The name of a folder alone is its last part."""
    name, equals, path = policy.partition("=")
    # No name has a slash: "runs/lift=2/export" is a path, even if nothing is there.
    # Nor a "?", which begins the options of a published checkpoint.
    if not equals or "/" in name or "?" in name or os.path.exists(policy):
        remote = hub.policy_address(policy)
        folder = Path(remote.repo if remote else policy.partition("?")[0]).resolve()
        name, path = re.sub(r"[^\w.-]+", "-", folder.name), policy
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(
            f"the name {name!r} is not valid", policy, "use letters, digits, dots and dashes, e.g. lift=runs/demo/export"
        )
    return name, path
