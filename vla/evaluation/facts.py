"""What a result depends on besides the data or the suite: the policy, its weights and contract, and how it was asked."""

from __future__ import annotations

from typing import Any

from vla import hub
from vla.policies.base import Policy

PROTOCOLS = {
    "http": "http",
    "https": "http",
    "ws": "openpi",
    "wss": "openpi",
    "openvla+http": "openvla",
    "openvla+https": "openvla",
}
"""Scheme of an address -> protocol."""
NOT_SETTINGS = ("embodiments", "title", "schema", "codec_args")
"""Fields of a contract that are long, or change nothing."""


def facts_of(name: str, policy: Policy | None, execute: int = 0) -> dict[str, Any]:
    """Returns what a record says of its policy, as JSON holds it.

    Args:
        name: the policy's name, as the user gave it.
        policy: the policy; None is the scripted expert.
        execute: actions executed of each chunk; 0 takes the contract's number.

    Returns:
        `policy`, the name, on the hub with its commit; `weights` and `contract`, hashes or None; `batch`, rows per call of a
        local model; `execute`, the number of actions executed of each chunk; `protocol`, by which it was asked; and
        `dtype`, where it computes in another type than float32; `contract_settings`, the contract's short fields (its own
        `execute` and its `decode` among them), {} where the policy does not say its contract.
    """
    rows = getattr(policy, "batch", None)
    contract = policy.contract if policy is not None and getattr(policy, "says_contract", True) else None
    settings = contract.to_dict() if contract else {}
    robots = {"robots": list(settings["embodiments"])} if settings else {}
    return {
        "policy": hub.pinned_policy(name),
        "weights": weights_file_hash(name),
        "contract": contract.hash if contract else None,
        "batch": [] if rows is None else [rows],
        "execute": None if policy is None else execute or policy.contract.execute,
        "protocol": PROTOCOLS.get(name.partition("://")[0], "none, in this process"),
        # float32 goes without saying, as in records from before there was a choice.
        **({"dtype": dtype} if (dtype := getattr(policy, "dtype", "float32")) != "float32" else {}),
        "contract_settings": {**{key: value for key, value in settings.items() if key not in NOT_SETTINGS}, **robots},
    }


def weights_file_hash(name: str) -> str | None:
    """Returns the SHA-256 of the files of a local policy's weights; None for a policy without local files."""
    from vla.models.adapters import BASE
    from vla.models.weights import files_hash

    # What follows "?" are options of a published checkpoint.
    path = hub.local(name.partition("?")[0])
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path] if path.is_file() else []
    # Adapters alone are added to a base, which this file names.
    return files_hash([*files, *path.glob(BASE)]) if files else None
