"""The identity of an evaluation: everything that its results depend on."""

from __future__ import annotations

import json
from typing import Any

from vla.evaluation.facts import facts_of
from vla.policies.base import Policy
from vla.report.provenance import provenance
from vla.sim.suites import Suite


def identity_of(suite: Suite, name: str, policy: Policy | None, execute: int) -> dict[str, Any]:
    """Returns the identity as JSON holds it; an evaluation is continued only with the same identity.

    The number of scenes is no part of it: an evaluation may go on to more of them.

    Args:
        name: the policy's name, as the user gave it.
        policy: the policy; None is the scripted expert.
        execute: actions executed of each chunk; 0 takes the contract's number.
    """
    identity = {
        "suite": suite.name,
        "suite_hash": suite.hash,
        **facts_of(name, policy, execute),
        "versions": provenance()["versions"],
    }
    # Tuples become lists, as in the file that it is compared with.
    return json.loads(json.dumps(identity))
