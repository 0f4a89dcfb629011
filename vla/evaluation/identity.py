"""The identity of an evaluation: everything that its results depend on."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from vla.policies.base import Policy
from vla.report.provenance import provenance
from vla.sim.suites import Suite


def identity_of(suite: Suite, name: str, policy: Policy | None, batch: int, execute: int) -> dict[str, Any]:
    """Returns the identity as JSON holds it; an interrupted evaluation resumes only with the same identity.

    Args:
        name: the policy's name, as the user gave it.
        policy: the policy; None is the scripted expert.
        batch: rows per call of a local model.
        execute: actions executed of each chunk; 0 takes the contract's number.
    """
    has_contract = policy is not None and getattr(policy, "says_contract", True)
    return {
        "suite": suite.name,
        "suite_hash": suite.hash,
        "policy": name,
        "weights": weights_file_hash(name),
        "contract": policy.contract.hash if policy is not None and has_contract else None,
        "batch": [batch] if hasattr(policy, "batch") else [],
        "execute": execute,
        "versions": provenance()["versions"],
    }


def weights_file_hash(name: str) -> str | None:
    """Returns the SHA-256 of the files of a local policy's weights; None for a policy without local files."""
    path = Path(name)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            while part := content.read(2**20):
                digest.update(part)
    return digest.hexdigest()
